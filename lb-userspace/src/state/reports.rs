//! What backends say about their load, in the answers to checks, becomes a part of their weight: see [`crate::agent`].

use super::{State, record};
use crate::agent;
use crate::event::{Effect, Record};
use crate::health::nanos;
use crate::model::{BackendKey, Service};

/// The shortest time between two steps of a service: each fills its ring.
const SECOND: u64 = 1_000_000_000;

impl State {
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
        if let Some(reason) = backend.agent.report(policy, said) {
            let backend = key.clone();
            record(effects, Record::Agent { backend, reason });
        }
        if backend.agent.part() != before {
            self.dirty.backends.insert(key.clone());
        }
        if backend.agent.leans(policy) {
            let due = agent::next_step(now, grid(service));
            let leaning = self.leaning.entry(key.service.clone());
            let (_, backends) = leaning.or_insert_with(|| (due, Default::default()));
            backends.insert(key.backend.clone());
        }
    }

    /// Takes the steps that are due.
    pub(super) fn lean(&mut self, now: u64) {
        let due = |(_, (due, _)): &(_, &mut (u64, _))| *due <= now;
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

/// Between two steps, nanoseconds: all backends of a service take theirs at one moment.
fn grid(service: &Service) -> u64 {
    nanos(service.health.interval).max(SECOND)
}
