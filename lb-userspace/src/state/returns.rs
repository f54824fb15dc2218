//! What follows from returns and departures in time: who warms up, who is full, and which VIPs are live.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::persistent::Persistent;
use super::share::Seat;
use super::{State, persist};
use crate::dataplane::Actual;
use crate::desired;
use crate::event::Effect;
use crate::model::{BackendKey, Service, Tier};
use crate::slow_start;
use crate::tiers::{Candidate, Standing, WHOLE};

impl State {
    /// How warm each backend of a service is now, and when the next step of those that warm up is due.
    pub(super) fn warm_up(&mut self, now: u64, service: &Service, seats: &mut [Seat]) {
        let policy = service.failover.slow_start;
        let mut next: Option<u64> = None;
        for seat in seats {
            let warmth = seat
                .since
                .map(|since| slow_start::warmth(policy, since, now));
            let warmth = warmth.unwrap_or(WHOLE);
            let part = warmth.saturating_mul(seat.part) / WHOLE;
            seat.candidate.warmth = part.max(1);
            if warmth < WHOLE {
                let due = seat
                    .since
                    .and_then(|since| slow_start::next_step(policy, since, now));
                next = next.into_iter().chain(due).min();
            }
        }
        match next {
            Some(due) => drop(self.warming.insert(service.name.clone(), due)),
            None => drop(self.warming.remove(&service.name)),
        }
    }

    /// The part of its weight that a backend gets.
    pub(super) fn warmth(&self, service: &Service, key: &BackendKey, now: u64) -> u32 {
        let since = self.backends.get(key).and_then(|known| known.ready_since);
        since.map_or(WHOLE, |since| {
            slow_start::warmth(service.failover.slow_start, since, now)
        })
    }

    /// After a sweep: who has as many open connections as it may have. Who has, has to lose a tenth of them before it takes
    /// new ones again, so that it does not come and go with every flow.
    pub(super) fn look_at_limits(&mut self) {
        for key in &self.limited {
            let limit = self
                .config
                .backend(key)
                .and_then(|(_, b)| b.max_connections);
            let (Some(limit), flows) = (limit, self.open_of(key)) else {
                continue;
            };
            let most = u64::from(limit.get());
            let enough = most.saturating_sub(most.div_ceil(10));
            if let Some(known) = self.backends.get_mut(key) {
                let full = match known.full {
                    true => flows > enough,
                    false => flows >= most,
                };
                if known.full != full {
                    known.full = full;
                    self.dirty.backends.insert(key.clone());
                }
            }
        }
    }

    /// Somebody has a limit of flows, so that they are to be counted often.
    pub fn has_limits(&self) -> bool {
        !self.limited.is_empty()
    }

    /// A VIP is live when enough backends of one of its services are healthy, and stays so.
    pub(super) fn note_vip(
        &mut self,
        service: &Service,
        candidates: &[Candidate],
        effects: &mut Vec<Effect>,
    ) {
        let vip = service.address.address();
        if service.claim.is_none() || self.live_vips.contains(&vip) {
            return;
        }
        if healthy(candidates) >= usize::from(service.failover.min_healthy) {
            self.live_vips.insert(vip);
            self.tell_claims(effects);
            persist(effects);
        }
    }

    /// After a change of the configuration: who claims nothing any more is not live.
    pub(super) fn keep_vips(&mut self) {
        let claimed: BTreeSet<IpAddr> = self
            .config
            .services
            .values()
            .filter(|service| service.claim.is_some())
            .map(|service| service.address.address())
            .collect();
        self.live_vips.retain(|vip| claimed.contains(vip));
    }

    /// Tells which VIPs are to be claimed, if they are others than last time.
    pub(super) fn tell_claims(&mut self, effects: &mut Vec<Effect>) {
        let live = |service: &Service| self.live_vips.contains(&service.address.address());
        let claims: BTreeSet<(String, IpAddr)> = self
            .config
            .services
            .values()
            .filter(|service| live(service))
            .filter_map(|service| Some((service.claim.clone()?, service.address.address())))
            .collect();
        if claims != self.claims {
            effects.push(Effect::Claim(claims.iter().cloned().collect()));
            self.claims = claims;
        }
    }

    /// VIPs that are to be claimed now, by interface.
    pub fn claims(&self) -> &BTreeSet<(String, IpAddr)> {
        &self.claims
    }

    /// Why the VIP of a service is not claimed yet; `None`: it is, or is not to be.
    pub(super) fn claim_waits(&self, service: &Service) -> Option<String> {
        if service.claim.is_none() || self.live_vips.contains(&service.address.address()) {
            return None;
        }
        let candidates = self.candidates(service);
        Some(format!(
            "{} of the {} backends are up that `min-healthy` asks for",
            healthy(&candidates),
            service.failover.min_healthy
        ))
    }

    /// After a restart VIPs are as they were. Without a note of that, those are live that packets are forwarded for: what
    /// others may have claimed is not given up.
    pub(super) fn restore_vips(&mut self, persistent: &Persistent, actual: Option<&Actual>) {
        let Some(actual) = actual else {
            return;
        };
        self.live_vips = match &persistent.live_vips {
            Some(vips) => vips.clone(),
            None => {
                let services = actual.image.services.values();
                let vips = services.map(|service| desired::ip(lb_common::Address(service.address)));
                vips.collect()
            }
        };
        self.keep_vips();
        self.tell_claims(&mut Vec::new());
    }

    /// Services with backends that warm up.
    #[cfg(test)]
    pub(crate) fn warming(&self) -> Vec<crate::model::Name> {
        self.warming.keys().cloned().collect()
    }
}

/// Backends of numbered tiers that are healthy.
fn healthy(candidates: &[Candidate]) -> usize {
    let well = |c: &&Candidate| {
        c.tier != Tier::Sorry && matches!(c.standing, Standing::Ready | Standing::Full)
    };
    candidates.iter().filter(well).count()
}
