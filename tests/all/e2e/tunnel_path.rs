//! A router between balancer and backend whose link is narrower than anybody knows: the balancer learns what fits from it.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use lb_tests::daemon::{Config, Health, Service};
use lb_tests::decap;
use lb_tests::law::Excused;
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, Family, Topology, backend, balancer_back};

use super::encapsulation::{GUE, MIXED, MIXED_HEADER, Way};
use super::tunnel::{answers, far, upload};
use crate::stage::{ECHO, SHAPES, Stage, WEB};

/// What the router sends on.
const MTU: u32 = 1400;
/// What it sends on later, in one test.
const LATER: u32 = 1360;
/// Of a client's transfer.
const BYTES: usize = 200 << 10;

pub(super) fn ip(topology: &Topology, host: &str, line: &str) {
    let output = topology.run_in(host, || Command::new("ip").args(line.split(' ')).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{host}: ip {line}: {output:?}");
}

/// `b3` is the router, `b2` behind it the only backend. Checks are small, so that clients are the first to learn what fits.
fn stage(change: impl FnOnce(Config) -> Config) -> Stage {
    let stage = checked(|config| {
        let mut config = change(config);
        let filled = |service: &&mut Service| service.health.kind == "http";
        for service in config.services.iter_mut().filter(filled) {
            service.health.extra = "full-size = false";
        }
        config
    });
    assert_eq!(learned(&stage), 0);
    stage
}

/// The same with checks as they are.
fn checked(change: impl FnOnce(Config) -> Config) -> Stage {
    let servers = |topology: &Topology| {
        let router = topology.namespace("b3");
        router.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        for (family, source) in FAMILIES.into_iter().zip(decap::TUNNEL_SOURCES) {
            let (far, length) = match family {
                Family::V4 => (far(family), 32),
                Family::V6 => (far(family), 128),
            };
            topology.add_address("b2", "eth0", far, length)?;
            topology.add_host_route("lb", far, backend(family, 3))?;
            let near = backend(family, 2);
            narrow(topology, "add", (far, near), MTU);
            let back = format!("route add {source} via {}", balancer_back(family));
            ip(topology, "b3", &back);
            ip(topology, "b2", &back);
        }
        decap::attach(topology, "b2")?;
        Server::threads(topology)
    };
    Stage::with(SHAPES[4], servers, |config| {
        let mut config = change(config);
        for service in &mut config.services {
            service.backends.retain(|b| b.name == "b2");
            let member = &mut service.backends[0];
            member.address = match member.address {
                IpAddr::V4(_) => far(Family::V4),
                IpAddr::V6(_) => far(Family::V6),
            };
        }
        config
    })
}

/// Lets the router of `b2` take no larger packets on its way from now on.
fn narrow(topology: &Topology, how: &str, (far, near): (IpAddr, IpAddr), mtu: u32) {
    let line = format!("route {how} {far} via {near} mtu lock {mtu}");
    ip(topology, "b3", &line);
}

/// The last checks of `b2` in a service.
fn results(stage: &Stage, service: &str) -> Vec<serde_json::Value> {
    let output = stage.daemon.cli(&["status", "--json"]).unwrap();
    let text = output.succeeded().unwrap().stdout;
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut services = status["services"].as_array().unwrap().iter();
    let found = services.find(|found| found["name"] == service).unwrap();
    let results = found["backends"][0]["last_results"].as_array();
    results.unwrap().clone()
}

/// Those of them that began later than that, in nanoseconds since boot.
fn later(stage: &Stage, service: &str, than: u64) -> Vec<serde_json::Value> {
    let mut results = results(stage, service);
    results.retain(|result| result["started"].as_u64().unwrap() > than);
    results
}

/// When the last check of `b2` in a service ended, in nanoseconds since boot.
fn last_end(stage: &Stage, service: &str) -> u64 {
    let ended = |result: &serde_json::Value| result["ended"].as_u64().unwrap();
    results(stage, service).iter().map(ended).max().unwrap()
}

/// Messages that something was learned from.
fn learned(stage: &Stage) -> u64 {
    stage.daemon.status().unwrap().data_plane.path_errors["learned"]
}

/// What status says of the path to the backend of each service, by name.
fn paths(stage: &Stage) -> Vec<(String, Option<u64>)> {
    let output = stage.daemon.cli(&["status", "--json"]).unwrap();
    let text = output.succeeded().unwrap().stdout;
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let services = status["services"].as_array().unwrap();
    let path = |service: &serde_json::Value| {
        let name = service["name"].as_str().unwrap().to_owned();
        (name, service["backends"][0]["path_mtu"].as_u64())
    };
    services.iter().map(path).collect()
}

fn transfer(stage: &Stage, target: SocketAddr) {
    let took = stage.topology.run_in("client", || upload(target, BYTES));
    println!("{target}: {took:?}");
}

/// What the router dropped, and has told, is in nobody's count.
fn end(stage: Stage) {
    stage.end_but(Excused {
        kept: 1000,
        ..Excused::default()
    });
}

#[track_caller]
fn check(change: impl FnOnce(Config) -> Config) {
    let stage = stage(change);
    for target in stage.targets(&ECHO) {
        let (before, told) = (learned(&stage), answers(&stage));
        transfer(&stage, target);
        assert!(learned(&stage) > before, "{target}: nothing was learned");
        assert!(answers(&stage) > told, "{target}: the client was not told");
    }
    let known = paths(&stage);
    let all = known.iter().all(|(_, path)| *path == Some(MTU.into()));
    assert!(all, "one server, one path: {known:?}");
    let why = stage.daemon.cli(&["why", "echo4/b2"]).unwrap();
    let why = why.succeeded().unwrap().stdout;
    assert!(why.contains("1400 bytes fit"), "{why}");
    let drops = stage.daemon.status().unwrap().data_plane.drops;
    assert_eq!(drops["packet_too_big"], 0, "{drops:?}");
    end(stage);
}

#[test]
fn uploads_by_ipip_go_on_behind_a_router_with_a_smaller_mtu() {
    check(|config| config);
}

#[test]
fn uploads_by_ipip_of_the_other_family_go_on_behind_a_router_with_a_smaller_mtu() {
    check(|config| MIXED.change(config));
}

#[test]
fn uploads_by_gue_go_on_behind_a_router_with_a_smaller_mtu() {
    check(|config| GUE.change(config));
}

#[test]
fn uploads_by_gue_with_a_header_go_on_behind_a_router_with_a_smaller_mtu() {
    check(|config| Way::change(MIXED_HEADER, config));
}

/// Routers answer the first check that fills a packet: what fits is known before a client asks, and nobody is out.
#[test]
fn checks_that_fill_a_packet_learn_what_fits_and_take_nobody_out() {
    let ways: [fn(Config) -> Config; 2] = [|config| config, |config| GUE.change(config)];
    for way in ways {
        let stage = checked(|config| {
            let mut config = way(config);
            config
                .services
                .retain(|service| WEB.contains(&service.name.as_str()));
            for service in &mut config.services {
                // One bad check would be enough.
                service.health = Health {
                    interval_ms: 500,
                    timeout_ms: 500,
                    fall: 1,
                    ..service.health.clone()
                };
            }
            config
        });
        let known = |mtu: u32| {
            let all = paths(&stage);
            all.iter().all(|(_, path)| *path == Some(mtu.into()))
        };
        stage.wait("both paths are known", |_| known(MTU));
        stage.wait_for_health("b2", "up");
        // The next check is of 1400 bytes; what has ended by now was before the change.
        let changed = WEB.map(|service| last_end(&stage, service));
        for family in FAMILIES {
            let ends = (far(family), backend(family, 2));
            narrow(&stage.topology, "change", ends, LATER);
        }
        stage.wait("what fits now is known", |_| known(LATER));
        for (service, changed) in WEB.into_iter().zip(changed) {
            // One that learned it, and others.
            let rounds = || later(&stage, service, changed);
            stage.wait("several have ended", |_| rounds().len() >= 3);
            let bad = |result: &&serde_json::Value| result.to_string().contains("\"bad\"");
            let found = rounds();
            assert_eq!(found.iter().find(bad), None, "{service}");
        }
        stage.wait_for_health("b2", "up");
        end(stage);
    }
}

#[test]
fn what_was_learned_while_the_daemon_was_dead_is_known_to_the_next_one() {
    let mut stage = stage(|config| config);
    stage.daemon.kill().unwrap();
    for target in stage.targets(&ECHO) {
        transfer(&stage, target);
    }
    stage.daemon.restart().unwrap();
    stage.wait("the backend is up", |status| status.all_are("up"));
    let known = paths(&stage);
    let all = known.iter().all(|(_, path)| *path == Some(MTU.into()));
    assert!(all, "{known:?}");
    // Nor does a plan take it away.
    let mut config = stage.daemon.config().clone();
    config.services.retain(|service| service.name != "udp4");
    stage.daemon.reload(config).unwrap();
    stage.wait("there is a service less", |status| {
        status.service("udp4").is_none()
    });
    let known = paths(&stage);
    let all = known.iter().all(|(_, path)| *path == Some(MTU.into()));
    assert!(all && !known.is_empty(), "{known:?}");
    // The balancer tells a client that has forgotten what fits, and hears nothing new from the router.
    for line in ["route flush cache", "-6 route flush cache"] {
        ip(&stage.topology, "client", line);
    }
    let before = learned(&stage);
    for target in stage.targets(&ECHO) {
        let told = answers(&stage);
        transfer(&stage, target);
        assert!(answers(&stage) > told, "{target}: the client knew");
    }
    assert_eq!(learned(&stage), before, "learned again");
    stage.wait_for_health("b2", "up");
    end(stage);
}

#[test]
fn a_backend_that_takes_nothing_out_of_tunnels_is_counted_as_unreachable() {
    // Where several backends have one address, nobody can tell which of them is meant.
    let stage = stage(|mut config| {
        let webs = ["web4", "web6"];
        config
            .services
            .retain(|service| webs.contains(&service.name.as_str()));
        config
    });
    decap::command(&stage.topology, "b2", &["--detach"]).unwrap();
    stage.wait("its kernel says so, and the backend is charged", |status| {
        let charged = ["web4/b2", "web6/b2"]
            .map(|backend| status.backend(backend).traffic.handshakes.unreachable);
        let [four, six] = charged;
        four > 0 && six > 0 && status.data_plane.path_errors["unreachable"] >= four + six
    });
    end(stage);
}
