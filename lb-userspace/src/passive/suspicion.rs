//! From evidence to a check that decides, and to peace for a while: [`Suspicion`]. Part of `passive`; pure.
//!
//! A suspect is checked at once. A check that fails takes it out; one that succeeds holds the next suspicion back for a second, then
//! for two, and so on up to a minute: evidence alone, which anybody can make, makes few checks.

use super::Evidence;

const SECOND: u64 = 1_000_000_000;

/// The first time for which a backend that was checked is left in peace, and the longest.
const PEACE: std::ops::RangeInclusive<u64> = SECOND..=60 * SECOND;

/// A check that does not end so long is not waited for.
const PATIENCE: u64 = 120 * SECOND;

/// A suspicion of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// Since when a check is waited for that begins after that, and why.
    waits: Option<(u64, Evidence)>,
    /// It is left in peace until then, and for so long, if it was not guilty.
    until: u64,
    peace: u64,
    /// What the last one came to.
    last: Option<Looked>,
}

/// A suspicion that has come to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// When, nanoseconds since boot.
    pub at: u64,
    /// The evidence, and what the check said.
    pub words: String,
}

impl Suspicion {
    /// True when evidence is to be told.
    pub fn may_rise(&self, now: u64) -> bool {
        match self.waits {
            Some((since, _)) => now.saturating_sub(since) > PATIENCE,
            None => now >= self.until,
        }
    }

    /// It is suspected. True: it is to be checked at once.
    pub fn rise(&mut self, now: u64, evidence: Evidence) -> bool {
        if !self.may_rise(now) {
            return false;
        }
        // After a long peace it begins anew.
        if now.saturating_sub(self.until) > *PEACE.end() {
            self.peace = 0;
        }
        self.waits = Some((now, evidence));
        true
    }

    /// A check that began at `started` has ended: why it was made, if it was for a suspicion.
    pub fn checked(&mut self, started: u64) -> Option<Evidence> {
        let (since, evidence) = self.waits?;
        if started < since {
            return None;
        }
        self.waits = None;
        Some(evidence)
    }

    /// The check was made, and did not take it out: `said` by it. Gives the words for people.
    pub fn cleared(&mut self, now: u64, evidence: &Evidence, said: &str) -> String {
        self.peace = self
            .peace
            .saturating_mul(2)
            .clamp(*PEACE.start(), *PEACE.end());
        self.until = now.saturating_add(self.peace);
        let words = format!("{evidence}; checked at once: {said}");
        self.note(now, words.clone());
        let seconds = self.peace / SECOND;
        format!("{words}; it stays, and is left in peace for {seconds} s")
    }

    /// The check has taken it out. Gives the words for people.
    pub fn confirmed(&mut self, now: u64, evidence: &Evidence, said: &str) -> String {
        self.peace = 0;
        let words = format!("{evidence}; checked at once: {said}");
        self.note(now, words.clone());
        words
    }

    /// Why it is suspected now.
    pub fn waiting(&self) -> Option<&Evidence> {
        self.waits.as_ref().map(|(_, evidence)| evidence)
    }

    /// What the last suspicion came to.
    pub fn last(&self) -> Option<&Looked> {
        self.last.as_ref()
    }

    fn note(&mut self, at: u64, words: String) {
        self.last = Some(Looked { at, words });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passive::Sign;

    const WHY: Evidence = Evidence {
        sign: Sign::Refused,
        bad: 14,
        of: 20,
        over: 600_000_000,
    };

    #[test]
    fn the_peace_after_a_good_check_doubles_up_to_a_minute_and_is_short_again_later() {
        let mut suspicion = Suspicion::default();
        let (mut now, mut waits) = (SECOND, Vec::new());
        for _ in 0..8 {
            assert!(suspicion.rise(now, WHY) && !suspicion.rise(now, WHY));
            assert_eq!(suspicion.checked(now), Some(WHY));
            let told = suspicion.cleared(now, &WHY, "as expected");
            assert!(
                told.starts_with(
                    "14 of 20 handshakes refused in the last 0.6 s; checked at once: as expected"
                ),
                "{told}"
            );
            let peace = (1..).find(|s| suspicion.may_rise(now.saturating_add(s * SECOND)));
            waits.extend(peace);
            now = now.saturating_add(60 * SECOND);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        now = now.saturating_add(61 * SECOND);
        assert!(suspicion.rise(now, WHY));
        assert_eq!(suspicion.checked(now), Some(WHY));
        assert!(
            suspicion
                .cleared(now, &WHY, "as expected")
                .ends_with("for 1 s")
        );
    }

    #[test]
    fn only_a_check_that_begins_later_decides_and_none_is_waited_for_for_ever() {
        let mut suspicion = Suspicion::default();
        assert!(suspicion.rise(5 * SECOND, WHY));
        assert_eq!(suspicion.checked(5 * SECOND - 1), None);
        assert_eq!(suspicion.waiting(), Some(&WHY));
        assert!(!suspicion.rise(100 * SECOND, WHY));
        assert!(suspicion.rise(126 * SECOND, WHY));
        assert_eq!(suspicion.checked(127 * SECOND), Some(WHY));
        let words = suspicion.confirmed(127 * SECOND, &WHY, "connect: refused");
        assert_eq!(suspicion.last().map(|last| last.words.clone()), Some(words));
        // Who is out is no suspect any more; back again, it may be one at once.
        assert!(suspicion.may_rise(127 * SECOND) && suspicion.waiting().is_none());
    }
}
