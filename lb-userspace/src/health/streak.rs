//! Results in a row, and what they say: [`Streak`]. Pure.

use serde::{Deserialize, Serialize};

use super::{EXCUSES, Evidence, PATIENCE, Thresholds, left, millis};
use crate::model::{Health, ProbeResult, ProbeVerdict};

/// The present row of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    pub(super) thresholds: Thresholds,
    health: Health,
    /// Good rounds in a row; at most one of `good` and `bad` is not 0.
    pub(super) good: u16,
    pub(super) bad: u16,
    /// Bad rounds in a row that lateness excused.
    excused: u16,
}

impl Streak {
    /// Nothing is known yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            health: Health::Unknown,
            good: 0,
            bad: 0,
            excused: 0,
        }
    }

    /// The verdict in force.
    pub fn health(&self) -> Health {
        self.health
    }

    /// True while results differ from the verdict, and are not enough to change it.
    pub fn is_changing(&self) -> bool {
        match self.health {
            Health::Unknown => self.good > 0 || self.bad > 0,
            Health::Up => self.bad > 0,
            Health::Down => self.good > 0 && self.good < self.thresholds.rise,
        }
    }

    /// What a result is worth.
    pub fn weigh(&mut self, result: &ProbeResult) -> Evidence {
        let evidence = match &result.verdict {
            ProbeVerdict::Good | ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_) => {
                Evidence::Good
            }
            ProbeVerdict::Void(reason) => return Evidence::Void(reason.clone()),
            ProbeVerdict::Bad(reason) => match self.stall(result) {
                // One that was made for a suspicion is no proof when it is late, however often that has been.
                Some(stall) if result.extra => {
                    return Evidence::Void(format!("{stall}; ignored: {reason}"));
                }
                Some(stall) if self.excused < EXCUSES => {
                    self.excused = self.excused.saturating_add(1);
                    return Evidence::Void(format!("{stall}; ignored: {reason}"));
                }
                // Late once more: counts, and so does the next one.
                Some(_) => return Evidence::Bad(reason.clone()),
                None => Evidence::Bad(reason.clone()),
            },
        };
        self.excused = 0;
        evidence
    }

    /// Adds it to the row, and gives the verdict that the row is now long enough for, if it is another one. A bad round that
    /// was `extra` is in no row: `fall` is a number of turns.
    pub fn add(&mut self, evidence: &Evidence, extra: bool) -> Option<Health> {
        match evidence {
            Evidence::Void(_) => None,
            Evidence::Bad(_) if extra => None,
            Evidence::Good => {
                self.bad = 0;
                self.good = self.good.saturating_add(1);
                let enough = self.health != Health::Up && self.good >= self.thresholds.rise;
                enough.then_some(Health::Up)
            }
            Evidence::Bad(_) => {
                self.good = 0;
                self.bad = self.bad.saturating_add(1);
                let enough = self.health != Health::Down && self.bad >= self.thresholds.fall;
                enough.then_some(Health::Down)
            }
        }
    }

    /// No good round counts any more: the next verdict is down, whatever the row says.
    pub(super) fn condemn(&mut self) {
        self.good = 0;
    }

    /// The verdict from now on; gives the one before.
    pub fn settle(&mut self, to: Health) -> Health {
        std::mem::replace(&mut self.health, to)
    }

    /// More good rounds in a row until up.
    pub(super) fn good_left(&self) -> u16 {
        left(self.thresholds.rise, self.good)
    }

    /// More bad rounds in a row until down.
    pub(super) fn bad_left(&self) -> u16 {
        left(self.thresholds.fall, self.bad)
    }

    /// How the times of a result show that the prober was not run in time.
    fn stall(&self, result: &ProbeResult) -> Option<String> {
        let Thresholds {
            interval_ns,
            timeout_ns,
            ..
        } = self.thresholds;
        let late = result.started.saturating_sub(result.scheduled);
        if late > PATIENCE.max(interval_ns / 4) {
            return Some(format!("checker stalled: started {} ms late", millis(late)));
        }
        let over = result
            .ended
            .saturating_sub(result.started)
            .saturating_sub(timeout_ns);
        (over > PATIENCE.max(timeout_ns / 2)).then(|| {
            format!(
                "checker stalled: ended {} ms after its timeout",
                millis(over)
            )
        })
    }
}
