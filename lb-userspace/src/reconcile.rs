//! The loop without its I/O: events into the state, what follows into the maps, what is there kept in mind.
//!
//! The owner calls, for each batch of events:
//!
//! 1. [`Reconciler::fold`]: effects for others, and what was refused;
//! 2. [`Reconciler::write_fast`]: what backends may do and where they are reached, at once. These
//!    words belong to ids that are on disk already, so nothing waits for a disk;
//! 3. if [`Effect::Persist`] was among the effects: save [`Reconciler::persistent`], then tell
//!    [`Reconciler::saved`]; if that fails, [`Reconciler::abandon`] puts ids back;
//! 4. [`Reconciler::write_full`]: rings, new services and backends, endpoints, clears.
//!
//! Step 4 refuses to run while new ids are not on disk. After any error of the dataplane, the next
//! write begins by reading the maps back.

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;

use std::collections::BTreeMap;

use crate::dataplane::{Actual, Dataplane, DataplaneError, MapOp, consistent};
use crate::desired::{self, Rings};
use crate::event::{Effect, Event};
use crate::model::{AdminState, BackendKey};
use crate::plan::{self, PlanError, plan, plan_words};
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
        "write the maps: new ids are not on disk yet (free space in the state directory; forwarding goes on as it was)"
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
    unsaved: Unsaved,
}

/// Whether ids that the maps do not hold yet wait for the disk.
#[derive(Debug)]
enum Unsaved {
    No,
    /// They were given at start.
    FromStart,
    /// They came with a configuration; the state before it.
    Since(Box<State>),
}

impl<D: Dataplane> Reconciler<D> {
    /// Reads the maps and begins with what they hold. Nothing is written; the effects include
    /// [`Effect::Persist`]. `start` makes the rest of a [`Start`] from the maps' header.
    pub fn adopt(
        now: u64,
        mut dataplane: D,
        config: std::sync::Arc<crate::model::Config>,
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
        let unsaved = match known {
            Some(known) if state.ids().same_numbers(&known) => Unsaved::No,
            _ => Unsaved::FromStart,
        };
        let reconciler = Self {
            unsaved,
            state,
            dataplane,
            actual: Some(actual),
            rings: Rings::default(),
            fast: dirty.clone(),
            dirty,
        };
        Ok((reconciler, effects))
    }

    /// Takes events in, each with the time at which it was seen.
    pub fn fold(&mut self, events: impl IntoIterator<Item = (u64, Event)>) -> Folded {
        let mut folded = Folded::default();
        for (index, (now, event)) in events.into_iter().enumerate() {
            let renumbers = matches!(event, Event::Config(_));
            let before = (renumbers && !self.is_unsaved()).then(|| self.state.clone());
            match self.state.handle(now, event) {
                Ok(effects) => {
                    if let Some(before) = before
                        && !self.state.ids().same_numbers(before.ids())
                    {
                        self.unsaved = Unsaved::Since(Box::new(before));
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

    /// The document to save.
    pub fn persistent(&self, now: u64) -> Persistent {
        self.state.persistent(now)
    }

    /// The last document is on disk.
    pub fn saved(&mut self) {
        self.unsaved = Unsaved::No;
    }

    /// The last document could not be saved: the state is as it was before the configuration that needed new
    /// ids, and the effects tell others so. Call it before further events are folded in.
    /// At start there is nothing to go back to, and new ids keep waiting.
    pub fn abandon(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.unsaved, Unsaved::No) {
            Unsaved::No => Vec::new(),
            Unsaved::FromStart => {
                self.unsaved = Unsaved::FromStart;
                Vec::new()
            }
            Unsaved::Since(before) => {
                self.state = *before;
                self.state.mark_all();
                self.note();
                self.state.announcements()
            }
        }
    }

    /// New ids wait for the disk.
    pub fn is_unsaved(&self) -> bool {
        !matches!(self.unsaved, Unsaved::No)
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
        self.read_back()?;
        let Some(actual) = &self.actual else {
            return Ok(Written::default());
        };
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
    pub fn set_origins(&mut self, lines: &BTreeMap<u32, lb_common::CounterLine>) {
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

/// Later complete lists replace earlier ones; records stay in order.
fn merge(all: &mut Vec<Effect>, more: Vec<Effect>) {
    for effect in more {
        let same_kind = |other: &Effect| {
            !matches!(effect, Effect::Record(_))
                && std::mem::discriminant(other) == std::mem::discriminant(&effect)
        };
        all.retain(|other| !same_kind(other));
        all.push(effect);
    }
}
