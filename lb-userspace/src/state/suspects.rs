//! Suspects that packets make of backends: who is watched, and what a check that was made at once means ([`crate::passive`]).

use std::collections::BTreeMap;

use super::{State, record};
use crate::event::{Effect, Record};
use crate::health::Evidence as Heard;
use crate::model::{AdminState, BackendKey, Check, Health, Name, Tier};
use crate::passive::{Evidence, Pool};

impl State {
    /// The backends whose packets are looked at, by service, and their names by BackendId.
    pub fn watched(&self) -> (BTreeMap<Name, Pool>, BTreeMap<u32, BackendKey>) {
        let (mut pools, mut names) = (BTreeMap::new(), BTreeMap::new());
        for service in self.config.services.values() {
            let Some(policy) = service.health.passive else {
                continue;
            };
            let mut members = Vec::new();
            for (key, _) in service.keyed_backends() {
                if let Some(numbers) = self.ids.backend(&key) {
                    members.push(numbers.id);
                    names.insert(numbers.id, key);
                }
            }
            let pool = Pool {
                policy,
                sees_answers: service.forwarding.translates(),
                members,
            };
            pools.insert(service.name.clone(), pool);
        }
        (pools, names)
    }

    /// A suspicion of this backend would be followed up now.
    pub fn may_suspect(&self, now: u64, key: &BackendKey) -> bool {
        let service = self.config.services.get(&key.service);
        let is_checked = service.is_some_and(|service| {
            service.health.passive.is_some() && service.health.check != Check::None
        });
        let known = self.backends.get(key);
        is_checked
            && self.health(key) == Health::Up
            && known.is_some_and(|known| known.suspicion.may_rise(now))
    }

    pub(super) fn suspected(
        &mut self,
        now: u64,
        key: &BackendKey,
        evidence: Evidence,
        effects: &mut Vec<Effect>,
    ) {
        if !self.may_suspect(now, key) {
            return;
        }
        let witness = self.witness(key);
        if let Some(known) = self.backends.get_mut(key)
            && known.suspicion.rise(now, evidence)
        {
            let mut whom = vec![key.clone()];
            whom.extend(witness);
            effects.push(Effect::ProbeNow(whom));
        }
    }

    /// Somebody of the same service who is probed as well: if a probe of him is good, it is not the prober that fails.
    fn witness(&self, key: &BackendKey) -> Option<BackendKey> {
        let (service, suspect) = self.config.backend(key)?;
        let others = service.keyed_backends().filter(|(other, backend)| {
            let known = self.backends.get(other);
            backend.address != suspect.address
                && self.health(other) == Health::Up
                && known.is_some_and(|known| known.suspicion.waiting().is_none())
        });
        let after = |(other, _): &(BackendKey, _)| (other.backend < key.backend, other.clone());
        others.min_by_key(after).map(|(other, _)| other)
    }

    /// Without this backend there are still enough for the service: `panic-threshold`.
    pub(super) fn can_spare(&self, key: &BackendKey) -> bool {
        let Some(service) = self.config.services.get(&key.service) else {
            return false;
        };
        let (mut all, mut left) = (0_u64, 0_u64);
        for (other, backend) in service.keyed_backends() {
            let counts =
                backend.tier != Tier::Sorry && self.admin(&other) == Some(AdminState::Enabled);
            let weight = if counts { u64::from(backend.weight) } else { 0 };
            all = all.saturating_add(weight);
            if other != *key && self.health(&other) == Health::Up {
                left = left.saturating_add(weight);
            }
        }
        let threshold = u64::from(service.failover.panic_threshold);
        left > 0 && left.saturating_mul(100) >= all.saturating_mul(threshold)
    }

    /// A check that was made for a suspicion has ended. `spared`: it could have taken the backend out.
    pub(super) fn followed_up(
        &mut self,
        now: u64,
        key: &BackendKey,
        evidence: &Evidence,
        (heard, spared): (&Heard, bool),
        effects: &mut Vec<Effect>,
    ) {
        let Some(known) = self.backends.get_mut(key) else {
            return;
        };
        let suspicion = &mut known.suspicion;
        let words = match heard {
            Heard::Bad(words) if spared => {
                suspicion.confirmed(now, evidence, words);
                return;
            }
            Heard::Bad(words) => {
                let words = format!("{words}; too few others are up to take it out for that");
                suspicion.cleared(now, evidence, &words)
            }
            Heard::Good => suspicion.cleared(now, evidence, "good"),
            Heard::Void(words) => suspicion.cleared(now, evidence, &format!("void: {words}")),
        };
        let (backend, reason) = (key.clone(), words);
        record(effects, Record::Suspected { backend, reason });
    }

    /// What packets say against a backend, for people.
    pub(super) fn suspicion_words(&self, now: u64, key: &BackendKey) -> Option<String> {
        let suspicion = &self.backends.get(key)?.suspicion;
        if let Some(evidence) = suspicion.waiting() {
            return Some(format!("{evidence}; it is being checked"));
        }
        let last = suspicion.last()?;
        let ago = now.saturating_sub(last.at) / 1_000_000_000;
        let ago = humantime::format_duration(std::time::Duration::from_secs(ago));
        Some(format!("{}, {ago} ago", last.words))
    }
}
