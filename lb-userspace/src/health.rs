//! What the probes of one backend say about it: [`Tracker`]. Pure; the probes are made in
//! `health/`, and [`crate::velocity`] decides which changes may take effect.
//!
//! `rise` good probes in a row make a backend up, `fall` bad ones down, from `unknown` as from
//! the opposite. A void round says nothing: it neither continues nor breaks a row. A round is
//! void when the probe could not be made (no descriptors, no memory), and when it was bad while
//! its own times show that the prober was not run: after a SIGSTOP, a paused machine or a starved
//! CPU, everything looks timed out (RELIABILITY.md P3, P7). A good result always counts: nothing
//! on our side can forge it.
//!
//! A prober that is *always* late would be blind to a dead backend for ever. Hence the excuse is
//! limited: after [`EXCUSES`] bad rounds in a row that were void for lateness, the next ones count
//! though late, until a round is on time or good. Void rounds are counted ([`Counts::void`]), kept
//! among the last ten with their reason, and shown with it.

pub mod http;
pub mod runner;
pub mod tcp;
pub mod verdict;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::{Health, HealthPolicy, ProbeResult, ProbeVerdict};

/// Results that a tracker keeps.
pub const KEPT: usize = 10;

/// Bad rounds in a row that lateness excuses.
pub const EXCUSES: u16 = 5;

/// Lateness below this is never an excuse, in nanoseconds: 50 ms.
const PATIENCE: u64 = 50_000_000;

/// What a tracker measures results against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Good probes in a row until up; 0 is taken as 1.
    pub rise: u16,
    /// Bad probes in a row until down; 0 is taken as 1.
    pub fall: u16,
    /// Between the starts of two probes, nanoseconds.
    pub interval_ns: u64,
    /// A probe is cut off after this, nanoseconds.
    pub timeout_ns: u64,
}

impl From<&HealthPolicy> for Thresholds {
    fn from(policy: &HealthPolicy) -> Self {
        Self {
            rise: policy.rise.get(),
            fall: policy.fall.get(),
            interval_ns: nanos(policy.interval),
            timeout_ns: nanos(policy.timeout),
        }
    }
}

/// A duration in nanoseconds; 584 years and more are one.
pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a round is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "evidence", content = "reason")]
pub enum Evidence {
    /// As expected.
    Good,
    /// Not as expected: why.
    Bad(String),
    /// Says nothing: why.
    Void(String),
}

/// A round as it is kept. Times in nanoseconds since boot, as in [`ProbeResult`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When it should have started.
    pub scheduled: u64,
    /// When it started.
    pub started: u64,
    /// When it ended.
    pub ended: u64,
    /// What it is worth.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// A change of the tracker's verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Nanoseconds since boot.
    pub at: u64,
    /// Before.
    pub from: Health,
    /// After.
    pub to: Health,
    /// How many probes in a row, and the last one's words.
    pub reason: String,
}

/// What one result led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What the round is worth.
    pub evidence: Evidence,
    /// Set when the verdict changed with it.
    pub change: Option<Change>,
}

/// Rounds since the tracker was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Good ones.
    pub good: u64,
    /// Bad ones.
    pub bad: u64,
    /// Void ones: they moved nothing.
    pub void: u64,
}

/// The health of one backend by its probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracker {
    thresholds: Thresholds,
    health: Health,
    /// Good rounds in a row; at most one of `good` and `bad` is not 0.
    good: u16,
    bad: u16,
    /// Bad rounds in a row that lateness excused.
    excused: u16,
    counts: Counts,
    last: VecDeque<Seen>,
    changed: Option<Change>,
}

impl Tracker {
    /// Nothing is known yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            health: Health::Unknown,
            good: 0,
            bad: 0,
            excused: 0,
            counts: Counts::default(),
            last: VecDeque::new(),
            changed: None,
        }
    }

    /// New thresholds after a reload. The verdict and the present row stay: a smaller threshold
    /// takes effect with the next result.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Takes a result into account.
    pub fn observe(&mut self, result: &ProbeResult, now_ns: u64) -> Observation {
        let evidence = self.weigh(result);
        let change = match &evidence {
            Evidence::Good => self.good_round(now_ns),
            Evidence::Bad(reason) => self.bad_round(reason, now_ns),
            Evidence::Void(_) => {
                self.counts.void = self.counts.void.saturating_add(1);
                None
            }
        };
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Seen {
            scheduled: result.scheduled,
            started: result.started,
            ended: result.ended,
            evidence: evidence.clone(),
        });
        Observation { evidence, change }
    }

    /// What the probes say.
    pub fn health(&self) -> Health {
        self.health
    }

    /// More good probes in a row until it is up; `None`: it is.
    pub fn good_until_up(&self) -> Option<u16> {
        (self.health != Health::Up).then(|| left(self.thresholds.rise, self.good))
    }

    /// More bad probes in a row until it is down; `None`: it is.
    pub fn bad_until_down(&self) -> Option<u16> {
        (self.health != Health::Down).then(|| left(self.thresholds.fall, self.bad))
    }

    /// Rounds so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The last rounds, at most [`KEPT`], oldest first.
    pub fn last(&self) -> impl DoubleEndedIterator<Item = &Seen> + ExactSizeIterator {
        self.last.iter()
    }

    /// The last change of the verdict.
    pub fn changed(&self) -> Option<&Change> {
        self.changed.as_ref()
    }

    /// What a result is worth.
    fn weigh(&mut self, result: &ProbeResult) -> Evidence {
        let evidence = match &result.verdict {
            ProbeVerdict::Good => Evidence::Good,
            ProbeVerdict::Void(reason) => return Evidence::Void(reason.clone()),
            ProbeVerdict::Bad(reason) => match self.stall(result) {
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

    fn good_round(&mut self, now_ns: u64) -> Option<Change> {
        self.counts.good = self.counts.good.saturating_add(1);
        self.bad = 0;
        self.good = self.good.saturating_add(1);
        if self.health == Health::Up || self.good < self.thresholds.rise {
            return None;
        }
        let reason = format!("good probes in a row: {}", self.good);
        Some(self.turn(Health::Up, reason, now_ns))
    }

    fn bad_round(&mut self, words: &str, now_ns: u64) -> Option<Change> {
        self.counts.bad = self.counts.bad.saturating_add(1);
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        if self.health == Health::Down || self.bad < self.thresholds.fall {
            return None;
        }
        let reason = format!("bad probes in a row: {}; the last: {words}", self.bad);
        Some(self.turn(Health::Down, reason, now_ns))
    }

    fn turn(&mut self, to: Health, reason: String, at: u64) -> Change {
        let change = Change {
            at,
            from: self.health,
            to,
            reason,
        };
        self.health = to;
        self.changed = Some(change.clone());
        change
    }
}

/// What is missing to `goal`; at least one, since only a round changes a verdict.
fn left(goal: u16, have: u16) -> u16 {
    goal.saturating_sub(have).max(1)
}

/// Whole milliseconds.
fn millis(ns: u64) -> u64 {
    ns / 1_000_000
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
