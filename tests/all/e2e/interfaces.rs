//! Interfaces and their mode change by reload and by restart, while traffic flows.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use lb_tests::daemon::Config;
use lb_tests::load::{Bounds, Long, Report, Request, Storm};
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

/// Ends a test. What comes in by the third interface or in generic mode has no counters of the driver beside the
/// data plane's, so the law can be held against the latter only.
#[track_caller]
fn end(stage: &Stage) {
    stage.daemon.check_conservation().unwrap();
    let drops = stage.daemon.status().unwrap().data_plane.drops;
    assert_eq!(drops["map_inconsistent"], 0, "{drops:?}");
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

/// Adds to a load's report until there is enough.
#[track_caller]
fn follow(load: &Storm, report: &RefCell<Report>, enough: impl Fn(&Report) -> bool) {
    wait_until("the load goes on", SOON, || {
        report.borrow_mut().merge(load.take());
        enough(&report.borrow())
    });
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
    end(&stage);
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
    let report = RefCell::new(Report::default());
    follow(&load, &report, |report| report.total() >= 50);
    report.borrow_mut().merge(load.stop());
    report.into_inner().assert_clean(50);
    stage.daemon.reload(before).unwrap();
    assert_eq!(stage.daemon.status().unwrap().config_error, None);
    end(&stage);
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
    // In a gap the kernel forwards a reply as it is, and a client that does not know it resets the connection: README.md tells.
    let failed: Vec<_> = long.stop().into_iter().filter_map(|c| c.failed).collect();
    let reset = |why: &str| why.contains("reset by peer");
    let status = stage.daemon.status().unwrap();
    let backends = status.services.iter().flat_map(|service| &service.backends);
    let moved: u64 = backends.map(|backend| backend.traffic.moved_in).sum();
    assert_eq!(moved, 0);
    assert!(
        failed.len() <= 3 && failed.iter().all(|(_, why)| reset(why)),
        "{failed:?}"
    );
    end(&stage);
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
    end(&stage);
}

#[test]
fn refused_mode_is_forgotten_even_for_an_interface_that_is_missing() {
    let (mut stage, uplink) = stage();
    let before = Config {
        xdp_mode: "generic",
        ..with(&stage, &["eth0", "eth1", UPLINK, "lo"])
    };
    stage.daemon.reload(before.clone()).unwrap();
    drop(uplink);
    stage.topology.delete_device("lb", UPLINK).unwrap();
    // Loopback, the last, has no native mode.
    let native = Config {
        xdp_mode: "native",
        ..before
    };
    let text = native.toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    let refused = stage.daemon.cli(&["reload"]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in [
        "of lo",
        "native XDP refused",
        "as before",
        "nothing changed",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    for device in ["eth0", "eth1", "lo"] {
        assert_eq!(attached(&stage, device), Some(XdpAttached::SocketBuffer));
    }
    let _uplink = stage.topology.make_uplink(vip(Family::V4, 1)).unwrap();
    wait_until("the new device is attached", SOON, || {
        attached(&stage, UPLINK).is_some()
    });
    assert_eq!(attached(&stage, UPLINK), Some(XdpAttached::SocketBuffer));
    stage.storm(&WEB, 500).assert_clean(500);
    stage.storm(&["web4up"], 500).assert_clean(500);
    end(&stage);
}

#[test]
fn mode_that_cannot_be_had_is_not_tried_again_at_every_restart() {
    let (mut stage, _uplink) = stage();
    let generic = Config {
        xdp_mode: "generic",
        ..with(&stage, &["eth0", "eth1", "lo"])
    };
    stage.daemon.reload(generic.clone()).unwrap();
    let native = Config {
        xdp_mode: "native",
        ..generic
    };
    let text = native.toml(stage.daemon.home());
    let gaps = |stage: &Stage| {
        let log = stage.daemon.log();
        let told = ["mode changed", "change the mode of lo"];
        told.map(|words| log.matches(words).count())
    };
    // Two interfaces changed by the reload, and lo is new; then the same two, and lo cannot.
    assert_eq!(gaps(&stage), [2, 0]);
    for _ in 0..3 {
        stage.daemon.stop().unwrap();
        stage.daemon.write_config(&text).unwrap();
        stage.daemon.restart().unwrap();
        for (device, mode) in [
            ("eth0", XdpAttached::Driver),
            ("eth1", XdpAttached::Driver),
            ("lo", XdpAttached::SocketBuffer),
        ] {
            assert_eq!(attached(&stage, device), Some(mode), "{device}");
        }
        assert_eq!(gaps(&stage), [4, 1]);
    }
    stage.storm(&WEB, 500).assert_clean(500);
    end(&stage);
}

#[test]
fn claimed_vip_is_given_up_before_its_interface_is_left() {
    let (mut stage, _uplink) = stage();
    let address = vip(Family::V4, 1);
    let claimed = |interfaces: &[&str], at: Option<&str>| {
        let mut config = with(&stage, interfaces);
        for service in config.services.iter_mut().filter(|s| s.name == "web4up") {
            service.extra = at.map_or_else(String::new, |at| format!("claim = \"{at}\""));
        }
        config
    };
    let (before, without, after) = (
        claimed(&["eth0", "eth1", UPLINK], Some(UPLINK)),
        claimed(&["eth0", "eth1"], None),
        claimed(&["eth0", "eth1"], Some("eth0")),
    );
    let has = |stage: &Stage, device| stage.topology.has_address("lb", device, address).unwrap();
    stage.daemon.reload(before).unwrap();
    wait_until("the VIP is claimed", SOON, || has(&stage, UPLINK));
    let client = &stage.topology;
    let target = stage.targets(&["web4up"]);
    let load = Storm::start(client, &target, Request::Http("/"), Bounds::rate(200)).unwrap();
    let report = RefCell::new(Report::default());
    follow(&load, &report, |report| report.answered.len() >= 50);
    let text = without.toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    let told = Instant::now();
    stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();
    wait_until("the interface is left", SOON, || {
        attached(&stage, UPLINK).is_none()
    });
    assert!(!has(&stage, UPLINK), "the VIP is there without the program");
    let log = stage.daemon.log();
    let at = |words: &str| log.find(words).unwrap();
    assert!(
        at("released a VIP") < at("detached: not in the configuration"),
        "{log}"
    );
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    follow(&load, &report, |report| report.failures.len() >= 50);
    // A kernel that had the address would have refused connections.
    drop(load);
    let report = report.into_inner();
    for failure in &report.failures {
        assert!(failure.started + failure.took > told, "{failure:?}");
        let reason = failure.reason.to_lowercase();
        let kernel = ["refused", "reset"];
        assert!(!kernel.iter().any(|w| reason.contains(w)), "{failure:?}");
    }
    stage.daemon.reload(after).unwrap();
    wait_until("the VIP is claimed elsewhere", SOON, || has(&stage, "eth0"));
    end(&stage);
}
