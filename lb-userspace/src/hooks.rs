//! Hooks: which events each is told, and when: a bounded queue for each hook, with a rate and a back-off. Pure;
//! `hooks/runner.rs` runs commands and posts to servers.
//!
//! Whoever has an event puts it into the queues and goes on. A full queue loses its oldest event: when a hook works
//! again after an hour it is told how things are, not how they were.

pub(crate) mod command;
pub mod message;
pub mod runner;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
pub(crate) mod webhook;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::Record;
use crate::model::{Hook, Name, Topic};
use message::Message;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
/// Waits between attempts begin with a second, double, and end here.
const LONGEST_WAIT: u64 = MINUTE;
/// Between two lines of the log about events that were dropped.
const QUIET: u64 = 10 * SECOND;

/// Is this hook told this event?
pub fn wants(hook: &Hook, record: &Record) -> bool {
    let Some(topic) = topic(record) else {
        return false;
    };
    let service = service(record);
    hook.on.contains(&topic)
        && (hook.services.is_empty() || service.is_some_and(|name| hook.services.contains(name)))
}

/// The kind of an event; `None`: no hook is told.
fn topic(record: &Record) -> Option<Topic> {
    match record {
        Record::Health { .. }
        | Record::Held { .. }
        | Record::Suspected { .. }
        | Record::Warned { .. }
        | Record::Agent { .. }
        | Record::CheckerSuspect { .. } => Some(Topic::Health),
        Record::Admin { .. } | Record::Drained { .. } => Some(Topic::Drain),
        Record::Failover { .. } => Some(Topic::Failover),
        Record::ProbeVoid { .. }
        | Record::Route { .. }
        | Record::Link { .. }
        | Record::Barred { .. }
        | Record::Narrow { .. }
        | Record::Adopted { .. }
        | Record::Config { .. } => None,
    }
}

/// Whose event it is.
pub(crate) fn service(record: &Record) -> Option<&Name> {
    match record {
        Record::Health { backend, .. }
        | Record::Held { backend, .. }
        | Record::Suspected { backend, .. }
        | Record::Warned { backend, .. }
        | Record::Agent { backend, .. }
        | Record::Admin { backend, .. }
        | Record::Drained { backend, .. } => Some(&backend.service),
        Record::Failover { service, .. } => Some(service),
        _ => None,
    }
}

/// The limits of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts after the first one.
    pub retries: u16,
    /// Events begun in a minute, after as many at once.
    pub rate: u32,
    /// Events that may wait, besides the one that is under way.
    pub queue: usize,
}

impl Limits {
    /// Those of a hook.
    pub fn of(hook: &Hook) -> Self {
        Self {
            retries: hook.retries,
            rate: hook.rate,
            queue: usize::try_from(hook.queue).unwrap_or(usize::MAX),
        }
    }
}

/// What became of the events of a hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Told.
    pub sent: u64,
    /// Not told, after all attempts.
    pub failed: u64,
    /// Not told, since too many waited.
    pub dropped: u64,
}

/// The events of a hook that are not told yet.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    /// Oldest first.
    waiting: VecDeque<Arc<Message>>,
    current: Option<Current>,
    /// Whoever may make attempts, and nobody before it.
    holder: u64,
    /// Events that this hook was to be told.
    number: u64,
    /// When, at the hook's rate, the next event would be due if none were let through early.
    due: u64,
    /// Attempts so far: tells the end of one that was given up from the end of the one under way.
    attempts: u64,
    counts: Counts,
    /// What the last failed attempt ended with.
    trouble: Option<String>,
    /// Dropped and not said in the log yet, and when that was last done.
    unsaid: u64,
    said_at: Option<u64>,
}

/// The event whose turn it is.
#[derive(Debug)]
struct Current {
    message: Arc<Message>,
    /// Attempts that failed.
    failures: u16,
    /// Not before this.
    after: u64,
    /// The attempt under way.
    attempt: Option<u64>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Next {
    /// Tell this, now.
    Tell(Attempt),
    /// Ask again at this time, or when an event has come.
    At(u64),
    /// Ask again when an event has come.
    Idle,
}

/// An attempt that begins.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its number.
    pub number: u64,
    /// Attempts to tell the same that failed.
    pub failures: u16,
    /// What is told.
    pub message: Arc<Message>,
}

/// What follows from the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The event was told.
    Sent,
    /// It is tried again, after so many nanoseconds.
    Again(u64),
    /// It is given up.
    Failed,
    /// Nothing: this attempt had been given up before.
    Stale,
}

