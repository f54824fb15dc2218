//! Who has which number: BackendIds, service indexes, ring pairs. Pure, and part of what is on disk.
//!
//! Numbers stand in pinned maps and in flow entries that outlive the daemon, so they are keyed by names
//! and never by position, are on disk before a map holds them, and a freed one rests before it is
//! given away again:
//!
//! * a BackendId until a sweep of the flow table that began after the last map entry was cleared
//!   found no flow of it, and [`BACKEND_GRACE`] has passed: otherwise a flow of the old owner would
//!   reach the new one (RELIABILITY.md section 3, threat 8);
//! * the others for [`INDEX_GRACE`], until no CPU can still be reading them.
//!
//! [`hops`] does the same for next hops, which need no disk: the maps say themselves where each leads.

mod adopt;
mod assign;
pub mod hops;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use lb_common::Header;
use lb_common::counter::CounterLine;
use serde::{Deserialize, Serialize};

use crate::maglev;
use crate::model::{Backend, BackendKey, Config, Limits, Name, Reach, Service};

/// A freed BackendId rests at least this long, in nanoseconds: 30 s.
pub const BACKEND_GRACE: u64 = 30_000_000_000;
/// Any other freed number rests this long, in nanoseconds: 1 s. A packet takes microseconds.
pub const INDEX_GRACE: u64 = 1_000_000_000;

/// How many numbers of each kind there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Slots in rings.
    pub ring_slots: u32,
    /// Next hops.
    pub next_hops: u32,
    /// Slots in one generation of the endpoint table.
    pub endpoint_slots: u32,
}

impl From<&Header> for Sizes {
    fn from(header: &Header) -> Self {
        Self {
            services: header.services,
            backends: header.backends,
            ring_slots: header.ring_slots,
            next_hops: header.next_hops,
            endpoint_slots: header.endpoint_slots,
        }
    }
}

impl From<&Limits> for Sizes {
    fn from(limits: &Limits) -> Self {
        Self {
            services: limits.services,
            backends: limits.backends,
            ring_slots: limits.ring_slots,
            next_hops: limits.next_hops,
            endpoint_slots: crate::plan::endpoints::slots_for(limits.services, limits.backends),
        }
    }
}

/// No number is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "number {what}: all {size} of limit '{limit}' are taken, {resting} of them by what was removed a short while ago (raise [limits] {limit} and recreate the maps with 'fairlead unload'{})",
    if *resting > 0 { ", or try again in a minute" } else { "" }
)]
pub struct Exhausted {
    /// Who asked.
    pub what: String,
    /// Name of the limit, as in `lb_common::limits`.
    pub limit: &'static str,
    /// Its value.
    pub size: u32,
    /// Taken by what is gone.
    pub resting: usize,
}

/// What makes a service another service for the maps: its entry cannot change while packets read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceId {
    /// Index into `services`.
    pub index: u32,
    /// First slot of its ring pair, even.
    pub ring_base: u32,
    /// Slots of half of the pair, even.
    pub ring_capacity: u32,
    /// The VIP, or the first of a prefix.
    pub address: IpAddr,
    /// The port; 0 of a service with `reach`.
    pub port: u16,
    /// As `lb_common::Reach::word`; 0: one address, one port and one protocol.
    #[serde(default)]
    pub reach: u64,
    /// IANA number.
    pub protocol: u8,
    /// `lb_common::Forwarding` as a number.
    pub forwarding: u8,
}

impl ServiceId {
    fn of(service: &Service, index: u32, ring_base: u32, ring_capacity: u32) -> Self {
        Self {
            index,
            ring_base,
            ring_capacity,
            address: service.address.address(),
            port: port_of(service),
            reach: reach_of(service),
            protocol: service.protocol as u8,
            forwarding: service.forwarding as u8,
        }
    }
}

/// A backend's counters, by `PerBackend`, and its handshakes, by `Handshake`.
pub type Lines = (CounterLine, CounterLine);

/// What makes a backend another backend for the maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendId {
    /// The BackendId.
    pub id: u32,
    /// Index of the service.
    pub service: u32,
    /// Where it listens.
    pub address: IpAddr,
    /// The port; 0: the one that the client chose.
    pub port: u16,
    /// How packets are put into others for it, as `lb_common::Tunnel`.
    #[serde(default)]
    pub tunnel: u64,
    /// The id's counters when it was given, so that a new owner begins at 0; `None`: not read yet.
    pub origin: Option<CounterLine>,
    /// The same of its handshakes.
    #[serde(default)]
    pub handshakes: CounterLine,
}

impl BackendId {
    /// What the maps must say of it.
    fn place(&self) -> (IpAddr, u16, u32, u64) {
        (self.address, self.port, self.service, self.tunnel)
    }
}

/// Freed, and when the maps stopped leading there: nanoseconds since boot, `None` while they may still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Freed {
    cleared: Option<u64>,
    /// A sweep since then found no flow.
    swept: bool,
}

impl Freed {
    const PENDING: Self = Self {
        cleared: None,
        swept: false,
    };

    fn rested(self, now: u64, grace: u64) -> bool {
        self.cleared
            .is_some_and(|since| now.saturating_sub(since) >= grace)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FreedRing {
    base: u32,
    /// Slots of both halves.
    length: u32,
    freed: Freed,
}

/// All numbers in use or at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Shared with the writes of the state that are under way, as `backends` are: a copy is made only when
    /// ids change meanwhile.
    services: Arc<BTreeMap<Name, ServiceId>>,
    backends: Arc<BTreeMap<BackendKey, BackendId>>,
    freed_services: BTreeMap<u32, Freed>,
    freed_backends: BTreeMap<u32, Freed>,
    freed_rings: Vec<FreedRing>,
}

impl Ids {
    /// The numbers of a service.
    pub fn service(&self, name: &Name) -> Option<&ServiceId> {
        self.services.get(name)
    }

