//! Packets to a backend with what must become of each, as values: for the library ([`run_host`]) and for the
//! compiled program in the kernel.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test data: a fixture that is wrong must fail loudly"
)]

use core::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Address,
    decap::{Fate, Standing, TrustedSource},
};

use super::{Rules, process};
use crate::fixture::packet::{Body, Packet, Sum, patched, with_ip_sum};
use crate::mem::MemFrame;

/// A packet and what becomes of it.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// What it is about.
    pub name: String,
    /// The frame.
    pub packet: Vec<u8>,
    /// Its end.
    pub fate: Fate,
    /// The frame afterwards.
    pub output: Vec<u8>,
}

/// Rules in plain memory.
#[derive(Clone, Debug)]
pub struct MemRules {
    /// Balancers.
    pub trusted: Vec<TrustedSource>,
    /// The machine's own addresses and VIPs.
    pub addresses: BTreeMap<Address, Standing>,
    /// Packets by [`Fate`].
    pub fates: [Cell<u64>; 32],
}

impl Rules for MemRules {
    fn trusts(&self, source: Address) -> bool {
        self.trusted.iter().any(|trusted| trusted.contains(source))
    }

    fn standing(&self, address: Address) -> Standing {
        let known = self.addresses.get(&address);
        known.copied().unwrap_or(Standing::Foreign)
    }

    fn count(&self, fate: Fate) {
        let counter = &self.fates[fate as usize];
        counter.set(counter.get() + 1);
    }
}

fn address(text: &str) -> Address {
    match text.parse().expect("an address") {
        IpAddr::V4(a) => Address::v4(a.octets()),
        IpAddr::V6(a) => Address::v6(a.octets()),
    }
}

/// The rules that the fixtures are made for.
pub fn rules() -> MemRules {
    let standings = [
        ("10.10.1.1", Standing::Own),
        ("fd00:10:1::1", Standing::Own),
        ("10.10.1.9", Standing::Own),
        ("10.10.0.100", Standing::Vip),
        ("fd00:10::100", Standing::Vip),
    ];
    MemRules {
        trusted: vec![
            TrustedSource {
                address: address("10.9.0.0").0,
                mask: {
                    let mut mask = [0xff; 16];
                    mask[15] = 0;
                    mask
                },
            },
            TrustedSource {
                address: address("fd00:9::").0,
                mask: {
                    let mut mask = [0xff; 16];
                    mask[14..].fill(0);
                    mask
                },
            },
        ],
        addresses: standings.map(|(a, standing)| (address(a), standing)).into(),
        fates: Default::default(),
    }
}

/// What the library makes of a frame, and the frame afterwards.
pub fn run_host(rules: &MemRules, packet: &[u8]) -> (Fate, Vec<u8>) {
    let mut frame = MemFrame {
        bytes: packet.to_vec(),
        ifindex: 1,
    };
    (process(&mut frame, rules), frame.bytes)
}

/// A family's addresses.
struct Cast {
    four: bool,
    client: &'static str,
    vip: &'static str,
    source: &'static str,
    backend: &'static str,
    stranger: &'static str,
    other_own: &'static str,
    martians: &'static [&'static str],
    /// Where the outer IP header ends, and the inner one begins.
    inside: usize,
}

const CASTS: [Cast; 2] = [
    Cast {
        four: true,
        client: "198.51.100.7",
        vip: "10.10.0.100",
        source: "10.9.0.77",
        backend: "10.10.1.1",
        stranger: "10.9.1.1",
        other_own: "10.10.1.9",
        martians: &["127.0.0.1", "224.0.0.1", "255.255.255.255", "10.10.0.100"],
        inside: 34,
    },
    Cast {
        four: false,
        client: "2001:db8:7::7",
        vip: "fd00:10::100",
        source: "fd00:9::beef",
        backend: "fd00:10:1::1",
        stranger: "fd00:9::1:1",
        other_own: "fd00:10:1::1",
        martians: &["::1", "ff02::1", "::", "fd00:10::100"],
        inside: 54,
    },
];

impl Cast {
    fn at(address: &str, port: u16) -> SocketAddr {
        SocketAddr::new(address.parse().expect("an address"), port)
    }

