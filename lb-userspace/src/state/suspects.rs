//! Suspects that packets make of backends: who is watched, and what a check that was made at once means ([`crate::passive`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{State, record};
use crate::event::{Effect, Record};
use crate::health::Evidence as Heard;
use crate::model::{AdminState, Backend, BackendKey, Check, Health, Name, ProbeResult};
use crate::passive::suspicion::{self, Finding};
use crate::passive::{Evidence, Pool};
use crate::tiers::{self, Candidate, Standing};

/// Backends that are gone through for the suspects of one look, at most: for each it is all of its service. The others are
/// suspects still at the next look.
const VISITS: usize = 5_000;

/// Percent of a pool that packets and one check each leave it, where there is no `panic-threshold`.
const SPARED: u8 = 50;

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

    /// The BackendId of one of them.
    pub fn watched_id(&self, key: &BackendKey) -> Option<u32> {
        let service = self.config.services.get(&key.service)?;
        service.health.passive?;
        Some(self.ids.backend(key)?.id)
    }

    /// It gets new flows as far as health and people are concerned: who does not is no measure for others.
    pub fn serves(&self, key: &BackendKey) -> bool {
        self.health(key) == Health::Up && self.admin(key) == Some(AdminState::Enabled)
    }

    /// It could be a suspect now. Quick: of the service nothing is asked.
    pub fn may_rise(&self, now: u64, key: &BackendKey) -> bool {
        let service = self.config.services.get(&key.service);
        let is_checked = service.is_some_and(|service| {
            service.health.passive.is_some() && service.health.check != Check::None
        });
        let known = self.backends.get(key);
        is_checked && self.is_up(key) && known.is_some_and(|known| known.suspicion.may_rise(now))
    }

    /// It serves, and no verdict that would end that is held back.
    fn is_up(&self, key: &BackendKey) -> bool {
        let known = self.backends.get(key);
        self.health(key) == Health::Up
            && known.is_some_and(|known| known.tracker.health() == Health::Up)
    }

    pub(super) fn suspected(
        &mut self,
        now: u64,
        suspects: &[(BackendKey, Evidence)],
        effects: &mut Vec<Effect>,
    ) {
        let named: BTreeSet<&BackendKey> = suspects.iter().map(|(key, _)| key).collect();
        let mut visits = VISITS;
        // Where the last look had to stop: those of one service must not take the turn of all others for ever.
        let after = self.looked_up_to.take();
        let mut sorted: Vec<_> = suspects.iter().collect();
        sorted.sort_unstable_by_key(|(key, _)| (Some(key) <= after.as_ref(), key));
        for (key, evidence) in sorted {
            if !self.may_rise(now, key) {
                continue;
            }
            if visits == 0 {
                break;
            }
            self.looked_up_to = Some(key.clone());
            let service = self.config.services.get(&key.service);
            visits = visits.saturating_sub(service.map_or(0, |service| service.backends.len()));
            if visits > 0 {
                self.looked_up_to = None;
            }
            // A check is worth while only if it could take the suspect out.
            if self.can_spare(key)
                && let Some(witness) = self.witness(key, &named)
                && let Some(known) = self.backends.get_mut(key)
                && known.suspicion.rise(now, *evidence, witness.clone())
            {
                effects.push(Effect::ProbeNow(vec![key.clone(), witness]));
            }
        }
    }

    /// Another backend of the same service that is probed at the same time: if that probe is good, it is not the prober that fails.
    /// Of those that are suspects themselves it is one only if there is no other.
    fn witness(&self, key: &BackendKey, named: &BTreeSet<&BackendKey>) -> Option<BackendKey> {
        let (service, suspect) = self.config.backend(key)?;
        let others = service.keyed_backends().filter(|(other, backend)| {
            let known = self.backends.get(other);
            backend.address != suspect.address
                && self.is_up(other)
                && known.is_some_and(|known| known.suspicion.waiting().is_none())
        });
        let suspicion = self.backends.get(key).map(|known| &known.suspicion);
        let after = |(other, backend): &(BackendKey, &Backend)| {
            let failed = suspicion.is_some_and(|suspicion| suspicion.doubts(other));
            // Of who gets no new flows nobody would see that it is ill.
            let takes_new = self.weight(other) > 0 && self.way(backend.address).resolved.is_ok();
            let is_before = other.backend < key.backend;
            (
                failed,
                named.contains(other),
                !takes_new,
                is_before,
                other.clone(),
            )
        };
        others.min_by_key(after).map(|(other, _)| other)
    }

    /// Without this backend there are still enough for the service.
    fn can_spare(&self, key: &BackendKey) -> bool {
        let Some(service) = self.config.services.get(&key.service) else {
            return false;
        };
        let Some(share) = self.shares.get(&key.service) else {
            return false;
        };
        let candidates = share.seats.iter().map(|seat| {
            // A verdict that is held back is one all the same.
            let other = BackendKey {
                service: key.service.clone(),
                backend: seat.name.clone(),
            };
            let ill = seat.name == key.backend
                || matches!(seat.candidate.standing, Standing::Ready | Standing::Full)
                    && !self.is_up(&other);
            Candidate {
                standing: if ill {
                    Standing::Down
                } else {
                    seat.candidate.standing
                },
                ..seat.candidate
            }
        });
        let candidates: Vec<Candidate> = candidates.collect();
        let least = match service.failover.panic_threshold {
            0 => SPARED,
            threshold => threshold,
        };
        tiers::can_do_with(&candidates, least)
    }

    /// A check has ended: of a suspect, or of a witness to others.
    pub(super) fn followed_up(
        &mut self,
        now: u64,
        key: &BackendKey,
        result: &ProbeResult,
        heard: &Heard,
        effects: &mut Vec<Effect>,
    ) {
        let mut found = Vec::new();
        if let Some(known) = self.backends.get_mut(key)
            && let Some(finding) = known.suspicion.heard(result, heard)
        {
            found.push((key.clone(), finding));
        }
        let config = Arc::clone(&self.config);
        let service = config.services.get(&key.service).filter(|_| result.extra);
        for (suspect, _) in service.iter().flat_map(|service| service.keyed_backends()) {
            if let Some(known) = self.backends.get_mut(&suspect)
                && let Some(finding) = known.suspicion.witnessed(key, result, heard)
            {
                found.push((suspect, finding));
            }
        }
        for (suspect, (evidence, finding)) in found {
            self.found(now, &suspect, &evidence, finding, effects);
        }
    }

    fn found(
        &mut self,
        now: u64,
        key: &BackendKey,
        evidence: &Evidence,
        finding: Finding,
        effects: &mut Vec<Effect>,
    ) {
        let can_spare = self.can_spare(key);
        let Some(known) = self.backends.get_mut(key) else {
            return;
        };
        let suspicion = &mut known.suspicion;
        let reason = match finding {
            Finding::Good => suspicion.cleared(now, evidence, "good"),
            Finding::Unclear(words) => suspicion.unclear(now, evidence, &words),
            Finding::Bad { words, .. } if !can_spare => {
                let words = format!("{words}; too few others are up to take it out for that");
                suspicion.cleared(now, evidence, &words)
            }
            Finding::Bad {
                started,
                since,
                words,
            } => {
                known
                    .tracker
                    .confirm(suspicion::words(evidence, &words), started, now);
                let (raw, heard) = (known.tracker.health(), Heard::Bad(words.clone()));
                self.velocity.vouch(key, since);
                let decisions = self.velocity.observe(key, &heard, started, raw, now);
                self.decided(now, decisions, effects);
                let is_held = self.health(key) == Health::Up;
                if let Some(known) = self.backends.get_mut(key) {
                    match is_held {
                        // That has been told.
                        true => drop(known.suspicion.cleared(now, evidence, &words)),
                        false => known.suspicion.confirmed(now, evidence, &words),
                    }
                }
                return;
            }
        };
        let backend = key.clone();
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
