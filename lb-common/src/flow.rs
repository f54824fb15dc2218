//! One entry of the flow table in 64 bits, and its clock.
//!
//! ```text
//! 63           24 23               7 6       4 3        0
//! +--------------+------------------+---------+----------+
//! | tag (40)     | BackendId (17)   | rank (3)| epoch (4)|
//! +--------------+------------------+---------+----------+
//! ```
//!
//! A set is one cache line of eight words. The set index is the low bits of the flow hash and the
//! tag the forty bits above `flow_base_bits` (the index width when the table was made), so a
//! table can double by reading the next index bit out of the tag. A flow has two candidate sets
//! (partial-key cuckoo, Fan et al., CoNEXT'14 section 3.1): `other = set ^ mix(tag)`.
//!
//! An entry names a BackendId, unique over all services, so that user space can count and sweep by
//! backend. The service is part of the hash; on a hit the backend must belong to the service of the
//! packet (`BackendEntry::service`) or the entry is a miss, so even a false match cannot reach another
//! service's backend.

use bytemuck::{Pod, Zeroable};

use crate::{FlowHash, Nanos};

/// Entries in a set.
pub const WAYS: usize = 8;
/// BackendIds that an entry can name (17 bits).
pub const MAX_BACKENDS: u32 = 1 << 17;
/// log2 of an epoch's length in nanoseconds: 2^34 ns = 17.2 s.
pub const EPOCH_SHIFT: u32 = 34;
/// Epochs before the clock wraps (275 s).
pub const EPOCHS: u8 = 16;
/// An entry older than this (137 s) is [`FlowRank::Idle`], whatever it was.
pub const IDLE_AFTER: u8 = 8;

/// The time of day of the flow table, modulo [`EPOCHS`]. From the kernel's clock only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(pub u8);

impl Epoch {
    /// The epoch of a moment.
    #[inline(always)]
    pub const fn at(now: Nanos) -> Self {
        Self((now >> EPOCH_SHIFT) as u8 & (EPOCHS - 1))
    }

    /// Epochs from `self` to `now`, 0 to 15. An entry stamped by a CPU that is one epoch ahead
    /// reads 15; [`FlowWord::age`] takes that as 0.
    #[inline(always)]
    pub const fn until(self, now: Self) -> u8 {
        now.0.wrapping_sub(self.0) & (EPOCHS - 1)
    }
}

/// How much an entry has proven, which is what eviction looks at. Flags that anyone can spoof
/// never raise it to [`Self::Proven`]: only being seen in several epochs does.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowRank {
    /// No entry.
    Free = 0,
    /// Seen in one epoch; of a connection: by more than its client's SYN.
    Probation = 1,
    /// Seen in two epochs.
    Probation2 = 2,
    /// Seen in three epochs or more: never evicted before it is idle.
    Proven = 3,
    /// Not seen for [`IDLE_AFTER`] epochs: still a mapping, first to go. Seen again it is young again: `Probation`, in a later epoch `Probation2`.
    Idle = 4,
    /// Not proven, and saw FIN or RST: its age is shortened, its mapping stays.
    ClosingProbation = 5,
    /// A connection in its handshake: nothing but SYNs of its client was seen. They prove nothing, however many epochs they come in.
    Opening = 6,
    /// `Proven` that saw FIN or RST. A packet without the flags in a later epoch makes it `Proven` again.
    ClosingProven = 7,
}

impl FlowRank {
    /// From the three bits.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        match bits & 7 {
            0 => Self::Free,
            1 => Self::Probation,
            2 => Self::Probation2,
            3 => Self::Proven,
            4 => Self::Idle,
            5 => Self::ClosingProbation,
            6 => Self::Opening,
            _ => Self::ClosingProven,
        }
    }

    /// True when FIN or RST was the last thing seen.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self as u8 & 5 == 5
    }

    /// True for one that is idle or closing: another connection may come from its port.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        self as u8 == 4 || self.is_closing()
    }
}

/// What a packet means for its flow's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client's SYN, or its INIT of SCTP.
    Opens,
    /// Anything else of a client that does not end the flow.
    GoesOn,
    /// With FIN or RST, or the end of an association; of either side.
    Closes,
    /// Of a server, and no end.
    Answers,
}

/// An entry. Written by the data plane with compare-and-exchange, so all CPUs share the table
/// without locks; all zero is a free entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowWord(pub u64);

impl FlowWord {
    /// A free entry.
    pub const FREE: Self = Self(0);

    /// An entry from its parts. `tag`: 40 bits; `backend_id` < [`MAX_BACKENDS`].
    #[inline(always)]
    pub const fn new(tag: u64, backend_id: u32, rank: FlowRank, epoch: Epoch) -> Self {
        Self(
            tag << 24
                | (backend_id as u64 & 0x1_ffff) << 7
                | (rank as u64) << 4
                | (epoch.0 & (EPOCHS - 1)) as u64,
        )
    }