    /// The numbers of a backend.
    pub fn backend(&self, key: &BackendKey) -> Option<&BackendId> {
        self.backends.get(key)
    }

    /// All backends with a number.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendKey, &BackendId)> {
        self.backends.iter()
    }

    /// All services with a number.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &ServiceId)> {
        self.services.iter()
    }

    /// BackendIds at rest.
    pub fn quarantined(&self) -> impl Iterator<Item = u32> {
        self.freed_backends.keys().copied()
    }

    /// Equal but for times and origins.
    pub fn same_numbers(&self, other: &Self) -> bool {
        let backends = |ids: &Self| -> Vec<(BackendKey, u32)> {
            let pairs = ids.backends.iter();
            pairs.map(|(key, b)| (key.clone(), b.id)).collect()
        };
        self.services == other.services
            && backends(self) == backends(other)
            && self.freed_backends.keys().eq(other.freed_backends.keys())
            && self.freed_services.keys().eq(other.freed_services.keys())
    }

    /// Every service and backend has the same numbers there.
    pub fn are_among(&self, there: &Self) -> bool {
        let id = |ids: &Self, key| ids.backends.get(key).map(|b: &BackendId| b.id);
        self.services
            .iter()
            .all(|(name, id)| there.services.get(name) == Some(id))
            && self
                .backends
                .iter()
                .all(|(key, b)| id(there, key) == Some(b.id))
    }

    /// Gives numbers to what is new in a configuration and frees those of what is gone.
    /// On an error nothing has changed. True: something changed and is to be on disk before it is used.
    pub fn assign(&mut self, config: &Config, sizes: Sizes, now: u64) -> Result<bool, Exhausted> {
        let mut next = self.clone();
        next.release(now);
        next.free_what_is_gone(config, sizes);
        next.assign_services(config, sizes)?;
        next.assign_backends(config, sizes)?;
        let changed = next != *self;
        *self = next;
        Ok(changed)
    }

    /// All maps are as the last assignment wants them: what was freed is not led to any more.
    /// True when that changed anything.
    pub fn written(&mut self, now: u64) -> bool {
        let mut changed = false;
        let rings = self.freed_rings.iter_mut().map(|ring| &mut ring.freed);
        for freed in self
            .freed_services
            .values_mut()
            .chain(self.freed_backends.values_mut())
            .chain(rings)
        {
            if freed.cleared.is_none() {
                freed.cleared = Some(now);
                changed = true;
            }
        }
        changed
    }

    /// A sweep of the flow table that began at `began` found these flows.
    pub fn swept(&mut self, began: u64, by_backend: &BTreeMap<u32, u64>) {
        for (id, freed) in &mut self.freed_backends {
            if freed.cleared.is_some_and(|cleared| began >= cleared) {
                freed.swept = by_backend.get(id).is_none_or(|&flows| flows == 0);
            }
        }
    }

    /// Lets go of what has rested. True when something was.
    pub fn release(&mut self, now: u64) -> bool {
        let before = (
            self.freed_services.len(),
            self.freed_backends.len(),
            self.freed_rings.len(),
        );
        self.freed_services
            .retain(|_, freed| !freed.rested(now, INDEX_GRACE));
        self.freed_rings
            .retain(|ring| !ring.freed.rested(now, INDEX_GRACE));
        self.freed_backends
            .retain(|_, freed| !(freed.swept && freed.rested(now, BACKEND_GRACE)));
        before
            != (
                self.freed_services.len(),
                self.freed_backends.len(),
                self.freed_rings.len(),
            )
    }

    /// After a restart: rests begin anew, since the clock may be another and sweeps were missed.
    pub fn restart_rests(&mut self) {
        let rings = self.freed_rings.iter_mut().map(|ring| &mut ring.freed);
        for freed in self
            .freed_services
            .values_mut()
            .chain(self.freed_backends.values_mut())
            .chain(rings)
        {
            *freed = Freed::PENDING;
        }
    }

    /// Ids whose counters at the time of assignment are not known yet.
    pub fn without_origin(&self) -> Vec<u32> {
        let missing = |b: &&BackendId| b.origin.is_none();
        self.backends
            .values()
            .filter(missing)
            .map(|b| b.id)
            .collect()
    }

    /// Notes where counting begins.
    pub fn set_origins(&mut self, lines: &BTreeMap<u32, Lines>) {
        for backend in Arc::make_mut(&mut self.backends).values_mut() {
            if let (None, Some((line, handshakes))) = (backend.origin, lines.get(&backend.id)) {
                (backend.origin, backend.handshakes) = (Some(*line), *handshakes);
            }
        }
    }

    /// The maps are new: all counters begin at 0.
    pub fn counters_began_anew(&mut self) {
        for backend in Arc::make_mut(&mut self.backends).values_mut() {
            (backend.origin, backend.handshakes) = (Some([0; 8]), [0; 8]);
        }
    }
}

/// The port of a service as the maps have it: 0 of one with a range.
pub fn port_of(service: &Service) -> u16 {
    let port = service.port.single().filter(|_| service.reach().is_none());
    port.map_or(0, NonZeroU16::get)
}

/// As [`ServiceId::reach`].
pub fn reach_of(service: &Service) -> u64 {
    service.reach().map_or(0, Reach::word)
}

/// The port of a backend as the maps have it.
pub fn backend_port(backend: &Backend) -> u16 {
    backend.port.map_or(0, NonZeroU16::get)
}

/// Slots of the ring of a service.
pub fn ring_size(service: &Service) -> u32 {
    service
        .ring_size
        .unwrap_or_else(|| maglev::ring_size(service.backends.len()))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