impl Queue {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            current: None,
            holder: 0,
            number: 0,
            due: 0,
            attempts: 0,
            counts: Counts::default(),
            trouble: None,
            unsaid: 0,
            said_at: None,
        }
    }

    /// Other limits, from now on. The attempt under way, if there is one, is given up, and made again.
    pub fn change(&mut self, limits: Limits) {
        self.limits = limits;
        self.give_up();
        self.shorten();
    }

    /// Whoever made the attempt is gone; it is made again.
    pub fn give_up(&mut self) {
        if let Some(current) = &mut self.current {
            current.attempt = None;
        }
    }

    /// A new holder makes the attempts from now on, and the one that another has under way again. Its number.
    pub fn begin(&mut self) -> u64 {
        self.holder = self.holder.saturating_add(1);
        self.give_up();
        self.holder
    }

    /// [`Self::next`] for a holder; one that another has followed has nothing to do.
    pub fn next_for(&mut self, holder: u64, now: u64) -> Next {
        match holder == self.holder {
            true => self.next(now),
            false => Next::Idle,
        }
    }

    /// An event is to be told. With no room left the oldest is dropped.
    pub fn push(&mut self, message: Message) {
        self.number = self.number.saturating_add(1);
        let number = self.number;
        self.waiting
            .push_back(Arc::new(Message { number, ..message }));
        self.shorten();
    }

    fn shorten(&mut self) {
        while self.waiting.len() > self.limits.queue {
            self.waiting.pop_front();
            self.counts.dropped = self.counts.dropped.saturating_add(1);
            self.unsaid = self.unsaid.saturating_add(1);
        }
    }

    /// What is to be done now.
    pub fn next(&mut self, now: u64) -> Next {
        if self.current.is_none() {
            if self.waiting.is_empty() {
                return Next::Idle;
            }
            let free = self.free_at();
            if now < free {
                return Next::At(free);
            }
            let Some(message) = self.waiting.pop_front() else {
                return Next::Idle;
            };
            self.due = self.due.max(now).saturating_add(self.spacing());
            self.current = Some(Current {
                message,
                failures: 0,
                after: now,
                attempt: None,
            });
        }
        let Some(current) = &mut self.current else {
            return Next::Idle;
        };
        if current.attempt.is_some() {
            return Next::Idle;
        }
        if now < current.after {
            return Next::At(current.after);
        }
        self.attempts = self.attempts.saturating_add(1);
        current.attempt = Some(self.attempts);
        Next::Tell(Attempt {
            number: self.attempts,
            failures: current.failures,
            message: Arc::clone(&current.message),
        })
    }

    /// Between two events at the hook's rate.
    fn spacing(&self) -> u64 {
        MINUTE
            .checked_div(u64::from(self.limits.rate))
            .unwrap_or(MINUTE)
    }

    /// When the rate lets the next event through: as many as in a minute may go ahead of their time (the generic cell
    /// rate algorithm, ITU-T I.371).
    fn free_at(&self) -> u64 {
        let ahead = MINUTE.saturating_sub(self.spacing());
        self.due.saturating_sub(ahead)
    }

    /// An attempt has ended.
    pub fn ended(&mut self, attempt: u64, now: u64, outcome: Result<(), String>) -> Ended {
        let ours = |current: &mut Current| current.attempt == Some(attempt);
        let Some(mut current) = self.current.take_if(ours) else {
            return Ended::Stale;
        };
        let Err(why) = outcome else {
            self.counts.sent = self.counts.sent.saturating_add(1);
            self.trouble = None;
            return Ended::Sent;
        };
        self.trouble = Some(why);
        if current.failures >= self.limits.retries {
            self.counts.failed = self.counts.failed.saturating_add(1);
            return Ended::Failed;
        }
        let doubled = SECOND.checked_shl(u32::from(current.failures));
        let wait = doubled.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        current.failures = current.failures.saturating_add(1);
        current.after = now.saturating_add(wait);
        current.attempt = None;
        self.current = Some(current);
        Ended::Again(wait)
    }

    /// How many were dropped since that was last said, if it is time to say so again.
    pub fn dropped_unsaid(&mut self, now: u64) -> Option<u64> {
        let quiet = |at: u64| now.saturating_sub(at) < QUIET;
        if self.unsaid == 0 || self.said_at.is_some_and(quiet) {
            return None;
        }
        self.said_at = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// What became of its events so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many are not told yet.
    pub fn waiting(&self) -> usize {
        let current = usize::from(self.current.is_some());
        self.waiting.len().saturating_add(current)
    }

    /// Why the last attempt failed, if it did.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}
