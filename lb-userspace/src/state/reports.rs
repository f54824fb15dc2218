//! What backends say about their load, in the answers to checks, and how long these take, becomes a part of their weight: see
//! [`crate::agent`] and [`crate::latency`].

use std::collections::{BTreeMap, BTreeSet};

use super::{BackendState, State, record};
use crate::agent;
use crate::event::{Effect, Record};
use crate::health::nanos;
use crate::latency;
use crate::model::{BackendKey, Name, Scheduler, Service};
use crate::tiers::{MOST, WHOLE};

/// The shortest time between two steps of a service: each fills its ring.
const SECOND: u64 = 1_000_000_000;

impl BackendState {
    /// The part of [`WHOLE`] of its weight that a backend gets once it is warm.
    pub(super) fn part(&self) -> u32 {
        let part = self.agent.part().saturating_mul(self.pace.part()) / WHOLE;
        part.clamp(1, MOST)
    }
}

impl State {
    /// A good check took this long, nanoseconds.
    pub(super) fn measured(&mut self, now: u64, key: &BackendKey, nanos: u64) {
        self.note_pace(now, key, |pace| pace.took(nanos));
    }

    /// The backends whose answers to SYNs are measured, by BackendId.
    pub fn timed(&self) -> BTreeMap<u32, BackendKey> {
        let services = self.config.services.values();
        let backends = services
            .filter(|service| service.times_handshakes())
            .flat_map(Service::keyed_backends);
        let ids = backends.filter_map(|(key, _)| Some((self.ids.backend(&key)?.id, key)));
        ids.collect()
    }

    /// Backends have answered SYNs in this time, nanoseconds, in the mean since the last time.
    pub(super) fn timed_answers(&mut self, now: u64, means: &BTreeMap<BackendKey, u64>) {
        for (key, nanos) in means {
            self.note_pace(now, key, |pace| pace.answered(*nanos));
        }
    }

    fn note_pace(&mut self, now: u64, key: &BackendKey, note: impl FnOnce(&mut latency::Pace)) {
        let service = self.config.services.get(&key.service);
        let follows = |service: &&Service| service.scheduler == Scheduler::LeastResponseTime;
        let (Some(service), Some(backend)) = (service.filter(follows), self.backends.get_mut(key))
        else {
            return;
        };
        note(&mut backend.pace);
        let due = agent::next_step(now, grid(service));
        match self.leaning.get_mut(&key.service) {
            // The interval may have been longer before a reload.
            Some((next, _)) => *next = due.min(*next),
            None => {
                let nobody = BTreeSet::new();
                self.leaning.insert(key.service.clone(), (due, nobody));
            }
        }
    }

    /// The backends of a service whose part a step by their times has changed.
    fn keep_pace(&mut self, service: &Service) -> Vec<BackendKey> {
        let keys: Vec<BackendKey> = service.keyed_backends().map(|(key, _)| key).collect();
        let pace = |key| {
            self.backends
                .get(key)
                .map_or_else(Default::default, |known| known.pace)
        };
        let paces: Vec<latency::Pace> = keys.iter().map(pace).collect();
        let times = latency::compared(&paces);
        let Some(median) = latency::median(times.iter().copied().flatten()) else {
            return Vec::new();
        };
        let mut step = |key: &BackendKey, time| {
            let known = self.backends.get_mut(key);
            known.is_some_and(|known| known.pace.step(time, median))
        };
        let both = keys.into_iter().zip(times);
        both.filter_map(|(key, time)| step(&key, time).then_some(key))
            .collect()
    }

    /// What its times make of a backend's weight, for people.
    pub(super) fn pace_words(&self, service: &Service, key: &BackendKey) -> String {
        let pace = self.backends.get(key).map(|known| known.pace);
        let follows = service.scheduler == Scheduler::LeastResponseTime;
        let Some(pace) = pace.filter(|_| follows) else {
            return String::new();
        };
        let took = match pace.times() {
            (0, 0) => return String::new(),
            (checks, 0) => format!("its checks take {}", ms(checks)),
            (0, answers) => format!("its answers to SYNs take {}", ms(answers)),
            (checks, answers) => format!(
                "its checks take {} and its answers to SYNs {}",
                ms(checks),
                ms(answers)
            ),
        };
        format!("; {took}: {} % of its weight", pace.part() / 10)
    }

    pub(super) fn reported(
        &mut self,
        now: u64,
        key: &BackendKey,
        said: Option<&str>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(service) = self.config.services.get(&key.service) else {
            return;
        };
        // A report to a configuration that a reload has just changed is nobody's.
        let (Some(policy), Some(backend)) = (&service.health.agent, self.backends.get_mut(key))
        else {
            return;
        };
        let before = backend.agent.part();
        if let Some(reason) = backend.agent.report(policy, said)
            && backend.agent.may_tell(now)
        {
            let backend = key.clone();
            record(effects, Record::Agent { backend, reason });
        }
        if backend.agent.part() != before {
            self.dirty.backends.insert(key.clone());
        }
        if backend.agent.leans(policy) {
            let due = agent::next_step(now, grid(service));
            let leaning = self.leaning.entry(key.service.clone());
            let (next, backends) = leaning.or_insert_with(|| (due, Default::default()));
            // The interval may have been longer before a reload.
            *next = due.min(*next);
            backends.insert(key.backend.clone());
        }
    }

    /// Takes the steps that are due.
    pub(super) fn lean(&mut self, now: u64) {
        let due = |(_, (due, _)): &(_, &mut (u64, _))| *due <= now;
        let config = std::sync::Arc::clone(&self.config);
        let moving = |(name, _): &(&Name, &(u64, _))| config.services.get(*name);
        let times = self.leaning.iter().filter(|(_, (due, _))| *due <= now);
        let times: Vec<&Service> = times.filter_map(|both| moving(&both)).collect();
        for service in times {
            if service.scheduler == Scheduler::LeastResponseTime {
                let moved = self.keep_pace(service);
                self.dirty.backends.extend(moved);
            }
        }
        let mut done = Vec::new();
        for (name, (next, backends)) in self.leaning.iter_mut().filter(due) {
            let Some(service) = self.config.services.get(name) else {
                done.push(name.clone());
                continue;
            };
            let grid = grid(service);
            backends.retain(|backend| {
                let key = BackendKey {
                    service: name.clone(),
                    backend: backend.clone(),
                };
                let known = self.backends.get_mut(&key);
                let (Some(policy), Some(known)) = (&service.health.agent, known) else {
                    return false;
                };
                known.agent.step(policy, now, grid);
                self.dirty.backends.insert(key);
                known.agent.leans(policy)
            });
            *next = agent::next_step(now, grid);
            if backends.is_empty() {
                done.push(name.clone());
            }
        }
        for name in done {
            self.leaning.remove(&name);
        }
    }
}

/// Nanoseconds, for people.
fn ms(nanos: u64) -> String {
    let micros = nanos / 1000;
    format!("{}.{} ms", micros / 1000, micros / 100 % 10)
}

/// Between two steps, nanoseconds: all backends of a service take theirs at one moment.
fn grid(service: &Service) -> u64 {
    nanos(service.health.interval).max(SECOND)
}
