//! What a packet changes in the entry of its flow.

use lb_common::nat::{State, word};

use crate::{parse::Arrival, tables::Tables};

/// What a packet says about its flow, in one word that travels in a register: bits 0 to 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event(pub(super) u32);

impl Event {
    const OPENS: u32 = 1;
    const ENDS: u32 = 2;
    const RESETS: u32 = 4;
    /// Whose packet it is.
    pub(super) const CLIENT: u32 = 0;
    /// The same.
    pub(super) const BACKEND: u32 = 8;

    /// Of a packet from this side.
    #[inline(always)]
    pub(super) const fn of(arrival: Arrival, side: u32) -> Self {
        let opens = if arrival.is_opening() { Self::OPENS } else { 0 };
        let ends = if arrival.is_ending() { Self::ENDS } else { 0 };
        let resets = if arrival.is_reset() { Self::RESETS } else { 0 };
        Self(opens | ends | resets | side)
    }

    /// The flow after it.
    #[inline(always)]
    pub(super) fn after(self, state: State, second: u32) -> State {
        let has = |bit| self.0 & bit != 0;
        match has(Self::BACKEND) {
            true => state.answered(has(Self::ENDS), has(Self::RESETS), second),
            false => state.heard(has(Self::OPENS), has(Self::ENDS), has(Self::RESETS), second),
        }
    }
}

/// What [`note`] gives when the packet says nothing new ...
pub(super) const SAME: u32 = 0;
/// ... or something ...
pub(super) const NOTED: u32 = 1;
/// ... or when the entry has become another flow's meanwhile.
pub(super) const ANOTHERS: u32 = 2;

/// How often a packet tries while others of its flow are faster: more often than there are CPUs that the packets of a flow come to,
/// its own and its backend's.
const ROUNDS: u32 = 4;

/// Notes a packet in the entry of a slot, if that is still its flow's: `seen`, a [`State`], is what it was when it was found to be.
/// `event`: an [`Event`]. [`SAME`], [`NOTED`] or [`ANOTHERS`].
#[inline(always)]
pub fn note<T: Tables>(tables: &T, slot: u32, seen: u64, event: u32, second: u32) -> u32 {
    let Some(line) = tables.nat_flow(slot) else {
        return ANOTHERS;
    };
    let mut round: u32 = 0;
    while round < ROUNDS {
        let state = State(line.word(word::STATE));
        if !state.is_still(State(seen)) {
            return ANOTHERS;
        }
        let new = Event(event).after(state, second);
        if new == state {
            return SAME;
        }
        if tables.exchange(line, word::STATE, state.0, new.0) {
            return NOTED;
        }
        round = round.wrapping_add(1);
    }
    match State(line.word(word::STATE)).is_still(State(seen)) {
        // The winners have noted when it was.
        true => NOTED,
        false => ANOTHERS,
    }
}

#[cfg(all(test, loom))]
mod interleavings;
