//! The loop without its I/O: events into the state, what follows into the maps, what is there kept in mind.
//!
//! The owner calls, for each batch of events:
//!
//! 1. [`Reconciler::fold`]: effects for others, and what was refused;
//! 2. [`Reconciler::write_fast`]: what backends may do and where they are reached, at once. These
//!    words belong to ids that are on disk already, so nothing waits for a disk;
//! 3. if [`Effect::Persist`] was among the effects: have [`Reconciler::take_changes`] saved, and wait for nothing;
//! 4. [`Reconciler::write_full`]: rings, new services and backends, endpoints, clears.
//!
//! New ids come with a configuration, and must be on disk before a map holds them. So it is first
//! asked for them ([`Reconciler::reserve`]), while the running one stays in force with all its verdicts and
//! orders; when a document with them is on disk ([`Reconciler::reservation_saved`]), the configuration is
//! folded in. Step 4 refuses to run while ids are in use that are not on disk. After any error of the
//! dataplane, the next write begins by reading the maps back.

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;

use std::collections::BTreeMap;

use crate::dataplane::{Actual, Dataplane, DataplaneError, MapOp, consistent};
use crate::desired::{self, Rings};
use crate::event::{Effect, Event};
use crate::ids::Ids;
use crate::model::{AdminState, BackendKey, Config, Name};
use crate::plan::{self, PlanError, plan, plan_words};
use crate::state::changes::Changes;
use crate::state::persistent::{Persistent, Start};
use crate::state::{Dirty, State, StateError};

/// Why nothing more was written. Forwarding goes on with what is in the maps.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The state could not begin.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no way from here to there.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The maps refused.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// New ids are not on disk.
    #[error(
        "write the maps: new ids are not on disk yet (see to the disk of the state directory; forwarding goes on as it was)"
    )]
    NotSaved,
}

/// What came of a batch of events.
#[derive(Debug, Default)]
pub struct Folded {
    /// What others are to do.
    pub effects: Vec<Effect>,
    /// Events that were refused, by their place in the batch. The state ignores them.
    pub refused: Vec<(usize, StateError)>,
}

/// What was written, and how long it took by the clock that was passed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Operations.
    pub ops: usize,
    /// Nanoseconds from the state to the operations; reading the maps back, if need be, counts.
    pub planned: u64,
    /// Nanoseconds to run the operations.
    pub applied: u64,
}

/// The time in nanoseconds. The owner passes one in, so that nothing here reads a clock.
pub type Clock<'a> = &'a dyn Fn() -> u64;

/// State, dataplane, and what the dataplane holds.
#[derive(Debug)]
pub struct Reconciler<D> {
    state: State,
    dataplane: D,
    /// What the maps hold; `None`: to be read back.
    actual: Option<Actual>,
    rings: Rings,
    /// What changed since the last successful full write.
    dirty: Dirty,
    /// What changed since the last successful fast write.
    fast: Dirty,
    /// Ids are in use that are not on disk: the maps do not hold them yet.
    unsaved: bool,
    reserved: Option<Reserved>,
}

/// Numbers that a configuration will have which is not in force yet.
#[derive(Debug)]
struct Reserved {
    ids: Ids,
    on_disk: bool,
}

impl<D: Dataplane> Reconciler<D> {
    /// Reads the maps and begins with what they hold. Nothing is written; the effects include
    /// [`Effect::Persist`]. `start` makes the rest of a [`Start`] from the maps' header.
    pub fn adopt(
        now: u64,
        mut dataplane: D,
        config: std::sync::Arc<Config>,
        ring_key: lb_common::HashKey,
        persistent: Option<Persistent>,
    ) -> Result<(Self, Vec<Effect>), ReconcileError> {
        let actual = dataplane.actual()?;
        consistent::check(&actual)?;
        let known = persistent.as_ref().map(|persistent| persistent.ids.clone());
        let start = Start {
            config,
            sizes: (&actual.header).into(),
            ring_key,
            persistent,
            actual: Some(&actual),
        };
        let (mut state, effects) = State::start(now, start)?;
        let dirty = state.take_dirty();
        let unsaved = known.is_none_or(|known| !state.ids().same_numbers(&known));
        let reconciler = Self {
            unsaved,
            state,
            dataplane,
            actual: Some(actual),
            rings: Rings::default(),
            fast: dirty.clone(),
            dirty,
            reserved: None,
        };
        Ok((reconciler, effects))
    }

