//! Interfaces and their mode change by reload and by restart, while traffic flows.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use lb_tests::daemon::Config;
use lb_tests::load::{Bounds, Long, Request, Storm};
use lb_tests::server::Server;
use lb_tests::topology::{Family, UPLINK, Uplink, vip};
use netlink_packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

use crate::stage::{ECHO, SHAPES, Stage, WEB, wait_until};

const SOON: Duration = Duration::from_secs(5);

/// Two interfaces are configured; a third leads to the client and to a service of its own.
fn stage() -> (Stage, Uplink) {
    let stage = Stage::alone_with(SHAPES[0], Server::threads, |config| {
        let mut up = config.service("web4").clone();
        up.name = "web4up".to_owned();
        up.address = vip(Family::V4, 1);
        let services = config.services.iter().cloned().chain([up]).collect();
        Config { services, ..config }
    });
    let uplink = stage.topology.make_uplink(vip(Family::V4, 1)).unwrap();
    (stage, uplink)
}

fn with(stage: &Stage, interfaces: &[&str]) -> Config {
    let interfaces = interfaces.iter().map(|i| (*i).to_owned()).collect();
    let config = stage.daemon.config().clone();
    Config {
        interfaces,
        ..config
    }
}

/// How the program is attached to an interface of the balancer, as the kernel tells it.
fn attached(stage: &Stage, device: &str) -> Option<XdpAttached> {
    let lb = stage.topology.namespace("lb");
    let link = lb.netlink(async |handle| {
        let mut links = handle.link().get().match_name(device.to_owned()).execute();
        Ok(links.try_next().await?.unwrap())
    });
    link.unwrap().attributes.iter().find_map(|a| match a {
        LinkAttribute::Xdp(parts) => parts.iter().find_map(|part| match part {
            LinkXdp::Attached(XdpAttached::None) => None,
            LinkXdp::Attached(attached) => Some(*attached),
            _ => None,
        }),
        _ => None,
    })
}

/// Where the link of an interface is pinned.
fn pin(stage: &Stage, device: &str) -> std::path::PathBuf {
    stage.pins().join(format!("link-{device}"))
}

