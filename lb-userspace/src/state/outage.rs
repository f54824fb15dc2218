//! Backends that are down or that no way leads to, and whose flows stay meanwhile: until when, and how many are left. Pure.

use serde::{Deserialize, Serialize};

use super::permission::is_lost;
use super::persistent::Persistent;
use super::{BackendState, State, persist, record};
use crate::event::{Cause, Effect, Record};
use crate::health::nanos;
use crate::model::{AdminState, BackendKey, Health, OnDown, Service};
use crate::status;

/// How long news of routes and neighbours may take after a start, nanoseconds.
const NEWS: u64 = 2_000_000_000;

/// A backend is lost, and has not lost its flows by that at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it began, nanoseconds since boot.
    pub since: u64,
    /// How long it had lasted before, nanoseconds: in earlier boots.
    #[serde(default)]
    pub lasted: u64,
    /// Flows have been seen in it, so that their end is worth telling.
    pub had: bool,
    /// Flows were counted since it began, whether there were some or not.
    #[serde(default)]
    pub counted: bool,
    /// `on-down` has acted.
    pub acted: bool,
    /// No flow is left, or the deadline has passed.
    pub done: bool,
}

impl Outage {
    /// When `on-down` acts, nanoseconds since boot; `None`: never.
    pub(super) fn deadline(&self, service: &Service) -> Option<u64> {
        let after = service.on_down_deadline?;
        let left = nanos(after).saturating_sub(self.lasted);
        Some(self.since.saturating_add(left))
    }

    /// After the clock began anew: what was left of its time is left.
    pub(super) fn moved_clock(self, persistent: &Persistent, now: u64) -> Self {
        if persistent.saved_at <= now {
            return self;
        }
        let more = persistent.saved_at.saturating_sub(self.since);
        Self {
            since: now,
            lasted: self.lasted.saturating_add(more),
            ..self
        }
    }
}

/// `on-down` does not act yet.
pub(super) fn waits(service: &Service, known: &BackendState) -> bool {
    service.on_down_deadline.is_some() && !known.outage.is_some_and(|outage| outage.acted)
}

impl State {
    /// Outages begin and end where something has changed.
    pub(super) fn note_outages(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let config = std::sync::Arc::clone(&self.config);
        let whole = self.dirty.services.iter();
        let whole = whole.filter_map(|name| config.services.get(name));
        let of_services = whole.flat_map(Service::keyed_backends).map(|(key, _)| key);
        let keys: Vec<BackendKey> = of_services
            .chain(self.dirty.backends.iter().cloned())
            .collect();
        for key in keys {
            let lost = self.keeps_though_lost(&key);
            let had = self.flows_of(&key) > 0;
            let Some(known) = self.backends.get_mut(&key) else {
                continue;
            };
            if known.outage.is_some() == lost {
                continue;
            }
            known.outage = lost.then_some(Outage {
                since: now,
                lasted: 0,
                had,
                counted: false,
                acted: false,
                done: false,
            });
            self.outage_due = 0;
            match lost {
                true => self.outages.insert(key.clone()),
                false => self.outages.remove(&key),
            };
            self.unsaved.add(&key);
            persist(effects);
        }
    }

    /// It is lost, and `on-down` does not act on its flows at once. One that never was well has none.
    fn keeps_though_lost(&self, key: &BackendKey) -> bool {
        let Some((service, backend)) = self.config.backend(key) else {
            return false;
        };
        let stays = service.on_down == OnDown::Keep || service.on_down_deadline.is_some();
        let facts = self.facts(service, backend, key);
        let has_served = |health| health != Health::Unknown || self.trusts(service, key);
        stays && facts.is_some_and(|facts| has_served(facts.health) && is_lost(facts))
    }