    fn inner(&self, body: Body) -> Packet {
        Packet {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 9],
            source: Self::at(self.client, 40_000),
            destination: Self::at(self.vip, 80),
            ttl: 60,
            body,
            sum: Sum::Right,
            padding: vec![],
        }
    }

    fn segment(&self) -> Packet {
        self.inner(Body::Tcp {
            flags: "PA",
            options: vec![],
            data: b"an odd count".to_vec(),
        })
    }

    fn tunnel(&self, inner: Packet) -> Packet {
        Packet {
            source: Self::at(self.source, 0),
            destination: Self::at(self.backend, 0),
            ttl: 63,
            body: Body::Tunnel {
                label: 5,
                inner: Box::new(inner.clone()),
            },
            ..inner
        }
    }

    fn name(&self, what: &str) -> String {
        let family = if self.four { "IPv4" } else { "IPv6" };
        format!("{family}: {what}")
    }

    fn delivered(&self, what: &str, inner: Packet) -> Fixture {
        Fixture {
            name: self.name(what),
            packet: self.tunnel(inner.clone()).bytes(),
            fate: Fate::Delivered,
            output: inner.bytes(),
        }
    }

    fn stays(&self, what: &str, packet: Vec<u8>, fate: Fate) -> Fixture {
        Fixture {
            name: self.name(what),
            output: packet.clone(),
            packet,
            fate,
        }
    }

    fn inner_refused(&self, what: &str, inner: Packet, fate: Fate) -> Fixture {
        self.stays(what, self.tunnel(inner).bytes(), fate)
    }

    /// The outer header with another byte, and a right checksum.
    fn outer_with(&self, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let frame = patched(self.tunnel(self.segment()).bytes(), offset, bytes);
        match self.four {
            true => with_ip_sum(frame),
            false => frame,
        }
    }

    fn inner_with(&self, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let frame = self.tunnel(self.segment()).bytes();
        patched(frame, self.inside + offset, bytes)
    }

    fn bodies(&self) -> Vec<Fixture> {
        let icmp = if self.four { [3, 4] } else { [2, 0] };
        let bodies = [
            ("a segment", self.segment().body),
            (
                "a SYN",
                Body::Tcp {
                    flags: "S",
                    options: vec![2, 4, 5, 0xb4],
                    data: vec![],
                },
            ),
            (
                "a datagram",
                Body::Udp {
                    data: b"hello".to_vec(),
                },
            ),
            (
                "an ICMP error that the balancer relays",
                Body::Icmp {
                    kind: icmp,
                    rest: [0, 0, 5, 0],
                    data: vec![7; 28],
                },
            ),
        ];
        bodies
            .into_iter()
            .map(|(what, body)| self.delivered(what, self.inner(body)))
            .collect()
    }

    fn shapes(&self) -> Vec<Fixture> {
        let mut wrong = self.segment();
        wrong.sum = Sum::Off(0x1357);
        let mut padded = self.tunnel(self.segment());
        padded.padding = vec![0xee; 9];
        let mut kept = self.segment();
        kept.padding = vec![0xee; 9];
        let mut last = self.segment();
        last.ttl = 2;
        vec![
            self.delivered("a wrong checksum stays wrong", wrong),
            self.delivered("the last hop but one", last),
            Fixture {
                name: self.name("padding stays where it is"),
                packet: padded.bytes(),
                fate: Fate::Delivered,
                output: kept.bytes(),
            },
        ]
    }

    fn refused_sources(&self) -> Vec<Fixture> {
        let mut all = vec![];
        let mut stranger = self.tunnel(self.segment());
        stranger.source = Self::at(self.stranger, 0);
        all.push(self.stays(
            "the outer source is next to the trusted prefix",
            stranger.bytes(),
            Fate::UnknownSource,
        ));
        let from = |source: &str| {
            let mut inner = self.segment();
            inner.source = Self::at(source, 40_000);
            inner
        };
        for martian in self.martians {
            let what = format!("the inner source is {martian}");
            all.push(self.inner_refused(&what, from(martian), Fate::MartianSource));
        }
        for own in [self.backend, self.other_own, self.source] {
            let what = format!("the inner source is {own}, one of ours");
            let known = all.iter().any(|f: &Fixture| f.name == self.name(&what));
            if !known {
                all.push(self.inner_refused(&what, from(own), Fate::OwnSource));
            }
        }
        all
    }

    fn refused_inside(&self) -> Vec<Fixture> {
        let mut elsewhere = self.segment();
        elsewhere.destination = Self::at(self.backend, 80);
        let mut nowhere = self.segment();
        nowhere.destination = Self::at(self.client, 80);
        let mut old = self.segment();
        old.ttl = 1;
        let mut dead = self.segment();
        dead.ttl = 0;
        let other = |protocol| {
            let data = vec![0x45; 40];
            self.inner(Body::Other { protocol, data })
        };
        let mut nested = self.tunnel(self.segment());
        nested.destination = Self::at(self.vip, 0);
        nested.source = Self::at(self.client, 0);
        let unknown = Fate::UnknownDestination;
        vec![
            self.inner_refused("inside is for the machine itself", elsewhere, unknown),
            self.inner_refused("inside is for somebody else", nowhere, unknown),
            self.inner_refused("the inner TTL is 1", old, Fate::TtlExpired),
            self.inner_refused("the inner TTL is 0", dead, Fate::TtlExpired),
            self.inner_refused("a tunnel within the tunnel", nested, Fate::Nested),
            self.inner_refused("IPv4 within", other(4), Fate::Nested),
            self.inner_refused("IPv6 within", other(41), Fate::Nested),
            self.inner_refused("GRE within", other(47), Fate::OtherProtocol),
        ]
    }

    fn passed(&self) -> Vec<Fixture> {
        let plain = |destination: &str| {
            let mut packet = self.segment();
            packet.destination = Self::at(destination, 80);
            packet.bytes()
        };
        let mut through = self.tunnel(self.segment());
        through.destination = Self::at(self.client, 0);
        let mut forged = through.clone();
        forged.source = Self::at(self.stranger, 0);
        let multicast = patched(self.tunnel(self.segment()).bytes(), 0, &[0x33]);
        // The other family inside: sit and the like, which are not ours.
        let mixed = match self.four {
            true => self.outer_with(23, &[41]),
            false => self.outer_with(20, &[4]),
        };
        let ethertype = patched(self.tunnel(self.segment()).bytes(), 12, &[0x81, 0]);
        let short = self.tunnel(self.segment()).bytes()[..20].to_vec();
        vec![
            self.stays("no tunnel, to a VIP", plain(self.vip), Fate::Passed),
            self.stays(
                "no tunnel, to the machine",
                plain(self.backend),
                Fate::Passed,
            ),
            self.stays("a tunnel to another machine", through.bytes(), Fate::Passed),
            self.stays("a forged one too", forged.bytes(), Fate::Passed),
            self.stays("a multicast frame", multicast, Fate::Passed),
            self.stays("a tunnel of the other family", mixed, Fate::Passed),
            self.stays("another EtherType", ethertype, Fate::Passed),
            self.stays("less than an IP header", short, Fate::Passed),
        ]
    }

    /// Cut at each byte between the outer header and the end of the inner one, and short of the end.
    fn cut(&self) -> Vec<Fixture> {
        let whole = self.tunnel(self.segment()).bytes();
        [
            self.inside,
            self.inside + 7,
            self.inside + 19,
            whole.len() - 1,
        ]
        .into_iter()
        .map(|length| {
            let what = format!("cut after {length} bytes");
            self.stays(&what, whole[..length].to_vec(), Fate::Truncated)
        })
        .collect()
    }

    fn only_v4(&self) -> Vec<Fixture> {
        let frame = self.tunnel(self.segment()).bytes();
        let inner_length = (frame.len() - self.inside) as u16;
        let longer = (inner_length + 1).to_be_bytes();
        let shorter = |outer: u16| self.outer_with(16, &outer.to_be_bytes());
        let whole = (frame.len() - 14) as u16;
        vec![
            self.stays(
                "a wrong outer checksum",
                patched(frame, 24, &[0xba, 0xad]),
                Fate::BadIpChecksum,
            ),
            self.stays(
                "outer options",
                self.outer_with(14, &[0x46]),
                Fate::IpOptions,
            ),
            self.stays(
                "an outer header that is too short",
                self.outer_with(14, &[0x44]),
                Fate::Malformed,
            ),
            self.stays(
                "an outer fragment, the first",
                self.outer_with(20, &[0x20, 0]),
                Fate::Fragment,
            ),
            self.stays(
                "an outer fragment, not the first",
                self.outer_with(20, &[0, 9]),
                Fate::Fragment,
            ),
            self.stays(
                "the outer packet ends first",
                shorter(whole - 1),
                Fate::Truncated,
            ),
            self.stays(
                "it ends within the inner header",
                shorter(39),
                Fate::Truncated,
            ),
            self.stays(
                "inner options",
                self.inner_with(0, &[0x46]),
                Fate::IpOptions,
            ),
            self.stays(
                "IPv6 where IPv4 should be",
                self.inner_with(0, &[0x60]),
                Fate::Malformed,
            ),
            self.stays(
                "an inner fragment",
                self.inner_with(6, &[0x20, 0]),
                Fate::Fragment,
            ),
            self.stays(
                "inside is longer",
                self.inner_with(2, &longer),
                Fate::Truncated,
            ),
            self.stays(
                "inside has no length",
                self.inner_with(2, &[0, 19]),
                Fate::Malformed,
            ),
        ]
    }

    fn only_v6(&self) -> Vec<Fixture> {
        let frame = self.tunnel(self.segment()).bytes();
        let payload = (frame.len() - self.inside - 40) as u16;
        let longer = (payload + 1).to_be_bytes();
        let mut fragment = self.tunnel(self.inner(Body::Other {
            protocol: 6,
            data: vec![],
        }));
        fragment.body = Body::Other {
            protocol: 44,
            data: [&[41, 0, 0, 1, 0, 0, 0, 1][..], &self.segment().ip()].concat(),
        };
        let mut other_fragment = fragment.clone();
        other_fragment.body = Body::Other {
            protocol: 44,
            data: [&[6, 0, 0, 1, 0, 0, 0, 1][..], &self.segment().ip()].concat(),
        };
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 10, 0, 100];
        vec![
            self.stays("an outer fragment", fragment.bytes(), Fate::Fragment),
            self.stays(
                "a fragment of something else",
                other_fragment.bytes(),
                Fate::Passed,
            ),
            self.stays(
                "an outer version 5",
                self.outer_with(14, &[0x50]),
                Fate::Malformed,
            ),
            self.stays(
                "IPv4 where IPv6 should be",
                self.inner_with(0, &[0x45]),
                Fate::Malformed,
            ),
            self.stays(
                "an inner fragment",
                self.inner_with(6, &[44]),
                Fate::Fragment,
            ),
            self.stays(
                "inner options",
                self.inner_with(6, &[60]),
                Fate::OtherProtocol,
            ),
            self.stays(
                "inside is longer",
                self.inner_with(4, &longer),
                Fate::Truncated,
            ),
            self.stays(
                "inside is for an IPv4-mapped address",
                self.inner_with(24, &mapped),
                Fate::UnknownDestination,
            ),
        ]
    }

    /// With the two bits of ECN in the outer and the inner header.
    fn marked(&self, outer: u8, inner: u8) -> Vec<u8> {
        let frame = self.tunnel(self.segment()).bytes();
        match self.four {
            true => {
                let frame = with_ip_sum(patched(frame, 15, &[outer]));
                with_inner_sum(patched(frame, self.inside + 1, &[inner]))
            }
            false => {
                let frame = patched(frame, 15, &[outer << 4]);
                patched(frame, self.inside + 1, &[inner << 4])
            }
        }
    }

    /// RFC 6040 figure 4: what of the outer mark reaches the inner header.
    fn congestion(&self) -> Vec<Fixture> {
        let mut all = vec![];
        for outer in 0..4 {
            for inner in 0..4 {
                let packet = self.marked(outer, inner);
                let what = format!("ECN {outer} outside and {inner} inside");
                if (outer, inner) == (3, 0) {
                    all.push(self.stays(&what, packet, Fate::Congestion));
                    continue;
                }
                let after = if outer == 3 { 3 } else { inner };
                let after = self.marked(outer, after);
                let output = [&after[..14], &after[self.inside..]].concat();
                all.push(Fixture {
                    name: self.name(&what),
                    packet,
                    fate: Fate::Delivered,
                    output,
                });
            }
        }
        all
    }

    fn all(&self) -> Vec<Fixture> {
        [
            self.bodies(),
            self.shapes(),
            self.refused_sources(),
            self.refused_inside(),
            self.passed(),
            self.cut(),
            match self.four {
                true => self.only_v4(),
                false => self.only_v6(),
            },
            self.congestion(),
        ]
        .concat()
    }
}

