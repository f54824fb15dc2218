//! Which backend the pieces of a datagram belong to: an entry is made by the first piece, which has the ports, and found
//! by the others, which have none.
//!
//! An entry is two words. They are not read at one moment; the second repeats bits of the first, so that a torn pair is
//! told from a whole one but for one in two thousand.

use crate::FlowHash;

/// Sets in `fragments`; a power of two.
pub const SETS: u32 = 1024;
/// Entries of a set: two words each.
pub const WAYS: u32 = 4;
/// Seconds (2^30 ns) for which an entry holds: twice as long as Linux waits for the rest of a datagram would help nobody
/// (`net.ipv4.ipfrag_time`, 30 s).
pub const LIFETIME: u32 = 30;

const SECOND_BITS: u32 = 24;
const SECONDS: u64 = (1 << SECOND_BITS) - 1;
/// Bits of the payload: what is found, by whoever made the entry.
pub const PAYLOAD_BITS: u32 = 53;
const PAYLOAD: u64 = (1 << PAYLOAD_BITS) - 1;

/// The set of a datagram, by the hash of its addresses, protocol and identification.
#[inline(always)]
pub const fn set(hash: FlowHash) -> u32 {
    hash.0 as u32 & (SETS - 1)
}

const fn tag(hash: FlowHash) -> u64 {
    hash.0 >> SECOND_BITS
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tag, 40 bits, then the second.
    pub first: u64,
    /// The tag's low bits, then the payload.
    pub second: u64,
}

impl Entry {
    /// An entry of a datagram. `now`: seconds, of which 24 bits count.
    #[inline(always)]
    pub const fn new(hash: FlowHash, payload: u64, now: u32) -> Self {
        Self {
            first: tag(hash) << SECOND_BITS | now as u64 & SECONDS,
            second: tag(hash) << PAYLOAD_BITS | payload & PAYLOAD,
        }
    }

    /// Seconds since it was made.
    #[inline(always)]
    pub const fn age(self, now: u32) -> u32 {
        now.wrapping_sub((self.first & SECONDS) as u32) & SECONDS as u32
    }

    /// The payload, if it is this datagram's and holds.
    #[inline(always)]
    pub const fn payload(self, hash: FlowHash, now: u32) -> Option<u64> {
        let whole = self.second >> PAYLOAD_BITS == tag(hash) << PAYLOAD_BITS >> PAYLOAD_BITS;
        match self.is_of(hash) && whole && self.age(now) <= LIFETIME {
            true => Some(self.second & PAYLOAD),
            false => None,
        }
    }

    /// It is this datagram's, or one with the same tag.
    #[inline(always)]
    pub const fn is_of(self, hash: FlowHash) -> bool {
        self.first >> SECOND_BITS == tag(hash) && self.first != 0
    }
}
