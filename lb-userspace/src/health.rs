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
//!
//! A target that goes up and down again and again is damped (`health/damping.rs`): it has to stay good for longer. That
//! delays a return only, never a fall.

mod damping;
pub mod descriptors;
pub mod dns;
pub mod exec;
mod full_size;
pub mod grpc;
pub mod hearing;
pub mod http;
pub mod http2;
pub mod https;
pub mod icmp;
mod limited;
pub mod peer;
mod real_path;
#[cfg(any(test, feature = "recorded"))]
pub mod recorded;
mod refusals;
pub mod runner;
mod segments;
mod streak;
pub mod tcp;
pub mod tls;
pub mod udp;
mod unacked;
pub mod verdict;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use self::damping::Damper;
pub use self::streak::Streak;
use crate::model::{Damping, Health, HealthPolicy, ProbeResult, ProbeVerdict, Target};

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
    /// What a target that goes up and down is in for.
    pub damping: Damping,
}

impl From<&HealthPolicy> for Thresholds {
    fn from(policy: &HealthPolicy) -> Self {
        Self {
            rise: policy.rise.get(),
            fall: policy.fall.get(),
            interval_ns: nanos(policy.interval),
            timeout_ns: nanos(policy.timeout),
            damping: policy.damping,
        }
    }
}

/// As a prober knows them: it leaves damping to the tracker.
impl From<&Target> for Thresholds {
    fn from(target: &Target) -> Self {
        Self {
            rise: target.rise,
            fall: target.fall,
            interval_ns: nanos(target.interval),
            timeout_ns: nanos(target.timeout),
            damping: Damping::default(),
        }
    }
}

/// Between two times that one warning is told, nanoseconds.
const DAY: u64 = 86_400 * 1_000_000_000;

/// After so many good probes in a row that do not warn it is over: of two servers behind one address one may be renewed.
const OVER: u8 = 10;

/// What good probes say expires.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expiring {
    words: String,
    /// When that was told, nanoseconds since boot.
    told: u64,
    /// Good probes since that did not say so.
    since: u8,
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
    /// What is good and will soon not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
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
    /// Set when damping begins to keep it down: why and for how long.
    pub damped: Option<String>,
    /// Set when what is good says that it will not be for long, or no longer says so.
    pub warned: Option<Warning>,
}

/// What good probes say of the time to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// This, and it has not been told, or not for a day.
    Given(String),
    /// It is over.
    Over,
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
    streak: Streak,
    damper: Damper,
    /// It would be up if it were not damped, and that has been said.
    told: bool,
    counts: Counts,
    last: VecDeque<Seen>,
    changed: Option<Change>,
    /// When the probe began that packets made a suspect's last one: what began before it does not count as good.
    #[serde(skip)]
    condemned: u64,
    /// What is said to expire.
    #[serde(skip)]
    warning: Option<Expiring>,
}

