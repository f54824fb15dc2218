//! Runs map operations: memory writes, and two system calls for a device.
//!
//! Before each operation the owner epoch in the header is compared with ours, so that a daemon that was
//! paused while another took over stops at its next write. An operation never writes a word that
//! does not change; what it makes visible goes last.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use bytemuck::{Pod, Zeroable};
use lb_common::backend::DEVICES;
use lb_common::{
    BackendEntry, Control, Device, EndpointSlot, Header, NextHop, Permissions, Rule, ServiceEntry,
    rule,
};
use tracing::warn;

use super::Bpf;
use super::mapped::Mapped;
use super::maps::Maps;
use super::{actual, sys, trie};
use crate::dataplane::{Actual, Dataplane, DataplaneError, MapOp, ServiceImage, consistent};

/// Words of the header that are written alone.
const OWNER_EPOCH: usize = offset_of!(Header, owner_epoch) / 8;
const CONFIG_REVISION: usize = offset_of!(Header, config_revision) / 8;
const COMPLETE: usize = offset_of!(Header, complete) / 8;
/// Of the control block, written alone.
const FLOW_CPUS: usize = offset_of!(Control, flow_cpus) / 8;

/// The owner epoch in the header.
pub(crate) fn owner_epoch(maps: &Maps) -> u64 {
    maps.header
        .word(0, OWNER_EPOCH)
        .map_or(u64::MAX, |word| word.load(Ordering::Acquire))
}

/// Becomes the owner: raises the epoch and returns the new one.
pub(crate) fn raise_owner_epoch(maps: &Maps) -> u64 {
    maps.header.word(0, OWNER_EPOCH).map_or(0, |word| {
        word.fetch_add(1, Ordering::AcqRel).saturating_add(1)
    })
}

fn invalid(map: &'static str, index: u32, why: impl Into<String>) -> DataplaneError {
    DataplaneError::Invalid {
        map,
        index,
        why: why.into(),
    }
}

fn set<T: Pod>(
    name: &'static str,
    map: &Mapped,
    index: u32,
    value: &T,
) -> Result<(), DataplaneError> {
    map.write(index, value).ok_or(DataplaneError::OutOfRange {
        map: name,
        index,
        size: map.entries(),
    })
}

fn get<T: Pod>(name: &'static str, map: &Mapped, index: u32) -> Result<T, DataplaneError> {
    map.read(index).ok_or(DataplaneError::OutOfRange {
        map: name,
        index,
        size: map.entries(),
    })
}

fn store_header(maps: &Maps, word: usize, value: u64) -> Result<(), DataplaneError> {
    maps.header
        .word(0, word)
        .map(|place| place.store(value, Ordering::Release))
        .ok_or(DataplaneError::OutOfRange {
            map: "header",
            index: 0,
            size: maps.header.entries(),
        })
}

fn update_control(maps: &Maps, change: impl FnOnce(&mut Control)) -> Result<(), DataplaneError> {
    let mut control: Control = get("control", &maps.control, 0)?;
    change(&mut control);
    set("control", &maps.control, 0, &control)
}

/// `Control::flow_cpus`, and nothing else: an older daemon that is late must not bring back what a newer one has changed. What
/// shares its word is geometry, which never changes.
pub(super) fn write_flow_cpus(maps: &Maps, cpus: u32) -> Result<(), DataplaneError> {
    let place = maps
        .control
        .word(0, FLOW_CPUS)
        .ok_or(DataplaneError::OutOfRange {
            map: "control",
            index: 0,
            size: maps.control.entries(),
        })?;
    let word = place.load(Ordering::Relaxed);
    let new = flow_cpus_in(word, cpus);
    if new != word {
        place.store(new, Ordering::Release);
    }
    Ok(())
}

/// The word of `Control::flow_cpus` with another number of CPUs.
fn flow_cpus_in(word: u64, cpus: u32) -> u64 {
    let [nat_mask, _]: [u32; 2] = bytemuck::cast(word);
    bytemuck::cast([nat_mask, cpus])
}

const _: () = assert!(
    offset_of!(Control, nat_mask) == 8 * FLOW_CPUS
        && offset_of!(Control, flow_cpus) == 8 * FLOW_CPUS + 4
);

/// Slots from `base` on must lie within `rings`, and begin with an element.
fn check_slice(maps: &Maps, base: u32, length: u32) -> Result<(), DataplaneError> {
    let size = maps.geometry.ring_slots;
    if !base.is_multiple_of(2) {
        return Err(invalid("rings", base, "a slice begins at an odd slot"));
    }
    match base.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DataplaneError::OutOfRange {
            map: "rings",
            index: base.saturating_add(length),
            size,
        }),
    }
}

