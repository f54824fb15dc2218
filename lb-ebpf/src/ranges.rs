//! Services with a prefix of addresses, a range of ports or any protocol: see [`lb_common::rule`]; before them, those
//! whose packets go the long way. Asked only where no endpoint takes a packet, and where the live generation has such services.

use lb_common::{
    Address, EndpointKey, EndpointKind,
    rule::{self, MAX_LENGTHS, MAX_RULES},
};

use crate::{
    service::{Live, NOWHERE},
    tables::{PackedKey, Tables},
};

/// In the third byte of [`PackedKey::tail`], which is else zero: any rule of the address will do.
const ANY: u64 = 1 << 24;

/// What [`find`] is asked to learn whether an address is in anybody's prefix.
#[inline(always)]
pub fn any(address: Address) -> PackedKey {
    PackedKey {
        address: address.words(),
        tail: ANY.to_le(),
    }
}

/// The service that takes the key, or [`NOWHERE`]: one at the key itself, then the rules of the longest prefix first. `live`: a
/// [`Live`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, key: PackedKey, live: u64) -> u32 {
    let generation = Live(live).generation();
    let aside = tables.find_endpoint(key, EndpointKind::Aside as u32, live);
    if aside != NOWHERE {
        return aside;
    }
    let Some(element) = tables.rule(rule::element(0, generation)) else {
        return NOWHERE;
    };
    let [v4, v6]: [u64; 2] = bytemuck::cast(*element);
    let address = Address::from_words(key.address);
    let mut lengths = u64::from_le(if address.is_v4() { v4 } else { v6 });
    let mut round: u32 = 0;
    while round < MAX_LENGTHS {
        let length = lengths as u8;
        if length == 0 {
            break;
        }
        lengths >>= 8;
        let prefix = PackedKey::new(&prefix_key(address, length), [0, 0]);
        let first = tables.find_endpoint(prefix, EndpointKind::Prefix as u32, live);
        if first != NOWHERE {
            if u64::from_le(key.tail) & ANY != 0 {
                return first;
            }
            let service = tables.find_rule(first, key.tail, generation);
            if service != NOWHERE {
                return service;
            }
        }
        round = round.wrapping_add(1);
    }
    NOWHERE
}

/// The key of the prefix of this length (of 128 bits) that the address lies in.
#[inline(always)]
pub fn prefix_key(address: Address, length: u8) -> EndpointKey {
    let [a, b] = address.words();
    let [high, low] = rule::mask(u32::from(length));
    EndpointKey {
        address: Address::from_words([a & high.to_be(), b & low.to_be()]),
        port: [0, length],
        protocol: 0,
    }
}

/// The service of the first rule, from this one on, that takes port and protocol of `tail` (a [`PackedKey::tail`]), or
/// [`NOWHERE`].
#[inline(always)]
pub fn find_rule<T: Tables>(tables: &T, first: u32, tail: u64, generation: u32) -> u32 {
    let [a, b, protocol, ..] = tail.to_ne_bytes();
    let port = u16::from_be_bytes([a, b]);
    let mut distance = 0;
    while distance < MAX_RULES {
        let index = first.wrapping_add(distance);
        let Some(rule) = tables.rule(rule::element(index, generation)) else {
            return NOWHERE;
        };
        if rule.takes(protocol, port) {
            return rule.service;
        }
        if rule.last != 0 {
            return NOWHERE;
        }
        distance = distance.wrapping_add(1);
    }
    NOWHERE
}
