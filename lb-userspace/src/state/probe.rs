//! Probe results become verdicts, and verdicts that count become changes.

use super::{State, persist, record};
use crate::event::{Effect, Record};
use crate::health::{Evidence, Warning};
use crate::model::{BackendKey, Check, ProbeResult};
use crate::velocity::Decision;

impl State {
    pub(super) fn probed(
        &mut self,
        now: u64,
        key: &BackendKey,
        result: &ProbeResult,
        effects: &mut Vec<Effect>,
    ) {
        let result = &self.judged(key, result);
        // A result of a target that a reload has just removed is nobody's.
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let seen = backend.tracker.observe(result, now);
        let raw = backend.tracker.health();
        if seen.evidence == Evidence::Good {
            self.measured(now, key, result.ended.saturating_sub(result.started));
        }
        if let Evidence::Void(reason) = &seen.evidence {
            record(
                effects,
                Record::ProbeVoid {
                    backend: key.clone(),
                    reason: reason.clone(),
                },
            );
        }
        if let Some(why) = &seen.damped {
            record(
                effects,
                Record::Held {
                    backend: key.clone(),
                    reason: why.clone(),
                },
            );
        }
        if let Some(warned) = seen.warned {
            let warning = match warned {
                Warning::Given(words) => Some(words),
                Warning::Over => None,
            };
            let backend = key.clone();
            record(effects, Record::Warned { backend, warning });
        }
        let decisions = self
            .velocity
            .observe(key, &seen.evidence, result.started, raw, now);
        self.decided(now, decisions, effects);
        self.followed_up(now, key, result, &seen.evidence, effects);
    }

    pub(super) fn decided(
        &mut self,
        now: u64,
        decisions: Vec<Decision>,
        effects: &mut Vec<Effect>,
    ) {
        for decision in decisions {
            match decision {
                Decision::Apply { backend, from, to } => {
                    let reason = self.why(&backend);
                    if let Some(known) = self.backends.get_mut(&backend) {
                        known.since = now;
                        known.reason = reason.as_str().into();
                    }
                    self.dirty.backends.insert(backend.clone());
                    self.unsaved.add(&backend);
                    persist(effects);
                    // That somebody whom nobody checks is taken to be up is no news.
                    if !self.is_checked(&backend) {
                        continue;
                    }
                    record(
                        effects,
                        Record::Health {
                            backend,
                            from,
                            to,
                            reason,
                        },
                    );
                }
                Decision::Hold { backend, why } => record(
                    effects,
                    Record::Held {
                        reason: format!("{why}; {}", self.why(&backend)),
                        backend,
                    },
                ),
                Decision::Release { .. } => {}
                Decision::Suspect { failing, probed } => record(
                    effects,
                    Record::CheckerSuspect {
                        suspected: true,
                        reason: format!("{failing} of {probed} targets fail and no probe succeeds"),
                    },
                ),
                Decision::Trust => record(
                    effects,
                    Record::CheckerSuspect {
                        suspected: false,
                        reason: "a probe succeeded".to_owned(),
                    },
                ),
            }
        }
    }

    fn is_checked(&self, key: &BackendKey) -> bool {
        let service = self.config.services.get(&key.service);
        service.is_none_or(|service| service.health.check != Check::None)
    }

    /// Why the probes say what they say.
    fn why(&self, key: &BackendKey) -> String {
        if !self.is_checked(key) {
            return "no check is configured".to_owned();
        }
        let changed = self
            .backends
            .get(key)
            .and_then(|backend| backend.tracker.changed());
        changed.map_or_else(String::new, |change| change.reason.clone())
    }
}
