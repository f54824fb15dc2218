//! [`Tables`] and [`crate::frame::Frame`] in plain memory, for tests and for `fairlead explain`.
//!
//! The data plane's own words (`flows`, `return_hops`, `counters`) are atomics, so a packet is
//! processed through `&MemTables`; whatever the control plane writes is plain data behind `&mut`.
//! One CPU; a map that a test makes too small answers `None`, as the kernel's does.

mod frame;
mod moved;
mod publish;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Zeroable;
use lb_common::{
    Address, BackendEntry, Control, Device, DropReason, EndpointSlot, Epoch, FlowWord, HashKey,
    Header, Nanos, NextHop, ReturnHop, Rule, ServiceEntry, Tunnel,
    backend::{DEVICES, device_slot},
    counter::{self, CounterLine, Global, Totals},
    flow::FlowSets,
    fragment,
    header::{LAYOUT_VERSION, MAGIC},
    nat::Idle,
    rule, sources,
    timing::{self, Start},
};

use crate::{
    pipeline,
    service::Backend,
    tables::{CacheLine, Tables},
    verdict::Verdict,
};

pub use frame::MemFrame;
pub use moved::{moved_affinities, moved_fragments, moved_nat_flows};
pub use publish::{Endpoint, Unplaceable};

/// As [`pipeline::process`]. Compiled here, once: all of the data plane is inlined into it.
pub fn process(frame: &mut MemFrame, tables: &MemTables, at: Nanos) -> Verdict {
    tables.clock.store(at, Ordering::Relaxed);
    pipeline::process(frame, tables, at)
}

/// Sets in `affinities`: few, as hardly anybody asks for them.
pub const AFFINITY_SETS: u32 = 64;

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sets in `flows` and `return_hops`; a power of two.
    pub flow_sets: u32,
    /// Slots in one generation of `endpoints`; a power of two.
    pub endpoint_slots: u32,
    /// Entries in `services`.
    pub services: u32,
    /// Slots in `rings`; even.
    pub ring_slots: u32,
    /// Entries in `backends`.
    pub backends: u32,
    /// Entries in `next_hops`.
    pub next_hops: u32,
    /// Entries in `nat_flows`; a power of two.
    pub nat_flows: u32,
}

/// All maps of one CPU.
pub struct MemTables {
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
    /// Map `rings`.
    pub rings: Vec<[u32; 2]>,
    /// Map `backends`.
    pub backends: Vec<BackendEntry>,
    /// Map `next_hops`.
    pub next_hops: Vec<NextHop>,
    /// Map `devices`.
    pub devices: Vec<Device>,
    /// Map `source_ranges`.
    pub source_ranges: BTreeMap<sources::Key, sources::Access>,
    /// Map `flows`.
    pub flows: Vec<CacheLine>,
    /// Map `return_hops`.
    pub return_hops: Vec<CacheLine>,
    /// Map `nat_flows`.
    pub nat_flows: Vec<CacheLine>,
    /// Map `fragments`.
    pub fragments: Vec<CacheLine>,
    /// Map `handshakes`.
    pub handshakes: Vec<CacheLine>,
    /// Map `affinities`.
    pub affinities: Vec<CacheLine>,
    /// What the data plane has written into `backends`: a line a backend, whose first word is [`Tunnel::learned`].
    pub paths: Vec<CacheLine>,
    /// Map `counters`, of one CPU.
    pub counters: Vec<CacheLine>,
    /// Map `notes`, of one CPU.
    pub notes: CacheLine,
    /// True: the data plane writes nothing.
    pub read_only: bool,
    /// The time of the packet that [`process`] has got.
    pub clock: AtomicU64,
}

fn lines(count: u32) -> Vec<CacheLine> {
    (0..count).map(|_| CacheLine::new([0; 8])).collect()
}

fn zeroed<T: Zeroable + Clone>(count: u32) -> Vec<T> {
    vec![T::zeroed(); count as usize]
}

