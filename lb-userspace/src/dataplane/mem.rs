//! The maps in plain memory, byte for byte as the kernel has them: for simulation and for tests of
//! everything above the seam. [`check`] says whether a packet would find them consistent.

pub mod check;

use std::collections::BTreeMap;

use bytemuck::Zeroable;
use lb_common::backend::DEVICES;
use lb_common::header::{LAYOUT_VERSION, MAGIC};
use lb_common::nat::IdleTable;
use lb_common::{
    Address, BackendEntry, Control, Device, EndpointKey, EndpointKind, EndpointSlot, Forwarding,
    Header, NextHop, Protocol, Rule, ServiceEntry, rule,
    sources::{self, Access},
};

use super::{
    Actual, Controls, Dataplane, DataplaneError, EndpointTarget, Image, MapOp, Ranges,
    ServiceImage, consistent, ranges,
};
use crate::ids::Sizes;

/// All maps that the control plane writes. Fields are public, so that a test can damage them.
#[derive(Clone, Debug, PartialEq)]
pub struct Mem {
    /// Map `header`.
    pub header: Header,
    /// Map `control`.
    pub control: Control,
    /// Map `endpoints`: both generations.
    pub endpoints: Vec<EndpointSlot>,
    /// Map `rules`: both generations.
    pub rules: Vec<Rule>,
    /// Map `services`.
    pub services: Vec<ServiceEntry>,
    /// Map `rings`, by slot.
    pub rings: Vec<u32>,
    /// Map `backends`.
    pub backends: Vec<BackendEntry>,
    /// Map `next_hops`.
    pub next_hops: Vec<NextHop>,
    /// Map `devices`.
    pub devices: Vec<Device>,
    /// Map `source_ranges`.
    pub source_ranges: BTreeMap<sources::Key, Access>,
    /// The owner epoch of this handle; another one in the header fences it off.
    pub owner_epoch: u64,
    /// Operations until one is refused, once; `None`: never.
    pub fail_after: Option<usize>,
}

impl Mem {
    /// New maps, all zero but for the geometry.
    pub fn new(sizes: Sizes) -> Self {
        let header = Header {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            endpoint_slots: sizes.endpoint_slots,
            services: sizes.services,
            ring_slots: sizes.ring_slots,
            backends: sizes.backends,
            next_hops: sizes.next_hops,
            owner_epoch: 1,
            ..Header::zeroed()
        };
        let control = Control {
            endpoint_mask: sizes.endpoint_slots.saturating_sub(1),
            alive_until: Control::ALWAYS_ALIVE,
            nat_idle: IdleTable::default(),
            ..Control::zeroed()
        };
        let slots = sizes.endpoint_slots.saturating_mul(2);
        Self {
            header,
            control,
            endpoints: vec![EndpointSlot::zeroed(); slots as usize],
            rules: vec![Rule::zeroed(); rule::elements(sizes.services) as usize],
            services: vec![ServiceEntry::zeroed(); sizes.services as usize],
            rings: vec![0; sizes.ring_slots as usize],
            backends: vec![BackendEntry::zeroed(); sizes.backends as usize],
            next_hops: vec![NextHop::zeroed(); sizes.next_hops as usize],
            devices: vec![Device::zeroed(); DEVICES as usize],
            source_ranges: BTreeMap::new(),
            owner_epoch: 1,
            fail_after: None,
        }
    }

