//! Numbers as the maps show them: whether what is on disk agrees, and what to do when it does not (the
//! file is lost, or an old one was put back). Live flows keep their backends either way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{BackendId, Freed, Ids, ServiceId, backend_port};
use crate::dataplane::{Image, ServiceImage};
use crate::desired;
use crate::model::{BackendKey, Config, Name};

impl Ids {
    /// The first number in use in the maps that is not as it is here; `None`: all agree.
    pub fn contradiction(&self, image: &Image) -> Option<String> {
        let services: BTreeMap<u32, (&Name, &ServiceId)> = self
            .services
            .iter()
            .map(|(name, id)| (id.index, (name, id)))
            .collect();
        for (index, service) in &image.services {
            match services.get(index) {
                Some((name, id)) if !is_service(id, service) => {
                    return Some(format!("services[{index}] is not '{name}'"));
                }
                Some((name, id)) if !self.holds_ring(id, service) => {
                    return Some(format!("the ring of service '{name}' is elsewhere"));
                }
                None if !self.freed_services.contains_key(index) => {
                    return Some(format!("services[{index}] is nobody's"));
                }
                _ => {}
            }
        }
        let backends: BTreeMap<u32, (&BackendKey, &BackendId)> = self
            .backends
            .iter()
            .map(|(key, id)| (id.id, (key, id)))
            .collect();
        for (id, entry) in &image.backends {
            let place = (
                desired::ip(lb_common::Address(entry.address)),
                u16::from_be_bytes(entry.port),
                entry.service,
                entry.tunnel.0,
            );
            match backends.get(id) {
                Some((key, known)) if known.place() != place => {
                    return Some(format!("backends[{id}] is not '{key}'"));
                }
                None if !self.freed_backends.contains_key(id) => {
                    return Some(format!("backends[{id}] is nobody's"));
                }
                _ => {}
            }
        }
        None
    }

    /// Numbers for a configuration from the maps alone, and how many backends keep theirs. Whatever
    /// else the maps hold is freed; so are all smaller BackendIds, which may have had owners that nobody
    /// remembers and that still have flows.
    pub fn adopt(config: &Config, image: &Image) -> (Self, usize) {
        let mut ids = Self::default();
        for (index, service) in &image.services {
            ids.freed_services.insert(*index, Freed::PENDING);
            ids.free_ring(service.ring_base, service.ring_capacity);
        }
        let places: BTreeMap<(IpAddr, u16, u32, u64), u32> = image
            .backends
            .iter()
            .map(|(id, entry)| {
                let ip = desired::ip(lb_common::Address(entry.address));
                let port = u16::from_be_bytes(entry.port);
                ((ip, port, entry.service, entry.tunnel.0), *id)
            })
            .collect();
        let last = image.backends.keys().next_back().copied();
        ids.freed_backends = last
            .into_iter()
            .flat_map(|last| 0..=last)
            .map(|id| (id, Freed::PENDING))
            .collect();
        for (name, service) in &config.services {
            let found = image.services.iter().find(|(_, there)| {
                let id = ServiceId::of(service, 0, 0, 0);
                is_service(&id, there)
            });
            let Some((&index, there)) = found else {
                continue;
            };
            ids.freed_services.remove(&index);
            let pair = (there.ring_base, there.ring_capacity);
            ids.freed_rings.retain(|ring| ring.base != pair.0);
            Arc::make_mut(&mut ids.services)
                .insert(name.clone(), ServiceId::of(service, index, pair.0, pair.1));
            for backend in service.backends.values() {
                let tunnel = service.tunnel(backend.address).0;
                let place = (backend.address, backend_port(backend), index, tunnel);
                let Some(&id) = places.get(&place) else {
                    continue;
                };
                // Two names at one place: the first has it.
                if ids.freed_backends.remove(&id).is_none() {
                    continue;
                }
                let key = BackendKey {
                    service: name.clone(),
                    backend: backend.name.clone(),
                };
                let (address, port, service, tunnel) = place;
                let known = BackendId {
                    id,
                    service,
                    address,
                    port,
                    tunnel,
                    origin: Some([0; 8]),
                    handshakes: [0; 8],
                };
                Arc::make_mut(&mut ids.backends).insert(key, known);
            }
        }
        let kept = ids.backends.len();
        (ids, kept)
    }

    /// The ring pair of a service is where it is here, or was a moment ago.
    fn holds_ring(&self, id: &ServiceId, service: &ServiceImage) -> bool {
        let pair = (service.ring_base, service.ring_capacity);
        pair == (id.ring_base, id.ring_capacity)
            || self
                .freed_rings
                .iter()
                .any(|ring| (ring.base, ring.length / 2) == pair)
    }
}

/// The entry is of this service.
fn is_service(id: &ServiceId, image: &ServiceImage) -> bool {
    desired::address(id.address).0 == image.address
        && id.port == image.port
        && id.reach == image.reach
        && id.protocol == image.protocol
        && id.forwarding == image.forwarding
}
