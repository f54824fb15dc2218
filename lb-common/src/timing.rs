//! How long backends take to answer a SYN. Map `handshakes` holds when handshakes began that have not been answered yet: one word
//! each, [`Start`], at a place that follows from where the flow stands. Of two flows with one place the later one is timed.

use crate::Nanos;

/// Lines of eight words in `handshakes`; a power of two.
pub const LINES: u32 = 1024;

/// Bits of a word that say when, in units of 2^10 ns; [`Start::again`] is above, and then whose it is.
const TIME_BITS: u32 = 39;
const TIME: u64 = (1 << TIME_BITS) - 1;
const AGAIN: u64 = 1 << TIME_BITS;
const WHOSE: u32 = TIME_BITS + 1;
/// Binary digits of the unit.
const UNIT: u32 = 10;

/// An answer that takes longer (2^32 ns, 4.3 s) is none that says anything of the backend.
pub const LONGEST: u64 = 1 << 32;

/// Position of the sum of all times, in nanoseconds, in the line of [`crate::counter::Handshake`] of a backend.
pub const SUM: u32 = 5;
/// Position of how many were added up.
pub const COUNT: u32 = 6;

/// Where the flow of `fullnat` with a slot in `nat_flows` has its word, as [`place`].
#[inline(always)]
pub const fn of_nat(slot: u32) -> u32 {
    slot | 1 << 31
}

/// Where the flow that stands at a way of a set of `flows` has its word, as [`place`].
#[inline(always)]
pub const fn of_flow(set: u32, way: u32) -> u32 {
    set.wrapping_mul(crate::flow::WAYS as u32).wrapping_add(way) & !(1 << 31)
}

/// Line and position.
#[inline(always)]
pub const fn place(key: u32) -> (u32, u32) {
    (key >> 3 & (LINES - 1), key & 7)
}

/// When a handshake began; 0: none did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start(pub u64);

impl Start {
    /// No handshake.
    pub const NONE: Self = Self(0);

    /// Of a flow with this key ([`of_flow`], [`of_nat`]) to a backend.
    #[inline(always)]
    pub const fn new(key: u32, backend: u32, now: Nanos) -> Self {
        Self(whose(key, backend) << WHOSE | now >> UNIT & TIME)
    }

    /// It is this flow's.
    #[inline(always)]
    pub const fn is_of(self, key: u32, backend: u32) -> bool {
        self.0 != 0 && self.0 >> WHOSE == whose(key, backend)
    }

    /// The same, of a SYN that has come before: the answer may be to either.
    #[inline(always)]
    #[must_use]
    pub const fn again(self) -> Self {
        Self(self.0 | AGAIN)
    }

    /// Its SYN has come before.
    #[inline(always)]
    pub const fn is_again(self) -> bool {
        self.0 & AGAIN != 0
    }

    /// The same, so many nanoseconds later.
    #[must_use]
    pub const fn moved(self, by: Nanos) -> Self {
        let when = (self.0 & TIME).wrapping_add(by >> UNIT) & TIME;
        Self(self.0 & !TIME | when)
    }

    /// Nanoseconds since then, to 1,024.
    #[inline(always)]
    pub const fn elapsed(self, now: Nanos) -> u64 {
        ((now >> UNIT).wrapping_sub(self.0) & TIME) << UNIT
    }
}

/// 24 bits of what `place` leaves of the key, and the backend.
#[inline(always)]
const fn whose(key: u32, backend: u32) -> u64 {
    ((key >> 13) as u64 ^ (backend as u64) << 7) & 0xff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_its_flows_and_backends_alone() {
        let key = of_flow(77, 3);
        let start = Start::new(key, 5, 1_000_000);
        assert!(start.is_of(key, 5));
        assert!(!start.is_of(key, 6));
        assert!(!start.is_of(key + LINES * 8, 5));
        assert!(!start.is_of(of_nat(77 * 8 + 3), 5));
        assert!(!Start::NONE.is_of(0, 0));
        let again = start.again();
        assert!(again.is_of(key, 5) && again.is_again() && !start.is_again());
        assert_eq!(again.elapsed(3_000_000), start.elapsed(3_000_000));
        assert!(again.moved(5_000_000).is_again());
    }

    #[test]
    fn time_goes_on_where_the_clock_of_a_word_begins_anew() {
        for now in [0, 5_000_000, (1 << 49) - 1_000_000, u64::MAX / 2] {
            let start = Start::new(1, 2, now);
            for later in [0, 1_024, 1_024_000, LONGEST] {
                let elapsed = start.elapsed(now + later);
                assert!(elapsed.abs_diff(later) <= 1_024, "{now} {later} {elapsed}");
            }
        }
    }

    #[test]
    fn the_ways_of_a_set_have_words_in_one_line_and_places_are_all_used() {
        let lines = |set| (0..8).map(move |way| place(of_flow(set, way)));
        for set in 0..LINES {
            assert!(lines(set).all(|(line, _)| line == set));
            assert!(lines(set).map(|(_, position)| position).eq(0..8));
        }
        assert!(place(of_nat(u32::MAX)).0 < LINES);
    }
}