/// The frame with a right checksum in the inner IPv4 header.
fn with_inner_sum(frame: Vec<u8>) -> Vec<u8> {
    let inner = with_ip_sum([&frame[..14], &frame[34..]].concat());
    [&frame[..34], &inner[14..]].concat()
}

/// Every fixture.
pub fn all() -> Vec<Fixture> {
    CASTS.iter().flat_map(Cast::all).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_packet_ends_as_its_fixture_says_and_in_one_counter() {
        let rules = rules();
        let fixtures = all();
        for (number, fixture) in (1..).zip(&fixtures) {
            let (fate, output) = run_host(&rules, &fixture.packet);
            assert_eq!(fate, fixture.fate, "{}", fixture.name);
            assert_eq!(output, fixture.output, "{}", fixture.name);
            let counted: u64 = rules.fates.iter().map(Cell::get).sum();
            assert_eq!(counted, number, "{}", fixture.name);
        }
        for fate in Fate::ALL {
            let with = fixtures.iter().filter(|f| f.fate == *fate).count() as u64;
            assert_eq!(rules.fates[*fate as usize].get(), with, "{fate:?}");
            assert!(with > 0, "no fixture for {fate:?}");
        }
        let names: BTreeSet<_> = fixtures.iter().map(|fixture| &fixture.name).collect();
        assert_eq!(names.len(), fixtures.len());
    }

    #[test]
    fn a_prefix_covers_its_addresses_only_and_an_empty_slot_none() {
        let rules = rules();
        let inside = ["10.9.0.0", "10.9.0.255", "fd00:9::", "fd00:9::ffff"];
        let outside = ["10.9.1.0", "10.8.255.255", "fd00:9::1:0", "::", "0.0.0.0"];
        assert!(inside.iter().all(|a| rules.trusts(address(a))));
        assert!(!outside.iter().any(|a| rules.trusts(address(a))));
        assert!(!TrustedSource::EMPTY.contains(address("::")));
    }
}