    /// The 40-bit tag.
    #[inline(always)]
    pub const fn tag(self) -> u64 {
        self.0 >> 24
    }

    /// The backend.
    #[inline(always)]
    pub const fn backend_id(self) -> u32 {
        (self.0 >> 7) as u32 & 0x1_ffff
    }

    /// The rank.
    #[inline(always)]
    pub const fn rank(self) -> FlowRank {
        FlowRank::from_bits(self.0 >> 4)
    }

    /// When it was last refreshed.
    #[inline(always)]
    pub const fn epoch(self) -> Epoch {
        Epoch(self.0 as u8 & (EPOCHS - 1))
    }

    /// True for an entry in use.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self.0 & 7 << 4 != 0
    }

    /// True when the entry is in use and carries this tag.
    #[inline(always)]
    pub const fn matches(self, tag: u64) -> bool {
        self.tag() == tag && self.is_live()
    }

    /// True for an entry that is neither opening, idle nor closing and was refreshed in this epoch: [`Self::seen`] does not
    /// change it unless the packet closes.
    #[inline(always)]
    pub const fn is_young(self, now: Epoch) -> bool {
        let rank = (self.0 >> 4) as u32 & 7;
        rank.wrapping_sub(FlowRank::Probation as u32) < 3 && self.epoch().0 == now.0
    }

    /// Epochs since the last refresh, 0 to 14. A stamp one epoch in the future (another CPU's
    /// clock read) counts as 0.
    #[inline(always)]
    pub const fn age(self, now: Epoch) -> u8 {
        let age = self.epoch().until(now);
        if age >= EPOCHS - 1 { 0 } else { age }
    }

    /// The same entry after a packet at `now`. Equal to `self` in the usual case, so that a hit is a pure read.
    #[inline(always)]
    pub const fn seen(self, now: Epoch, step: Step) -> Self {
        let age = self.age(now);
        let closing = matches!(step, Step::Closes);
        let base = match self.rank() {
            FlowRank::Free => return self,
            // Another connection from the same port.
            FlowRank::ClosingProbation | FlowRank::Idle if matches!(step, Step::Opens) => {
                FlowRank::Opening
            }
            // The last ACK of every close comes without FIN: only a packet of a later epoch revives.
            rank if rank.is_closing() && !closing && age == 0 => return self,
            FlowRank::Opening if matches!(step, Step::Opens | Step::Answers) => FlowRank::Opening,
            FlowRank::Probation | FlowRank::ClosingProbation | FlowRank::Opening => {
                FlowRank::Probation
            }
            FlowRank::Probation2 => FlowRank::Probation2,
            FlowRank::Proven | FlowRank::ClosingProven => FlowRank::Proven,
            FlowRank::Idle => FlowRank::Probation,
        };
        let risen = match base {
            FlowRank::Probation if age > 0 => FlowRank::Probation2,
            FlowRank::Probation2 if age > 0 => FlowRank::Proven,
            other => other,
        };
        let rank = match (closing, risen) {
            (true, FlowRank::Probation | FlowRank::Probation2) => FlowRank::ClosingProbation,
            (true, FlowRank::Proven) => FlowRank::ClosingProven,
            (_, other) => other,
        };
        let stamp = if age > 0 { now } else { self.epoch() };
        Self::new(self.tag(), self.backend_id(), rank, stamp)
    }

    /// The same entry with an age past [`IDLE_AFTER`] written down, so that the wrapped clock cannot make
    /// it young again; `None` when there is nothing to write. For whoever writes the set anyway
    /// and for the control plane's sweep.
    #[inline(always)]
    pub const fn settled(self, now: Epoch) -> Option<Self> {
        if !self.is_live() || matches!(self.rank(), FlowRank::Idle) || self.age(now) <= IDLE_AFTER {
            return None;
        }
        Some(Self::new(
            self.tag(),
            self.backend_id(),
            FlowRank::Idle,
            now,
        ))
    }

    /// How ready the entry is to be evicted: larger goes first, 0 never. `Proven` and
    /// `ClosingProven` entries are kept until they are idle.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is masked to the table's length"
    )]
    pub const fn eviction(self, now: Epoch) -> u32 {
        let rank = (self.0 >> 4) as usize & 7;
        let age = self.age(now) as usize & 15;
        READINESS[rank << 4 | age] as u32
    }
}

/// For how many epochs without a packet an entry says whose its flow is to whoever may begin one: a datagram, or a SYN. After that the flow
/// is scheduled anew. Four bits for each kind of entry, from the lowest: datagrams, handshake, established, closing. 0: for as
/// long as it stands; else at most [`IDLE_AFTER`]. Above them, four bits each, SCTP and what is neither UDP, TCP nor SCTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleEpochs(pub u32);

