//! How large a client's packet may be to fit on the way to the backends, and whether that is enough.
//!
//! A sender of IPv6 makes no packet smaller than 1280 bytes on account of what it is told (RFC 8201 section 4), and what is in a tunnel cannot
//! be cut into pieces: where less fits, every packet of full size is lost.

use std::collections::BTreeSet;

use super::{State, record};
use crate::event::{Effect, Record};
use crate::model::{self, Backend, BackendKey, Family, Name, Service};
use crate::status::Counters;

/// Bytes from the IP header on that every link of IPv6 carries (RFC 8200 section 5).
const LEAST_V6: u32 = 1280;

/// Why clients lose packets of full size; `None`: they do not.
pub(super) fn trouble(service: &Service, largest: Option<u32>) -> Option<String> {
    let largest = largest.filter(|largest| *largest < LEAST_V6)?;
    let missing = LEAST_V6.saturating_sub(largest);
    (service.address.family() == Family::V6).then(|| {
        format!(
            "packets of up to {largest} bytes fit on the way to its backends, and IPv6 clients send {LEAST_V6} whatever they are told (RFC 8201): larger ones are lost (raise the MTU toward the backends by {missing} bytes)"
        )
    })
}

impl State {
    /// What fits on the way to all of a service's backends.
    pub(super) fn largest_packet(&self, service: &Service, counters: &Counters) -> Option<u32> {
        let largest = service.keyed_backends().filter_map(|(key, backend)| {
            let numbers = self.ids().backend(&key);
            let path = numbers.and_then(|numbers| counters.paths.get(&numbers.id));
            self.largest_to(service, backend, path.copied())
        });
        largest.min()
    }

    /// What fits on the way to a backend, if one is known, with what routers said of it.
    fn largest_to(&self, service: &Service, backend: &Backend, path: Option<u32>) -> Option<u32> {
        let growth = match service.forwarding.is_tunnel() {
            true => service
                .tunnel(backend.address)
                .growth(model::family(backend.address)),
            false => 0,
        };
        let hops = self.next_hops(backend.address);
        let hops = hops.filter(|(_, hop)| hop.resolved == 1);
        let path = path.unwrap_or(u32::MAX);
        hops.map(|(_, hop)| hop.mtu.min(path).saturating_sub(growth))
            .min()
    }

    /// Looks at the ways that have changed: services of IPv6 for which too little fits are told, and when that is over. What
    /// routers say never makes it less than that.
    pub(super) fn look_at_room(&mut self, effects: &mut Vec<Effect>) {
        let config = std::sync::Arc::clone(&self.config);
        for (service, narrow) in &mut self.narrow {
            let of = config.services.get(service);
            narrow.retain(|name| of.is_some_and(|of| of.backends.contains_key(name)));
            if narrow.is_empty() && of.is_some() {
                let (service, trouble) = (service.clone(), None);
                record(effects, Record::Narrow { service, trouble });
            }
        }
        self.narrow.retain(|_, narrow| !narrow.is_empty());
        let at = self.dirty.hops.iter();
        let at = at.filter_map(|address| self.at.get(address)).flatten();
        let services = self.dirty.services.iter();
        let services = services.filter_map(|name| config.services.get(name));
        let whole = services.flat_map(|service| service.keyed_backends().map(|(key, _)| key));
        let changed: BTreeSet<BackendKey> = at.cloned().chain(whole).collect();
        for key in changed {
            let Some((service, backend)) = config.backend(&key) else {
                continue;
            };
            // Of one whose way is lost nothing new is known.
            let Some(largest) = self.largest_to(service, backend, None) else {
                continue;
            };
            let trouble = trouble(service, Some(largest));
            let known = self.narrow.get_mut(&key.service);
            let was = known.as_ref().is_some_and(|known| !known.is_empty());
            match (&trouble, known) {
                (None, None) => continue,
                (None, Some(known)) => drop(known.remove(&key.backend)),
                (Some(_), Some(known)) => drop(known.insert(key.backend)),
                (Some(_), None) => {
                    let first = BTreeSet::from([key.backend]);
                    self.narrow.insert(key.service.clone(), first);
                }
            }
            let is = self.is_narrow(&key.service);
            if !is {
                self.narrow.remove(&key.service);
            }
            if was != is {
                let service = key.service;
                record(effects, Record::Narrow { service, trouble });
            }
        }
    }

    fn is_narrow(&self, service: &Name) -> bool {
        let known = self.narrow.get(service);
        known.is_some_and(|known| !known.is_empty())
    }
}
