//! From what the maps hold to what they should hold: operations in an order that is safe at every
//! prefix. Pure; nobody else makes a [`MapOp`].
//!
//! The order, and why:
//!
//! 1. what backends may no longer do: urgent, and one store each;
//! 2. interfaces and next hops, then the words of backends that use them or are given more;
//! 3. limits and tunnel sources, before anybody can need them; new backends: nothing leads to them yet;
//! 4. rings, each into the half of its pair that is not live, then one store that switches;
//!    a service's changed sources go into its set that is not in use, before the store that names it;
//! 5. new services with their rings: no endpoint leads to them yet;
//! 6. endpoints and rules into the generation that is not live, then one store that switches;
//! 7. what nothing leads to any more is cleared, then tunnel sources that nobody uses any more;
//! 8. the revision, which says that all before it is done.
//!
//! One exception to 1: when a service's live ring would have nobody left and its new ring has somebody, the
//! loss waits for the ring (a millisecond), so that no prefix leaves a served service without a backend.
//!
//! Entries in use change only in fields that one store can change. That an index is given to somebody
//! else takes two plans with a rest between, which `ids` sees to; here it is an error.

pub mod endpoints;
mod sources;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::backend::DEVICES;
use lb_common::{Device, NextHop};

use crate::dataplane::{Actual, Image, MapOp, ServiceImage};
use crate::state::Word;
use endpoints::PlacementError;
pub use words::{plan_words, take_words};

/// Why there is no plan. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The maps are too small.
    #[error(
        "plan {map}[{index}]: the map has {size} entries (raise [limits] and recreate the maps with 'fairlead unload')"
    )]
    OutOfRange {
        /// Map.
        map: &'static str,
        /// Index.
        index: u32,
        /// Entries.
        size: u32,
    },
    /// An index that somebody else still has.
    #[error(
        "plan {map}[{index}]: it is in use for something else (a bug, or a state file of other maps: 'fairlead unload' and start again)"
    )]
    Reused {
        /// Map.
        map: &'static str,
        /// Index.
        index: u32,
    },
    /// Both halves of a ring pair are somebody's live ring.
    #[error(
        "plan the ring of services[{service}] at slot {base}: both halves are live rings (a bug, or a state file of other maps: 'fairlead unload' and start again)"
    )]
    RingBusy {
        /// Service index.
        service: u32,
        /// First slot of the pair.
        base: u32,
    },
    /// A ring leads out of its service.
    #[error(
        "plan the ring of services[{service}]: BackendId {id} is not one of its backends (a bug)"
    )]
    Stranger {
        /// Service index.
        service: u32,
        /// BackendId.
        id: u32,
    },
    /// Endpoints.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

/// The operations that turn what is there into what is wanted; none when nothing differs.
pub fn plan(actual: &Actual, desired: &Image) -> Result<Vec<MapOp>, PlanError> {
    check(actual, desired)?;
    let from = &actual.image;
    let wanted: BTreeMap<u32, Word> = desired
        .backends
        .iter()
        .map(|(id, entry)| {
            let word = Word {
                permissions: entry.permissions,
                next_hop: entry.next_hop,
            };
            (*id, word)
        })
        .collect();
    let mut ops = plan_words(from, &wanted, &desired.next_hops, &desired.devices);
    let controls = desired.controls.or_tunnels_of(&from.controls);
    if controls != from.controls {
        ops.push(MapOp::SetControls { controls });
    }
    for (id, entry) in &desired.backends {
        if !from.backends.contains_key(id) {
            ops.push(MapOp::WriteBackend {
                id: *id,
                entry: *entry,
            });
        }
    }
    let mut live = LiveRings::of(actual);
    for (index, service) in &desired.services {
        if let Some(before) = from.services.get(index) {
            let half = actual.live_half.get(index).copied().unwrap_or(0);
            let source_half = sources::write(actual, *index, service, &mut ops);
            let halves = (half, source_half);
            change_service(*index, before, halves, service, &mut live, &mut ops)?;
        }
    }
    // Losses that waited for their rings. What was written above is not written again.
    ops.extend(words::late(from, &wanted));
    for (index, service) in &desired.services {
        if !from.services.contains_key(index) {
            let half = live.free_half(*index, service)?;
            write_ring(service, half, &mut ops);
            let source_half = sources::write(actual, *index, service, &mut ops);
            ops.push(write_service(*index, service, (half, source_half)));
            live.set(*index, service.live_slice(half));
        }
    }
    if from.endpoints != desired.endpoints || from.ranges != desired.ranges {
        let slots = actual.header.endpoint_slots;
        let placed = endpoints::place(&desired.endpoints, &desired.ranges, slots)?;
        let generation = 1_u8.saturating_sub(actual.generation);
        ops.push(MapOp::WriteEndpoints {
            generation,
            seed: placed.seed,
            slots: placed.slots.into(),
            rules: placed.rules.into(),
        });
        ops.push(MapOp::SwitchEndpoints { generation });
    }
    clears(from, desired, &mut ops);
    sources::clear(actual, desired, &mut ops);
    if controls != desired.controls {
        ops.push(MapOp::SetControls {
            controls: desired.controls,
        });
    }
    if from.config_revision != desired.config_revision || actual.header.complete != 1 {
        ops.push(MapOp::SetRevision {
            revision: desired.config_revision,
        });
    }
    Ok(ops)
}

