//! Where only small packets reach a backend, it is out, and the reason names the size; where large ones do, nobody is.

use std::cell::RefCell;
use std::process::Command;
use std::time::Duration;

use lb_tests::daemon::{Config, Health};
use lb_tests::server::{HTTP_PORT, Nginx, Server};
use lb_tests::topology::{FAMILIES, Family, Shape, Topology};

use super::super::encapsulation::{GUE, HEADER};
use super::{IPIP, L2DSR, down, first};
use crate::stage::{FULLNAT, SHAPES, Stage, WEB, wait_until};

/// Packets of a check that a host must have got for several rounds to be over.
const SEVERAL: u64 = 8;

/// From now on packets that are larger, as they come out of a tunnel if there is one, are lost on their way to a host, without a word.
pub(in crate::e2e) fn lose_packets_above(stage: &Stage, host: &str, bytes: u32) {
    lose(stage, host, "", bytes);
}

/// The same of those that match.
fn lose(stage: &Stage, host: &str, which: &str, bytes: u32) {
    let rules = format!(
        "table inet narrow {{
            counter came {{ }}
            counter largest {{ }}
            counter lost {{ }}
            chain in {{
                type filter hook prerouting priority -400;
                iifname eth0 counter name came
                iifname eth0 {which} meta length {bytes} counter name largest
                iifname eth0 {which} meta length > {bytes} counter name lost drop
            }}
        }}"
    );
    stage.topology.nft(host, &rules).unwrap();
}

pub(in crate::e2e) fn lose_nothing(stage: &Stage, host: &str) {
    stage
        .topology
        .nft(host, "delete table inet narrow")
        .unwrap();
}

/// How many packets have come to a host: `came`: all, of the `largest` size that passes, or larger ones that were `lost`.
fn counted(stage: &Stage, host: &str, which: &str) -> u64 {
    let output = stage.topology.run_in(host, || {
        let arguments = ["--json", "list", "counters", "table", "inet", "narrow"];
        Command::new("nft").args(arguments).output().unwrap()
    });
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut counters = listed["nftables"].as_array().unwrap().iter();
    let found = counters.find(|item| item["counter"]["name"] == which);
    found.unwrap()["counter"]["packets"].as_u64().unwrap()
}

/// HTTP in both families, checked at leisure: a lost packet comes again before the time is up.
fn web(mut config: Config) -> Config {
    config
        .services
        .retain(|service| WEB.contains(&service.name.as_str()));
    for service in &mut config.services {
        service.health = Health {
            interval_ms: 500,
            timeout_ms: 500,
            fall: 2,
            ..service.health.clone()
        };
    }
    config
}

/// The service of a family, and what nftables calls that.
fn of(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => (WEB[0], "meta nfproto ipv4"),
        Family::V6 => (WEB[1], "meta nfproto ipv6"),
    }
}

/// `sizes`: of clients' packets that just fit, by family; `growth`: what a tunnel adds to them.
#[track_caller]
fn check(shape: Shape, change: impl FnOnce(Config) -> Config, sizes: [u32; 2], growth: [u32; 2]) {
    let stage = Stage::with(shape, Server::threads, |config| change(web(config)));
    for (family, (size, growth)) in FAMILIES.into_iter().zip(sizes.into_iter().zip(growth)) {
        let (service, packets) = of(family);
        lose(&stage, "b1", packets, size);
        stage.wait("checks are of that size", |_| {
            counted(&stage, "b1", "largest") >= SEVERAL
        });
        assert_eq!(counted(&stage, "b1", "lost"), 0);
        let (health, reason) = first(&stage, service);
        assert_eq!(health, "up", "{reason}");
        lose_nothing(&stage, "b1");
        lose(&stage, "b1", packets, size - 1);
        let reason = down(&stage, family);
        let words = match growth {
            0 => format!("not those of {size} bytes: check the MTU"),
            _ => format!(
                "not those of {size} bytes, {} in the tunnel: check",
                size + growth
            ),
        };
        assert!(
            reason.contains("it answers small packets") && reason.contains(&words),
            "{reason}"
        );
        lose_nothing(&stage, "b1");
        stage.wait_for_health("b1", "up");
    }
    stage.storm(&WEB, 300).assert_clean(300);
    stage.end();
}

