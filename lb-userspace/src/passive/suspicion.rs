//! From evidence to two checks that decide, and to peace for a while: [`Suspicion`]. Part of `passive`; pure.
//!
//! A suspect is checked at once, and so is another backend of the service, the witness. The suspect goes only if its check is bad and
//! the witness's, begun at the same time, is good: what ails the checker ails both. A suspect that stays is left in peace for a
//! second, then for two, and so on up to a minute: evidence alone, which anybody can make, makes few checks. Checks that say nothing
//! clear nobody: they may be made again after a tenth of a second, then after two, and so on up to a second.

use std::collections::BTreeSet;

use super::Evidence;
use crate::health::Evidence as Heard;
use crate::model::{BackendKey, ProbeResult};

const SECOND: u64 = 1_000_000_000;

/// The first time for which a backend that was checked is left in peace, and the longest.
const PEACE: std::ops::RangeInclusive<u64> = SECOND..=60 * SECOND;

/// The first time after which checks that said nothing may be made again, and the longest.
const PAUSE: std::ops::RangeInclusive<u64> = SECOND / 10..=SECOND;

/// Checks that do not end so long are not waited for.
const PATIENCE: u64 = 120 * SECOND;

/// Two checks are of the same time if they began no further apart, nanoseconds.
const TOGETHER: u64 = 100_000_000;

/// A suspicion of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// Set while checks are waited for.
    trial: Option<Trial>,
    /// It is left in peace until then, and for so long, if it was not guilty.
    until: u64,
    peace: u64,
    /// For so long after checks that said nothing.
    pause: u64,
    /// What the last one came to.
    last: Option<Looked>,
    /// Witnesses whose checks were not good either, until it has come to something.
    failed: BTreeSet<BackendKey>,
}

/// What is known of two checks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trial {
    /// Those that began earlier say nothing.
    since: u64,
    evidence: Evidence,
    witness: BackendKey,
    /// The suspect's was bad: when it began, and its words.
    bad: Option<(u64, String)>,
    /// The witness's: when it began if it was good, else its words.
    measure: Option<Result<u64, String>>,
}

/// A suspicion that has come to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// When, nanoseconds since boot.
    pub at: u64,
    /// The evidence, and what the check said.
    pub words: String,
}

/// What both checks come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The suspect's is good.
    Good,
    /// The suspect's is bad, and the witness's is good.
    Bad {
        /// When the suspect's began, nanoseconds since boot.
        started: u64,
        /// When the first of both did.
        since: u64,
        /// Its words.
        words: String,
    },
    /// They say nothing: why.
    Unclear(String),
}

impl Suspicion {
    /// True when evidence is to be told.
    pub fn may_rise(&self, now: u64) -> bool {
        match &self.trial {
            Some(trial) => now.saturating_sub(trial.since) > PATIENCE,
            None => now >= self.until,
        }
    }

    /// It is suspected. True: it and the witness are to be checked at once.
    pub fn rise(&mut self, now: u64, evidence: Evidence, witness: BackendKey) -> bool {
        if !self.may_rise(now) {
            return false;
        }
        // After a long peace it begins anew.
        if now.saturating_sub(self.until) > *PEACE.end() {
            self.peace = 0;
            self.pause = 0;
        }
        self.trial = Some(Trial {
            since: now,
            evidence,
            witness,
            bad: None,
            measure: None,
        });
        true
    }

    /// A check of the suspect has ended. Of those that had their turn only a good one says something.
    pub fn heard(&mut self, result: &ProbeResult, heard: &Heard) -> Option<(Evidence, Finding)> {
        let trial = self.trial.as_mut().filter(|t| result.started >= t.since)?;
        match heard {
            Heard::Good => self.end(Finding::Good),
            _ if !result.extra => None,
            Heard::Void(words) => self.end(Finding::Unclear(format!("void: {words}"))),
            Heard::Bad(words) => {
                trial.bad = Some((result.started, words.clone()));
                self.judge()
            }
        }
    }

    /// An extra check of `who` has ended, who may be the witness.
    pub fn witnessed(
        &mut self,
        who: &BackendKey,
        result: &ProbeResult,
        heard: &Heard,
    ) -> Option<(Evidence, Finding)> {
        let trial = self.trial.as_mut()?;
        if trial.witness != *who || result.started < trial.since || !result.extra {
            return None;
        }
        trial.measure = Some(match heard {
            Heard::Good => Ok(result.started),
            Heard::Bad(words) => Err(words.clone()),
            Heard::Void(words) => Err(format!("void: {words}")),
        });
        self.judge()
    }