    fn run(&mut self, op: &MapOp) -> Result<(), DataplaneError> {
        if self.header.owner_epoch != self.owner_epoch {
            return Err(DataplaneError::Fenced {
                ours: self.owner_epoch,
                theirs: self.header.owner_epoch,
            });
        }
        match self.fail_after.as_mut() {
            Some(0) => {
                self.fail_after = None;
                return Err(DataplaneError::Kernel {
                    call: format!("{op:?}"),
                    source: std::io::Error::other("refused on purpose"),
                });
            }
            Some(left) => *left = left.saturating_sub(1),
            None => {}
        }
        match op {
            MapOp::SetBackendWord {
                id,
                permissions,
                next_hop,
            } => {
                let entry = get(&mut self.backends, "backends", *id)?;
                entry.permissions = *permissions;
                entry.next_hop = *next_hop;
            }
            MapOp::WriteRing { base, ids } => {
                for (slot, id) in (*base..).zip(ids.iter()) {
                    *get(&mut self.rings, "rings", slot)? = *id;
                }
            }
            MapOp::SwitchRing {
                service,
                base,
                length,
            } => {
                get(&mut self.services, "services", *service)?.ring =
                    ServiceEntry::slice(*base, *length);
            }
            MapOp::WriteService {
                service,
                image,
                half,
                source_half,
            } => {
                let set = image.source_set(*service, *source_half);
                *get(&mut self.services, "services", *service)? = image.entry(*half, set);
            }
            MapOp::WriteSources { set, ranges } => {
                let ranges = ranges.iter().map(|range| (range.key(*set), range.access));
                self.source_ranges.extend(ranges);
            }
            MapOp::ClearSources { set } => {
                self.source_ranges.retain(|key, _| key.set() != *set);
            }
            MapOp::ClearService { service } => {
                *get(&mut self.services, "services", *service)? = ServiceEntry::zeroed();
            }
            MapOp::WriteBackend { id, entry } => {
                *get(&mut self.backends, "backends", *id)? = *entry;
            }
            MapOp::ClearBackend { id } => {
                *get(&mut self.backends, "backends", *id)? = BackendEntry::zeroed();
            }
            MapOp::WriteNextHop { index, hop } => {
                *get(&mut self.next_hops, "next_hops", *index)? = *hop;
            }
            MapOp::ClearNextHop { index } => {
                *get(&mut self.next_hops, "next_hops", *index)? = NextHop::zeroed();
            }
            MapOp::WriteDevice { slot, device } => {
                *get(&mut self.devices, "devices", *slot)? = *device;
            }
            MapOp::ClearDevice { slot } => {
                *get(&mut self.devices, "devices", *slot)? = Device::zeroed();
            }
            MapOp::WriteEndpoints {
                generation,
                seed,
                slots,
                rules,
            } => self.write_endpoints(*generation, *seed, slots, rules)?,
            MapOp::SwitchEndpoints { generation } => {
                let [first, second] = self.control.endpoint_seed;
                let seed = if *generation == 0 { first } else { second };
                self.control.live = Control::live(seed, *generation);
            }
            MapOp::SetControls { controls } => controls.put(&mut self.control),
            MapOp::SetRevision { revision } => {
                self.header.config_revision = *revision;
                self.header.complete = 1;
            }
        }
        Ok(())
    }

    fn write_endpoints(
        &mut self,
        generation: u8,
        seed: u64,
        slots: &[EndpointSlot],
        rules: &[Rule],
    ) -> Result<(), DataplaneError> {
        if generation == self.control.generation() {
            return Err(invalid(
                "endpoints",
                generation.into(),
                "the generation is live",
            ));
        }
        let size = self.header.endpoint_slots;
        if let Some(place) = self.control.endpoint_seed.get_mut(usize::from(generation)) {
            *place = seed;
        }
        let base = size.saturating_mul(generation.into());
        for (index, slot) in (base..).zip(slots) {
            *get(&mut self.endpoints, "endpoints", index)? = *slot;
        }
        for (index, found) in (0..).zip(rules) {
            let element = rule::element(index, generation.into());
            *get(&mut self.rules, "rules", element)? = *found;
        }
        Ok(())
    }

    /// The slots of the live generation.
    pub fn live_endpoints(&self) -> &[EndpointSlot] {
        let size = self.header.endpoint_slots as usize;
        let base = if self.control.generation() == 0 {
            0
        } else {
            size
        };
        self.endpoints
            .get(base..base.saturating_add(size))
            .unwrap_or_default()
    }

    /// The live ring of a service.
    pub fn live_ring(&self, index: u32, entry: &ServiceEntry) -> Result<&[u32], DataplaneError> {
        let (base, length) = ServiceEntry::unslice(entry.ring);
        let end = base.saturating_add(length);
        self.rings
            .get(base as usize..end as usize)
            .ok_or_else(|| invalid("services", index, "its ring leads out of 'rings'"))
    }

    /// A rule of the live generation.
    pub fn live_rule(&self, index: u32) -> Option<Rule> {
        let element = rule::element(index, self.control.generation().into());
        self.rules.get(element as usize).copied()
    }