/// What the lines of a map hold.
pub fn words(lines: &[CacheLine]) -> Vec<CounterLine> {
    lines.iter().map(CacheLine::words).collect()
}

impl MemTables {
    /// Empty maps, complete but for services and what they lead to.
    pub fn new(geometry: Geometry, flow_key: [u64; 2]) -> Self {
        let lines_per_cpu = counter::lines_per_cpu(geometry.backends, geometry.services);
        let flow_base_bits = geometry.flow_sets.trailing_zeros();
        Self {
            header: Header {
                magic: MAGIC,
                layout_version: LAYOUT_VERSION,
                flow_sets: geometry.flow_sets,
                flow_base_bits,
                endpoint_slots: geometry.endpoint_slots,
                services: geometry.services,
                ring_slots: geometry.ring_slots,
                backends: geometry.backends,
                next_hops: geometry.next_hops,
                nat_flows: geometry.nat_flows,
                cpus: 1,
                lines_per_cpu,
                affinity_sets: AFFINITY_SETS,
                complete: 1,
                ..Header::zeroed()
            },
            control: Control {
                flow_key,
                multipliers: HashKey(flow_key).expand(),
                flow_mask: geometry.flow_sets.wrapping_sub(1),
                flow_base_bits,
                endpoint_mask: geometry.endpoint_slots.wrapping_sub(1),
                lines_per_cpu,
                cpus: 1,
                new_flows_per_second: u32::MAX,
                icmp_errors_per_second: u32::MAX,
                resets_per_second: u32::MAX,
                alive_until: Control::ALWAYS_ALIVE,
                nat_mask: geometry.nat_flows.wrapping_sub(1),
                nat_idle: Idle::USUAL.table(),
                ..Control::zeroed()
            },
            endpoints: zeroed(geometry.endpoint_slots.wrapping_mul(2)),
            rules: zeroed(rule::elements(geometry.services)),
            services: zeroed(geometry.services),
            rings: vec![[0; 2]; geometry.ring_slots as usize / 2],
            backends: zeroed(geometry.backends),
            next_hops: zeroed(geometry.next_hops),
            devices: zeroed(DEVICES),
            source_ranges: BTreeMap::new(),
            flows: lines(geometry.flow_sets),
            return_hops: lines(geometry.flow_sets),
            nat_flows: lines(geometry.nat_flows),
            fragments: lines(fragment::SETS),
            handshakes: lines(timing::LINES),
            affinities: lines(AFFINITY_SETS),
            paths: lines(geometry.backends),
            counters: lines(lines_per_cpu),
            read_only: false,
            notes: CacheLine::new([0; 8]),
            clock: AtomicU64::new(0),
        }
    }

    /// Writes BackendIds into consecutive slots of `rings`; slots outside the map are left out.
    pub fn write_ring(&mut self, base: u32, backends: &[u32]) {
        for (slot, id) in (base..).zip(backends) {
            let pair = self.rings.get_mut(slot as usize / 2);
            if let Some(place) = pair.and_then(|pair| pair.get_mut(slot as usize & 1)) {
                *place = *id;
            }
        }
    }

    /// Writes an interface into its slot.
    pub fn write_device(&mut self, device: Device) {
        let slot = device_slot(device.ifindex) as usize;
        if let Some(place) = self.devices.get_mut(slot) {
            *place = device;
        }
    }

    /// Writes a flow and its way back into the first free way of its two sets; false when there
    /// is none.
    pub fn write_flow(&mut self, sets: FlowSets, word: FlowWord, hop: ReturnHop) -> bool {
        for set in [sets.first, sets.second] {
            let Some(line) = self.flows.get_mut(set as usize) else {
                continue;
            };
            let mut flows = line.words();
            let Some(way) = flows.iter().position(|word| !FlowWord(*word).is_live()) else {
                continue;
            };
            put(&mut flows, way, word.0);
            *line = CacheLine::new(flows);
            if let Some(line) = self.return_hops.get_mut(set as usize) {
                let mut hops = line.words();
                put(&mut hops, way, bytemuck::cast(hop));
                *line = CacheLine::new(hops);
            }
            return true;
        }
        false
    }