fn write_ring(maps: &Maps, base: u32, ids: &[u32]) -> Result<(), DataplaneError> {
    let length = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    check_slice(maps, base, length)?;
    if let Some(&id) = ids.iter().find(|&&id| id >= maps.geometry.backends) {
        return Err(DataplaneError::OutOfRange {
            map: "backends",
            index: id,
            size: maps.geometry.backends,
        });
    }
    for (element, pair) in (base / 2..).zip(ids.chunks(2)) {
        let mut both: [u32; 2] = get("rings", &maps.rings, element)?;
        for (place, &id) in both.iter_mut().zip(pair) {
            *place = id;
        }
        set("rings", &maps.rings, element, &both)?;
    }
    Ok(())
}

fn write_service(
    maps: &Maps,
    index: u32,
    image: &ServiceImage,
    half: u8,
    source_half: u8,
) -> Result<(), DataplaneError> {
    if half > 1 || image.ring.len() as u64 > u64::from(image.ring_capacity) {
        return Err(invalid("services", index, "its ring does not fit its half"));
    }
    let entry = image.entry(half, image.source_set(index, source_half));
    check_slice(maps, image.ring_base, image.ring_capacity.saturating_mul(2))?;
    if !image.ring_capacity.is_multiple_of(2) {
        return Err(invalid("services", index, "half of its ring pair is odd"));
    }
    set("services", &maps.services, index, &entry)
}

fn switch_ring(maps: &Maps, index: u32, base: u32, length: u32) -> Result<(), DataplaneError> {
    check_slice(maps, base, length)?;
    let mut entry: ServiceEntry = get("services", &maps.services, index)?;
    entry.ring = ServiceEntry::slice(base, length);
    set("services", &maps.services, index, &entry)
}

fn set_backend_word(
    maps: &Maps,
    id: u32,
    change: impl FnOnce(&mut BackendEntry),
) -> Result<(), DataplaneError> {
    let mut entry: BackendEntry = get("backends", &maps.backends, id)?;
    change(&mut entry);
    check_next_hop(maps, entry.next_hop)?;
    // The changed fields share one word, so this is one store; of the others the data plane writes some.
    let words: &[u64] = bytemuck::cast_slice(bytemuck::bytes_of(&entry));
    if let (Some(place), Some(new)) = (maps.backends.word(id, STATE), words.get(STATE)) {
        place.store(*new, Ordering::Release);
    }
    Ok(())
}

/// The word of a backend's line that says where it is and what it may.
const STATE: usize = offset_of!(BackendEntry, next_hop) / 8;

const _: () = assert!(
    offset_of!(BackendEntry, next_hop).is_multiple_of(8)
        && offset_of!(BackendEntry, permissions) / 8 == offset_of!(BackendEntry, next_hop) / 8
        && offset_of!(BackendEntry, used) / 8 == offset_of!(BackendEntry, next_hop) / 8
);

fn check_next_hop(maps: &Maps, index: u32) -> Result<(), DataplaneError> {
    if index < maps.geometry.next_hops {
        return Ok(());
    }
    Err(DataplaneError::OutOfRange {
        map: "next_hops",
        index,
        size: maps.geometry.next_hops,
    })
}

fn write_device(maps: &Maps, slot: u32, device: &Device) -> Result<(), DataplaneError> {
    if slot >= DEVICES {
        return Err(DataplaneError::OutOfRange {
            map: "devices",
            index: slot,
            size: DEVICES,
        });
    }
    if let Err(why) = consistent::device(slot, device) {
        return Err(invalid("devices", slot, why));
    }
    if device.ifindex == 0 {
        return clear_device(maps, slot, device.vlan);
    }
    match sys::devmap_set(maps.redirects.as_fd(), slot, device.port) {
        Ok(()) => set("devices", &maps.devices, slot, device),
        // It was deleted after netlink told us of it; netlink will tell that too. Only frames that
        // would leave by it are affected, so what else is to be written must not wait for it.
        Err(error) if super::netdev::is_gone(device.port) => {
            warn!(
                ifindex = device.port,
                %error,
                "an interface is gone before it could be used: frames to it are dropped"
            );
            clear_device(maps, slot, device.vlan)
        }
        Err(source) => Err(DataplaneError::Kernel {
            call: format!("write redirects[{slot}] = interface {}", device.port),
            source,
        }),
    }
}

fn clear_device(maps: &Maps, slot: u32, vlan: u32) -> Result<(), DataplaneError> {
    let empty = Device {
        vlan,
        ..Device::zeroed()
    };
    set("devices", &maps.devices, slot, &empty)?;
    sys::devmap_clear(maps.redirects.as_fd(), slot).map_err(|source| DataplaneError::Kernel {
        call: format!("clear redirects[{slot}]"),
        source,
    })
}

