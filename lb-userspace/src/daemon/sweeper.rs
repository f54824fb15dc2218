//! Walks through the flow table in slices between other work: counts flows by backend and keeps
//! idle entries marked as such.

use std::collections::BTreeSet;

use lb_common::Epoch;

use crate::dataplane::bpf::{FlowCounts, Reader, Sweep};

/// Sets a slice looks at: 1 MiB of the table, well under a millisecond.
const SLICE: u32 = 16_384;
/// Between two walks while nothing drains, in nanoseconds.
const REST: u64 = 2_000_000_000;

/// Where the walk stands.
pub(super) struct Sweeper {
    reader: Reader,
    walk: Option<(u64, Sweep)>,
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

    /// Does a slice of work. `eager`: begin the next walk at once. `forget`: BackendIds at rest, whose
    /// entries a new walk frees. At the end of a walk: when it began, and what it counted.
    pub(super) fn work(
        &mut self,
        now: u64,
        eager: bool,
        forget: impl FnOnce() -> BTreeSet<u32>,
    ) -> Option<(u64, FlowCounts)> {
        let rested = self
            .ended
            .is_none_or(|ended| now.saturating_sub(ended) >= REST);
        if self.walk.is_none() {
            if !rested && !eager {
                return None;
            }
            self.walk = Some((now, self.reader.sweep(forget())));
        }
        let (began, walk) = self.walk.as_mut()?;
        let began = *began;
        let counts = walk.slice(Epoch::at(now), SLICE)?;
        self.walk = None;
        self.ended = Some(now);
        Some((began, counts))
    }
}
