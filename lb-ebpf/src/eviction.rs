//! Which entry has to go for a new flow.

use lb_common::{Epoch, FlowWord, flow::WAYS};

use crate::{
    flow::{Entry, Seeker},
    tables::Tables,
};

/// Ways of each set that flows without a handshake (UDP, or TCP seen in the middle) may evict
/// from: the upper half. They take any free or idle way, so their floods cannot push out
/// handshakes.
pub const QUOTA_FROM: u32 = WAYS as u32 / 2;
/// [`FlowWord::eviction`] of idle entries; free ones have more.
const IDLE: u32 = 512;
/// [`FlowWord::eviction`] of free entries.
const FREE: u32 = 1024;
/// A set with fewer free places than this shares new flows with the flow's other set. At half load 9 % of
/// flows then stand in their second set, and none of a quarter of a million was without a place (simulated).
const CROWDED: u32 = 4;

/// The entry that has to go for a new flow: the readier of both sets' readiest, the first set's if they are
/// equal. But a free place in the second set is taken already when the first has become
/// [`CROWDED`] and the second is emptier: so most lookups end in the first line, and half full
/// the table still has room for every flow.
#[inline(always)]
pub(crate) fn choose<'t, T: Tables>(tables: &'t T, seeker: &Seeker<'_>) -> Option<Victim<'t>> {
    let floor = match seeker.arrival.is_opening() {
        true => 1,
        false => IDLE,
    };
    let epoch = u32::from(seeker.epoch.0);
    let first = Candidate(tables.find_victim(seeker.sets.first, floor, epoch));
    let second = Candidate(tables.find_victim(seeker.sets.second, floor, epoch));
    let crowded = first.free() < CROWDED && second.free() > first.free();
    let (set, best) = match crowded || second.readiness() > first.readiness() {
        true => (seeker.sets.second, second),
        false => (seeker.sets.first, first),
    };
    if best.readiness() == 0 {
        return None;
    }
    let line = tables.flows(set)?;
    let way = best.way();
    Some(Victim {
        entry: Entry {
            set,
            line,
            way,
            word: FlowWord(line.word(way)),
        },
        readiness: best.readiness(),
    })
}

/// An entry that was found to be the readiest.
pub(crate) struct Victim<'t> {
    /// The entry, read again after the search: another CPU may have written it in between.
    pub(crate) entry: Entry<'t>,
    /// What the search saw: [`FlowWord::eviction`].
    readiness: u32,
}

impl Victim<'_> {
    /// True while the entry is as ready to go as the search found it: otherwise a flow that another CPU has just
    /// entered or refreshed would be pushed out in place of a free or idle entry.
    #[inline(always)]
    pub(crate) const fn still_stands(&self, epoch: Epoch) -> bool {
        self.entry.word.eviction(epoch) == self.readiness
    }

    /// True when nobody loses a young entry.
    #[inline(always)]
    pub(crate) const fn is_free_or_idle(&self) -> bool {
        matches!(self.readiness, FREE | IDLE)
    }
}

/// What [`victim`] gives.
#[derive(Clone, Copy)]
struct Candidate(u32);

impl Candidate {
    /// [`FlowWord::eviction`] of the entry; 0: none may go.
    #[inline(always)]
    const fn readiness(self) -> u32 {
        self.0 >> 3 & 0xfff
    }

    #[inline(always)]
    const fn way(self) -> u32 {
        7_u32.wrapping_sub(self.0 & 7)
    }

    /// Free places in its set.
    #[inline(always)]
    const fn free(self) -> u32 {
        self.0 >> 16
    }
}

/// The readiest entry of a set to go for a new flow, the lowest way's among equals, in one word: 7 - way in bits 0
/// to 2, [`FlowWord::eviction`] in bits 3 to 14, the number of free places from bit 16 on. In the
/// lower ways only entries at least as ready as `floor` count.
///
/// Ages are taken as they stand: writing down old ones before the clock wraps is the control plane's
/// sweep. Without it an entry that nobody uses is still idle for half of each turn of the clock.
#[inline(always)]
pub fn victim<T: Tables>(tables: &T, set: u32, floor: u32, epoch: u32) -> u32 {
    let Some(line) = tables.flows(set) else {
        return 0;
    };
    let epoch = Epoch(epoch as u8);
    let mut best: u32 = 0;
    let mut free: u32 = 0;
    let mut way: u32 = 0;
    while way < WAYS as u32 {
        let readiness = FlowWord(line.word(way)).eviction(epoch);
        let floor = if way < QUOTA_FROM { floor } else { 1 };
        let rank = readiness << 3 | 7_u32.wrapping_sub(way);
        if readiness >= floor && rank > best {
            best = rank;
        }
        free = free.wrapping_add(readiness / FREE);
        way = way.wrapping_add(1);
    }
    best | free << 16
}
