//! Reads the maps back into an [`Actual`], believing nothing.
//!
//! Pins may have been written by a bug, a person, or a crash. Whatever would lead out of a map, or
//! has a value that this version never writes, is an error that names the place: the
//! daemon must not plan from it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytemuck::Pod;
use lb_common::{
    Address, BackendEntry, Control, Device, EndpointKey, EndpointKind, EndpointSlot, Forwarding,
    Header, Load, MidStream, NextHop, Permissions, Protocol, Reach, Rule, ServiceEntry, Spread,
    endpoint::{MAX_TUNNELS, tunnel_key},
    header,
    quic::MAX_CONFIG,
    rule,
    sources::{self, Access},
};

use super::geometry::is_consistent;
use super::mapped::Mapped;
use super::maps::Maps;
use super::{netdev, sys, trie};
use crate::dataplane::{
    Actual, Controls, DataplaneError, EndpointTarget, Image, Ranges, ServiceImage, consistent,
    ranges,
};

fn invalid(map: &'static str, index: u32, why: &str) -> DataplaneError {
    DataplaneError::Invalid {
        map,
        index,
        why: why.to_owned(),
    }
}

/// Fails with `why` unless `good`.
fn require(
    map: &'static str,
    index: u32,
    good: bool,
    why: &'static str,
) -> Result<(), DataplaneError> {
    if good {
        Ok(())
    } else {
        Err(invalid(map, index, why))
    }
}

/// Entries of a map that `keep` says are in use, by index.
fn entries<T: Pod>(
    name: &'static str,
    map: &Mapped,
    range: std::ops::Range<u32>,
    keep: impl Fn(&T) -> bool,
) -> Result<BTreeMap<u32, T>, DataplaneError> {
    let mut found = BTreeMap::new();
    for index in range {
        let value: T = map
            .read(index)
            .ok_or_else(|| invalid(name, index, "it is beyond the end of the map"))?;
        if keep(&value) {
            found.insert(index, value);
        }
    }
    Ok(found)
}

type Endpoints = BTreeMap<EndpointKey, Vec<EndpointTarget>>;

/// The live generation: endpoints and rules.
fn endpoints(maps: &Maps, control: &Control) -> Result<(Endpoints, Ranges), DataplaneError> {
    let mut firsts = Vec::new();
    let slots = maps.geometry.endpoint_slots;
    let first = if control.generation() == 0 { 0 } else { slots };
    let range = first..first.saturating_add(slots);
    let mut found = Endpoints::new();
    for (index, slot) in
        entries::<EndpointSlot>("endpoints", &maps.endpoints, range, |slot| slot.kind != 0)?
    {
        let check = |good, why| require("endpoints", index, good, why);
        let (kind, size) = match slot.kind {
            1 => (EndpointKind::Vip, maps.geometry.services),
            2 => (EndpointKind::VipAddress, 1),
            3 => (EndpointKind::Backend, maps.geometry.backends),
            4 => (
                EndpointKind::Prefix,
                maps.geometry.services.saturating_add(1),
            ),
            5 => (EndpointKind::Aside, maps.geometry.services),
            6 => (EndpointKind::ServerId, maps.geometry.backends),
            7 => (EndpointKind::Tunnel, maps.geometry.backends),
            _ => return Err(invalid("endpoints", index, "its kind is unknown")),
        };
        check(slot.index < size, "it leads out of a map")?;
        check(slot.reserved == 0, "reserved bytes are not zero")?;
        let without_port = slot.port == [0, 0] && slot.protocol == 0;
        let has_ports = Protocol::has_ports(slot.protocol);
        check(
            match kind {
                EndpointKind::VipAddress => without_port,
                EndpointKind::Vip | EndpointKind::Aside => slot.port != [0, 0] && has_ports,
                EndpointKind::Backend => has_ports,
                EndpointKind::Prefix => is_prefix(&slot),
                EndpointKind::ServerId => slot.protocol == Protocol::Udp as u8,
                EndpointKind::Tunnel => is_tunnel(&slot),
            },
            "port and protocol do not fit its kind",
        )?;
        let key = EndpointKey {
            address: Address(slot.address),
            port: slot.port,
            protocol: slot.protocol,
        };
        match kind {
            EndpointKind::Prefix => firsts.push((key, slot.index)),
            _ => found.entry(key).or_default().push((kind, slot.index)),
        }
    }
    for targets in found.values_mut() {
        targets.sort_unstable();
    }
    let rules = rules(maps, control, &firsts)?;
    let aside = |(kind, _): &EndpointTarget| *kind == EndpointKind::Aside;
    let asks = !rules.is_empty() || found.values().flatten().any(aside);
    require(
        "control",
        0,
        (control.live >> 1 & header::RANGES != 0) == asks,
        "the live generation says wrongly whether there is more than endpoints to look for",
    )?;
    Ok((found, rules))
}

/// A place that the data plane looks at.
fn is_tunnel(slot: &EndpointSlot) -> bool {
    let place = u16::from_be_bytes(slot.port);
    let key = tunnel_key(Address(slot.address), place);
    place < MAX_TUNNELS && key.protocol == slot.protocol
}

