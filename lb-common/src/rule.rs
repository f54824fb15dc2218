//! Services that take more than one address, port or protocol: found by prefix, then by rule.
//!
//! A packet that no endpoint takes is looked up once for each prefix length in use, the longest first: its
//! destination, cut to that length, leads to the rules of that prefix ([`crate::EndpointKind::Prefix`]), which
//! stand in a row, the most specific first. The first one that takes the packet's protocol and port names the service.
//!
//! Two generations, as of `endpoints` and switched with them: element `2 * index + generation` of map `rules`.
//! Index 0 holds the lengths, [`Lengths`]; rules begin at 1.

use bytemuck::{Pod, Zeroable};

use crate::service::Protocol;

/// Rules of one prefix at most: a packet looks at them one after the other.
pub const MAX_RULES: u32 = 32;
/// Different prefix lengths of one family at most; an address with a range of ports is one of 128 bits.
pub const MAX_LENGTHS: u32 = 8;

/// One service with a range. Map `rules`, index 1 and up. Written by the control plane, never while its generation is live.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Rule {
    /// Index into `services`.
    pub service: u32,
    /// First port, host order; 0: packets without ports too.
    pub low: u16,
    /// Last port, host order.
    pub high: u16,
    /// A [`Protocol`].
    pub protocol: u8,
    /// 1: the last rule of its prefix.
    pub last: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Prefix lengths in use, of 128 bits, the longest first; 0 ends them. Map `rules`, index 0.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Lengths {
    /// IPv4's: 97 to 128.
    pub v4: [u8; MAX_LENGTHS as usize],
    /// IPv6's: 1 to 128.
    pub v6: [u8; MAX_LENGTHS as usize],
}

const _: () = assert!(size_of::<Rule>() == size_of::<Lengths>());

/// The element of map `rules` with this index in a generation.
#[inline(always)]
pub const fn element(index: u32, generation: u32) -> u32 {
    index.wrapping_mul(2).wrapping_add(generation & 1)
}

/// Elements of map `rules` for so many services.
pub const fn elements(services: u32) -> u32 {
    services.saturating_add(1).saturating_mul(2)
}

impl Rule {
    /// The rule takes packets of this protocol to this port (host order; 0 where there is none).
    #[inline(always)]
    pub const fn takes(&self, protocol: u8, port: u16) -> bool {
        (self.protocol == protocol || self.protocol == Protocol::Any as u8)
            && self.low <= port
            && port <= self.high
    }
}

/// The bits of an address that a prefix of this length keeps (0 to 128), as two big-endian words.
#[inline(always)]
pub const fn mask(length: u32) -> [u64; 2] {
    const fn ones(length: u32) -> u64 {
        match u64::MAX.checked_shr(length) {
            Some(rest) => !rest,
            None => u64::MAX,
        }
    }
    [ones(length), ones(length.saturating_sub(64))]
}
