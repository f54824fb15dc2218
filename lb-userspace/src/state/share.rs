//! Who gets the new flows of each service: what [`crate::tiers`] decides about, and what follows from it.

use std::collections::BTreeMap;

use super::{State, persist, record};
use crate::event::{Effect, Record};
use crate::model::{AdminState, Backend, BackendKey, Failback, Health, Name, Service, Tier};
use crate::tiers::{self, Before, Candidate, Decision, Loads, Mode, Rules, Standing, WHOLE};

/// What was decided last about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) mode: Mode,
    /// Too few of its backends are healthy.
    panic: bool,
    /// What its tiers keep, where flows stay.
    pub(super) held: Option<Loads>,
    /// Its backends, by name.
    pub(super) seats: Vec<Seat>,
}

/// A backend of a service, as last looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) name: Name,
    pub(super) candidate: Candidate,
    /// Since when it might take flows; nanoseconds since boot.
    pub(super) since: Option<u64>,
    /// The part of [`WHOLE`] of its weight that its agent leaves it.
    pub(super) part: u32,
    /// Its relative share of new flows; 0: none.
    weight: u32,
}

impl Seat {
    fn key(&self, service: &Name) -> BackendKey {
        BackendKey {
            service: service.clone(),
            backend: self.name.clone(),
        }
    }
}

/// Which backends of a service are to be looked at.
enum Changed {
    /// All.
    All,
    /// These, perhaps more than once.
    These(Vec<Name>),
}

/// Why an order about a service is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailbackError {
    /// No such service.
    #[error("service '{service}': not configured{}", match nearest {
        Some(name) => format!(" (did you mean '{name}'?)"),
        None => String::new(),
    })]
    Unknown {
        /// What was asked for.
        service: Name,
        /// The most similar one that there is.
        nearest: Option<Name>,
    },
    /// It returns by itself.
    #[error(
        "service '{service}': its flows return by themselves (only with `failback = \"stay\"` they wait for a word)"
    )]
    Returns {
        /// The service.
        service: Name,
    },
}

impl State {
    /// Recomputes what follows for whole pools from what changed: who gets the flows of these services.
    pub(super) fn settle(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let mut changed: BTreeMap<Name, Changed> = BTreeMap::new();
        for key in &self.dirty.backends {
            let entry = changed.entry(key.service.clone());
            if let Changed::These(names) = entry.or_insert_with(|| Changed::These(Vec::new())) {
                names.push(key.backend.clone());
            }
        }
        for (name, due) in &self.warming {
            if *due <= now {
                let entry = changed.entry(name.clone());
                entry.or_insert_with(|| Changed::These(Vec::new()));
            }
        }
        for name in &self.dirty.services {
            changed.insert(name.clone(), Changed::All);
        }
        for (name, changed) in changed {
            self.settle_service(now, &name, &changed, effects);
        }
        self.note_outages(now, effects);
    }

    fn settle_service(
        &mut self,
        now: u64,
        name: &Name,
        changed: &Changed,
        effects: &mut Vec<Effect>,
    ) {
        let config = std::sync::Arc::clone(&self.config);
        let Some(service) = config.services.get(name) else {
            return;
        };
        let before = self.shares.remove(name);
        let (seats, shown, panic, held) = match before {
            Some(share) => (share.seats, Some(share.mode), share.panic, share.held),
            None => (Vec::new(), None, false, None),
        };
        let mut seats = self.seated(now, service, seats, changed);
        self.warm_up(now, service, &mut seats);
        let candidates: Vec<Candidate> = seats.iter().map(|seat| seat.candidate).collect();
        self.note_vip(service, &candidates, effects);
        let before = Before {
            panic,
            loads: held.as_ref(),
        };
        let decision = tiers::decide(&candidates, rules(service), before);
        let now_held = held_after(service, &seats, &decision, held.as_ref());
        if now_held != held {
            persist(effects);
        }
        let opens = |mode: Option<&Mode>| mode == Some(&Mode::Open);
        if opens(shown.as_ref()) != opens(Some(&decision.mode)) {
            // What a backend may keep depends on it.
            self.dirty.services.insert(name.clone());
        }
        if let Some(from) = shown.filter(|from| *from != decision.mode) {
            record(
                effects,
                Record::Failover {
                    service: name.clone(),
                    from: from.to_string(),
                    to: decision.mode.to_string(),
                },
            );
        }
        for (seat, weight) in seats.iter_mut().zip(decision.weights) {
            if seat.weight == weight {
                continue;
            }
            seat.weight = weight;
            let key = seat.key(name);
            if let Some(known) = self.backends.get_mut(&key) {
                known.weight = weight;
            }
            self.dirty.backends.insert(key);
        }
        let share = Share {
            mode: decision.mode,
            panic: decision.panic,
            held: now_held,
            seats,
        };
        self.shares.insert(name.clone(), share);
    }

