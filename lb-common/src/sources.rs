//! Which clients a service serves: prefixes of addresses, the longest one that holds the client decides.
//!
//! The ranges of a service are a set of entries with one number. A changed list is a new set, written in full before
//! `ServiceEntry::sources` names it, so that no packet meets half of one.

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Bits of [`Key`] before the address: all of the set's number always count.
pub const SET_BITS: u32 = 32;
/// Bits of an [`Address`] before those of an IPv4 address.
pub const V4_BITS: u32 = 96;

/// A key of map `source_ranges`, an LPM trie, as the kernel wants it (`struct bpf_lpm_trie_key_u8`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Key {
    /// How many bits of what follows count: [`SET_BITS`] and those of the prefix. Host order.
    pub bits: u32,
    /// Number of the set, from 1 on.
    pub set: [u8; 4],
    /// As [`Address`]: a prefix of IPv4 has [`V4_BITS`] more bits than people write.
    pub address: [u8; 16],
}

impl Key {
    /// The key of a prefix of `bits` bits of the address.
    pub const fn new(set: u32, address: Address, bits: u32) -> Self {
        Self {
            bits: SET_BITS.wrapping_add(bits),
            set: set.to_be_bytes(),
            address: address.0,
        }
    }

    /// The set's number.
    pub const fn set(&self) -> u32 {
        u32::from_be_bytes(self.set)
    }
}

/// What a range says about a client. The value in the map, host order.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// It is served.
    Allow = 1,
    /// Its packets are dropped.
    Deny = 2,
}

impl Access {
    /// From the word in the map; `None` for a number that this version does not know.
    pub const fn from_u32(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Allow),
            2 => Some(Self::Deny),
            _ => None,
        }
    }
}

/// Number of the set of a service: it has two, of which one is in use.
pub const fn set(service: u32, half: u8) -> u32 {
    service
        .wrapping_mul(2)
        .wrapping_add((half & 1) as u32)
        .wrapping_add(1)
}
