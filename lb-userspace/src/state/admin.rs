//! What people say about backends: enable, disable, drain with a deadline.

use lb_common::Permissions;
use serde::{Deserialize, Serialize};

use super::{State, StateError, persist, record};
use crate::event::{Cause, Effect, Record};
use crate::model::{AdminState, BackendKey};

/// A drain under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When it began, nanoseconds since boot.
    pub since: u64,
    /// When the drain policy acts, nanoseconds since boot; `None`: never.
    pub deadline: Option<u64>,
    /// The deadline has passed.
    pub acted: bool,
    /// No flow is left, or the deadline has passed.
    pub done: bool,
}

/// Why an order is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No such backend.
    #[error("backend '{backend}': not configured{}", match nearest {
        Some(key) => format!(" (did you mean '{key}'?)"),
        None => String::new(),
    })]
    Unknown {
        /// What was asked for.
        backend: BackendKey,
        /// The most similar one that there is.
        nearest: Option<BackendKey>,
    },
    /// Nobody would be left.
    #[error(
        "backend '{backend}': it is the last of service '{}' that takes new flows; after this, new connections fail (repeat with --force if that is wanted)",
        backend.service
    )]
    Last {
        /// The backend.
        backend: BackendKey,
    },
}

impl State {
    /// A person's order. Without `force` it is refused when it would leave a service with nobody that takes
    /// new flows (RELIABILITY.md O1). On an error nothing has changed.
    pub fn command(
        &mut self,
        now: u64,
        backend: &BackendKey,
        state: AdminState,
        deadline: Option<u64>,
        force: bool,
    ) -> Result<Vec<Effect>, StateError> {
        if !force && state != AdminState::Enabled && self.is_last(backend) {
            return Err(AdminError::Last {
                backend: backend.clone(),
            }
            .into());
        }
        let mut effects = Vec::new();
        self.order(now, backend, state, deadline, &mut effects)?;
        self.settle(now, &mut effects);
        Ok(effects)
    }

    /// There is no such backend: who may have been meant.
    pub(super) fn unknown(&self, key: &BackendKey) -> AdminError {
        let distance =
            |k: &BackendKey| strsim::damerau_levenshtein(&k.to_string(), &key.to_string());
        let nearest = self.backends.keys().min_by_key(|k| distance(k)).cloned();
        AdminError::Unknown {
            backend: key.clone(),
            nearest: nearest.filter(|k| distance(k) <= 3),
        }
    }

    pub(super) fn order(
        &mut self,
        now: u64,
        key: &BackendKey,
        state: AdminState,
        deadline: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), AdminError> {
        let Some((_, configured)) = self.config.backend(key) else {
            return Err(self.unknown(key));
        };
        let base = configured.admin;
        let before = self.admin(key).unwrap_or(base);
        if let Some(backend) = self.backends.get_mut(key) {
            backend.said = (state != base).then_some(state);
        }
        self.begin_or_end_drain(now, key, deadline);
        if before != state {
            record(
                effects,
                Record::Admin {
                    backend: key.clone(),
                    from: before,
                    to: state,
                },
            );
        }
        self.set_pool(&key.service.clone());
        let decisions = self.velocity.tick(now);
        self.decided(now, decisions, effects);
        self.dirty.backends.insert(key.clone());
        self.unsaved.add(key);
        persist(effects);
        Ok(())
    }

    /// Makes `drain` agree with the admin state. A drain that goes on keeps its beginning.
    pub(super) fn begin_or_end_drain(&mut self, now: u64, key: &BackendKey, deadline: Option<u64>) {
        let draining = self.admin(key) == Some(AdminState::Draining);
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let since = backend.drain.map_or(now, |drain| drain.since);
        let usual = self.config.services.get(&key.service);
        let usual = usual.and_then(|service| service.drain_deadline);
        let usual = usual
            .map(|after| now.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)));
        let deadline = deadline.or(usual);
        backend.drain = draining.then_some(Drain {
            since,
            deadline,
            acted: false,
            done: false,
        });
        match draining {
            true => self.draining.insert(key.clone()),
            false => self.draining.remove(key),
        };
    }

    /// The index of drains names those that have one, and nobody else.
    #[cfg(test)]
    pub(crate) fn drains_are_indexed(&self) -> bool {
        let with = |(key, backend): (&BackendKey, &super::BackendState)| {
            backend.drain.is_some().then(|| key.clone())
        };
        self.backends
            .iter()
            .filter_map(with)
            .eq(self.draining.iter().cloned())
    }

    /// Ends the drains whose deadline has passed, or whose flows are gone as a sweep that began at
    /// `swept` found.
    pub(super) fn end_drains(&mut self, now: u64, swept: Option<u64>, effects: &mut Vec<Effect>) {
        let draining: Vec<(BackendKey, Drain)> = self
            .draining
            .iter()
            .filter_map(|key| Some((key.clone(), self.backends.get(key)?.drain?)))
            .filter(|(_, drain)| !drain.acted)
            .collect();
        for (key, mut drain) in draining {
            let left = self.flows_of(&key);
            let overdue = drain.deadline.is_some_and(|deadline| deadline <= now);
            let empty = left == 0 && swept.is_some_and(|began| began >= drain.since);
            let ends = overdue || (empty && !drain.done);
            if !ends {
                continue;
            }
            if !drain.done {
                record(
                    effects,
                    Record::Drained {
                        backend: key.clone(),
                        left,
                        cause: Cause::Drain,
                    },
                );
            }
            drain.acted = overdue;
            drain.done = true;
            if let Some(backend) = self.backends.get_mut(&key) {
                backend.drain = Some(drain);
            }
            self.unsaved.add(&key);
            self.dirty.backends.insert(key);
            persist(effects);
        }
    }

    /// What a backend may do now; for people and tests.
    pub fn permissions(&self, key: &BackendKey) -> Permissions {
        self.word(key)
            .map_or(Permissions::NONE, |word| word.permissions)
    }
}