    /// The map `flows` as it would be if the clock read `to` where it reads `from`: how the table
    /// travels between a test's clock and the kernel's.
    pub fn flows_at(&self, from: Epoch, to: Epoch) -> Vec<[u64; 8]> {
        let shift = from.until(to);
        let moved = |word: u64| match FlowWord(word) {
            free if !free.is_live() => word,
            live => {
                let epoch = Epoch(live.epoch().0.wrapping_add(shift));
                FlowWord::new(live.tag(), live.backend_id(), live.rank(), epoch).0
            }
        };
        words(&self.flows)
            .into_iter()
            .map(|line| line.map(moved))
            .collect()
    }

    /// The map `fragments` as it would be if the clock read `to` where it reads `from`.
    pub fn fragments_at(&self, from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
        moved_fragments(&words(&self.fragments), from, to)
    }

    /// The map `nat_flows` as it would be if the clock read `to` where it reads `from`.
    pub fn nat_flows_at(&self, from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
        moved_nat_flows(&words(&self.nat_flows), from, to)
    }

    /// The map `handshakes` as it would be if the clock read `to` where it reads `from`.
    pub fn handshakes_at(&self, from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
        let by = to.wrapping_sub(from);
        let moved = |word: u64| match Start(word) {
            Start::NONE => 0,
            start => start.moved(by).0,
        };
        let lines = words(&self.handshakes);
        lines.iter().map(|line| line.map(moved)).collect()
    }

    /// The map `affinities` as it would be if the clock read `to` where it reads `from`.
    pub fn affinities_at(&self, from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
        moved_affinities(&words(&self.affinities), from, to)
    }

    /// The map `backends` as it would be if the clock read `to` where it reads `from`.
    pub fn backends_at(&self, from: Nanos, to: Nanos) -> Vec<BackendEntry> {
        let learned = self.paths_at(from, to);
        let known = self.backends.iter().zip(learned);
        let of = |(entry, learned): (&BackendEntry, Tunnel)| BackendEntry {
            tunnel: Tunnel(entry.tunnel.0 | learned.0),
            ..*entry
        };
        known.map(of).collect()
    }

    /// What the data plane has written there, as it would be then.
    pub fn paths_at(&self, from: Nanos, to: Nanos) -> Vec<Tunnel> {
        let words = self.paths.iter().map(|line| Tunnel(line.word(0)));
        words.map(|word| word.moved(from, to)).collect()
    }

    /// `Control::alive_until` as it would be if the clock read `to` where it reads `from`.
    pub fn alive_until_at(&self, from: Nanos, to: Nanos) -> u64 {
        match self.control.alive_until {
            Control::ALWAYS_ALIVE => Control::ALWAYS_ALIVE,
            until => {
                // Before a clock that began a moment ago: as long dead as it can be.
                let moved = until.wrapping_add(to).saturating_sub(from);
                moved & !Control::DROP_WHEN_DEAD | until & Control::DROP_WHEN_DEAD
            }
        }
    }

    /// Global counters and drops, by name.
    pub fn totals(&self) -> Totals {
        totals(&words(&self.counters))
    }
}

fn put(words: &mut [u64; 8], position: usize, value: u64) {
    if let Some(place) = words.get_mut(position) {
        *place = value;
    }
}

/// Global counters and drops in the lines of one CPU.
pub fn totals(lines: &[CounterLine]) -> Totals {
    let mut totals = Totals::default();
    let mut lines = lines.iter();
    if let Some(line) = lines.next() {
        totals.global = Global::counters(*line);
    }
    for (place, value) in totals.drops.iter_mut().zip(lines.flatten()) {
        *place = *value;
    }
    totals
}