#[test]
fn a_path_that_loses_large_packets_takes_the_backend_out_with_l2dsr() {
    check(SHAPES[L2DSR], |config| config, [1500; 2], [0; 2]);
}

#[test]
fn a_path_that_loses_large_packets_takes_the_backend_out_with_dnat() {
    check(SHAPES[0], |config| config, [1500; 2], [0; 2]);
}

#[test]
fn a_path_that_loses_large_packets_takes_the_backend_out_with_fullnat() {
    check(FULLNAT[0], |config| config, [1500; 2], [0; 2]);
}

#[test]
fn a_path_that_loses_large_packets_takes_the_backend_out_with_ipip() {
    check(SHAPES[IPIP], |config| config, [1480, 1460], [20, 40]);
}

#[test]
fn a_path_that_loses_large_packets_takes_the_backend_out_with_gue() {
    let gue = |config| GUE.change(config);
    check(SHAPES[IPIP], gue, [1472, 1452], [28, 48]);
    let header = |config| HEADER.change(config);
    check(SHAPES[IPIP], header, [1468, 1448], [32, 52]);
}

#[test]
fn what_mss_tells_clients_is_large_enough() {
    let clamped = |mut config: Config| {
        for service in &mut config.services {
            service.extra += "\nmss = 1300";
        }
        config
    };
    check(SHAPES[0], clamped, [1340, 1360], [0; 2]);
}

#[test]
fn without_full_size_a_path_that_loses_large_packets_is_good_enough() {
    let stage = Stage::with(SHAPES[L2DSR], Server::threads, |config| {
        let mut config = web(config);
        for service in &mut config.services {
            service.health.extra = "full-size = false";
        }
        config
    });
    lose_packets_above(&stage, "b1", 1000);
    // A check has six packets to the server, give or take some.
    stage.wait("several rounds are over", |_| {
        counted(&stage, "b1", "came") >= 10 * SEVERAL
    });
    assert_eq!(counted(&stage, "b1", "lost"), 0);
    let status = stage.daemon.status().unwrap();
    assert!(
        WEB.iter()
            .all(|web| status.backend(&format!("{web}/b1")).health == "up")
    );
    lose_nothing(&stage, "b1");
    stage.end();
}

/// nginx with room for so many bytes, or with this to say of long requests.
fn block(room: &str, long: &str) -> String {
    format!(
        "server {{ listen [::]:{HTTP_PORT} ipv6only=off; {room}
        location = /health {{ {long} return 200; }} }}\n"
    )
}

#[test]
fn a_server_that_does_not_like_long_requests_stays_up() {
    let running = RefCell::new(vec![]);
    let servers = |topology: &Topology| {
        let said = |code: u16| {
            block(
                "",
                &format!("if ($http_x_fairlead_padding) {{ return {code}; }}"),
            )
        };
        let blocks = [
            block(
                "client_header_buffer_size 1k; large_client_header_buffers 2 1k;",
                "",
            ),
            said(431),
            // One that closes at once.
            said(444),
        ];
        for (host, block) in ["b1", "b2", "b3"].into_iter().zip(blocks) {
            let nginx = Nginx::serving(topology, host, HTTP_PORT, &block)?;
            running.borrow_mut().push(nginx);
        }
        Ok(vec![])
    };
    let stage = Stage::with(SHAPES[L2DSR], servers, web);
    for host in ["b1", "b2", "b3"] {
        for service in WEB {
            let backend = format!("{service}/{host}");
            // Checks have been answered, and their warnings say how; the third is small already.
            wait_until(&backend, Duration::from_secs(15), || {
                let why = stage.daemon.cli(&["why", &backend]).unwrap();
                let why = why.succeeded().unwrap().stdout;
                why.matches("large packets are not tested").count() >= 3
            });
        }
        // From then on it gets short requests alone.
        lose_packets_above(&stage, host, 1300);
        stage.wait("several rounds are over", |_| {
            counted(&stage, host, "came") >= 10 * SEVERAL
        });
        assert_eq!(counted(&stage, host, "lost"), 0, "{host}");
        let status = stage.daemon.status().unwrap();
        for service in WEB {
            let backend = status.backend(&format!("{service}/{host}"));
            assert_eq!(backend.health, "up", "{}", backend.reason);
        }
        lose_nothing(&stage, host);
    }
    stage.end();
    drop(running);
}