    /// The backends of a service, those that changed looked at again: with thousands in a pool, a look at each
    /// would be more than a verdict may cost.
    fn seated(
        &mut self,
        now: u64,
        service: &Service,
        mut seats: Vec<Seat>,
        changed: &Changed,
    ) -> Vec<Seat> {
        if let Changed::These(names) = changed
            && !seats.is_empty()
        {
            for name in names {
                let place = seats.binary_search_by(|seat| seat.name.cmp(name));
                let seat = service.backends.get(name);
                let seat = seat.and_then(|backend| self.seat(now, service, backend));
                if let (Ok(place), Some(seat)) = (place, seat)
                    && let Some(old) = seats.get_mut(place)
                {
                    *old = seat;
                }
            }
            return seats;
        }
        let all = service.backends.values();
        all.filter_map(|backend| self.seat(now, service, backend))
            .collect()
    }

    /// What a backend is to the flows of its service, and since when it might take them.
    fn seat(&mut self, now: u64, service: &Service, backend: &Backend) -> Option<Seat> {
        let key = BackendKey {
            service: service.name.clone(),
            backend: backend.name.clone(),
        };
        let standing = self.standing(service, backend, &key)?;
        let known = self.backends.get_mut(&key)?;
        match standing {
            Standing::Ready | Standing::Full => drop(known.ready_since.get_or_insert(now)),
            // That the way was lost says nothing about the server.
            Standing::Lost => {}
            Standing::Unknown | Standing::Down | Standing::Away => known.ready_since = None,
        }
        let candidate = Candidate {
            tier: backend.tier,
            weight: service.weight_of(backend),
            standing: match backend.weight {
                0 => Standing::Away,
                _ => standing,
            },
            warmth: WHOLE,
        };
        Some(Seat {
            name: backend.name.clone(),
            candidate,
            since: known.ready_since,
            part: known.part(),
            weight: known.weight,
        })
    }

    /// What a backend is to the flows of its service.
    pub(super) fn standing(
        &self,
        service: &Service,
        backend: &Backend,
        key: &BackendKey,
    ) -> Option<Standing> {
        let known = self.backends.get(key)?;
        let admin = known.said.unwrap_or(backend.admin);
        if admin != AdminState::Enabled {
            return Some(Standing::Away);
        }
        if self.way(backend.address).resolved.is_err() {
            return Some(Standing::Lost);
        }
        let well = match known.full {
            true => Standing::Full,
            false => Standing::Ready,
        };
        Some(match self.health(key) {
            Health::Up => well,
            Health::Unknown if self.trusts(service, key) => well,
            Health::Unknown => Standing::Unknown,
            Health::Down => Standing::Down,
        })
    }

    /// A person wants the flows of a service back where they belong.
    pub fn failback(&mut self, now: u64, service: &Name) -> Result<Vec<Effect>, FailbackError> {
        let Some(known) = self.config.services.get(service) else {
            let distance =
                |name: &Name| strsim::damerau_levenshtein(name.as_str(), service.as_str());
            let nearest = self
                .config
                .services
                .keys()
                .min_by_key(|name| distance(name));
            return Err(FailbackError::Unknown {
                service: service.clone(),
                nearest: nearest.filter(|name| distance(name) <= 3).cloned(),
            });
        };
        if known.failover.failback == Failback::Return {
            let service = service.clone();
            return Err(FailbackError::Returns { service });
        }
        let mut effects = Vec::new();
        if let Some(share) = self.shares.get_mut(service) {
            share.held = None;
        }
        let nobody = Changed::These(Vec::new());
        self.settle_service(now, service, &nobody, &mut effects);
        persist(&mut effects);
        Ok(effects)
    }

