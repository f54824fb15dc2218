//! The conservation law notices what is lost, and excuses only what it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::daemon::DataPlane;
use lb_tests::law::{Excused, Flow, Reading};

use crate::stage::{SHAPES, Stage, UDP};

fn flow(sent: u64, received: u64) -> Flow {
    Flow { sent, received }
}

/// A reading in which three of ten packets were dropped by the data plane and one by the driver.
fn good() -> (Reading, DataPlane) {
    let driver = [
        ("xdp_packets", 12),
        ("xdp_drops", 3),
        ("xdp_redirect", 7),
        ("xdp_xmit", 6),
        ("xdp_xmit_errors", 1),
    ];
    let reading = Reading {
        hosts: flow(10, 6),
        ports: flow(10, 6),
        driver: driver.map(|(name, n)| (name.to_owned(), n)).into(),
        broken: false,
    };
    let plane = DataPlane {
        rx: 12,
        pass: 2,
        redirect: 7,
        drops: [("no_backend".to_owned(), 3)].into(),
        ..DataPlane::default()
    };
    (reading, plane)
}

/// What is complained about after a change.
#[track_caller]
fn check(change: impl FnOnce(&mut Reading, &mut DataPlane), expected: &[&str]) {
    let (mut reading, mut plane) = good();
    change(&mut reading, &mut plane);
    let wrong = match reading.check(&plane, Excused::default()) {
        Ok(()) => vec![],
        Err(violation) => violation.complaints,
    };
    assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
    for (wrong, expected) in wrong.iter().zip(expected) {
        assert!(wrong.starts_with(expected), "{wrong}");
    }
}

#[test]
fn each_way_to_lose_a_packet_is_noticed() {
    check(|_, _| {}, &[]);
    check(|r, _| r.ports.received -= 1, &["at the balancer"]);
    check(|r, _| r.ports.received += 1, &["at the balancer"]);
    check(|r, _| r.hosts.sent += 1, &["at the hosts"]);
    check(|_, p| p.pass += 1, &["in the data plane"]);
    let more = |name: &'static str| {
        move |r: &mut Reading, _: &mut DataPlane| *r.driver.entry(name.to_owned()).or_default() += 1
    };
    check(more("xdp_packets"), &["packets in"]);
    // An aborted program.
    check(more("xdp_drops"), &["packets dropped"]);
    let two = ["at the balancer", "at the hosts"];
    check(more("xdp_tx_errors"), &two);
    check(more("xdp_redirect"), &two);
}

#[test]
fn cut_cable_excuses_the_network_and_nothing_at_the_balancer() {
    check(
        |r, _| {
            r.broken = true;
            r.hosts.received = 0;
        },
        &[],
    );
    check(
        |r, _| {
            r.broken = true;
            r.ports.received -= 1;
        },
        &["at the balancer"],
    );
}

#[test]
fn frame_that_the_driver_dropped_may_have_been_another_one() {
    for name in ["tx_dropped", "drops"] {
        let drop = |r: &mut Reading| *r.driver.entry(name.to_owned()).or_default() += 1;
        check(|r, _| drop(r), &[]);
        let lost = |r: &mut Reading| {
            drop(r);
            r.ports.sent += 1;
            r.hosts.sent += 1;
        };
        check(|r, _| lost(r), &[]);
        check(
            |r, _| {
                lost(r);
                r.ports.sent += 1;
            },
            &["at the balancer"],
        );
    }
}

#[test]
fn nothing_is_excused_beyond_what_was_allowed() {
    let nothing = Excused::default();
    let (mut reading, plane) = good();
    reading.ports.sent += 2;
    reading.hosts.sent += 2;
    let kept = |kept| Excused { kept, ..nothing };
    assert!(reading.check(&plane, kept(1)).is_err());
    assert!(reading.check(&plane, kept(2)).is_ok());

    let (mut reading, plane) = good();
    reading.hosts.received -= 2;
    let astray = |astray| Excused { astray, ..nothing };
    assert!(reading.check(&plane, astray(1)).is_err());
    assert!(reading.check(&plane, astray(2)).is_ok());
    reading.ports.received -= 2;
    assert!(reading.check(&plane, astray(2)).is_err());

    let (mut reading, plane) = good();
    *reading.driver.get_mut("xdp_packets").unwrap() += 2;
    let early = |early| Excused { early, ..nothing };
    assert!(reading.check(&plane, early(1)).is_err());
    assert!(reading.check(&plane, early(2)).is_ok());
    assert!(reading.check(&plane, early(3)).is_err());

    let (mut reading, plane) = good();
    reading.ports.received += 2;
    reading.hosts.received += 2;
    let adopted = |adopted| Excused { adopted, ..nothing };
    assert!(reading.check(&plane, adopted(1)).is_err());
    assert!(reading.check(&plane, adopted(2)).is_ok());
    assert!(reading.check(&plane, adopted(3)).is_err());
}

/// Both families, each shape, both ways: what the counters say is what was sent.
#[test]
fn every_datagram_is_counted_once_at_each_place() {
    const EACH: u64 = 40;
    for shape in SHAPES {
        let stage = Stage::new(shape);
        let mut expected = Flow::default();
        for target in stage.targets(&UDP) {
            stage.topology.run_in("client", || {
                let any: IpAddr = match target {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                socket.connect(target).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                for _ in 0..EACH {
                    socket.send(&[7; 100]).unwrap();
                    assert_eq!(socket.recv(&mut [0; 200]).unwrap(), 100);
                }
            });
            let reading = stage.reading();
            expected.sent += 2 * EACH;
            expected.received += 2 * EACH;
            assert_eq!(reading.hosts, expected, "{shape:?} {target}: hosts");
            // Replies that do not come back through the balancer are not seen there.
            let ways = if shape.returns_directly() { 1 } else { 2 };
            let ports = flow(expected.sent / 2 * ways, expected.received / 2 * ways);
            assert_eq!(reading.ports, ports, "{shape:?} {target}: ports");
        }
        stage.end();
    }
}
