//! The lookup among ranges finds what a plain search through all of them finds.
#![expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]

use std::cmp::Reverse;

use bytemuck::Zeroable;
use lb_common::{
    Address, EndpointKey, EndpointKind, Protocol, Rule, ServiceEntry,
    rule::{MAX_LENGTHS, mask},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    mem::{Endpoint, Geometry, MemTables},
    service::{self, NOWHERE},
};

const GEOMETRY: Geometry = Geometry {
    flow_sets: 1,
    endpoint_slots: 512,
    services: 64,
    ring_slots: 2,
    backends: 1,
    next_hops: 1,
    nat_flows: 16,
};

/// A service of the list that is searched: everything as it was configured.
#[derive(Clone, Copy, Debug)]
struct Plain {
    address: u128,
    /// Of an address that lies in it, as [`address`] takes them.
    bits: u16,
    length: u8,
    protocol: u8,
    low: u16,
    high: u16,
}

/// Few addresses that differ in few bits, so that prefixes meet.
fn address(v4: bool, bits: u16) -> u128 {
    match v4 {
        // 10.x.x.x
        true => 0xffff_0a00_0000 | u128::from(bits & 0xf) | u128::from(bits >> 4) << 12,
        false => 0xfd << 120 | u128::from(bits & 0xff) | u128::from(bits >> 8) << 64,
    }
}

fn cut(address: u128, length: u8) -> u128 {
    address & !u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(6), Just(17), Just(132), Just(0)]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0..20_u16, Just(u16::MAX), any::<u16>()]
}

fn plain() -> impl Strategy<Value = Plain> {
    let lengths = prop_oneof![
        Just(0_u8),
        Just(1),
        Just(4),
        Just(8),
        Just(14),
        Just(16),
        Just(24)
    ];
    (
        any::<bool>(),
        any::<u16>(),
        lengths,
        protocol(),
        port(),
        port(),
    )
        .prop_map(|(v4, bits, host, protocol, one, other)| {
            // Beyond the low half of an IPv6 address, too.
            let host = if !v4 && host > 8 { host + 50 } else { host };
            let (low, high) = match one == other && one % 2 == 0 {
                true => (0, u16::MAX),
                false => (one.min(other).max(1), one.max(other).max(1)),
            };
            Plain {
                address: cut(address(v4, bits), 128 - host),
                bits,
                length: 128 - host,
                protocol,
                low,
                high,
            }
        })
}

/// As a configuration has them: of two that are as specific and meet, only the first; not too many lengths.
fn allowed(list: Vec<Plain>) -> Vec<Plain> {
    let mut kept: Vec<Plain> = Vec::new();
    for new in list {
        let class = |p: &Plain| (p.address, p.length, p.protocol, p.high - p.low);
        let meets = |old: &Plain| old.low <= new.high && new.low <= old.high;
        let mut lengths: Vec<(bool, u8)> = kept.iter().chain([&new]).map(family_length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let of_family = lengths
            .iter()
            .filter(|(v4, _)| *v4 == family_length(&new).0);
        if of_family.count() <= MAX_LENGTHS as usize
            && !kept
                .iter()
                .any(|old| class(old) == class(&new) && meets(old))
        {
            kept.push(new);
        }
    }
    kept
}

fn family_length(plain: &Plain) -> (bool, u8) {
    (plain.address >> 32 == 0xffff, plain.length)
}

impl Plain {
    /// One address, one port, one protocol: an endpoint of its own.
    fn is_exact(&self) -> bool {
        self.length == 128 && self.low == self.high && self.protocol != 0
    }

    fn fits(&self, address: u128, protocol: u8, port: u16) -> bool {
        cut(address, self.length) == self.address
            && [0, protocol].contains(&self.protocol)
            && (self.low..=self.high).contains(&port)
    }
}

/// By brute force: of all that fit, the most specific.
fn search(list: &[Plain], address: u128, protocol: u8, port: u16) -> u32 {
    let fits = list.iter().enumerate();
    fits.filter(|(_, plain)| plain.fits(address, protocol, port))
        .min_by_key(|(_, plain)| {
            (
                Reverse(plain.length),
                plain.protocol == 0,
                plain.high - plain.low,
            )
        })
        .map_or(NOWHERE, |(index, _)| index as u32)
}

fn publish(tables: &mut MemTables, list: &[Plain]) -> bool {
    let (mut endpoints, mut rules) = (Vec::new(), Vec::new());
    for (index, plain) in (0..).zip(list) {
        let address = Address(plain.address.to_be_bytes());
        if !plain.is_exact() {
            let rule = Rule {
                service: index,
                low: plain.low,
                high: plain.high,
                protocol: plain.protocol,
                ..Rule::zeroed()
            };
            rules.push((address, plain.length, rule));
            continue;
        }
        let mut add = |port: u16, protocol, kind, index| {
            let key = EndpointKey {
                address,
                port: port.to_be_bytes(),
                protocol,
            };
            let new = Endpoint { key, kind, index };
            if !endpoints.contains(&new) {
                endpoints.push(new);
            }
        };
        add(plain.low, plain.protocol, EndpointKind::Vip, index);
        add(0, 0, EndpointKind::VipAddress, 0);
    }
    tables.publish(&endpoints, &rules).is_ok()
}

fn check(
    tables: &MemTables,
    list: &[Plain],
    (v4, bits, protocol, port): (bool, u16, u8, u16),
) -> Result<(), TestCaseError> {
    let port = if Protocol::has_ports(protocol) {
        port
    } else {
        0
    };
    let address = address(v4, bits);
    let key = EndpointKey {
        address: Address(address.to_be_bytes()),
        port: port.to_be_bytes(),
        protocol,
    };
    let found = service::find(tables, &tables.control, &key);
    prop_assert_eq!(found, search(list, address, protocol, port), "{:?}", key);
    let is_vip = list.iter().any(|p| cut(address, p.length) == p.address);
    prop_assert_eq!(service::is_vip(tables, key.address), is_vip, "{:?}", key);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_most_specific_service_is_found_as_by_brute_force(
        generations in vec(vec(plain(), 0..24), 1..4),
        packets in vec((any::<bool>(), any::<u16>(), prop_oneof![protocol(), Just(47_u8)], port()), 64),
    ) {
        let mut tables = MemTables::new(GEOMETRY, [1, 2]);
        tables.services.fill(ServiceEntry { used: 1, ..ServiceEntry::zeroed() });
        for list in generations {
            let list = allowed(list);
            prop_assert!(publish(&mut tables, &list), "no place for {:?}", list);
            for packet in &packets {
                check(&tables, &list, *packet)?;
            }
            // Packets to the ends of each, which chance seldom meets.
            for plain in &list {
                let v4 = plain.address >> 32 == 0xffff;
                for port in [plain.low, plain.high, plain.high.wrapping_add(1), plain.low.wrapping_sub(1)] {
                    for protocol in [6, 17, 132, 47] {
                        check(&tables, &list, (v4, plain.bits, protocol, port))?;
                    }
                }
            }
        }
    }
}

#[test]
fn a_mask_has_as_many_bits_as_the_prefix_is_long() {
    for length in 0..=128_u32 {
        let [high, low] = mask(length);
        let both = u128::from(high) << 64 | u128::from(low);
        assert_eq!(
            both,
            !u128::MAX.checked_shr(length).unwrap_or(0),
            "{length}"
        );
    }
}