#[test]
fn interface_is_added_and_removed_by_reload_while_the_others_lose_nothing() {
    let (mut stage, _uplink) = stage();
    let long = Long::start(
        &stage.topology,
        &stage.targets(&ECHO),
        30,
        Duration::from_secs(60),
    );
    let long = long.unwrap();
    long.wait_until_established(SOON).unwrap();
    let again = stage.retransmissions();
    let load = stage.load(&WEB, 300);
    let (two, three) = (
        with(&stage, &["eth0", "eth1"]),
        with(&stage, &["eth0", "eth1", UPLINK]),
    );
    for _ in 0..3 {
        assert_eq!(attached(&stage, UPLINK), None);
        stage.daemon.reload(three.clone()).unwrap();
        assert_eq!(attached(&stage, UPLINK), Some(XdpAttached::Driver));
        // At once, replies and all: the maps know the interface when it is attached.
        stage.storm(&["web4up"], 500).assert_clean(500);
        let status = stage.daemon.status().unwrap();
        assert!(status.ready && status.config_error.is_none(), "{status:?}");
        stage.daemon.reload(two.clone()).unwrap();
        assert_eq!(attached(&stage, UPLINK), None);
        assert!(!pin(&stage, UPLINK).exists());
        assert!(stage.daemon.status().unwrap().ready);
    }
    load.stop().assert_clean(100);
    assert_eq!(stage.retransmissions(), again, "a segment was lost");
    let connections = long.stop();
    assert!(
        connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    stage.end();
}

#[test]
fn reload_that_cannot_attach_an_interface_changes_nothing() {
    let (mut stage, _uplink) = stage();
    let before = stage.daemon.config().clone();
    let revision = stage.daemon.status().unwrap().config_revision;
    let load = stage.load(&WEB, 300);
    // Loopback has no native mode.
    for (impossible, why) in [("eth7", "no interface"), ("lo", "native XDP refused")] {
        let mut config = with(&stage, &["eth0", UPLINK, impossible]);
        config.services.retain(|service| service.name != "web6");
        let text = config.toml(stage.daemon.home());
        stage.daemon.write_config(&text).unwrap();
        let refused = stage.daemon.cli(&["reload"]).unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(impossible), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
        assert_eq!(
            attached(&stage, UPLINK),
            None,
            "it was attached for nothing"
        );
        assert!(!pin(&stage, UPLINK).exists());
        assert!(!pin(&stage, impossible).exists());
        for device in ["eth0", "eth1"] {
            assert_eq!(attached(&stage, device), Some(XdpAttached::Driver));
        }
        let status = stage.daemon.status().unwrap();
        assert_eq!(status.config_revision, revision);
        assert!(status.config_error.unwrap().contains(impossible));
        assert!(status.ready);
    }
    load.stop().assert_clean(50);
    stage.daemon.reload(before).unwrap();
    assert_eq!(stage.daemon.status().unwrap().config_error, None);
    stage.end();
}

#[test]
fn mode_changes_by_reload_and_the_gap_is_told() {
    let (mut stage, _uplink) = stage();
    let long = Long::start(
        &stage.topology,
        &stage.targets(&ECHO),
        30,
        Duration::from_secs(60),
    );
    let long = long.unwrap();
    long.wait_until_established(SOON).unwrap();
    let mut gaps = 0;
    for (mode, shown) in [
        ("generic", XdpAttached::SocketBuffer),
        ("native", XdpAttached::Driver),
        // Native is what it runs in: nothing to do.
        ("native-or-generic", XdpAttached::Driver),
    ] {
        let config = Config {
            xdp_mode: mode,
            ..with(&stage, &["eth0", "eth1", UPLINK])
        };
        gaps += match (gaps, mode) {
            // The third interface is new in it.
            (0, _) => 2,
            (_, "native") => 3,
            _ => 0,
        };
        stage.daemon.reload(config).unwrap();
        for device in ["eth0", "eth1", UPLINK] {
            assert_eq!(attached(&stage, device), Some(shown), "{device} in {mode}");
            assert!(pin(&stage, device).exists());
        }
        assert_eq!(stage.daemon.log().matches("mode changed").count(), gaps);
        stage.storm(&WEB, 500).assert_clean(500);
        stage.storm(&["web4up"], 500).assert_clean(500);
    }
    assert!(stage.daemon.log().contains("gap="));
    let connections = long.stop();
    assert!(
        connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    stage.end();
}

#[test]
fn interfaces_and_mode_of_a_changed_file_take_effect_at_a_restart() {
    let (mut stage, _uplink) = stage();
    let three = with(&stage, &["eth0", "eth1", UPLINK]);
    stage.daemon.reload(three).unwrap();
    stage.daemon.stop().unwrap();
    assert_eq!(attached(&stage, UPLINK), Some(XdpAttached::Driver));
    let generic = Config {
        xdp_mode: "generic",
        ..with(&stage, &["eth0", "eth1"])
    };
    let text = generic.toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    stage.daemon.restart().unwrap();
    assert_eq!(attached(&stage, UPLINK), None);
    assert!(!pin(&stage, UPLINK).exists());
    for device in ["eth0", "eth1"] {
        assert_eq!(attached(&stage, device), Some(XdpAttached::SocketBuffer));
    }
    stage.storm(&WEB, 500).assert_clean(500);
    stage.end();
}

#[test]
fn claimed_vip_moves_before_its_interface_is_left() {
    let (mut stage, _uplink) = stage();
    let address = vip(Family::V4, 1);
    let claimed = |interfaces: &[&str], at: &str| {
        let mut config = with(&stage, interfaces);
        for service in config.services.iter_mut().filter(|s| s.name == "web4up") {
            service.extra = format!("claim = \"{at}\"");
        }
        config
    };
    let (before, after) = (
        claimed(&["eth0", "eth1", UPLINK], UPLINK),
        claimed(&["eth0", "eth1"], "eth0"),
    );
    let has = |stage: &Stage, device| stage.topology.has_address("lb", device, address).unwrap();
    stage.daemon.reload(before).unwrap();
    wait_until("the VIP is claimed", SOON, || has(&stage, UPLINK));
    let client = &stage.topology;
    let target = stage.targets(&["web4up"]);
    let load = Storm::start(client, &target, Request::Http("/"), Bounds::rate(200)).unwrap();
    wait_until("there is load", SOON, || load.begun() > 20);
    let text = after.toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    let told = Instant::now();
    stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();
    wait_until("the interface is left", SOON, || {
        attached(&stage, UPLINK).is_none()
    });
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    wait_until("the VIP moved", SOON, || {
        has(&stage, "eth0") && !has(&stage, UPLINK)
    });
    drop(load);
    stage.end();
}