/// A length of 128 bits, of an address of its family, with no bits set behind it.
fn is_prefix(slot: &EndpointSlot) -> bool {
    let address = Address(slot.address);
    let [zero, length] = slot.port;
    let least = if address.is_v4() { 97 } else { 1 };
    let [high, low] = rule::mask(length.into());
    let [a, b] = address.words();
    zero == 0
        && slot.protocol == 0
        && (least..=128).contains(&length)
        && (a & !high.to_be(), b & !low.to_be()) == (0, 0)
}

fn rules(
    maps: &Maps,
    control: &Control,
    firsts: &[(EndpointKey, u32)],
) -> Result<Ranges, DataplaneError> {
    let generation = control.generation().into();
    let read = |index| maps.rules.read::<Rule>(rule::element(index, generation));
    let ranges = ranges::decode(firsts, read).map_err(|(at, why)| invalid("rules", at, why))?;
    for rule in ranges.values().flatten() {
        let good = rule.service < maps.geometry.services
            && rule.low <= rule.high
            && Protocol::from_u8(rule.protocol).is_some()
            && rule.reserved == [0; 6];
        require(
            "rules",
            rule.service,
            good,
            "a rule has values that nobody writes",
        )?;
    }
    Ok(ranges)
}

fn ring(maps: &Maps, base: u32, length: u32) -> Result<Arc<[u32]>, DataplaneError> {
    let mut ids = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let elements = base / 2..base.saturating_add(length).div_ceil(2);
    for element in elements {
        let pair: [u32; 2] = maps
            .rings
            .read(element)
            .ok_or_else(|| invalid("rings", element, "it is beyond the end of the map"))?;
        ids.extend_from_slice(&pair);
    }
    ids.truncate(usize::try_from(length).unwrap_or(0));
    for (slot, &id) in (base..).zip(&ids) {
        require(
            "rings",
            slot,
            id < maps.geometry.backends,
            "its BackendId leads out of the map",
        )?;
    }
    Ok(ids.into())
}

fn service(
    maps: &Maps,
    index: u32,
    entry: &ServiceEntry,
    sources: &BTreeMap<sources::Key, Access>,
) -> Result<(ServiceImage, u8), DataplaneError> {
    let check = |good, why| require("services", index, good, why);
    let (base, length) = ServiceEntry::unslice(entry.ring);
    let (ring_base, ring_capacity) = ServiceEntry::unslice(entry.pair);
    let pair_end = u64::from(ring_base).saturating_add(u64::from(ring_capacity).saturating_mul(2));
    check(entry.used == 1, "'used' is neither 0 nor 1")?;
    check(entry.reserved2 == 0, "reserved bytes are not zero")?;
    check(
        Spread::from_u8(entry.spread).is_some(),
        "what of its packets is scheduled is unknown",
    )?;
    check(
        entry.quic.0 >> (4 * (MAX_CONFIG + 1)) == 0,
        "its connection ids have a config id that there is not",
    )?;
    let Some(scheduling) = entry.scheduling() else {
        let why = "how its new flows are scheduled is unknown";
        return Err(invalid("services", index, why));
    };
    check(
        MidStream::from_u8(entry.mid_stream).is_some(),
        "its policy for the middle of streams is unknown",
    )?;
    check(
        match Reach::from_word(entry.reach()) {
            None => entry.port != [0, 0] && Protocol::has_ports(entry.protocol),
            Some(found) => {
                entry.port == [0, 0] && found.word() == entry.reach() && found.low <= found.high
            }
        },
        "its ports or its prefix are none",
    )?;
    check(
        (entry.mss != 0) == (entry.pick & ServiceEntry::CLAMPS != 0),
        "it lowers an MSS, or does not, against its own word",
    )?;
    check(
        pair_end <= u64::from(maps.geometry.ring_slots)
            && ring_base.is_multiple_of(2)
            && ring_capacity.is_multiple_of(2),
        "its pair of rings leads out of the map",
    )?;
    check(
        length <= ring_capacity
            && (base == ring_base || Some(base) == ring_base.checked_add(ring_capacity)),
        "its ring is not a half of its pair",
    )?;
    check(
        Protocol::from_u8(entry.protocol).is_some(),
        "its protocol is unknown",
    )?;
    check(
        Forwarding::from_u8(entry.forwarding).is_some(),
        "its forwarding is unknown",
    )?;
    check(
        matches!(entry.family, 4 | 6) && (entry.family == 4) == Address(entry.address).is_v4(),
        "its family is not its address's",
    )?;
    let image = ServiceImage {
        address: entry.address,
        port: u16::from_be_bytes(entry.port),
        reach: entry.reach(),
        protocol: entry.protocol,
        forwarding: entry.forwarding,
        family: entry.family,
        idle_epochs: entry.idle().0,
        mid_stream: entry.mid_stream,
        mss: entry.mss,
        times: entry.pick & ServiceEntry::TIMES != 0,
        shares: entry.pick & ServiceEntry::SHARES != 0,
        spread: entry.spread,
        scheduling,
        quic: entry.quic,
        sources: consistent::ranges(sources, entry.sources),
        ring_base,
        ring_capacity,
        ring: ring(maps, base, length)?,
    };
    Ok((image, u8::from(base != ring_base)))
}

