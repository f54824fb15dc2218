//! Numbers for what a configuration newly has, none for what it has no more.

use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::{Forwarding, Protocol};

use super::{
    BackendId, Exhausted, Freed, FreedRing, Ids, ServiceId, Sizes, backend_port, port_of, reach_of,
    ring_size,
};
use crate::model::{BackendKey, Config, Name, Service};

impl Ids {
    /// Gone is also what newly made, smaller maps have no room for.
    pub(super) fn free_what_is_gone(&mut self, config: &Config, sizes: Sizes) {
        let gone: Vec<Name> = self
            .services
            .iter()
            .filter(|(name, id)| {
                let end = id
                    .ring_capacity
                    .saturating_mul(2)
                    .saturating_add(id.ring_base);
                let fits = id.index < sizes.services && end <= sizes.ring_slots;
                let service = config.services.get(*name);
                !fits || service.is_none_or(|service| !same_service(id, service))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(id) = Arc::make_mut(&mut self.services).remove(&name) {
                self.freed_services.insert(id.index, Freed::PENDING);
                self.free_ring(id.ring_base, id.ring_capacity);
            }
        }
        let gone: Vec<BackendKey> = self
            .backends
            .iter()
            .filter(|(key, id)| id.id >= sizes.backends || !self.still_there(config, key, id))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(backend) = Arc::make_mut(&mut self.backends).remove(&key) {
                self.freed_backends.insert(backend.id, Freed::PENDING);
            }
        }
    }

    fn still_there(&self, config: &Config, key: &BackendKey, id: &BackendId) -> bool {
        let service = self.services.get(&key.service);
        config.backend(key).is_some_and(|(service, backend)| {
            (backend.address, backend_port(backend)) == (id.address, id.port)
                && service.tunnel(backend.address).0 == id.tunnel
        }) && service.is_some_and(|service| service.index == id.service)
    }

    pub(super) fn free_ring(&mut self, base: u32, capacity: u32) {
        if capacity == 0 {
            return;
        }
        self.freed_rings.push(FreedRing {
            base,
            length: capacity.saturating_mul(2),
            freed: Freed::PENDING,
        });
        self.freed_rings.sort_unstable_by_key(|ring| ring.base);
    }

    pub(super) fn assign_services(
        &mut self,
        config: &Config,
        sizes: Sizes,
    ) -> Result<(), Exhausted> {
        let taken: BTreeSet<u32> = self
            .services
            .values()
            .map(|id| id.index)
            .chain(self.freed_services.keys().copied())
            .collect();
        let mut free = (0..sizes.services).filter(|index| !taken.contains(index));
        // What is freed on the way rests: it makes no gap.
        let mut gaps = self.ring_gaps(sizes);
        for (name, service) in &config.services {
            let capacity = ring_capacity(service);
            let index = match self.services.get(name) {
                Some(id) if id.ring_capacity == capacity => continue,
                Some(id) => {
                    let (index, base, old) = (id.index, id.ring_base, id.ring_capacity);
                    self.free_ring(base, old);
                    Arc::make_mut(&mut self.services).remove(name);
                    index
                }
                None => free.next().ok_or_else(|| Exhausted {
                    what: format!("service '{name}'"),
                    limit: lb_common::limits::SERVICES.name,
                    size: sizes.services,
                    resting: self.freed_services.len(),
                })?,
            };
            let wanted = capacity.saturating_mul(2);
            let ring_base = gaps
                .take(wanted)
                .ok_or_else(|| self.no_room(name, wanted, sizes))?;
            let id = ServiceId::of(service, index, ring_base, capacity);
            Arc::make_mut(&mut self.services).insert(name.clone(), id);
        }
        Ok(())
    }

    /// Slots that nobody has, not even one who is resting.
    fn ring_gaps(&self, sizes: Sizes) -> Gaps {
        let used = self
            .services
            .values()
            .map(|id| (id.ring_base, id.ring_capacity.saturating_mul(2)));
        let resting = self.freed_rings.iter().map(|ring| (ring.base, ring.length));
        Gaps::between(used.chain(resting).collect(), sizes.ring_slots)
    }

    fn no_room(&self, name: &Name, wanted: u32, sizes: Sizes) -> Exhausted {
        Exhausted {
            what: format!("the ring of service '{name}' ({wanted} slots in a row)"),
            limit: lb_common::limits::RING_SLOTS.name,
            size: sizes.ring_slots,
            resting: self.freed_rings.len(),
        }
    }

    pub(super) fn assign_backends(
        &mut self,
        config: &Config,
        sizes: Sizes,
    ) -> Result<(), Exhausted> {
        let taken: BTreeSet<u32> = self
            .backends
            .values()
            .map(|b| b.id)
            .chain(self.freed_backends.keys().copied())
            .collect();
        let size = sizes.backends.min(lb_common::flow::MAX_BACKENDS);
        let mut free = (0..size).filter(|id| !taken.contains(id));
        let backends = config.services.values().flat_map(|service| {
            let keyed = service.keyed_backends();
            keyed.map(|(key, backend)| (key, backend, service.tunnel(backend.address)))
        });
        for (key, backend, tunnel) in backends {
            let Some(service) = self.services.get(&key.service).map(|id| id.index) else {
                continue;
            };
            if self.backends.contains_key(&key) {
                continue;
            }
            let id = free.next().ok_or_else(|| Exhausted {
                what: format!("backend '{key}'"),
                limit: lb_common::limits::BACKENDS.name,
                size,
                resting: self.freed_backends.len(),
            })?;
            let backend = BackendId {
                id,
                service,
                address: backend.address,
                port: backend_port(backend),
                tunnel: tunnel.0,
                origin: None,
                handshakes: [0; 8],
            };
            Arc::make_mut(&mut self.backends).insert(key, backend);
        }
        Ok(())
    }
}

/// Free slots, as (first, how many), in order.
struct Gaps(Vec<(u32, u32)>);

impl Gaps {
    /// What is left of `0..end` between the ranges that are taken.
    fn between(mut taken: Vec<(u32, u32)>, end: u32) -> Self {
        taken.sort_unstable();
        taken.push((end, 0));
        let (mut gaps, mut base) = (Vec::new(), 0_u32);
        for (start, length) in taken {
            let start = start.min(end);
            if start > base {
                gaps.push((base, start.saturating_sub(base)));
            }
            base = base.max(start.saturating_add(length));
        }
        Self(gaps)
    }

    /// The first place with so many in a row, which is free no more.
    fn take(&mut self, wanted: u32) -> Option<u32> {
        let at = self.0.iter().position(|&(_, length)| length >= wanted)?;
        let (base, length) = self.0.get_mut(at)?;
        let found = *base;
        *base = base.saturating_add(wanted);
        *length = length.saturating_sub(wanted);
        if *length == 0 {
            self.0.remove(at);
        }
        Some(found)
    }
}

/// Slots of half of the ring pair of a service: the size, made even.
fn ring_capacity(service: &Service) -> u32 {
    let size = ring_size(service);
    size.saturating_add(size & 1)
}

fn same_service(id: &ServiceId, service: &Service) -> bool {
    id.address == service.address.address()
        && id.port == port_of(service)
        && id.reach == reach_of(service)
        && Protocol::from_u8(id.protocol) == Some(service.protocol)
        && Forwarding::from_u8(id.forwarding) == Some(service.forwarding)
}