    /// Takes events in, each with the time at which it was seen.
    pub fn fold(&mut self, events: impl IntoIterator<Item = (u64, Event)>) -> Folded {
        let mut folded = Folded::default();
        for (index, (now, event)) in events.into_iter().enumerate() {
            let before = matches!(event, Event::Config(_)).then(|| self.state.ids().clone());
            match self.state.handle(now, event) {
                Ok(effects) => {
                    if let Some(before) = before {
                        self.renumbered(&before);
                    }
                    merge(&mut folded.effects, effects);
                }
                Err(error) => folded.refused.push((index, error)),
            }
        }
        self.note();
        folded
    }

    /// A person's order; see [`State::command`].
    pub fn command(
        &mut self,
        now: u64,
        backend: &BackendKey,
        state: AdminState,
        deadline: Option<u64>,
        force: bool,
    ) -> Result<Vec<Effect>, StateError> {
        let effects = self.state.command(now, backend, state, deadline, force)?;
        self.note();
        Ok(effects)
    }

    /// A person's order; see [`State::failback`].
    pub fn failback(&mut self, now: u64, service: &Name) -> Result<Vec<Effect>, StateError> {
        let effects = self.state.failback(now, service)?;
        self.note();
        Ok(effects)
    }

    /// Whether a configuration needs numbers that are to be on disk before it is folded in. Then they
    /// are part of [`Self::take_changes`] from now on, in place of those of an earlier reservation. On an
    /// error, folding it in would be refused for the same reason, and no reservation is left.
    pub fn reserve(&mut self, now: u64, config: &Config) -> Result<bool, StateError> {
        self.reserved = None;
        let ids = self.state.numbers_for(now, config)?;
        if ids.same_numbers(self.state.ids()) {
            return Ok(false);
        }
        self.reserved = Some(Reserved {
            ids,
            on_disk: false,
        });
        Ok(true)
    }

    /// A document that was made after [`Self::reserve`] is on disk. True: the configuration may be folded
    /// in now. False: ids have come free meanwhile, it would have others, and these are to be saved first.
    pub fn reservation_saved(&mut self, now: u64, config: &Config) -> Result<bool, StateError> {
        let Some(reserved) = self.reserved.take() else {
            return Ok(false);
        };
        let ids = self.state.numbers_for(now, config)?;
        let on_disk = ids.are_among(&reserved.ids);
        self.reserved = Some(Reserved { ids, on_disk });
        Ok(on_disk)
    }

    /// The configuration will not be folded in.
    pub fn give_up_reservation(&mut self) {
        self.reserved = None;
    }

    /// A configuration was folded in.
    fn renumbered(&mut self, before: &Ids) {
        let reserved = self.reserved.take().filter(|reserved| reserved.on_disk);
        let ids = self.state.ids();
        let on_disk = reserved.is_some_and(|reserved| ids.are_among(&reserved.ids));
        self.unsaved |= !on_disk && !ids.same_numbers(before);
    }

    /// What makes the document that was saved last the one to save now; see [`Persistent::take`].
    pub fn take_changes(&mut self, now: u64) -> Changes {
        let mut changes = self.state.take_changes(now);
        if let Some(reserved) = &self.reserved {
            changes.ids = reserved.ids.clone();
        }
        changes
    }

    /// A document with all numbers that are in use now is on disk.
    pub fn saved(&mut self) {
        self.unsaved = false;
    }

    /// Ids that are in use wait for the disk.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Writes what live backends may do and how they are reached.
    pub fn write_fast(&mut self, clock: Clock<'_>) -> Result<Written, ReconcileError> {
        if self.fast.is_empty() {
            return Ok(Written::default());
        }
        let began = clock();
        self.read_back()?;
        let Some(actual) = &self.actual else {
            return Ok(Written::default());
        };
        let words = desired::words(&self.state, &self.fast);
        let hops = desired::next_hops(&self.state, &self.fast.hops);
        let ops = plan_words(&actual.image, &words, &hops, self.state.devices());
        let done = apply(&mut self.dataplane, &mut self.actual, &ops, began, clock)?;
        if let Some(actual) = &mut self.actual {
            plan::take_words(&mut actual.image, &ops);
        }
        self.fast = Dirty::default();
        Ok(done)
    }

