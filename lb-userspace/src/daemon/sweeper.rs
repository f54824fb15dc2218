//! Walks through the flow table in slices between other work: counts flows by backend and keeps
//! idle entries marked as such. Walks through the table of `fullnat` too, at its own pace, as nothing waits for that.

use std::collections::BTreeSet;

use lb_common::Epoch;

use crate::dataplane::bpf::{FlowCounts, Got, NatWalk, Reader, Sweep};

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
    nat: Option<NatWalk>,
    nat_ended: Option<u64>,
    nat_flows: u64,
}

impl Sweeper {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            walk: None,
            ended: None,
            nat: None,
            nat_ended: None,
            nat_flows: 0,
        }
    }

    /// Flows of `fullnat` at the end of the last walk.
    pub(super) const fn nat_flows(&self) -> u64 {
        self.nat_flows
    }

    /// Does a slice of work on the table of `fullnat`, in which there are flows only with a `nat-source`.
    pub(super) fn count_nat(&mut self, now: u64, has_source: bool) {
        if !has_source {
            (self.nat, self.nat_ended, self.nat_flows) = (None, None, 0);
            return;
        }
        if !rested(self.nat_ended, now, Rest::Long) {
            return;
        }
        let walk = self.nat.get_or_insert_with(|| self.reader.nat_walk());
        if let Some(live) = walk.slice(now, SLICE) {
            self.nat = None;
            (self.nat_ended, self.nat_flows) = (Some(now), live);
        }
    }

    /// Does a slice of work. `task`: of a walk that begins now. Something at the end of a walk.
    pub(super) fn work(
        &mut self,
        now: u64,
        rest: Rest,
        task: impl FnOnce() -> Task,
    ) -> Option<Found> {
        if self.walk.is_none() {
            if !rested(self.ended, now, rest) {
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

/// A walk that ended then has rested.
fn rested(ended: Option<u64>, now: u64, rest: Rest) -> bool {
    ended.is_none_or(|ended| now.saturating_sub(ended) >= rest as u64)
}
