//! Counts the flows of backends, and tells packets how many there are, for the scheduler `least-connections`.

use std::collections::BTreeMap;

use super::owner::Owner;
use super::sweeper::{Rest, Task};
use crate::dataplane::bpf::Got;
use crate::desired;
use crate::event::Event;
use crate::load::{self, FlowCpus};

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Loads {
    cpus: FlowCpus,
    /// What backends had got by then.
    got: Got,
    /// Whose it was; `None`: an earlier daemon's.
    told: Option<Vec<u32>>,
}

impl Owner<'_> {
    /// Goes on with a walk through the flow table; what it has found, at its end.
    pub(super) fn count_flows(&mut self, now: u64) -> anyhow::Result<Option<Event>> {
        let state = self.parts.reconciler.state();
        let rest = match () {
            () if state.drains() || state.has_limits() => Rest::None,
            () if desired::schedules_by_counts(state.config()) => Rest::Short,
            () => Rest::Long,
        };
        let task = || Task {
            forget: state.ids().quarantined().collect(),
            weigh: desired::flow_weights(state).into_keys().collect(),
        };
        let Some(found) = self.sweeper.work(now, rest, task) else {
            return Ok(None);
        };
        let (began, counts) = (found.began, found.counts);
        let mut by_backend = counts.live;
        for id in state.ids().quarantined() {
            // A released id may be used again when not even an idle entry names it.
            if let Some(idle) = counts.idle.get(&id) {
                let sum = by_backend.entry(id).or_default();
                *sum = sum.saturating_add(*idle);
            }
        }
        // Before, an earlier daemon's backends stand in the maps, and some of these ids may be theirs.
        if self.begun() && !self.parts.reconciler.is_unsaved() {
            self.tell_loads(&counts.open, found.got)?;
        }
        Ok(Some(Event::FlowsCounted {
            began,
            by_backend,
            open: counts.open,
        }))
    }

    /// A walk has counted flows that are open; backends had got `got` by then.
    fn tell_loads(&mut self, open: &BTreeMap<u32, u64>, got: Got) -> anyhow::Result<()> {
        let weights = desired::flow_weights(self.parts.reconciler.state());
        let loads = load::loads(&weights, open);
        let last = &mut self.loads;
        last.cpus.note(&last.got.until(&got));
        let ids: Vec<u32> = loads.keys().copied().collect();
        let dataplane = self.parts.reconciler.dataplane();
        if last.told.as_ref() != Some(&ids) {
            dataplane.forget_loads(&loads)?;
        }
        if !loads.is_empty() {
            dataplane.write_loads(&loads, &got, last.cpus.effective())?;
        }
        (last.got, last.told) = (got, Some(ids));
        Ok(())
    }
}