    fn read_endpoints(
        &self,
    ) -> Result<(BTreeMap<EndpointKey, Vec<EndpointTarget>>, Ranges), DataplaneError> {
        let mut firsts = Vec::new();
        let mut endpoints: BTreeMap<EndpointKey, Vec<EndpointTarget>> = BTreeMap::new();
        for (index, slot) in (0..).zip(self.live_endpoints()) {
            let kind = match slot.kind {
                0 => continue,
                1 => EndpointKind::Vip,
                2 => EndpointKind::VipAddress,
                3 => EndpointKind::Backend,
                4 => EndpointKind::Prefix,
                5 => EndpointKind::Aside,
                6 => EndpointKind::ServerId,
                7 => EndpointKind::Tunnel,
                _ => return Err(invalid("endpoints", index, "its kind is unknown")),
            };
            let key = EndpointKey {
                address: Address(slot.address),
                port: slot.port,
                protocol: slot.protocol,
            };
            match kind {
                EndpointKind::Prefix => firsts.push((key, slot.index)),
                _ => endpoints.entry(key).or_default().push((kind, slot.index)),
            }
        }
        for targets in endpoints.values_mut() {
            targets.sort_unstable();
        }
        let ranges = ranges::decode(&firsts, |index| self.live_rule(index))
            .map_err(|(index, why)| invalid("rules", index, why))?;
        Ok((endpoints, ranges))
    }

    fn read_service(
        &self,
        index: u32,
        entry: &ServiceEntry,
    ) -> Result<(ServiceImage, u8), DataplaneError> {
        let (ring_base, ring_capacity) = ServiceEntry::unslice(entry.pair);
        let (base, _) = ServiceEntry::unslice(entry.ring);
        let known = Forwarding::from_u8(entry.forwarding).is_some()
            && Protocol::from_u8(entry.protocol).is_some();
        let Some(scheduling) = entry.scheduling().filter(|_| known && entry.used == 1) else {
            return Err(invalid(
                "services",
                index,
                "it has values that nobody writes",
            ));
        };
        let ring = self.live_ring(index, entry)?;
        if let Some(id) = ring.iter().find(|&&id| id >= self.header.backends) {
            let why = format!("its ring names BackendId {id}, which leads out of 'backends'");
            return Err(invalid("services", index, &why));
        }
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
            sources: consistent::ranges(&self.source_ranges, entry.sources),
            ring_base,
            ring_capacity,
            ring: ring.into(),
        };
        Ok((image, u8::from(base != ring_base)))
    }
}

impl Dataplane for Mem {
    fn actual(&mut self) -> Result<Actual, DataplaneError> {
        let (endpoints, ranges) = self.read_endpoints()?;
        let mut image = Image {
            endpoints,
            ranges,
            controls: Controls::of(&self.control),
            config_revision: self.header.config_revision,
            ..Image::default()
        };
        let mut live_half = BTreeMap::new();
        let mut source_half = BTreeMap::new();
        for (index, entry) in (0..).zip(&self.services).filter(|(_, s)| s.used != 0) {
            let (service, half) = self.read_service(index, entry)?;
            image.services.insert(index, service);
            live_half.insert(index, half);
            if let Some(half) = consistent::source_half(index, entry.sources)? {
                source_half.insert(index, half);
            }
        }
        let used = (0..).zip(&self.backends).filter(|(_, b)| b.used != 0);
        image.backends = used.map(|(id, entry)| (id, *entry)).collect();
        let used = (0..).zip(&self.next_hops).filter(|(_, hop)| hop.used != 0);
        image.next_hops = used.map(|(index, hop)| (index, *hop)).collect();
        let used = (0..).zip(&self.devices);
        let used = used.filter(|(_, device)| consistent::has_device(device));
        image.devices = used.map(|(slot, device)| (slot, *device)).collect();
        for (slot, device) in &image.devices {
            consistent::device(*slot, device).map_err(|why| invalid("devices", *slot, &why))?;
        }
        Ok(Actual {
            image,
            generation: self.control.generation(),
            live_half,
            stray_sources: consistent::strays(&self.source_ranges, &source_half),
            source_half,
            header: self.header,
        })
    }

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DataplaneError> {
        ops.iter().try_for_each(|op| self.run(op))
    }
}

fn get<'a, T>(
    map: &'a mut [T],
    name: &'static str,
    index: u32,
) -> Result<&'a mut T, DataplaneError> {
    let size = u32::try_from(map.len()).unwrap_or(u32::MAX);
    map.get_mut(index as usize)
        .ok_or(DataplaneError::OutOfRange {
            map: name,
            index,
            size,
        })
}

fn invalid(map: &'static str, index: u32, why: &str) -> DataplaneError {
    DataplaneError::Invalid {
        map,
        index,
        why: why.to_owned(),
    }
}