impl Tracker {
    /// Nothing is known yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            streak: Streak::new(thresholds),
            damper: Damper::default(),
            told: false,
            counts: Counts::default(),
            last: VecDeque::new(),
            changed: None,
            condemned: 0,
            warning: None,
        }
    }

    /// New thresholds after a reload. The verdict and the present row stay: a smaller threshold
    /// takes effect with the next result.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.streak.thresholds = thresholds;
    }

    /// A bad extra probe, which was observed, is enough to be down: packets made a suspect of the backend, and another one's
    /// probe was good at the same time. `why`: for people; `started`: when that probe was, nanoseconds since boot. `None`: it is down.
    pub fn confirm(&mut self, why: String, started: u64, now_ns: u64) -> Option<Change> {
        self.condemned = started;
        (self.health() != Health::Down).then(|| {
            self.streak.condemn();
            self.turn(Health::Down, why, now_ns)
        })
    }

    /// Takes a result into account.
    pub fn observe(&mut self, result: &ProbeResult, now_ns: u64) -> Observation {
        let evidence = match self.streak.weigh(result) {
            Evidence::Good if result.started < self.condemned => {
                Evidence::Void("good, but begun before the check that took it out".to_owned())
            }
            evidence => evidence,
        };
        let policy = self.streak.thresholds.damping;
        let may_rise = match &evidence {
            Evidence::Good => {
                self.counts.good = self.counts.good.saturating_add(1);
                self.damper.good(&policy, now_ns)
            }
            Evidence::Bad(_) => {
                self.counts.bad = self.counts.bad.saturating_add(1);
                self.damper.bad();
                self.told = false;
                true
            }
            Evidence::Void(_) => {
                self.counts.void = self.counts.void.saturating_add(1);
                true
            }
        };
        let wanted = self.streak.add(&evidence, result.extra);
        let (mut change, mut damped) = (None, None);
        match wanted {
            Some(_) if !may_rise => {
                let first = !std::mem::replace(&mut self.told, true);
                damped = first.then(|| self.damper.words(&policy, now_ns)).flatten();
            }
            Some(to) => {
                let reason = match &evidence {
                    Evidence::Bad(words) => format!(
                        "bad probes in a row: {}; the last: {words}",
                        self.streak.bad
                    ),
                    _ => format!("good probes in a row: {}", self.streak.good),
                };
                change = Some(self.turn(to, reason, now_ns));
            }
            None => {}
        }
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Seen {
            scheduled: result.scheduled,
            started: result.started,
            ended: result.ended,
            evidence: evidence.clone(),
            warning: match &result.verdict {
                ProbeVerdict::Warned(words) | ProbeVerdict::Expiring(words) => Some(words.clone()),
                _ => None,
            },
        });
        Observation {
            evidence,
            change,
            damped,
            warned: self.warned(&result.verdict, now_ns),
        }
    }

    fn warned(&mut self, verdict: &ProbeVerdict, now_ns: u64) -> Option<Warning> {
        match verdict {
            ProbeVerdict::Expiring(words) => {
                let told = self.warning.as_ref().map(|warning| warning.told);
                let told = told.filter(|told| now_ns.saturating_sub(*told) < DAY);
                self.warning = Some(Expiring {
                    words: words.clone(),
                    told: told.unwrap_or(now_ns),
                    since: 0,
                });
                told.is_none().then(|| Warning::Given(words.clone()))
            }
            ProbeVerdict::Good | ProbeVerdict::Warned(_) => {
                let warning = self.warning.as_mut()?;
                warning.since = warning.since.saturating_add(1);
                (warning.since >= OVER).then(|| self.forget_warning())?
            }
            ProbeVerdict::Bad(_) | ProbeVerdict::Void(_) => None,
        }
    }

    /// Nothing is known any more of what expires.
    pub fn forget_warning(&mut self) -> Option<Warning> {
        self.warning.take().map(|_| Warning::Over)
    }

    /// What is said to expire.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_ref().map(|warning| warning.words.as_str())
    }

    /// What the probes say.
    pub fn health(&self) -> Health {
        self.streak.health()
    }

    /// Why damping keeps it down, or would if it were good again; `None`: it does not.
    pub fn damped(&self, now_ns: u64) -> Option<String> {
        let down = self.health() == Health::Down;
        let policy = &self.streak.thresholds.damping;
        down.then(|| self.damper.words(policy, now_ns)).flatten()
    }

    /// For how long it must still be good before damping lets it be up, nanoseconds; 0: it is not damped.
    pub fn damped_for(&self, now_ns: u64) -> u64 {
        self.damper.left(&self.streak.thresholds.damping, now_ns)
    }

    /// True while results differ from the verdict, and are not enough to change it.
    pub fn is_changing(&self) -> bool {
        self.streak.is_changing()
    }

    /// More good probes in a row until it is up, if it is not damped; `None`: it is.
    pub fn good_until_up(&self) -> Option<u16> {
        (self.health() != Health::Up).then(|| self.streak.good_left())
    }

    /// More bad probes in a row until it is down; `None`: it is.
    pub fn bad_until_down(&self) -> Option<u16> {
        (self.health() != Health::Down).then(|| self.streak.bad_left())
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

    fn turn(&mut self, to: Health, reason: String, at: u64) -> Change {
        let from = self.streak.settle(to);
        let policy = self.streak.thresholds.damping;
        self.damper.changed(&policy, from, to, at);
        self.told = false;
        let change = Change {
            at,
            from,
            to,
            reason,
        };
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
