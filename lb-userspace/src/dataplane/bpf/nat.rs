//! Counts the flows of `fullnat`, through shared memory without system calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lb_common::Control;
use lb_common::nat::{IdleTable, State, second, word};

use super::Reader;
use super::maps::Maps;

/// A walk through the table of such flows in slices, so that it never stalls its caller.
#[derive(Debug)]
pub struct NatWalk {
    maps: Arc<Maps>,
    next: u32,
    live: u64,
}

impl Reader {
    /// Begins a walk.
    pub fn nat_walk(&self) -> NatWalk {
        NatWalk {
            maps: Arc::clone(&self.maps),
            next: 0,
            live: 0,
        }
    }
}

impl NatWalk {
    /// Walks at most `entries` entries (64 bytes each) at the time `now` of the kernel's clock. At the end of the table, how many
    /// somebody has: those whose flows are not over.
    pub fn slice(&mut self, now: u64, entries: u32) -> Option<u64> {
        let all = self.maps.geometry.nat_flows;
        let end = self.next.saturating_add(entries).min(all);
        let second = second(now);
        let control: Option<Control> = self.maps.control.read(0);
        let idle = control.map_or_else(IdleTable::default, |control| control.nat_idle);
        let position = usize::try_from(word::STATE).unwrap_or(0);
        for entry in self.next..end {
            let state = self.maps.nat_flows.word(entry, position);
            let state = state.map_or(State(0), |place| State(place.load(Ordering::Relaxed)));
            if !state.is_over(second, &idle) {
                self.live = self.live.saturating_add(1);
            }
        }
        self.next = end;
        (end == all).then_some(self.live)
    }
}
