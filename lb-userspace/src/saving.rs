//! Who waits for which save of a file. Pure; `saving/writer.rs` writes.
//!
//! A disk that hangs must stop nobody but those who need it. So every change is counted, one write of the
//! file is under way at a time, it holds whatever is true when it begins, and whoever must not go on
//! before a change is on disk waits for the write that covers it:
//!
//! 1. [`Saving::changed`] for each change, [`Saving::wait`] for whoever waits for all changes so far;
//! 2. [`Saving::begin`] whenever something changed, ended, or time passed: true means write now;
//! 3. [`Saving::ended`] gives those who may go on, or those who are to be told that it failed.
//!
//! Times are nanoseconds since boot.

use std::collections::VecDeque;
use std::path::PathBuf;

pub mod writer;

/// A write that takes longer is told as late: 1 s.
pub const LATE: u64 = 1_000_000_000;
/// After a failed write that nobody asks to be repeated at once, it is tried again: 1 s.
pub const RETRY: u64 = 1_000_000_000;

/// The saves of one file. `W`: whoever waits.
#[derive(Debug)]
pub struct Saving<W> {
    /// Changes so far.
    changes: u64,
    /// The first that are on disk.
    durable: u64,
    /// What the write that is under way covers.
    under_way: Option<u64>,
    /// After a failure, not before then.
    retry: Option<u64>,
    /// When the oldest change that is not on disk was made, or somewhat before.
    unsaved_since: Option<u64>,
    /// When the write that is under way began.
    began: u64,
    waiting: VecDeque<Waiting<W>>,
}

#[derive(Debug)]
struct Waiting<W> {
    /// For this many changes to be on disk.
    changes: u64,
    /// Until then.
    until: Option<u64>,
    who: W,
}

/// What the end of a write means.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended<W> {
    /// What they waited for is on disk.
    pub saved: Vec<W>,
    /// What they waited for could not be written.
    pub failed: Vec<W>,
}

impl<W> Default for Saving<W> {
    fn default() -> Self {
        Self {
            changes: 0,
            durable: 0,
            under_way: None,
            retry: None,
            unsaved_since: None,
            began: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<W> Saving<W> {
    /// Something is to be saved.
    pub fn changed(&mut self, now: u64) {
        self.changes = self.changes.saturating_add(1);
        self.unsaved_since.get_or_insert(now);
        self.retry = None;
    }

    /// `who` waits until all changes so far are on disk, but no longer than `until`. Given back at once
    /// when they are.
    pub fn wait(&mut self, until: Option<u64>, who: W) -> Option<W> {
        if self.durable >= self.changes {
            return Some(who);
        }
        let changes = self.changes;
        self.waiting.push_back(Waiting {
            changes,
            until,
            who,
        });
        None
    }

    /// A write of what is true now is to begin. The caller begins it.
    pub fn begin(&mut self, now: u64) -> bool {
        let due = self.retry.is_none_or(|retry| now >= retry);
        if self.under_way.is_some() || self.durable >= self.changes || !due {
            return false;
        }
        self.under_way = Some(self.changes);
        self.began = now;
        true
    }

    /// The write that was under way has ended.
    pub fn ended(&mut self, now: u64, succeeded: bool) -> Ended<W> {
        let covered = self.under_way.take().unwrap_or(self.durable);
        let (mut over, waiting) = (Vec::new(), std::mem::take(&mut self.waiting));
        for waiter in waiting {
            if waiter.changes <= covered {
                over.push(waiter.who);
            } else {
                self.waiting.push_back(waiter);
            }
        }
        if succeeded {
            self.durable = covered;
            self.unsaved_since = (self.changes > covered).then_some(self.began);
            return Ended {
                saved: over,
                failed: Vec::new(),
            };
        }
        // What was changed meanwhile has not been tried yet.
        self.retry = (self.changes == covered).then(|| now.saturating_add(RETRY));
        Ended {
            saved: Vec::new(),
            failed: over,
        }
    }

    /// A write is under way.
    pub fn is_writing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Those who have waited as long as they wanted to. They wait no more.
    pub fn overdue(&mut self, now: u64) -> Vec<W> {
        let (mut over, waiting) = (Vec::new(), std::mem::take(&mut self.waiting));
        for waiter in waiting {
            if waiter.until.is_some_and(|until| now >= until) {
                over.push(waiter.who);
            } else {
                self.waiting.push_back(waiter);
            }
        }
        over
    }

    /// How long the oldest change that is not on disk has been waiting; 0: all is on disk.
    pub fn unsaved_for(&self, now: u64) -> u64 {
        self.unsaved_since
            .map_or(0, |since| now.saturating_sub(since))
    }
}

/// How it stands with the disk, over all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The file that is being written, and since when.
    pub busy: Option<(PathBuf, u64)>,
    /// Files whose last write failed, and why.
    pub failed: Vec<(PathBuf, String)>,
}

impl Disk {
    /// How long a write has been late; `None`: none is.
    pub fn late(&self, now: u64) -> Option<u64> {
        let (_, since) = self.busy.as_ref()?;
        let took = now.saturating_sub(*since);
        (took > LATE).then_some(took)
    }

    /// What is wrong with it, for people; `None`: nothing.
    pub fn trouble(&self, now: u64) -> Option<String> {
        let late = self
            .late(now)
            .zip(self.busy.as_ref())
            .map(|(took, (path, _))| {
                format!(
                    "{} has been being written for {:.1} s: the disk hangs",
                    path.display(),
                    std::time::Duration::from_nanos(took).as_secs_f64()
                )
            });
        let failed = self
            .failed
            .iter()
            .map(|(path, why)| format!("{} could not be written: {why}", path.display()));
        let all: Vec<String> = late.into_iter().chain(failed).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests;