    fn judge(&mut self) -> Option<(Evidence, Finding)> {
        let trial = self.trial.as_ref()?;
        let ((started, words), measure) = (trial.bad.clone()?, trial.measure.clone()?);
        let why = match measure {
            Ok(at) if started.abs_diff(at) <= TOGETHER => {
                let since = started.min(at);
                return self.end(Finding::Bad {
                    started,
                    since,
                    words,
                });
            }
            Ok(_) => "was made at another time".to_owned(),
            Err(words) => {
                self.failed.insert(trial.witness.clone());
                format!("failed as well: {words}")
            }
        };
        let who = &trial.witness.backend;
        let words = format!("{words}; that of {who}, as a measure, {why}");
        self.end(Finding::Unclear(words))
    }

    /// The checks that are waited for will not be made: of other targets nothing is known.
    pub fn abandon(&mut self) {
        self.trial = None;
    }

    /// True of a witness whose check failed before: another one may tell more.
    pub fn doubts(&self, who: &BackendKey) -> bool {
        self.failed.contains(who)
    }

    fn end(&mut self, finding: Finding) -> Option<(Evidence, Finding)> {
        Some((self.trial.take()?.evidence, finding))
    }

    /// It stays: `said` by the checks. Gives the words for people.
    pub fn cleared(&mut self, now: u64, evidence: &Evidence, said: &str) -> String {
        self.peace = self
            .peace
            .saturating_mul(2)
            .clamp(*PEACE.start(), *PEACE.end());
        self.pause = 0;
        self.failed.clear();
        self.until = now.saturating_add(self.peace);
        let words = self.note(now, evidence, said);
        let seconds = self.peace / SECOND;
        format!("{words}; it stays, and is left in peace for {seconds} s")
    }

    /// The checks say nothing: `said` by them. Gives the words for people.
    pub fn unclear(&mut self, now: u64, evidence: &Evidence, said: &str) -> String {
        self.pause = self
            .pause
            .saturating_mul(2)
            .clamp(*PAUSE.start(), *PAUSE.end());
        self.until = now.saturating_add(self.pause);
        let words = self.note(now, evidence, said);
        format!("{words}; that says nothing of it")
    }

    /// The checks have taken it out.
    pub fn confirmed(&mut self, now: u64, evidence: &Evidence, said: &str) {
        self.peace = 0;
        self.pause = 0;
        self.failed.clear();
        self.note(now, evidence, said);
    }

    /// Why it is suspected now.
    pub fn waiting(&self) -> Option<&Evidence> {
        self.trial.as_ref().map(|trial| &trial.evidence)
    }

    /// What the last suspicion came to.
    pub fn last(&self) -> Option<&Looked> {
        self.last.as_ref()
    }

    fn note(&mut self, at: u64, evidence: &Evidence, said: &str) -> String {
        let words = words(evidence, said);
        self.last = Some(Looked {
            at,
            words: words.clone(),
        });
        words
    }
}

