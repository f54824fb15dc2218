//! Load and what came of it, as plain values. `load/*.rs` makes the traffic.
//!
//! A connection **fails** if it errs, is reset, its bytes differ, or it takes longer than [`LATE`].

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

mod long;
mod pace;
mod retransmissions;
mod short;
mod udp;

pub use long::{Connection, Long};
pub use pace::{Bounds, Storm};
pub use retransmissions::retransmissions;
pub use udp::{Flow, Udp};

/// Longer than any honest answer in the lab, and shorter than the second after which Linux sends a
/// lost SYN again: a hidden retransmission counts as a failure.
pub const LATE: Duration = Duration::from_millis(900);

/// What a short connection does.
#[derive(Clone, Debug)]
pub enum Request {
    /// One echo message, compared.
    Echo,
    /// `GET path`, with a status of 200 and the backend's name as the body.
    Http(&'static str),
}

/// One short connection, one message of a long one, or one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it began.
    pub started: Instant,
    /// How long it took, also when it failed.
    pub took: Duration,
    /// `n` of the backend `b<n>` that answered; 0 for a failure.
    pub backend: u8,
}

/// A sample that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began.
    pub started: Instant,
    /// How long it took to fail.
    pub took: Duration,
    /// What happened.
    pub reason: String,
    /// The client's side of the connection, to find it in a capture; unset without a connection.
    pub local: Option<SocketAddr>,
}

/// What a load did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Everything that succeeded, in no particular order.
    pub answered: Vec<Sample>,
    /// Everything that failed, by time.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Answers and failures.
    pub fn total(&self) -> usize {
        self.answered.len() + self.failures.len()
    }

    /// Adds another report.
    pub fn merge(&mut self, other: Self) {
        self.answered.extend(other.answered);
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.started);
    }

    /// Answers by backend, of what began in `from <= started < to`.
    pub fn by_backend(&self, from: Instant, to: Instant) -> BTreeMap<u8, u64> {
        let mut counts = BTreeMap::new();
        for sample in self
            .answered
            .iter()
            .filter(|s| from <= s.started && s.started < to)
        {
            *counts.entry(sample.backend).or_default() += 1;
        }
        counts
    }

    /// All answers by backend.
    pub fn backends(&self) -> BTreeMap<u8, u64> {
        let mut counts = BTreeMap::new();
        for sample in &self.answered {
            *counts.entry(sample.backend).or_default() += 1;
        }
        counts
    }

    /// Failures that no fault from `from` to `to` can excuse: over before it or begun after it.
    pub fn failures_outside(&self, from: Instant, to: Instant) -> Vec<&Failure> {
        self.failures
            .iter()
            .filter(|f| f.started + f.took < from || to <= f.started)
            .collect()
    }

    /// The slowest answer.
    pub fn slowest(&self) -> Duration {
        self.answered
            .iter()
            .map(|sample| sample.took)
            .max()
            .unwrap_or_default()
    }

    /// Fails, with the first failures in its message, unless everything was answered.
    #[track_caller]
    pub fn assert_clean(&self, at_least: usize) {
        assert!(self.failures.is_empty(), "{self}");
        assert!(
            self.total() >= at_least,
            "wanted at least {at_least}: {self}"
        );
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!(
            "{} of {} failed; by backend {:?}; slowest {:?}",
            self.failures.len(),
            self.total(),
            self.backends(),
            self.slowest()
        );
        for failure in self.failures.iter().take(5) {
            let local = failure
                .local
                .map(|a| format!(" from {a}"))
                .unwrap_or_default();
            write!(
                text,
                "\n  after {:?}{local}: {}",
                failure.took, failure.reason
            )?;
        }
        f.write_str(&text)
    }
}

/// `n` of `b<n>`, 0 for anything else.
pub(crate) fn backend_number(name: &str) -> u8 {
    name.strip_prefix('b')
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}