fn check_backend(maps: &Maps, id: u32, entry: &BackendEntry) -> Result<(), DataplaneError> {
    let check = |good, why| require("backends", id, good, why);
    check(entry.used == 1, "'used' is neither 0 nor 1")?;
    check(
        entry.permissions.0 & !Permissions::KNOWN == 0,
        "it has unknown permissions",
    )?;
    check(
        entry.next_hop < maps.geometry.next_hops,
        "its next hop leads out of the map",
    )?;
    check(
        entry.service < maps.geometry.services,
        "its service leads out of the map",
    )?;
    let forwarding = Forwarding::from_u8(entry.forwarding);
    check(forwarding.is_some(), "its forwarding is unknown")?;
    check(
        forwarding.is_some_and(|forwarding| entry.tunnel.is_known(forwarding)),
        "its tunnel is unknown",
    )?;
    check(
        entry.reserved == 0 && entry.reserved2 == [0; 2] && entry.reserved3 == [0; 2],
        "reserved bytes are not zero",
    )
}

fn check_next_hop(index: u32, hop: &NextHop) -> Result<(), DataplaneError> {
    let check = |good, why| require("next_hops", index, good, why);
    check(hop.used == 1, "'used' is neither 0 nor 1")?;
    check(hop.resolved <= 1, "'resolved' is neither 0 nor 1")?;
    check(
        hop.reserved == 0 && hop.reserved2 == 0,
        "reserved bytes are not zero",
    )
}

/// Devices that are in use and that frames can be redirected to. The kernel empties the slot of the
/// devmap when a device is deleted; a slot that does not name the device is so reported as empty.
fn devices(maps: &Maps) -> Result<BTreeMap<u32, Device>, DataplaneError> {
    let range = 0..maps.devices.entries();
    let mut found = entries("devices", &maps.devices, range, consistent::has_device)?;
    for (&slot, device) in &found {
        consistent::device(slot, device).map_err(|why| invalid("devices", slot, &why))?;
    }
    let mut error = None;
    found.retain(
        |&slot, device| match sys::devmap_get(maps.redirects.as_fd(), slot) {
            Ok(_) if device.ifindex == 0 => true,
            // An interface of a VLAN may have gone, though its port has not.
            Ok(port) => port == device.port && !netdev::is_gone(device.ifindex),
            Err(source) => {
                error = Some(DataplaneError::Kernel {
                    call: format!("read redirects[{slot}]"),
                    source,
                });
                false
            }
        },
    );
    error.map_or(Ok(found), Err)
}

/// Everything, read back.
pub(crate) fn read(maps: &Maps) -> Result<Actual, DataplaneError> {
    let gone = |map| move || invalid(map, 0, "it is beyond the end of the map");
    let header: Header = maps.header.read(0).ok_or_else(gone("header"))?;
    let control: Control = maps.control.read(0).ok_or_else(gone("control"))?;
    require(
        "control",
        0,
        is_consistent(&control),
        "the live generation's seed is not that generation's",
    )?;

    let ranges = trie::read(maps)?;
    let mut services = BTreeMap::new();
    let mut live_half = BTreeMap::new();
    let mut source_half = BTreeMap::new();
    let range = 0..maps.services.entries();
    for (index, entry) in entries("services", &maps.services, range, |s: &ServiceEntry| {
        s.used != 0
    })? {
        let (image, half) = service(maps, index, &entry, &ranges)?;
        services.insert(index, image);
        live_half.insert(index, half);
        if let Some(half) = consistent::source_half(index, entry.sources)? {
            source_half.insert(index, half);
        }
    }
    let range = 0..maps.backends.entries();
    let mut backends = entries("backends", &maps.backends, range, |b: &BackendEntry| {
        b.used != 0
    })?;
    for (&id, entry) in &mut backends {
        // What packets have learned of the path is no plan's.
        if Forwarding::from_u8(entry.forwarding).is_some_and(Forwarding::is_tunnel) {
            entry.tunnel = entry.tunnel.configured();
        }
        check_backend(maps, id, entry)?;
        // What flows weigh is counted, and no plan's.
        entry.load = Load::UNKNOWN;
    }
    let range = 0..maps.next_hops.entries();
    let next_hops = entries("next_hops", &maps.next_hops, range, |h: &NextHop| {
        h.used != 0
    })?;
    for (&index, hop) in &next_hops {
        check_next_hop(index, hop)?;
    }
    let (endpoints, rules) = endpoints(maps, &control)?;
    Ok(Actual {
        image: Image {
            endpoints,
            ranges: rules,
            services,
            backends,
            next_hops,
            devices: devices(maps)?,
            controls: Controls::of(&control),
            config_revision: header.config_revision,
        },
        generation: control.generation(),
        live_half,
        stray_sources: consistent::strays(&ranges, &source_half),
        source_half,
        header,
    })
}
