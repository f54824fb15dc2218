//! Which backend a client has had of late, where a service keeps clients with theirs for a time.
//!
//! An entry is one word and so is written whole: tag, BackendId, and when the client's last flow came. Eight of them make a
//! set. Tags have 27 bits: of `n` clients that ask, `n` in 16 million find another client's entry, and share its backend.

use crate::FlowHash;

/// Entries of a set.
pub const WAYS: u32 = 8;

const SECOND_BITS: u32 = 20;
const SECONDS: u32 = (1 << SECOND_BITS) - 1;
const ID_BITS: u32 = 17;
const TAG_SHIFT: u32 = SECOND_BITS + ID_BITS;

/// The longest time to keep a client, seconds (2^30 ns). The clock of an entry wraps after 13 days: one that nobody has asked for so
/// long may then hold once more.
pub const LONGEST: u16 = u16::MAX;

/// A client of a service: the hash of what is kept together, made another for each service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(FlowHash);

impl Client {
    /// `group`: the hash of the fields that the service keeps together.
    #[inline(always)]
    pub const fn new(group: FlowHash, service: u32) -> Self {
        Self(group.nth(service as u64))
    }

    /// Its set of so many.
    #[inline(always)]
    pub const fn set(self, sets: u32) -> u32 {
        // By the low half; the tag is of the high one.
        ((self.0.0 & 0xffff_ffff).wrapping_mul(sets as u64) >> 32) as u32
    }

    const fn tag(self) -> u64 {
        self.0.0 >> TAG_SHIFT
    }
}

/// An entry; zero: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// A client's. `now`: seconds, of which 20 bits count.
    #[inline(always)]
    pub const fn new(client: Client, backend: u32, now: u32) -> Self {
        let id = backend as u64 & ((1 << ID_BITS) - 1);
        Self(client.tag() << TAG_SHIFT | id << SECOND_BITS | (now & SECONDS) as u64)
    }

    /// It is this client's, or one's with the same tag.
    #[inline(always)]
    pub const fn is_of(self, client: Client) -> bool {
        self.0 != 0 && self.0 >> TAG_SHIFT == client.tag()
    }

    /// Seconds since the client's last flow.
    #[inline(always)]
    pub const fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.0 as u32) & SECONDS
    }

    /// BackendId.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 >> SECOND_BITS) as u32 & ((1 << ID_BITS) - 1)
    }

    /// The same, as old when the clock reads `to` as it was when it read `from`.
    #[must_use]
    pub const fn moved(self, from: u32, to: u32) -> Self {
        let second = (self.0 as u32).wrapping_add(to.wrapping_sub(from)) & SECONDS;
        match self.0 {
            0 => self,
            word => Self(word >> SECOND_BITS << SECOND_BITS | second as u64),
        }
    }
}
