//! Walks through the flow table in slices between other work: counts flows by backend and keeps
//! idle entries marked as such.

use std::collections::BTreeSet;

use lb_common::Epoch;

use crate::dataplane::bpf::{FlowCounts, Got, Reader, Sweep};

/// Sets a slice looks at: 1 MiB of the table, well under a millisecond.
const SLICE: u32 = 16_384;

/// How long to rest between two walks, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    /// Somebody waits for flows to end.
    None = 0,
    /// New flows are scheduled by the counts.
    Short = 200_000_000,
    /// Nobody waits for anything.
    Long = 2_000_000_000,
}

/// What a new walk is to do.
pub(super) struct Task {
    /// BackendIds at rest, whose entries are freed.
    pub(super) forget: BTreeSet<u32>,
    /// Backends whose flows are counted for their loads.
    pub(super) weigh: Vec<u32>,
}

/// What a walk has found.
pub(super) struct Found {
    pub(super) began: u64,
    pub(super) counts: FlowCounts,
    /// What the backends of [`Task::weigh`] had got when their flows were counted.
    pub(super) got: Got,
}

struct Walk {
    began: u64,
    sweep: Sweep,
    weigh: Vec<u32>,
    got: Got,
}

/// Where the walk stands.
pub(super) struct Sweeper {
    reader: Reader,
    walk: Option<Walk>,
    ended: Option<u64>,
}

impl Sweeper {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            walk: None,
            ended: None,
        }
    }

    /// Does a slice of work. `task`: of a walk that begins now. Something at the end of a walk.
    pub(super) fn work(
        &mut self,
        now: u64,
        rest: Rest,
        task: impl FnOnce() -> Task,
    ) -> Option<Found> {
        let rested = self
            .ended
            .is_none_or(|ended| now.saturating_sub(ended) >= rest as u64);
        if self.walk.is_none() {
            if !rested {
                return None;
            }
            let Task { forget, weigh } = task();
            self.walk = Some(Walk {
                began: now,
                sweep: self.reader.sweep(forget),
                got: self.reader.got(weigh.iter().copied()),
                weigh,
            });
        }
        let counts = self.walk.as_mut()?.sweep.slice(Epoch::at(now), SLICE)?;
        let walk = self.walk.take()?;
        self.ended = Some(now);
        let got = self.reader.got(walk.weigh);
        Some(Found {
            began: walk.began,
            counts,
            got: walk.got.half_way(&got),
        })
    }
}