/// Evidence and what the check said, for people.
pub fn words(evidence: &Evidence, said: &str) -> String {
    format!("{evidence}; checked at once: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key;
    use crate::model::ProbeVerdict;
    use crate::passive::Sign;

    const WHY: Evidence = Evidence {
        sign: Sign::Refused,
        bad: 14,
        of: 20,
        over: 600_000_000,
    };

    fn at(started: u64, extra: bool) -> ProbeResult {
        ProbeResult {
            scheduled: started,
            started,
            ended: started,
            verdict: ProbeVerdict::Good,
            extra,
        }
    }

    fn bad() -> Heard {
        Heard::Bad("connect: refused".to_owned())
    }

    fn suspected(now: u64) -> Suspicion {
        let mut suspicion = Suspicion::default();
        assert!(suspicion.rise(now, WHY, key("web/b")));
        suspicion
    }

    /// When the trial of a test begins, and the first check with it.
    const SINCE: u64 = 5 * SECOND;

    fn guilty(started: u64) -> Option<(Evidence, Finding)> {
        let words = "connect: refused".to_owned();
        let since = SINCE;
        Some((
            WHY,
            Finding::Bad {
                started,
                since,
                words,
            },
        ))
    }

    #[test]
    fn the_peace_after_a_good_check_doubles_up_to_a_minute_and_is_short_again_later() {
        let mut suspicion = Suspicion::default();
        let (mut now, mut waits) = (SECOND, Vec::new());
        for _ in 0..8 {
            assert!(suspicion.rise(now, WHY, key("web/b")));
            assert!(!suspicion.rise(now, WHY, key("web/b")));
            let found = suspicion.heard(&at(now, true), &Heard::Good);
            assert_eq!(found, Some((WHY, Finding::Good)));
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
        assert!(suspicion.rise(now, WHY, key("web/b")));
        let told = suspicion.cleared(now, &WHY, "as expected");
        assert!(told.ends_with("for 1 s"), "{told}");
    }

    #[test]
    fn only_checks_that_begin_later_decide_and_none_is_waited_for_for_ever() {
        let mut suspicion = suspected(5 * SECOND);
        let early = at(5 * SECOND - 1, true);
        assert_eq!(suspicion.heard(&early, &bad()), None);
        assert_eq!(suspicion.heard(&early, &Heard::Good), None);
        assert_eq!(
            suspicion.witnessed(&key("web/b"), &early, &Heard::Good),
            None
        );
        // One that had its turn is one of `fall`, and no more.
        assert_eq!(suspicion.heard(&at(6 * SECOND, false), &bad()), None);
        assert_eq!(suspicion.waiting(), Some(&WHY));
        assert!(!suspicion.rise(100 * SECOND, WHY, key("web/b")));
        assert!(suspicion.rise(126 * SECOND, WHY, key("web/b")));
    }

    #[test]
    fn a_bad_check_takes_out_only_with_a_good_one_of_the_witness_of_the_same_time() {
        let (witness, start) = (key("web/b"), SINCE);
        // In either order.
        let mut suspicion = suspected(start);
        assert_eq!(suspicion.heard(&at(start, true), &bad()), None);
        let stranger = suspicion.witnessed(&key("web/c"), &at(start, true), &Heard::Good);
        assert_eq!(stranger, None);
        let late = at(start + TOGETHER, true);
        assert_eq!(
            suspicion.witnessed(&witness, &late, &Heard::Good),
            guilty(start)
        );
        let mut suspicion = suspected(start);
        assert_eq!(
            suspicion.witnessed(&witness, &at(start, true), &Heard::Good),
            None
        );
        assert_eq!(
            suspicion.heard(&at(start + 9, true), &bad()),
            guilty(start + 9)
        );
        suspicion.confirmed(start, &WHY, "connect: refused");
        // Who is out is no suspect any more; back again, it may be one at once.
        assert!(suspicion.may_rise(start) && suspicion.waiting().is_none());

        let unclear = |found: Option<(Evidence, Finding)>| {
            assert!(
                matches!(found, Some((WHY, Finding::Unclear(_)))),
                "{found:?}"
            );
        };
        let mut suspicion = suspected(start);
        assert_eq!(suspicion.heard(&at(start, true), &bad()), None);
        let later = at(start + TOGETHER + 1, true);
        unclear(suspicion.witnessed(&witness, &later, &Heard::Good));
        for heard in [bad(), Heard::Void("no descriptor".to_owned())] {
            let mut suspicion = suspected(start);
            let found = suspicion.witnessed(&witness, &at(start, true), &heard);
            assert_eq!(found, None);
            unclear(suspicion.heard(&at(start, true), &bad()));
        }
        // Good after all.
        let mut suspicion = suspected(start);
        assert_eq!(suspicion.heard(&at(start, true), &bad()), None);
        let good = suspicion.heard(&at(start + 1, false), &Heard::Good);
        assert_eq!(good, Some((WHY, Finding::Good)));
    }

    #[test]
    fn what_says_nothing_clears_nobody() {
        let mut suspicion = Suspicion::default();
        let (mut now, mut pauses) = (SECOND, Vec::new());
        for n in 1..8 {
            assert!(suspicion.rise(now, WHY, key("web/b")), "{n}");
            let void = Heard::Void("no descriptor".to_owned());
            let found = suspicion.heard(&at(now, true), &void);
            assert!(matches!(found, Some((WHY, Finding::Unclear(_)))));
            suspicion.unclear(now, &WHY, "void: no descriptor");
            let pause = (1..).find(|ms| suspicion.may_rise(now + ms * SECOND / 1000));
            pauses.extend(pause);
            now += SECOND;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000]);
        suspicion.cleared(now, &WHY, "good");
        assert!(!suspicion.may_rise(now + SECOND - 1) && suspicion.may_rise(now + SECOND));
        assert!(suspicion.rise(now + SECOND, WHY, key("web/b")));
        let void = Heard::Void("no descriptor".to_owned());
        assert!(suspicion.heard(&at(now + SECOND, true), &void).is_some());
        suspicion.unclear(now + SECOND, &WHY, "void: no descriptor");
        assert!(suspicion.may_rise(now + SECOND + SECOND / 10));
    }
}
