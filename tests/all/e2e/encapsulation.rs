//! Every tunnel that there is besides the usual one: families mixed, UDP in between.

use std::net::UdpSocket;
use std::time::Duration;

use lb_tests::daemon::Config;
use lb_tests::decap;
use lb_tests::server::Server;
use lb_tests::topology::{Family, Forwarding, Shape, backend};

use super::tunnel::{answers, upload};
use crate::stage::{ECHO, SENT_AGAIN, SHAPES, Stage, UDP, WEB};

/// A tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    forwarding: Forwarding,
    /// Backends are of the other family.
    mixed: bool,
    /// More lines for each service.
    keys: &'static str,
    /// Bytes that a packet grows by, of services of IPv4 and IPv6.
    growth: [usize; 2],
}

pub(super) const MIXED: Way = Way {
    forwarding: Forwarding::Ipip,
    mixed: true,
    keys: "tunnel-ttl = \"inherit\"",
    growth: [40, 20],
};
pub(super) const GUE: Way = Way {
    forwarding: Forwarding::Gue,
    mixed: false,
    keys: "",
    growth: [28, 48],
};
const MIXED_GUE: Way = Way {
    mixed: true,
    keys: "gue-port = 6080\ntunnel-ttl = 255",
    growth: [48, 28],
    ..GUE
};
pub(super) const HEADER: Way = Way {
    keys: "gue-variant = 0",
    growth: [32, 52],
    ..GUE
};
pub(super) const MIXED_HEADER: Way = Way {
    mixed: true,
    growth: [52, 32],
    ..HEADER
};

impl Way {
    pub(super) fn change(self, mut config: Config) -> Config {
        for service in &mut config.services {
            service.forwarding = self.forwarding;
            service.extra += &format!("\n{}", self.keys);
            let outer = match service.address.is_ipv4() ^ self.mixed {
                true => Family::V4,
                false => Family::V6,
            };
            for (number, member) in (1..).zip(&mut service.backends) {
                member.address = backend(outer, number);
            }
        }
        config
    }
}

#[track_caller]
fn check(way: Way, shape: Shape) {
    let stage = Stage::with(shape, Server::threads, |config| way.change(config));
    check_sizes(&stage, way);
    for names in [ECHO, WEB] {
        let report = stage.storm(&names, 1500);
        report.assert_clean(1500);
        let counts = report.backends();
        assert!((1..=3).all(|n| counts.contains_key(&n)), "{report}");
    }
    assert!(stage.retransmissions() <= SENT_AGAIN);
    for target in stage.targets(&ECHO) {
        stage.topology.run_in("client", || upload(target, 1 << 20));
    }
    for host in ["b1", "b2", "b3"] {
        let shown = decap::show(&stage.topology, host).unwrap().packets;
        let refused = shown.iter().filter(|(fate, count)| {
            !["passed", "delivered"].contains(&fate.as_str()) && **count > 0
        });
        assert_eq!(refused.collect::<Vec<_>>(), [], "{host}");
        assert!(shown["delivered"] > 1000, "{host}: {shown:?}");
    }
    stage.end();
}

/// A datagram that is too big by one byte is an error at the client, which has not learnt yet what fits; one that fits arrives.
#[track_caller]
fn check_sizes(stage: &Stage, way: Way) {
    for (target, headers, growth) in [
        (stage.targets(&UDP)[0], 28, way.growth[0]),
        (stage.targets(&UDP)[1], 48, way.growth[1]),
    ] {
        let before = answers(stage);
        let fits = 1500 - growth - headers;
        stage.topology.run_in("client", || {
            let local = if target.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(local).unwrap();
            socket.connect(target).unwrap();
            let limit = Some(Duration::from_secs(5));
            socket.set_read_timeout(limit).unwrap();
            socket.send(&vec![7; fits + 1]).unwrap();
            let error = socket.recv(&mut [0; 2000]).unwrap_err();
            let number = error.raw_os_error();
            assert_eq!(number, Some(libc::EMSGSIZE), "{target}: {error}");
            socket.send(&vec![7; fits]).unwrap();
            assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), fits, "{target}");
        });
        assert_eq!(answers(stage), before + 1, "{target}");
    }
}

#[test]
fn connections_reach_backends_of_the_other_family_by_ipip() {
    check(MIXED, SHAPES[4]);
}

#[test]
fn connections_reach_backends_of_the_other_family_by_ipip_and_one_arm() {
    check(MIXED, SHAPES[5]);
}

#[test]
fn connections_reach_backends_by_gue() {
    check(GUE, SHAPES[4]);
}

#[test]
fn connections_reach_backends_of_the_other_family_by_gue_and_one_arm() {
    check(MIXED_GUE, SHAPES[5]);
}

#[test]
fn connections_reach_backends_by_gue_with_a_header() {
    check(HEADER, SHAPES[5]);
}

#[test]
fn connections_reach_backends_of_the_other_family_by_gue_with_a_header() {
    check(MIXED_HEADER, SHAPES[4]);
}

#[test]
fn status_says_what_fits_the_tunnels() {
    let stage = Stage::with(SHAPES[4], Server::threads, |config| {
        MIXED_HEADER.change(config)
    });
    let output = stage.daemon.cli(&["status", "--json"]).unwrap();
    let status: serde_json::Value =
        serde_json::from_str(&output.succeeded().unwrap().stdout).unwrap();
    for service in status["services"].as_array().unwrap() {
        let six = service["name"].as_str().unwrap().ends_with('6');
        let fits = 1500 - MIXED_HEADER.growth[usize::from(six)] as u64;
        assert_eq!(service["forwarding"], "gue", "{service}");
        assert_eq!(service["largest_packet"], fits, "{service}");
    }
    stage.end();
}