/// The conservation law: every packet that came in ended in exactly one counter.
pub fn conserves(totals: &Totals) -> bool {
    let [rx, pass, tx, redirect, ..] = totals.global;
    let out = [pass, tx, redirect];
    let drops = totals.drops.iter().take(DropReason::ALL.len());
    rx == out.iter().chain(drops).sum::<u64>()
}

impl Tables for MemTables {
    fn read_only(&self) -> bool {
        self.read_only
    }

    fn header(&self) -> Option<&Header> {
        Some(&self.header)
    }

    fn control(&self) -> Option<&Control> {
        Some(&self.control)
    }

    fn endpoint(&self, index: u32) -> Option<&EndpointSlot> {
        self.endpoints.get(index as usize)
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        self.services.get(index as usize)
    }

    fn ring(&self, index: u32) -> Option<&[u32; 2]> {
        self.rings.get(index as usize)
    }

    fn backend(&self, id: u32) -> Option<&BackendEntry> {
        self.backends.get(id as usize)
    }

    fn tunnel(&self, backend: Backend<'_>) -> Tunnel {
        let learned = self.paths.get(backend.id as usize);
        let learned = learned.map_or(0, |line| line.word(0));
        Tunnel(backend.entry.tunnel.0 | learned)
    }

    fn exchange_tunnel(&self, backend: u32, current: Tunnel, new: Tunnel) -> bool {
        let (current, new) = (current.learned(), new.learned());
        self.paths
            .get(backend as usize)
            .is_some_and(|line| self.exchange(line, 0, current.0, new.0))
    }

    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.next_hops.get(index as usize)
    }

    fn device(&self, slot: u32) -> Option<&Device> {
        self.devices.get(slot as usize)
    }

    fn source_range(&self, set: u32, address: [u64; 2]) -> u32 {
        let wanted = sources::Key::new(set, Address::from_words(address), 128);
        let bits = |key: &sources::Key| {
            let mut bytes = [0; 20];
            let (first, last) = bytes.split_at_mut(4);
            first.copy_from_slice(&key.set);
            last.copy_from_slice(&key.address);
            bytes
        };
        let common = |key: &sources::Key| {
            let mut count: u32 = 0;
            for (a, b) in bits(key).into_iter().zip(bits(&wanted)) {
                count = count.wrapping_add((a ^ b).leading_zeros());
                if a != b {
                    break;
                }
            }
            count
        };
        self.source_ranges
            .iter()
            .filter(|(key, _)| common(key) >= key.bits)
            .max_by_key(|(key, _)| key.bits)
            .map_or(0, |(_, access)| *access as u32)
    }

    fn flows(&self, set: u32) -> Option<&CacheLine> {
        self.flows.get(set as usize)
    }

    fn return_hops(&self, set: u32) -> Option<&CacheLine> {
        self.return_hops.get(set as usize)
    }

    fn nat_flow(&self, slot: u32) -> Option<&CacheLine> {
        self.nat_flows.get(slot as usize)
    }

    fn fragments(&self, set: u32) -> Option<&CacheLine> {
        self.fragments.get(set as usize)
    }

    fn handshakes(&self, line: u32) -> Option<&CacheLine> {
        self.handshakes.get(line as usize)
    }

    fn precise_now(&self) -> Nanos {
        self.clock.load(Ordering::Relaxed)
    }

    fn affinities(&self, set: u32) -> Option<&CacheLine> {
        self.affinities.get(set as usize)
    }

    fn first_counter(&self, _lines_per_cpu: u32) -> u32 {
        0
    }

    fn counter(&self, index: u32) -> Option<&CacheLine> {
        self.counters.get(index as usize)
    }

    fn notes(&self) -> Option<&CacheLine> {
        Some(&self.notes)
    }
}