    /// Ends those whose deadline has passed, or whose flows are gone as a sweep that began at `swept` found.
    pub(super) fn end_outages(&mut self, now: u64, swept: Option<u64>, effects: &mut Vec<Effect>) {
        let config = std::sync::Arc::clone(&self.config);
        if swept.is_none() && now < self.outage_due {
            return;
        }
        let known = self
            .outages
            .iter()
            .filter_map(|key| Some((key.clone(), self.backends.get(key)?.outage?)));
        let known: Vec<(BackendKey, Outage)> = known.collect();
        self.outage_due = u64::MAX;
        for (key, before) in known {
            let Some(service) = config.services.get(&key.service) else {
                continue;
            };
            let left = self.flows_of(&key);
            let deadline = before.deadline(service);
            let overdue = deadline.is_some_and(|at| at <= now);
            let counted = swept.is_some_and(|began| began >= before.since);
            let outage = Outage {
                had: before.had || left > 0,
                counted: before.counted || counted,
                // What has acted is not undone by a reload with a later deadline.
                acted: before.acted || overdue,
                done: before.done || overdue || counted && left == 0,
                ..before
            };
            match deadline.filter(|_| !outage.acted) {
                Some(at) => self.outage_due = self.outage_due.min(at),
                // Nothing more can come of it.
                None if outage.done => drop(self.outages.remove(&key)),
                None => {}
            }
            if outage == before {
                continue;
            }
            // A drain tells of its end by itself.
            let drains = self.admin(&key) == Some(AdminState::Draining);
            let had = outage.had || !outage.counted;
            if outage.done && !before.done && had && !drains {
                let drained = Record::Drained {
                    backend: key.clone(),
                    left,
                    cause: Cause::Outage,
                };
                record(effects, drained);
            }
            if let Some(backend) = self.backends.get_mut(&key) {
                backend.outage = Some(outage);
            }
            self.unsaved.add(&key);
            self.dirty.backends.insert(key);
            persist(effects);
        }
    }

    /// As the file has it; what is no outage any more ends when all are looked at. Nobody has looked at the backend while there was no
    /// daemon: `on-down` does not act before this one can have seen it return.
    pub(super) fn restore_outage(&mut self, now: u64, key: &BackendKey, outage: Outage) {
        let Some((service, _)) = self.config.backend(key) else {
            return;
        };
        let health = &service.health;
        let round = nanos(health.interval).saturating_add(nanos(health.timeout));
        let checks = round.saturating_mul(u64::from(health.rise.get()));
        let earliest = now.saturating_add(checks).saturating_add(NEWS);
        let since = match (service.on_down_deadline, outage.deadline(service)) {
            (Some(after), Some(at)) if !outage.acted && at < earliest => {
                earliest.saturating_sub(nanos(after).saturating_sub(outage.lasted))
            }
            _ => outage.since,
        };
        if let Some(backend) = self.backends.get_mut(key) {
            backend.outage = Some(Outage { since, ..outage });
            self.outages.insert(key.clone());
            self.outage_due = 0;
        }
    }

    /// After a reload, which may have changed deadlines: all are looked at again.
    pub(super) fn keep_outages(&mut self) {
        let with = |(key, backend): (&BackendKey, &BackendState)| {
            backend.outage.is_some().then(|| key.clone())
        };
        self.outages = self.backends.iter().filter_map(with).collect();
        self.outage_due = 0;
    }

    /// Some are not over yet.
    pub(super) fn has_outages(&self) -> bool {
        let known = self.outages.iter();
        let known = known.filter_map(|key| self.backends.get(key)?.outage);
        known.into_iter().any(|outage| !outage.done)
    }

    /// For people.
    pub(super) fn outage_status(
        &self,
        now: u64,
        service: &Service,
        known: &BackendState,
        left: u64,
    ) -> Option<status::Drain> {
        let outage = known.outage?;
        let until = |at: u64| super::view::millis(at.saturating_sub(now));
        Some(status::Drain {
            deadline_in_ms: outage.deadline(service).map(until),
            left,
            done: outage.done,
        })
    }

    /// The index of outages names those that have one which is not over, and nobody without one.
    #[cfg(test)]
    pub(crate) fn outages_are_indexed(&self) -> bool {
        let waits = |outage: Outage, key: &BackendKey| {
            let service = self.config.services.get(&key.service);
            let deadline = service.and_then(|service| outage.deadline(service));
            !outage.done || deadline.is_some() && !outage.acted
        };
        let mut with = self
            .backends
            .iter()
            .filter_map(|(key, known)| Some((key, known.outage?)));
        let has_outage = |key: &BackendKey| {
            let known = self.backends.get(key);
            known.is_some_and(|known| known.outage.is_some())
        };
        with.all(|(key, outage)| !waits(outage, key) || self.outages.contains(key))
            && self.outages.iter().all(has_outage)
    }
}