    /// Writes all that differs.
    pub fn write_full(&mut self, clock: Clock<'_>) -> Result<Written, ReconcileError> {
        if self.dirty.is_empty() {
            return Ok(Written::default());
        }
        if self.is_unsaved() {
            return Err(ReconcileError::NotSaved);
        }
        let began = clock();
        // Nobody knows what differs.
        self.dirty.image |= self.actual.is_none();
        self.read_back()?;
        let Some(actual) = &self.actual else {
            return Ok(Written::default());
        };
        if !self.dirty.image {
            return self.write_rings(began, clock);
        }
        let desired = desired::image(&self.state, &mut self.rings);
        let ops = plan(actual, &desired)?;
        let after = plan::after(actual, &desired, &ops);
        let done = apply(&mut self.dataplane, &mut self.actual, &ops, began, clock)?;
        self.actual = Some(after);
        self.state.written(began);
        self.dirty = Dirty::default();
        self.fast = Dirty::default();
        Ok(done)
    }

    /// Writes the rings behind what changed, in time that grows with that and not with all there is.
    fn write_rings(&mut self, began: u64, clock: Clock<'_>) -> Result<Written, ReconcileError> {
        let Some(actual) = &self.actual else {
            return Ok(Written::default());
        };
        let services = desired::services(&self.state, &self.dirty, &mut self.rings);
        let words = desired::words(&self.state, &self.dirty);
        let hops = desired::next_hops(&self.state, &self.dirty.hops);
        let ops = plan::plan_rings(actual, &services, &words, &hops, self.state.devices())?;
        let done = apply(&mut self.dataplane, &mut self.actual, &ops, began, clock)?;
        if let Some(actual) = &mut self.actual {
            plan::take_rings(actual, services, &ops);
        }
        self.state.written(began);
        self.dirty = Dirty::default();
        self.fast = Dirty::default();
        Ok(done)
    }

    /// Somebody else may have written the maps: the next write begins by reading them back.
    pub fn distrust(&mut self) {
        self.actual = None;
        self.state.mark_all();
        self.note();
    }

    /// Everything is written.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty() && !self.is_unsaved()
    }

    /// The state, to look at.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Notes where the counts of new ids begin; see [`State::without_origin`].
    pub fn set_origins(&mut self, lines: &BTreeMap<u32, crate::ids::Lines>) {
        self.state.set_origins(lines);
    }

    /// The dataplane, for what is not written by plans: counters, sweeps, attachments.
    pub fn dataplane(&mut self) -> &mut D {
        &mut self.dataplane
    }

    fn note(&mut self) {
        let dirty = self.state.take_dirty();
        self.dirty.add(&dirty);
        self.fast.add(&dirty);
    }

    fn read_back(&mut self) -> Result<(), DataplaneError> {
        if self.actual.is_none() {
            let actual = self.dataplane.actual()?;
            consistent::check(&actual)?;
            self.actual = Some(actual);
        }
        Ok(())
    }
}

/// Runs operations that were being planned since `began`; when one is refused, nobody knows what
/// the maps hold.
fn apply<D: Dataplane>(
    dataplane: &mut D,
    actual: &mut Option<Actual>,
    ops: &[MapOp],
    began: u64,
    clock: Clock<'_>,
) -> Result<Written, DataplaneError> {
    let planned = clock();
    if let Err(error) = dataplane.apply(ops) {
        *actual = None;
        return Err(error);
    }
    Ok(Written {
        ops: ops.len(),
        planned: planned.saturating_sub(began),
        applied: clock().saturating_sub(planned),
    })
}

/// Later complete lists replace earlier ones; records, and whom to probe at once, are no complete lists and stay in order.
fn merge(all: &mut Vec<Effect>, more: Vec<Effect>) {
    for effect in more {
        let same_kind = |other: &Effect| {
            !matches!(effect, Effect::Record(_) | Effect::ProbeNow(_))
                && std::mem::discriminant(other) == std::mem::discriminant(&effect)
        };
        all.retain(|other| !same_kind(other));
        all.push(effect);
    }
}
