//! Takes a configuration in: what is new, what is gone, what stays; and what others must do for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::changes::Unsaved;
use super::{BackendState, State, StateError, persist, record};
use crate::agent::Agent;
use crate::desired;
use crate::event::{Effect, Record};
use crate::health::{Thresholds, Tracker};
use crate::ids::{Ids, Sizes};
use crate::latency::Pace;
use crate::model::{
    AdminState, Aim, BackendKey, Check, Config, Health, Name, RealPath, Scheduler, Service, Target,
};
use crate::passive::suspicion::Suspicion;
use crate::plan::endpoints;
use crate::velocity::{Limit, Member};

impl State {
    /// On an error nothing has changed.
    pub(super) fn configure(
        &mut self,
        now: u64,
        config: Arc<Config>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StateError> {
        let mut ids = self.ids.clone();
        let renumbered = numbered(&mut ids, &config, self.sizes, now)?;
        let before = std::mem::replace(&mut self.config, Arc::clone(&config));
        let moved = moved(&self.ids, &ids);
        let old_ids = std::mem::replace(&mut self.ids, ids);
        self.unsaved = Unsaved::All;
        for backend in self.keep_backends(now, &before, &moved) {
            let warning = None;
            record(effects, Record::Warned { backend, warning });
        }
        self.keep_ways();
        self.set_pools(&before);
        let decisions = self.velocity.tick(now);
        self.decided(now, decisions, effects);
        self.mark_all();
        if renumbered {
            persist(effects);
        }
        for (old, new) in [
            (
                Effect::Probe(targets(&before, &old_ids)),
                Effect::Probe(targets(&config, &self.ids)),
            ),
            (follow(&before), follow(&config)),
            (interfaces(&before), interfaces(&config)),
        ] {
            if old != new {
                if matches!(new, Effect::Probe(_)) {
                    // Checks of targets that changed are not made.
                    let all = self.backends.values_mut();
                    all.for_each(|known| known.suspicion.abandon());
                }
                effects.push(new);
            }
        }
        self.keep_vips();
        self.tell_claims(effects);
        record(effects, configured(&config));
        Ok(())
    }

    /// The numbers that a configuration would have; an error if it would be refused.
    pub fn numbers_for(&self, now: u64, config: &Config) -> Result<Ids, StateError> {
        let mut ids = self.ids.clone();
        numbered(&mut ids, config, self.sizes, now)?;
        Ok(ids)
    }

    /// One of a service's servers stands behind another service too.
    pub fn shares_server(&self, service: &Name) -> bool {
        self.sharing.contains(service)
    }

    /// All that the I/O tasks must do for the present configuration.
    pub fn announcements(&self) -> Vec<Effect> {
        vec![
            Effect::Probe(targets(&self.config, &self.ids)),
            follow(&self.config),
            Effect::Claim(self.claims.iter().cloned().collect()),
            Effect::Record(configured(&self.config)),
        ]
    }

    /// Addresses at which a backend is up, as the configuration `before` has them.
    fn live_in(&self, before: &Config) -> BTreeSet<IpAddr> {
        let is_up = |(key, _)| self.health(&key) == Health::Up;
        let services = before.services.values();
        let live = services.filter(|service| service.keyed_backends().any(is_up));
        live.map(|service| service.address.address()).collect()
    }

    /// Backends as configured, and as they were `before`. Those in `moved` have another address or port: nothing is known of
    /// them. Gives those of which it is no longer known that something expires.
    pub(super) fn keep_backends(
        &mut self,
        now: u64,
        before: &Config,
        moved: &BTreeSet<BackendKey>,
    ) -> Vec<BackendKey> {
        let config = Arc::clone(&self.config);
        let (live, mut over) = (self.live_in(before), Vec::new());
        self.backends.retain(|key, _| config.backend(key).is_some());
        self.draining.retain(|key| config.backend(key).is_some());
        self.sharing = config.services_that_share();
        let unknown: Arc<str> = "no probe has ended yet".into();
        self.at.clear();
        self.limited.clear();
        for (key, backend) in config.keyed_backends() {
            self.at
                .entry(backend.address)
                .or_default()
                .push(key.clone());
            if backend.max_connections.is_some() {
                self.limited.push(key.clone());
            }
            let Some(service) = config.services.get(&key.service) else {
                continue;
            };
            let thresholds = Thresholds::from(&service.health);
            let is_new = !before.services.contains_key(&key.service);
            let vip = service.address.address();
            // What is not proven claims no VIP.
            let is_live =
                self.live_vips.contains(&vip) || service.claim.is_none() && live.contains(&vip);
            let trusted = is_new && is_live;
            let known = self
                .backends
                .entry(key.clone())
                .or_insert_with(|| BackendState {
                    suspicion: Suspicion::default(),
                    tracker: Tracker::new(thresholds),
                    since: now,
                    reason: Arc::clone(&unknown),
                    said: None,
                    drain: None,
                    outage: None,
                    weight: 0,
                    ready_since: None,
                    full: false,
                    agent: Agent::default(),
                    pace: Pace::default(),
                    trusted,
                });
            let old = before.services.get(&key.service);
            let same_check = old.is_some_and(|old| old.health.check == service.health.check);
            if (moved.contains(&key) || !same_check) && known.tracker.forget_warning().is_some() {
                over.push(key.clone());
            }
            if moved.contains(&key) {
                known.tracker = Tracker::new(thresholds);
                known.since = now;
                known.reason = "its address or port is new; no probe has ended yet".into();
                known.agent = Agent::default();
                known.pace = Pace::default();
                known.outage = None;
                known.trusted = false;
            }
            // A suspicion is of a backend, and for a check of it.
            let is_same = before.services.get(&key.service).is_some_and(|old| {
                old.health == service.health && old.forwarding == service.forwarding
            });
            if moved.contains(&key) || !is_same {
                known.suspicion = Suspicion::default();
            }
            known.tracker.set_thresholds(thresholds);
            // Checks of another type take another time, and none take none.
            let timed = |service: &Service| {
                let check = service.health.check.word();
                (check, service.times_handshakes())
            };
            let old = before.services.get(&key.service);
            let same_times = old.is_some_and(|old| timed(old) == timed(service));
            if service.scheduler != Scheduler::LeastResponseTime || !same_times {
                known.pace = Pace::default();
            }
            match &service.health.agent {
                Some(policy) => known.agent.bound(policy),
                None => known.agent = Agent::default(),
            }
            known.full &= backend.max_connections.is_some();
            // An order that the configuration has caught up with is no exception any more.
            known.said = known.said.filter(|said| *said != backend.admin);
            if self.backends.get(&key).is_some_and(|b| b.drain.is_some())
                != (self.admin(&key) == Some(AdminState::Draining))
            {
                self.begin_or_end_drain(now, &key, None);
            }
        }
        for key in moved {
            // Leaving the pool and coming back makes it a stranger to `velocity`.
            self.set_pool_without(&key.service, Some(&key.backend));
        }
        self.keep_outages();
        over
    }

    pub(super) fn keep_ways(&mut self) {
        let at = &self.at;
        self.routes.retain(|address, _| at.contains_key(address));
        self.hops.retain(|(address, _)| at.contains_key(address));
        self.count_leaving();
        self.refresh_devices();
    }

    fn set_pools(&mut self, before: &Config) {
        for name in before.services.keys() {
            if !self.config.services.contains_key(name) {
                self.velocity.remove_pool(name);
                self.shares.remove(name);
                self.warming.remove(name);
                self.leaning.remove(name);
            }
        }
        self.set_all_pools();
    }

    pub(super) fn set_all_pools(&mut self) {
        let daemon = &self.config.daemon;
        let limit = Limit::new(daemon.velocity_percent, daemon.velocity_window);
        self.velocity.set_limit(limit);
        let names: Vec<Name> = self.config.services.keys().cloned().collect();
        for name in names {
            self.set_pool(&name);
        }
    }

    pub(super) fn set_pool(&mut self, name: &Name) {
        self.set_pool_without(name, None);
    }

    fn set_pool_without(&mut self, name: &Name, without: Option<&Name>) {
        let Some(service) = self.config.services.get(name) else {
            return;
        };
        let probed = service.health.check != Check::None;
        let members: BTreeMap<Name, Member> = service
            .backends
            .values()
            .filter(|backend| Some(&backend.name) != without)
            .map(|backend| {
                let key = BackendKey {
                    service: name.clone(),
                    backend: backend.name.clone(),
                };
                let member = Member {
                    address: backend.address,
                    enabled: self.admin(&key) == Some(AdminState::Enabled),
                    probed,
                    trusted: self.backends.get(&key).is_some_and(|known| known.trusted),
                };
                (backend.name.clone(), member)
            })
            .collect();
        let trust = service.health.trust_at_start;
        self.velocity.set_pool(name, trust, &members);
    }

    /// What a backend whose verdict survived is.
    pub(super) fn restore_verdict(&mut self, key: &BackendKey, health: Health) {
        self.velocity.restore(key, health);
    }
}

/// Gives numbers, and checks that the endpoint table can hold what follows.
pub(super) fn numbered(
    ids: &mut Ids,
    config: &Config,
    sizes: Sizes,
    now: u64,
) -> Result<bool, StateError> {
    let mut seen = BTreeMap::new();
    for (name, service) in &config.services {
        let place = (service.address, service.port, service.protocol);
        if let Some(first) = seen.insert(place, name) {
            return Err(StateError::DuplicateVip {
                first: first.clone(),
                second: name.clone(),
                endpoint: service.endpoint(),
            });
        }
    }
    let changed = ids.assign(config, sizes, now)?;
    let ranges = desired::rules(config, ids);
    let endpoints = desired::endpoints(config, ids);
    endpoints::place(&endpoints, &ranges, sizes.endpoint_slots)?;
    Ok(changed)
}

/// Backends that have another number than before: another address, port or service.
fn moved(before: &Ids, after: &Ids) -> BTreeSet<BackendKey> {
    before
        .backends()
        .filter(|(key, old)| after.backend(key).is_some_and(|new| new.id != old.id))
        .map(|(key, _)| key.clone())
        .collect()
}

/// Whom to probe. Draining and disabled backends too: one wants to see them well before they are enabled.
pub(super) fn targets(config: &Config, ids: &Ids) -> Vec<Target> {
    let probed = |(key, backend): (BackendKey, &crate::model::Backend)| {
        let service = config.services.get(&key.service)?;
        let health = &service.health;
        // The configuration says so where a backend has no port of its own.
        let port = match health.check.has_port() {
            true => health.port.or(backend.port)?.get(),
            false => 0,
        };
        let path = service.probe_path(backend, &config.daemon.tunnel_source);
        let real_path = path.and_then(|path| {
            Some(RealPath {
                // What differs between the backends of a service is where the packets go.
                mark: config.daemon.check_marks | ids.service(&key.service)?.index,
                vip: service.address.address(),
                path,
                only: health.target == Some(Aim::Vip),
            })
        });
        (health.check != Check::None).then(|| Target {
            real_path,
            full_size: ids
                .backend(&key)
                .and_then(|numbers| service.full_size(backend, numbers.id)),
            backend: key,
            address: backend.address,
            port,
            check: health.check.clone(),
            agent: health.agent.map(|agent| agent.source),
            interval: health.interval,
            fast_interval: health.fast_interval,
            timeout: health.timeout,
            rise: health.rise.get(),
            fall: health.fall.get(),
            opening: health.rise.get(),
            jitter: health.jitter,
        })
    };
    config.keyed_backends().filter_map(probed).collect()
}

fn follow(config: &Config) -> Effect {
    let addresses: BTreeSet<IpAddr> = config.keyed_backends().map(|(_, b)| b.address).collect();
    Effect::Follow(addresses.into_iter().collect())
}

fn interfaces(config: &Config) -> Effect {
    Effect::Interfaces(config.daemon.interfaces.clone())
}

fn configured(config: &Config) -> Record {
    Record::Config {
        revision: format!("{:016x}", config.revision),
        services: config.services.len(),
        backends: config.keyed_backends().count(),
    }
}