impl IdleEpochs {
    /// For [`Self::narrowed`]: flows of SCTP. The place of their bits, and above it how many bits of the sixteen do not count.
    pub const SCTP: u32 = 16 | 12 << 5;
    /// For [`Self::narrowed`]: flows of what is neither UDP, TCP nor SCTP.
    pub const OTHER: u32 = 20 | 12 << 5;

    /// From their numbers, each at most 15. Flows of other protocols are known for as long as datagrams.
    pub const fn new(datagrams: u8, handshake: u8, established: u8, closing: u8) -> Self {
        let low = (datagrams & 15) as u32 | ((handshake & 15) as u32) << 4;
        let all = low | ((established & 15) as u32) << 8 | ((closing & 15) as u32) << 12;
        Self(all).with_others(0, 0)
    }

    /// The same with numbers for SCTP and for what is neither UDP, TCP nor SCTP, each at most 15; 0: as datagrams.
    #[must_use]
    pub const fn with_others(self, sctp: u8, other: u8) -> Self {
        let (all, datagrams) = (self.0 & 0xffff, self.0 & 15);
        let [sctp, other] = [sctp as u32 & 15, other as u32 & 15];
        let sctp = if sctp == 0 { datagrams } else { sctp };
        let other = if other == 0 { datagrams } else { other };
        Self(all | sctp << 16 | other << 20)
    }

    /// What counts for flows of [`Self::SCTP`] or [`Self::OTHER`], at the place of datagrams, and nothing for what opens a connection; 0: the same,
    /// for flows of TCP and UDP. (No branch, which the verifier would follow.)
    #[must_use]
    #[inline(always)]
    pub const fn narrowed(self, which: u32) -> Self {
        Self(self.0 >> (which & 31) & 0xffff >> (which >> 5 & 15))
    }

    /// What counts for an entry of this rank, of datagrams or of TCP. A connection is in its handshake until its client sends something
    /// else than a SYN. Of one that is idle nothing else is known any more.
    #[inline(always)]
    pub const fn of(self, rank: FlowRank, datagrams: bool) -> u8 {
        let place = match rank {
            _ if datagrams => 0,
            FlowRank::Opening => 4,
            rank if rank.is_closing() => 12,
            _ => 8,
        };
        (self.0 >> place) as u8 & 15
    }

    /// The entry has been silent for longer.
    #[inline(always)]
    pub const fn are_over(self, word: FlowWord, now: Epoch, datagrams: bool) -> bool {
        let limit = self.of(word.rank(), datagrams);
        limit != 0 && (matches!(word.rank(), FlowRank::Idle) || word.age(now) > limit)
    }
}

/// [`FlowWord::eviction`] by rank and age. A table and not a `match`: it is looked up for sixteen
/// entries in turn, and the verifier follows every combination of branches.
static READINESS: [u16; 128] = {
    let mut table = [0; 128];
    let mut rest: &mut [u16] = &mut table;
    let mut index: u16 = 0;
    while let Some((first, others)) = rest.split_first_mut() {
        *first = readiness(FlowRank::from_bits(index as u64 >> 4), index & 15);
        rest = others;
        index = index.wrapping_add(1);
    }
    table
};

const fn readiness(rank: FlowRank, age: u16) -> u16 {
    match rank {
        FlowRank::Free => 1024,
        _ if age > IDLE_AFTER as u16 => 512,
        FlowRank::Idle => 512,
        FlowRank::ClosingProbation => 256_u16.saturating_add(age),
        // A flood of datagrams is not to push handshakes out.
        FlowRank::Probation | FlowRank::Opening => 128_u16.saturating_add(age),
        FlowRank::Probation2 => 64_u16.saturating_add(age),
        // A finished connection is kept for TIME_WAIT's sake (51 to 69 s), then let go.
        FlowRank::ClosingProven if age >= 4 => 32_u16.saturating_add(age),
        FlowRank::ClosingProven | FlowRank::Proven => 0,
    }
}

/// Where a flow may stand in a table of `mask + 1` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSets {
    /// First candidate.
    pub first: u32,
    /// Second candidate.
    pub second: u32,
    /// The 40-bit tag.
    pub tag: u64,
}

impl FlowHash {
    /// The two candidate sets and the tag.
    #[inline(always)]
    pub const fn sets(self, mask: u32, base_bits: u32) -> FlowSets {
        let tag = (self.0 >> (base_bits & 31)) & 0xff_ffff_ffff;
        let first = self.0 as u32 & mask;
        let mixed = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        // `| 1` keeps the two apart in any table of more than one set.
        let second = (first ^ (mixed as u32 | 1)) & mask;
        FlowSets { first, second, tag }
    }
}

/// The way back to the client of a `dnat` flow: learned from its packets, at the same position in
/// `return_hops` as its entry in `flows`. One aligned 8-byte word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ReturnHop {
    /// MAC address the client's packets come from: the client or its router.
    pub mac: [u8; 6],
    /// Slot of the interface in `devices`.
    pub device: u16,
}
