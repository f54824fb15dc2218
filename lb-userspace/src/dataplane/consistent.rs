//! Whether what was read back can be true: every index leads to an entry in use, of the right owner. Pure.
//!
//! Every prefix of every plan keeps this, so a daemon that finds otherwise has found somebody
//! else's writes, and must not plan from them (RELIABILITY.md K3). Values that are wrong by themselves are found
//! by whoever reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytemuck::Zeroable;
use lb_common::backend::device_slot;
use lb_common::sources::{self, Access, SET_BITS};
use lb_common::{Address, Device, EndpointKind, Forwarding, Reach, Tunnel};

use super::{Actual, DataplaneError, Image, ServiceImage, SourceRange, outer_family};

/// True for a slot of `devices` that says something.
pub fn has_device(device: &Device) -> bool {
    device.ifindex != 0 || device.vlan != 0
}

/// Whether a slot of `devices` can hold this; if not, why.
pub fn device(slot: u32, device: &Device) -> Result<(), String> {
    let alone = Device {
        vlan: device.vlan,
        ..Device::zeroed()
    };
    if device.ifindex == 0 && *device == alone && device.vlan != 0 {
        return Ok(());
    }
    if device.ifindex == 0 || device_slot(device.ifindex) != slot {
        return Err(format!(
            "interface {} does not belong there",
            device.ifindex
        ));
    }
    let tagged = match device.tags.count() {
        0 => 0,
        _ => Device::TAGGED,
    };
    if device.port == 0 || device.tags != device.tags.plain() || device.tagged != tagged {
        return Err(format!(
            "where frames of interface {} leave makes no sense",
            device.ifindex
        ));
    }
    Ok(())
}

/// What a set of sources holds, sorted.
pub fn ranges(all: &BTreeMap<sources::Key, Access>, set: u32) -> Arc<[SourceRange]> {
    if set == 0 {
        return Arc::default();
    }
    let mut ranges: Vec<SourceRange> = all
        .iter()
        .filter(|(key, _)| key.set() == set)
        .map(|(key, &access)| SourceRange {
            address: Address(key.address),
            bits: key.bits.saturating_sub(SET_BITS),
            access,
        })
        .collect();
    ranges.sort_unstable();
    ranges.into()
}

/// Which of its two sets a service names; `None`: none. Another number is somebody else's.
pub fn source_half(service: u32, set: u32) -> Result<Option<u8>, DataplaneError> {
    if set == 0 {
        return Ok(None);
    }
    let half = [0, 1]
        .into_iter()
        .find(|&half| sources::set(service, half) == set);
    half.map(Some).ok_or_else(|| DataplaneError::Invalid {
        map: "services",
        index: service,
        why: format!("it names the set of sources {set}, which is not one of its two"),
    })
}

/// Sets with entries that no service names.
pub fn strays(all: &BTreeMap<sources::Key, Access>, named: &BTreeMap<u32, u8>) -> BTreeSet<u32> {
    let named: BTreeSet<u32> = named
        .iter()
        .map(|(&service, &half)| sources::set(service, half))
        .collect();
    let there = all.keys().map(sources::Key::set);
    there.filter(|set| !named.contains(set)).collect()
}

/// The first place that contradicts another.
pub fn check(actual: &Actual) -> Result<(), DataplaneError> {
    let image = &actual.image;
    let wrong = |map, index: u32, why: String| Err(DataplaneError::Invalid { map, index, why });
    for (index, service) in &image.services {
        if actual.source_half.contains_key(index) == service.sources.is_empty() {
            let why = "it names a set of sources that holds nothing".to_owned();
            return wrong("services", *index, why);
        }
        let ids: BTreeSet<u32> = service.ring.iter().copied().collect();
        for id in ids {
            let member = image.backends.get(&id);
            if member.is_none_or(|backend| backend.service != *index) {
                let why =
                    format!("its ring names BackendId {id}, which is not one of its backends");
                return wrong("services", *index, why);
            }
        }
    }
    for (id, backend) in &image.backends {
        if !image.next_hops.contains_key(&backend.next_hop) {
            let why = format!("its next hop {} is not in use", backend.next_hop);
            return wrong("backends", *id, why);
        }
        if backend.forwarding == Forwarding::Fullnat as u8
            && !image.controls.has_nat(Address(backend.address).family())
        {
            let why = "its clients need an address to stand for them, and there is none".to_owned();
            return wrong("backends", *id, why);
        }
        let Some(outer) = outer_family(backend) else {
            continue;
        };
        if !image.controls.has_tunnel(outer) {
            let why = "its packets need a tunnel, and there is no source for it".to_owned();
            return wrong("backends", *id, why);
        }
        let service = image.services.get(&backend.service);
        if backend.tunnel == Tunnel::USUAL
            && service.is_some_and(|service| service.family != outer as u8)
        {
            let why = "its tunnel is one within a family, and its service is of another".to_owned();
            return wrong("backends", *id, why);
        }
    }
    for targets in image.endpoints.values() {
        for (kind, index) in targets {
            match kind {
                EndpointKind::Vip | EndpointKind::Aside => check_service(image, *index)?,
                EndpointKind::Backend | EndpointKind::ServerId | EndpointKind::Tunnel
                    if !image.backends.contains_key(index) =>
                {
                    let why = "an endpoint leads here, and it is not in use".to_owned();
                    return wrong("backends", *index, why);
                }
                EndpointKind::Backend
                | EndpointKind::ServerId
                | EndpointKind::Tunnel
                | EndpointKind::VipAddress
                | EndpointKind::Prefix => {}
            }
        }
    }
    for (prefix, rules) in &image.ranges {
        for rule in rules {
            check_service(image, rule.service)?;
            let service = image.services.get(&rule.service);
            let reach = Reach {
                length: prefix.1,
                low: rule.low,
                high: rule.high,
            };
            let same = |service: &ServiceImage| {
                (service.address, service.reach, service.protocol)
                    == (prefix.0.0, reach.word(), rule.protocol)
            };
            if !service.is_some_and(same) {
                let why = "a rule of other addresses, ports or protocol leads here".to_owned();
                return wrong("services", rule.service, why);
            }
        }
    }
    Ok(())
}

/// Something leads to the service: it is in use, and has what its packets need.
fn check_service(image: &Image, index: u32) -> Result<(), DataplaneError> {
    let wrong = |why: &str| {
        Err(DataplaneError::Invalid {
            map: "services",
            index,
            why: why.to_owned(),
        })
    };
    match image.services.contains_key(&index) {
        true => Ok(()),
        false => wrong("an endpoint leads here, and it is not in use"),
    }
}