fn write_endpoints(
    maps: &Maps,
    generation: u8,
    seed: u64,
    slots: &[EndpointSlot],
    rules: &[Rule],
) -> Result<(), DataplaneError> {
    let per_generation = maps.geometry.endpoint_slots;
    let control: Control = get("control", &maps.control, 0)?;
    if generation > 1 || generation == control.generation() {
        return Err(invalid(
            "endpoints",
            generation.into(),
            "this generation is live",
        ));
    }
    if slots.len() as u64 != u64::from(per_generation) {
        let why = format!(
            "a generation has {per_generation} slots, not {}",
            slots.len()
        );
        return Err(invalid("endpoints", generation.into(), why));
    }
    update_control(maps, |control| {
        if let Some(place) = control.endpoint_seed.get_mut(usize::from(generation)) {
            *place = seed;
        }
    })?;
    let first = per_generation.saturating_mul(generation.into());
    for (index, slot) in (first..).zip(slots) {
        set("endpoints", &maps.endpoints, index, slot)?;
    }
    for (index, found) in (0..).zip(rules) {
        let element = rule::element(index, generation.into());
        set("rules", &maps.rules, element, found)?;
    }
    Ok(())
}

fn switch_endpoints(maps: &Maps, generation: u8) -> Result<(), DataplaneError> {
    if generation > 1 {
        return Err(invalid("control", 0, "there are two generations, 0 and 1"));
    }
    update_control(maps, |control| {
        let [first, second] = control.endpoint_seed;
        let seed = if generation == 0 { first } else { second };
        control.live = Control::live(seed, generation);
    })
}

fn run(maps: &Maps, op: &MapOp) -> Result<(), DataplaneError> {
    match op {
        MapOp::SetBackendWord {
            id,
            permissions,
            next_hop,
        } => set_backend_word(maps, *id, |entry| {
            entry.permissions = *permissions;
            entry.next_hop = *next_hop;
        }),
        MapOp::WriteRing { base, ids } => write_ring(maps, *base, ids),
        MapOp::SwitchRing {
            service,
            base,
            length,
        } => switch_ring(maps, *service, *base, *length),
        MapOp::WriteService {
            service,
            image,
            half,
            source_half,
        } => write_service(maps, *service, image, *half, *source_half),
        MapOp::WriteSources { set, ranges } => trie::write(maps, *set, ranges),
        MapOp::ClearSources { set } => trie::clear(maps, *set),
        MapOp::ClearService { service } => set(
            "services",
            &maps.services,
            *service,
            &ServiceEntry::zeroed(),
        ),
        MapOp::WriteBackend { id, entry } => {
            check_next_hop(maps, entry.next_hop)?;
            set("backends", &maps.backends, *id, entry)
        }
        MapOp::ClearBackend { id } => {
            // What packets ask first goes first: an entry half cleared is not in use.
            set_backend_word(maps, *id, |entry| {
                (entry.next_hop, entry.permissions, entry.used) = (0, Permissions::NONE, 0);
            })?;
            set("backends", &maps.backends, *id, &BackendEntry::zeroed())
        }
        MapOp::WriteNextHop { index, hop } => set("next_hops", &maps.next_hops, *index, hop),
        MapOp::ClearNextHop { index } => {
            set("next_hops", &maps.next_hops, *index, &NextHop::zeroed())
        }
        MapOp::WriteDevice { slot, device } => write_device(maps, *slot, device),
        MapOp::ClearDevice { slot } => clear_device(maps, *slot, 0),
        MapOp::WriteEndpoints {
            generation,
            seed,
            slots,
            rules,
        } => write_endpoints(maps, *generation, *seed, slots, rules),
        MapOp::SwitchEndpoints { generation } => switch_endpoints(maps, *generation),
        MapOp::SetControls { controls } => update_control(maps, |control| controls.put(control)),
        MapOp::SetRevision { revision } => {
            store_header(maps, CONFIG_REVISION, *revision)?;
            store_header(maps, COMPLETE, 1)
        }
    }
}

impl Bpf {
    /// Says until when this daemon is to be taken for alive, as `Control::alive_until`. Only who has looked at
    /// [`Self::check_owner`] may say it.
    pub fn stay_alive(&self, until: u64) -> Result<(), DataplaneError> {
        update_control(&self.maps, |control| control.alive_until = until)
    }

    /// `Err`: a newer daemon has taken the maps over, and this one must write nothing more, anywhere.
    pub fn check_owner(&self) -> Result<(), DataplaneError> {
        let theirs = owner_epoch(&self.maps);
        if theirs == self.owner_epoch {
            return Ok(());
        }
        Err(DataplaneError::Fenced {
            ours: self.owner_epoch,
            theirs,
        })
    }
}

impl Dataplane for Bpf {
    fn actual(&mut self) -> Result<Actual, DataplaneError> {
        actual::read(&self.maps)
    }

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DataplaneError> {
        self.check_owner()?;
        for op in ops {
            self.check_owner()?;
            run(&self.maps, op)?;
        }
        Ok(())
    }
}

/// Writes header and control block of new maps; the magic number goes last.
pub(crate) fn initialise(maps: &Maps, header: &Header, control: &Control) -> io::Result<()> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    maps.control.write(0, control).ok_or_else(short)?;
    maps.header.write(0, header).ok_or_else(short)
}