    /// The backend takes new flows, and without it nobody would whom a person would choose.
    pub(super) fn is_last(&self, key: &BackendKey) -> bool {
        let takes_new = self.backends.get(key).is_some_and(|known| known.weight > 0);
        let service = self.config.services.get(&key.service);
        let (true, Some(service), Some(share)) =
            (takes_new, service, self.shares.get(&key.service))
        else {
            return false;
        };
        let without = share.seats.iter().map(|seat| Candidate {
            standing: match seat.name == key.backend {
                true => Standing::Away,
                false => seat.candidate.standing,
            },
            ..seat.candidate
        });
        let candidates: Vec<Candidate> = without.collect();
        let before = Before {
            panic: share.panic,
            loads: share.held.as_ref(),
        };
        let without = tiers::decide(&candidates, rules(service), before);
        let somebody = without.weights.iter().any(|weight| *weight > 0);
        // To fall back on the ill is a choice only where it was made already.
        let worse = without.mode == Mode::Open && !self.failed_open(&key.service);
        !somebody || worse
    }

    /// The relative share of new flows that a backend gets; 0: none.
    pub fn weight(&self, key: &BackendKey) -> u32 {
        self.backends.get(key).map_or(0, |known| known.weight)
    }

    /// Who serves a service, as last decided.
    pub fn mode(&self, service: &Name) -> Option<&Mode> {
        self.shares.get(service).map(|share| &share.mode)
    }

    /// The service spreads over all enabled backends, as too few are healthy.
    pub fn failed_open(&self, service: &Name) -> bool {
        self.mode(service) == Some(&Mode::Open)
    }

    /// The sum of the weights of a service.
    pub(super) fn all_weights(&self, service: &Service) -> u64 {
        let seats = self.shares.get(&service.name).map(|share| &share.seats);
        let weights = seats.into_iter().flatten().map(|seat| seat.weight.into());
        weights.fold(0, u64::saturating_add)
    }

    /// What the backends of a service are to its flows.
    pub(super) fn candidates(&self, service: &Service) -> Vec<Candidate> {
        let seats = self.shares.get(&service.name).map(|share| &share.seats);
        seats
            .into_iter()
            .flatten()
            .map(|seat| seat.candidate)
            .collect()
    }

    /// The share of new flows that a backend gets, in thousandths of all, rounded; 1 at least, if it gets any.
    pub(super) fn share(&self, key: &BackendKey, all: u64) -> u32 {
        let weight = u64::from(self.weight(key));
        let twice = weight
            .saturating_mul(u64::from(WHOLE).saturating_mul(2))
            .checked_div(all);
        let share = twice.unwrap_or(0).saturating_add(1) / 2;
        u32::try_from(share)
            .unwrap_or(WHOLE)
            .max(u32::from(weight > 0))
    }

    /// What the tiers of services keep where flows stay: for the disk.
    pub(super) fn held_loads(&self) -> BTreeMap<Name, Loads> {
        let held = |(name, share): (&Name, &Share)| Some((name.clone(), share.held.clone()?));
        self.shares.iter().filter_map(held).collect()
    }

    /// As they were before a restart.
    pub(super) fn restore_loads(&mut self, loads: &BTreeMap<Name, Loads>) {
        for (name, loads) in loads {
            let stays = |service: &Service| service.failover.failback == Failback::Stay;
            if self.config.services.get(name).is_some_and(stays) {
                let share = Share {
                    mode: Mode::Tiers {
                        loads: loads.clone(),
                    },
                    panic: false,
                    held: Some(loads.clone()),
                    seats: Vec::new(),
                };
                self.shares.insert(name.clone(), share);
            }
        }
    }
}

fn rules(service: &Service) -> Rules {
    Rules {
        failover: service.failover,
        all_down: service.all_down,
    }
}

/// What the tiers of a service keep from now on.
fn held_after(
    service: &Service,
    seats: &[Seat],
    decision: &Decision,
    held: Option<&Loads>,
) -> Option<Loads> {
    if service.failover.failback == Failback::Return {
        return None;
    }
    // Whoever is known to be well first must not keep the flows from the others.
    let settled = seats.iter().all(|seat| match seat.candidate.standing {
        _ if seat.candidate.tier == Tier::Sorry => true,
        Standing::Unknown => false,
        // Nobody has found the way to it yet.
        Standing::Lost => seat.since.is_some(),
        _ => true,
    });
    match &decision.mode {
        Mode::Tiers { loads } if settled => Some(loads.clone()),
        _ => held.cloned(),
    }
}
