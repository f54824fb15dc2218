//! Packets of checks on the host: out to the decapsulator, which was written apart, and answers back.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::{GueVariant, OuterTtl, decap::Fate};

use super::*;
use crate::checksum::Delta;
use crate::decap::fixture::{rules, run_host};
use crate::fixture::packet::{Body, Packet as Description, Sum};
use crate::mem::MemFrame;

impl StackFrame for MemFrame {
    fn pull(&mut self, bytes: usize) -> bool {
        self.bytes.len() >= bytes
    }

    fn readdress<const V4: bool>(&mut self, change: &Change) -> bool {
        let size = if V4 { 4 } else { 16 };
        let new = &change.new.0[16 - size..];
        self.bytes[change.at..change.at + size].copy_from_slice(new);
        let delta = Delta::NONE.swap16(change.old.words(), change.new.words());
        let mut sum = |at: usize, udp: bool| {
            let old = [self.bytes[at], self.bytes[at + 1]];
            let new = if udp {
                delta.apply_udp(old)
            } else {
                delta.apply(old)
            };
            self.bytes[at..at + 2].copy_from_slice(&new);
        };
        sum(change.check, change.udp);
        if V4 {
            sum(L3 + 10, false);
        }
        true
    }

    fn will_be_cut(&self) -> bool {
        false
    }

    fn will_hold(&mut self, _outer: Family, _udp: bool) {}
}

#[derive(Default)]
struct MemSessions(RefCell<BTreeMap<[u64; 5], Address>>);

fn key(session: &Session) -> [u64; 5] {
    bytemuck::cast(*session)
}

impl Sessions for MemSessions {
    fn remember(&self, session: &Session, target: Address) -> bool {
        self.0.borrow_mut().insert(key(session), target);
        true
    }

    fn recall(&self, session: &Session) -> Option<Address> {
        self.0.borrow().get(&key(session)).copied()
    }
}

/// The balancer's own address, the backend's and the VIP of a family.
fn ends(v4: bool) -> [&'static str; 3] {
    match v4 {
        true => ["10.10.1.254", "10.10.1.1", "10.10.0.100"],
        false => ["fd00:10:1::254", "fd00:10:1::1", "fd00:10::100"],
    }
}

fn address(text: &str) -> Address {
    match text.parse().unwrap() {
        std::net::IpAddr::V4(a) => Address::v4(a.octets()),
        std::net::IpAddr::V6(a) => Address::v6(a.octets()),
    }
}

fn packet(from: (&str, u16), to: (&str, u16), body: &Body) -> Vec<u8> {
    let at = |(address, port): (&str, u16)| SocketAddr::new(address.parse().unwrap(), port);
    Description {
        to: [2, 0xf1, 0, 0, 1, 1],
        from: [2, 0xf1, 0, 0, 1, 0xfe],
        source: at(from),
        destination: at(to),
        ttl: 64,
        body: body.clone(),
        sum: Sum::Right,
        class: 0,
        padding: vec![],
    }
    .bytes()
}

fn bodies() -> [Body; 2] {
    [
        Body::Tcp {
            flags: "S",
            options: vec![2, 4, 5, 0xb4],
            data: vec![],
        },
        Body::Udp {
            data: b"ping".to_vec(),
        },
    ]
}

/// Every way from the balancer to a backend of the VIP's family.
fn paths(v4: bool) -> Vec<ProbePath> {
    let [_, _, vip] = ends(v4);
    let (source, spread) = match v4 {
        true => (address("10.9.0.0"), 0xff),
        false => (address("fd00:9::"), 0xffff),
    };
    let direct = ProbePath {
        vip: address(vip).words(),
        ..ProbePath::NONE
    };
    let family = if v4 { Family::V4 } else { Family::V6 };
    let inherit = OuterTtl::Inherit;
    let tunnels = [
        Tunnel::USUAL,
        Tunnel::ipip(family, family, inherit),
        Tunnel::gue(rules().gue_port, GueVariant::Direct, OuterTtl::DEFAULT),
        Tunnel::gue(rules().gue_port, GueVariant::Header, inherit),
    ];
    let tunnels = tunnels.map(|tunnel| ProbePath {
        source: source.words(),
        spread,
        tunnel: tunnel.0,
        ..direct
    });
    [&[direct][..], &tunnels].concat()
}

fn frame(bytes: &[u8]) -> MemFrame {
    MemFrame::new(bytes.to_vec(), 1)
}

#[test]
fn a_check_reaches_the_backend_as_the_packet_of_a_client_would_and_its_answer_the_socket() {
    let rules = rules();
    for v4 in [true, false] {
        let [own, backend, vip] = ends(v4);
        for path in paths(v4) {
            for body in bodies() {
                let sessions = MemSessions::default();
                let mut sent = frame(&packet((own, 40_000), (backend, 80), &body));
                assert!(out(&mut sent, &path, &sessions), "{path:?}");
                let arrived = match path.is_tunnel() {
                    true => {
                        let (fate, inner) = run_host(&rules, &sent.bytes);
                        assert_eq!(fate, Fate::Delivered, "{path:?} {body:?}");
                        inner
                    }
                    false => sent.bytes,
                };
                let as_client = packet((own, 40_000), (vip, 80), &body);
                assert_eq!(arrived, as_client, "{path:?} {body:?}");

                let mut answer = frame(&packet((vip, 80), (own, 40_000), &body));
                back(&mut answer, &sessions);
                let known = packet((backend, 80), (own, 40_000), &body);
                assert_eq!(answer.bytes, known, "{path:?} {body:?}");
            }
        }
    }
}

#[test]
fn what_answers_no_check_stays_as_it_is() {
    for v4 in [true, false] {
        let [own, backend, vip] = ends(v4);
        let sessions = MemSessions::default();
        let path = paths(v4)[0];
        let tcp = &bodies()[0];
        let mut sent = frame(&packet((own, 40_000), (backend, 80), tcp));
        assert!(out(&mut sent, &path, &sessions));
        let echo = Body::Icmp {
            kind: [8, 0],
            rest: [0; 4],
            data: vec![],
        };
        for (from, to, body) in [
            // Another port, another address, another protocol, and the way there.
            ((vip, 80), (own, 40_001), tcp),
            ((vip, 81), (own, 40_000), tcp),
            ((backend, 80), (own, 40_000), tcp),
            ((vip, 80), (backend, 40_000), tcp),
            ((vip, 80), (own, 40_000), &bodies()[1]),
            ((own, 40_000), (vip, 80), tcp),
            ((vip, 0), (own, 0), &echo),
        ] {
            let bytes = packet(from, to, body);
            let mut other = frame(&bytes);
            back(&mut other, &sessions);
            assert_eq!(other.bytes, bytes, "{from:?} {to:?}");
        }
    }
}

#[test]
fn what_cannot_become_a_packet_of_the_service_does_not_leave() {
    let sessions = MemSessions::default();
    let [own, backend, _] = ends(true);
    let other_family = paths(false)[0];
    let tcp = &bodies()[0];
    let bytes = packet((own, 40_000), (backend, 80), tcp);
    assert!(!out(&mut frame(&bytes), &other_family, &sessions));
    let path = paths(true)[0];
    assert!(!out(&mut frame(&bytes[..40]), &path, &sessions));
    let echo = Body::Icmp {
        kind: [8, 0],
        rest: [0; 4],
        data: vec![],
    };
    let echo = packet((own, 0), (backend, 0), &echo);
    assert!(!out(&mut frame(&echo), &path, &sessions));
}