/// The operations for some services with another ring and for some words and next hops, when nothing else
/// differs: a verdict must not cost a look at all backends. The same order as [`plan`]'s.
pub fn plan_rings(
    actual: &Actual,
    services: &BTreeMap<u32, ServiceImage>,
    wanted: &BTreeMap<u32, Word>,
    next_hops: &BTreeMap<u32, NextHop>,
    devices: &BTreeMap<u32, Device>,
) -> Result<Vec<MapOp>, PlanError> {
    let from = &actual.image;
    let mut ops = plan_words(from, wanted, next_hops, devices);
    let mut live = LiveRings::of(actual);
    for (index, service) in services {
        let Some(before) = from.services.get(index) else {
            continue;
        };
        if before.ring != service.ring {
            check_ring(*index, service, from)?;
        }
        let half = actual.live_half.get(index).copied().unwrap_or(0);
        let source_half = sources::write(actual, *index, service, &mut ops);
        let halves = (half, source_half);
        change_service(*index, before, halves, service, &mut live, &mut ops)?;
    }
    ops.extend(words::late(from, wanted));
    Ok(ops)
}

/// Notes what the maps hold after all of `ops`, which are those of [`plan_rings`].
pub fn take_rings(actual: &mut Actual, services: BTreeMap<u32, ServiceImage>, ops: &[MapOp]) {
    take_words(&mut actual.image, ops);
    for (index, service) in services {
        if let Some(known) = actual.image.services.get_mut(&index) {
            *known = service;
        }
    }
    take_halves(&mut actual.live_half, &actual.image, ops);
    sources::take_halves(actual, ops);
}

/// What the maps hold after all of `ops`, which are `plan(actual, desired)`.
pub fn after(actual: &Actual, desired: &Image, ops: &[MapOp]) -> Actual {
    let mut after = actual.clone();
    after.image = desired.clone();
    after.header.config_revision = desired.config_revision;
    after.header.complete = 1;
    after
        .live_half
        .retain(|index, _| desired.services.contains_key(index));
    take_halves(&mut after.live_half, desired, ops);
    sources::take_halves(&mut after, ops);
    for op in ops {
        if let MapOp::SwitchEndpoints { generation } = op {
            after.generation = *generation;
        }
    }
    after
}

/// Which half of each ring pair is live after `ops`.
fn take_halves(live_half: &mut BTreeMap<u32, u8>, image: &Image, ops: &[MapOp]) {
    for op in ops {
        match op {
            MapOp::WriteService { service, half, .. } => {
                live_half.insert(*service, *half);
            }
            MapOp::SwitchRing { service, base, .. } => {
                let pair = image.services.get(service).map(|s| s.ring_base);
                live_half.insert(*service, u8::from(pair != Some(*base)));
            }
            _ => {}
        }
    }
}

/// Where live rings are, as the plan goes on.
struct LiveRings<'a> {
    /// Before the plan.
    actual: &'a Actual,
    /// Those that the plan has put elsewhere.
    moved: BTreeMap<u32, (u32, u32)>,
}

impl<'a> LiveRings<'a> {
    fn of(actual: &'a Actual) -> Self {
        let moved = BTreeMap::new();
        Self { actual, moved }
    }

    fn set(&mut self, service: u32, slice: (u32, u32)) {
        self.moved.insert(service, slice);
    }

    /// A half of the service's pair where no live ring is; half 0 if both are free.
    fn free_half(&self, index: u32, service: &ServiceImage) -> Result<u8, PlanError> {
        let free = |half: &u8| {
            let (base, _) = service.live_slice(*half);
            let end = base.saturating_add(service.ring_capacity);
            let meets =
                |(start, length): (u32, u32)| start < end && base < start.saturating_add(length);
            let stays = |(index, other): (&u32, &ServiceImage)| {
                // With 10,000 services, most of the work would be to look up which half is live.
                let (last, length) = other.live_slice(1);
                let longest = length.max(other.ring_capacity).saturating_add(last);
                let pair = (other.ring_base, longest.saturating_sub(other.ring_base));
                meets(pair) && !self.moved.contains_key(index) && {
                    let half = self.actual.live_half.get(index).copied().unwrap_or(0);
                    meets(other.live_slice(half))
                }
            };
            !self.actual.image.services.iter().any(stays)
                && !self.moved.values().copied().any(meets)
        };
        [0, 1].into_iter().find(free).ok_or(PlanError::RingBusy {
            service: index,
            base: service.ring_base,
        })
    }
}

