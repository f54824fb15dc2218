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
use std::net::IpAddr;

use lb_common::{
    Address,
    decap::{AddressPrefix, Fate, Standing},
};

use super::{Rules, process};
use crate::mem::MemFrame;
use cast::{Cast, casts};

mod cast;
mod refused;
mod tagged;

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
    pub trusted: Vec<AddressPrefix>,
    /// The machine's own addresses and VIPs.
    pub addresses: BTreeMap<Address, Standing>,
    /// VIPs by prefix.
    pub vip_prefixes: Vec<AddressPrefix>,
    /// UDP port of `gue`, host order; 0: none.
    pub gue_port: u16,
    /// Packets by [`Fate`].
    pub fates: [Cell<u64>; 32],
}

impl Rules for MemRules {
    fn trusts(&self, source: Address) -> bool {
        self.trusted.iter().any(|trusted| trusted.contains(source))
    }

    fn standing(&self, address: Address) -> Standing {
        if let Some(known) = self.addresses.get(&address) {
            return *known;
        }
        match self.vip_prefixes.iter().any(|vips| vips.contains(address)) {
            true => Standing::Vip,
            false => Standing::Foreign,
        }
    }

    fn gue_port(&self) -> [u8; 2] {
        self.gue_port.to_be_bytes()
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

/// UDP port of `gue`.
pub const GUE_PORT: u16 = 6_180;

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
            AddressPrefix {
                address: address("10.9.0.0").0,
                mask: {
                    let mut mask = [0xff; 16];
                    mask[15] = 0;
                    mask
                },
            },
            AddressPrefix {
                address: address("fd00:9::").0,
                mask: {
                    let mut mask = [0xff; 16];
                    mask[14..].fill(0);
                    mask
                },
            },
        ],
        addresses: standings.map(|(a, standing)| (address(a), standing)).into(),
        vip_prefixes: [("203.0.113.0", 120), ("2001:db8:70::", 64)]
            .map(|(first, length)| AddressPrefix {
                address: address(first).0,
                mask: (u128::MAX << (128 - length)).to_be_bytes(),
            })
            .into(),
        gue_port: GUE_PORT,
        fates: Default::default(),
    }
}

/// What the library makes of a frame, and the frame afterwards.
pub fn run_host(rules: &MemRules, packet: &[u8]) -> (Fate, Vec<u8>) {
    let mut frame = MemFrame::new(packet.to_vec(), 1);
    (process(&mut frame, rules), frame.bytes)
}

/// Every fixture: without tags, and each of them behind tags.
pub fn all() -> Vec<Fixture> {
    let plain: Vec<Fixture> = casts().iter().flat_map(Cast::all).collect();
    let behind = plain.iter().flat_map(tagged::behind_tags);
    let untouched = tagged::untouched(&plain);
    behind.chain(untouched).chain(plain.clone()).collect()
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
            // A dropped packet's bytes are nobody's.
            if fate.is_passed_on() {
                assert_eq!(output, fixture.output, "{}", fixture.name);
            }
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
        assert!(!AddressPrefix::EMPTY.contains(address("::")));
    }
}