fn change_service(
    index: u32,
    before: &ServiceImage,
    (half, source_half): (u8, u8),
    service: &ServiceImage,
    live: &mut LiveRings<'_>,
    ops: &mut Vec<MapOp>,
) -> Result<(), PlanError> {
    let moved =
        (before.ring_base, before.ring_capacity) != (service.ring_base, service.ring_capacity);
    let mut now = half;
    if moved {
        now = live.free_half(index, service)?;
        write_ring(service, now, ops);
    } else if before.ring != service.ring {
        if !service.ring.is_empty() {
            now = live.free_half(index, service)?;
            write_ring(service, now, ops);
        }
        let (base, length) = service.live_slice(now);
        ops.push(MapOp::SwitchRing {
            service: index,
            base,
            length,
        });
    }
    live.set(index, service.live_slice(now));
    if moved || rules(before) != rules(service) {
        ops.push(write_service(index, service, (now, source_half)));
    }
    Ok(())
}

/// What a service says about its packets, besides who it is and its ring.
fn rules(service: &ServiceImage) -> impl PartialEq {
    (
        (service.idle_epochs, service.mss),
        [service.mid_stream, service.spread],
        [service.times, service.shares],
        service.scheduling,
        service.quic,
        &service.sources,
    )
}

fn write_ring(service: &ServiceImage, half: u8, ops: &mut Vec<MapOp>) {
    if !service.ring.is_empty() {
        ops.push(MapOp::WriteRing {
            base: service.live_slice(half).0,
            ids: service.ring.clone(),
        });
    }
}

fn write_service(index: u32, service: &ServiceImage, (half, source_half): (u8, u8)) -> MapOp {
    MapOp::WriteService {
        service: index,
        image: Box::new(service.clone()),
        half,
        source_half,
    }
}

/// What is in use and not wanted: services before their backends, backends before their hops, hops before
/// their interfaces.
fn clears(from: &Image, desired: &Image, ops: &mut Vec<MapOp>) {
    fn gone<T>(from: &BTreeMap<u32, T>, desired: &BTreeMap<u32, T>) -> Vec<u32> {
        let gone = from.keys().filter(|index| !desired.contains_key(index));
        gone.copied().collect()
    }
    let services = gone(&from.services, &desired.services).into_iter();
    ops.extend(services.map(|service| MapOp::ClearService { service }));
    let backends = gone(&from.backends, &desired.backends).into_iter();
    ops.extend(backends.map(|id| MapOp::ClearBackend { id }));
    let hops = gone(&from.next_hops, &desired.next_hops).into_iter();
    ops.extend(hops.map(|index| MapOp::ClearNextHop { index }));
    let devices = gone(&from.devices, &desired.devices).into_iter();
    ops.extend(devices.map(|slot| MapOp::ClearDevice { slot }));
}

/// Everything fits, and no index changes hands.
fn check(actual: &Actual, desired: &Image) -> Result<(), PlanError> {
    let (from, header) = (&actual.image, &actual.header);
    let last = |map: &'static str, index: Option<&u32>, size: u32| match index {
        Some(&index) if index >= size => Err(PlanError::OutOfRange { map, index, size }),
        _ => Ok(()),
    };
    last(
        "services",
        desired.services.keys().next_back(),
        header.services,
    )?;
    last(
        "backends",
        desired.backends.keys().next_back(),
        header.backends,
    )?;
    last(
        "next_hops",
        desired.next_hops.keys().next_back(),
        header.next_hops,
    )?;
    last("devices", desired.devices.keys().next_back(), DEVICES)?;
    let reused = |map, index: &u32| PlanError::Reused { map, index: *index };
    for (index, service) in &desired.services {
        let end = service
            .ring_capacity
            .saturating_mul(2)
            .saturating_add(service.ring_base);
        last("rings", end.checked_sub(1).as_ref(), header.ring_slots)?;
        let Some(before) = from.services.get(index) else {
            check_ring(*index, service, desired)?;
            continue;
        };
        if identity(before) != identity(service) {
            return Err(reused("services", index));
        }
        if before.ring != service.ring {
            check_ring(*index, service, desired)?;
        }
    }
    for (id, entry) in &desired.backends {
        if let Some(before) = from.backends.get(id)
            && (before.address, before.port, before.service, before.tunnel)
                != (entry.address, entry.port, entry.service, entry.tunnel)
        {
            return Err(reused("backends", id));
        }
    }
    for (index, hop) in &desired.next_hops {
        if let Some(before) = from.next_hops.get(index)
            && before.ifindex != hop.ifindex
        {
            return Err(reused("next_hops", index));
        }
    }
    Ok(())
}

fn identity(service: &ServiceImage) -> ([u8; 16], u16, u64, u8, u8, u8) {
    (
        service.address,
        service.port,
        service.reach,
        service.protocol,
        service.forwarding,
        service.family,
    )
}

fn check_ring(index: u32, service: &ServiceImage, desired: &Image) -> Result<(), PlanError> {
    let ids: BTreeSet<u32> = service.ring.iter().copied().collect();
    let stranger = ids.into_iter().find(|id| {
        desired
            .backends
            .get(id)
            .is_none_or(|entry| entry.service != index)
    });
    match stranger {
        Some(id) => Err(PlanError::Stranger { service: index, id }),
        None if service.ring.len() > service.ring_capacity as usize => Err(PlanError::RingBusy {
            service: index,
            base: service.ring_base,
        }),
        None => Ok(()),
    }
}
