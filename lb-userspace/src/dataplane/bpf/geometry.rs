//! How large each map is, and whether what is pinned is what we would have made. Pure.
//!
//! Sizes are chosen once, when the maps are created, and stand in the header from then on. An
//! adopter compares the header with itself, with `control`, and with what the kernel says about
//! every map; whatever differs is named, and nothing is read further.

mod findings;

use std::collections::BTreeMap;

use lb_common::backend::DEVICES;
use lb_common::counter::lines_per_cpu;
use lb_common::flow::{MAX_BACKENDS, WAYS};
use lb_common::header::{LAYOUT_VERSION, MAGIC};
use lb_common::{
    BackendEntry, Control, CounterLine, Device, EndpointSlot, FlowWord, HashKey, Header, NextHop,
    ReturnHop, Rule, ServiceEntry, affinity, fragment, limits, rule, sources, timing,
};

use super::sys::{
    F_MMAPABLE, F_NO_PREALLOC, MAP_TYPE_ARRAY, MAP_TYPE_DEVMAP, MAP_TYPE_LPM_TRIE, MapInfo,
};
use crate::model::Limits;
use findings::Findings;

/// The devmap's name.
pub(crate) const REDIRECTS: &str = "redirects";
/// The trie's name; all other maps are arrays.
pub(crate) const SOURCE_RANGES: &str = "source_ranges";

/// Slots of one endpoint generation per key it may have to hold. At one key in eight slots about four
/// seeds of five place every key within `MAX_PROBES` slots of its home; at one in four,
/// one of a thousand does.
const SLOTS_PER_KEY: u32 = 8;
/// Slots of the smallest endpoint generation.
const FEWEST_SLOTS: u32 = 64;

/// Sizes of all maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// As `Header::flow_sets`.
    pub flow_sets: u32,
    /// As `Header::endpoint_slots`.
    pub endpoint_slots: u32,
    /// As `Header::services`.
    pub services: u32,
    /// As `Header::ring_slots`.
    pub ring_slots: u32,
    /// As `Header::backends`.
    pub backends: u32,
    /// As `Header::next_hops`.
    pub next_hops: u32,
    /// As `Header::source_ranges`.
    pub source_ranges: u32,
    /// As `Header::nat_flows`.
    pub nat_flows: u32,
    /// As `Header::affinity_sets`.
    pub affinity_sets: u32,
    /// As `Header::cpus`.
    pub cpus: u32,
}

/// Bytes and number of a map's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) value_size: usize,
    pub(crate) entries: u32,
}

impl Geometry {
    /// For new maps. `cpus`: possible CPUs of this machine.
    pub fn of(limits: &Limits, cpus: u32) -> Self {
        let keys = limits
            .services
            .saturating_mul(2)
            .saturating_add(limits.backends);
        let ways = u32::try_from(WAYS).unwrap_or(1);
        Self {
            flow_sets: limits.flows.checked_div(ways).unwrap_or(1).max(1),
            endpoint_slots: keys
                .saturating_mul(SLOTS_PER_KEY)
                .max(FEWEST_SLOTS)
                .checked_next_power_of_two()
                .unwrap_or(1 << 31),
            services: limits.services,
            ring_slots: limits.ring_slots,
            backends: limits.backends,
            next_hops: limits.next_hops,
            source_ranges: limits.source_ranges,
            nat_flows: limits.nat_flows,
            affinity_sets: limits.affinities.div_ceil(affinity::WAYS),
            cpus,
        }
    }

    /// As the header says, without judging it.
    pub fn from_header(header: &Header) -> Self {
        Self {
            flow_sets: header.flow_sets,
            endpoint_slots: header.endpoint_slots,
            services: header.services,
            ring_slots: header.ring_slots,
            backends: header.backends,
            next_hops: header.next_hops,
            source_ranges: header.source_ranges,
            nat_flows: header.nat_flows,
            affinity_sets: header.affinity_sets,
            cpus: header.cpus,
        }
    }

    /// The limits that these sizes were made for.
    pub fn limits(&self) -> Limits {
        let ways = u32::try_from(WAYS).unwrap_or(1);
        Limits {
            flows: self.flow_sets.saturating_mul(ways),
            services: self.services,
            backends: self.backends,
            ring_slots: self.ring_slots,
            next_hops: self.next_hops,
            source_ranges: self.source_ranges,
            nat_flows: self.nat_flows,
            affinities: self.affinity_sets.saturating_mul(affinity::WAYS),
        }
    }

    /// The header of new maps, not yet complete.
    pub fn header(&self, seed_id: u64, writer_version: u32) -> Header {
        Header {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            writer_version,
            flow_sets: self.flow_sets,
            flow_base_bits: self.flow_sets.ilog2(),
            endpoint_slots: self.endpoint_slots,
            services: self.services,
            ring_slots: self.ring_slots,
            source_ranges: self.source_ranges,
            backends: self.backends,
            next_hops: self.next_hops,
            cpus: self.cpus,
            lines_per_cpu: lines_per_cpu(self.backends, self.services),
            seed_id,
            owner_epoch: 1,
            config_revision: 0,
            complete: 0,
            nat_flows: self.nat_flows,
            affinity_sets: self.affinity_sets,
            reserved: [0; 6],
        }
    }

    /// The control block of new maps.
    pub fn control(&self, flow_key: HashKey) -> Control {
        Control {
            live: 0,
            endpoint_seed: [0; 2],
            flow_key: flow_key.0,
            flow_mask: self.flow_sets.saturating_sub(1),
            flow_base_bits: self.flow_sets.ilog2(),
            endpoint_mask: self.endpoint_slots.saturating_sub(1),
            lines_per_cpu: lines_per_cpu(self.backends, self.services),
            cpus: self.cpus,
            multipliers: flow_key.expand(),
            alive_until: Control::ALWAYS_ALIVE,
            nat_mask: self.nat_flows.saturating_sub(1),
            nat_idle: Default::default(),
            ..bytemuck::Zeroable::zeroed()
        }
    }

    /// All maps but `redirects` and `source_ranges`.
    pub(crate) fn arrays(&self) -> [Shape; 16] {
        let shape = |name, value_size, entries| Shape {
            name,
            value_size,
            entries,
        };
        let lines = lines_per_cpu(self.backends, self.services).saturating_mul(self.cpus);
        [
            shape("header", size_of::<Header>(), 1),
            shape("control", size_of::<Control>(), 1),
            shape(
                "endpoints",
                size_of::<EndpointSlot>(),
                self.endpoint_slots.saturating_mul(2),
            ),
            shape("rules", size_of::<Rule>(), rule::elements(self.services)),
            shape("services", size_of::<ServiceEntry>(), self.services),
            shape("rings", size_of::<[u32; 2]>(), self.ring_slots.div_ceil(2)),
            shape("backends", size_of::<BackendEntry>(), self.backends),
            shape("next_hops", size_of::<NextHop>(), self.next_hops),
            shape("devices", size_of::<Device>(), DEVICES),
            shape("flows", size_of::<[FlowWord; WAYS]>(), self.flow_sets),
            shape(
                "return_hops",
                size_of::<[ReturnHop; WAYS]>(),
                self.flow_sets,
            ),
            shape("nat_flows", size_of::<CounterLine>(), self.nat_flows),
            shape("fragments", size_of::<CounterLine>(), fragment::SETS),
            shape("handshakes", size_of::<CounterLine>(), timing::LINES),
            shape("affinities", size_of::<CounterLine>(), self.affinity_sets),
            shape("counters", size_of::<CounterLine>(), lines),
        ]
    }

    /// The shape of a map by its name.
    pub(crate) fn array(&self, name: &str) -> Option<Shape> {
        self.arrays().into_iter().find(|shape| shape.name == name)
    }

    /// Bytes of all maps together.
    pub fn bytes(&self) -> u64 {
        self.arrays()
            .iter()
            .map(|shape| u64::from(shape.entries).saturating_mul(shape.value_size as u64))
            .fold(0, u64::saturating_add)
    }
}

/// Which limits of the configuration differ from those of the live maps; they keep theirs.
pub fn limit_differences(live: &Limits, wanted: &Limits) -> Vec<String> {
    [
        ("flows", live.flows, wanted.flows),
        ("services", live.services, wanted.services),
        ("backends", live.backends, wanted.backends),
        ("ring-slots", live.ring_slots, wanted.ring_slots),
        ("next-hops", live.next_hops, wanted.next_hops),
        ("source-ranges", live.source_ranges, wanted.source_ranges),
        ("nat-flows", live.nat_flows, wanted.nat_flows),
        ("affinities", live.affinities, wanted.affinities),
    ]
    .into_iter()
    .filter(|(_, live, wanted)| live != wanted)
    .map(|(name, live, wanted)| format!("limits.{name} is {wanted}, the live maps have {live}"))
    .collect()
}

/// Judges a header by itself. An empty list: it is one that this version has written.
pub fn check_header(header: &Header) -> Vec<String> {
    let mut found = Findings(Vec::new());
    if header.magic != MAGIC {
        found.0.push(format!(
            "header: magic is {:016x}, expected {MAGIC:016x}",
            header.magic
        ));
        return found.0;
    }
    found.equal("header: layout", header.layout_version, LAYOUT_VERSION);
    if !found.0.is_empty() {
        return found.0;
    }
    found.holds(
        header.flow_sets.is_power_of_two(),
        "header: flow sets are not a power of two",
    );
    let ways = u32::try_from(WAYS).unwrap_or(1);
    found.within(&limits::FLOWS, header.flow_sets.saturating_mul(ways));
    found.equal(
        "header: flow base bits",
        header.flow_base_bits,
        header.flow_sets.checked_ilog2().unwrap_or(0),
    );
    found.holds(
        header.endpoint_slots.is_power_of_two(),
        "header: endpoint slots are not a power of two",
    );
    found.within(&limits::SERVICES, header.services);
    found.within(&limits::RING_SLOTS, header.ring_slots);
    found.holds(
        header.ring_slots.is_multiple_of(2),
        "header: ring slots are odd",
    );
    found.within(&limits::BACKENDS, header.backends);
    found.holds(
        header.backends <= MAX_BACKENDS,
        "header: more backends than a flow entry can name",
    );
    found.within(&limits::NEXT_HOPS, header.next_hops);
    found.within(&limits::SOURCE_RANGES, header.source_ranges);
    found.within(&limits::NAT_FLOWS, header.nat_flows);
    found.holds(
        header.nat_flows.is_power_of_two(),
        "header: NAT flows are not a power of two",
    );
    let clients = header.affinity_sets.checked_mul(affinity::WAYS);
    found.holds(
        clients.is_some_and(|n| n > 0 && u64::from(n) <= limits::AFFINITIES.max),
        "header: affinity sets are none, or too many",
    );
    found.holds(header.cpus > 0, "header: no CPUs");
    found.equal(
        "header: counter lines per CPU",
        header.lines_per_cpu,
        lines_per_cpu(header.backends, header.services),
    );
    found.holds(header.owner_epoch > 0, "header: owner epoch is 0");
    found.holds(
        header.complete <= 1,
        "header: 'complete' is neither 0 nor 1",
    );
    found.holds(
        header.reserved == [0; 6],
        "header: reserved bytes are not zero",
    );
    found.0
}

/// True when the live word names the seed of the generation that it names.
pub(crate) fn is_consistent(control: &Control) -> bool {
    let generation = control.generation();
    let [first, second] = control.endpoint_seed;
    let seed = if generation == 0 { first } else { second };
    control.live == Control::live(seed, generation)
}

/// Judges the control block by a header that is good.
pub fn check_control(control: &Control, header: &Header) -> Vec<String> {
    let expected = Geometry::from_header(header).control(HashKey(control.flow_key));
    let mut found = Findings(Vec::new());
    found.holds(
        is_consistent(control),
        "control: the live generation's seed is not that generation's",
    );
    found.equal("control: flow mask", control.flow_mask, expected.flow_mask);
    found.equal(
        "control: flow base bits",
        control.flow_base_bits,
        expected.flow_base_bits,
    );
    found.equal(
        "control: endpoint mask",
        control.endpoint_mask,
        expected.endpoint_mask,
    );
    found.equal(
        "control: counter lines per CPU",
        control.lines_per_cpu,
        expected.lines_per_cpu,
    );
    found.equal("control: CPUs", control.cpus, expected.cpus);
    found.holds(
        control.multipliers == expected.multipliers,
        "control: the hash's multipliers are not those of its key",
    );
    found.holds(
        tunnel_source(
            u32::from_be_bytes(control.tunnel_v4),
            control.tunnel_v4_spread,
        ),
        "control: the source of IPv4 tunnels is not a prefix",
    );
    let [.., a, b, c, d] = control.tunnel_v6;
    found.holds(
        tunnel_source(u32::from_be_bytes([a, b, c, d]), control.tunnel_v6_spread),
        "control: the source of IPv6 tunnels is not a prefix",
    );
    found.holds(
        tunnel_source(u32::from_be_bytes(control.nat_v4), control.nat_v4_spread),
        "control: what stands for IPv4 clients is not a prefix",
    );
    let [.., a, b, c, d] = control.nat_v6;
    found.holds(
        tunnel_source(u32::from_be_bytes([a, b, c, d]), control.nat_v6_spread),
        "control: what stands for IPv6 clients is not a prefix",
    );
    found.holds(
        control.nat_idle.idle().is_some(),
        "control: for how long ports of NAT are kept is no time",
    );
    found.equal("control: NAT mask", control.nat_mask, expected.nat_mask);
    found.holds(
        control.flow_cpus <= expected.cpus,
        "control: new flows spread over more CPUs than there are",
    );
    found.holds(
        control.reserved == [0; 2],
        "control: reserved bytes are not zero",
    );
    found.0
}

/// Host bits are at the end, and zero in the address.
fn tunnel_source(last: u32, spread: u32) -> bool {
    spread.leading_zeros().saturating_add(spread.count_ones()) == u32::BITS && last & spread == 0
}

/// Judges one map by what the kernel says about it.
pub(crate) fn check_array(shape: &Shape, info: &MapInfo) -> Vec<String> {
    let mut found = Findings(Vec::new());
    let name = shape.name;
    found.equal(&format!("map {name}: type"), info.map_type, MAP_TYPE_ARRAY);
    found.equal(&format!("map {name}: key size"), info.key_size, 4);
    found.equal(
        &format!("map {name}: value size"),
        info.value_size as usize,
        shape.value_size,
    );
    found.equal(
        &format!("map {name}: entries"),
        info.max_entries,
        shape.entries,
    );
    found.equal(&format!("map {name}: flags"), info.flags, F_MMAPABLE);
    found.0
}

/// Judges the devmap.
pub(crate) fn check_redirects(info: &MapInfo) -> Vec<String> {
    let mut found = Findings(Vec::new());
    found.equal("map redirects: type", info.map_type, MAP_TYPE_DEVMAP);
    found.equal("map redirects: key size", info.key_size, 4);
    found.holds(
        matches!(info.value_size, 4 | 8),
        "map redirects: value size is neither 4 nor 8",
    );
    found.equal("map redirects: entries", info.max_entries, DEVICES);
    found.0
}

/// Judges the trie.
pub(crate) fn check_source_ranges(geometry: &Geometry, info: &MapInfo) -> Vec<String> {
    let mut found = Findings(Vec::new());
    found.equal("map source_ranges: type", info.map_type, MAP_TYPE_LPM_TRIE);
    found.equal(
        "map source_ranges: key size",
        info.key_size as usize,
        size_of::<sources::Key>(),
    );
    found.equal("map source_ranges: value size", info.value_size, 4);
    found.equal(
        "map source_ranges: entries",
        info.max_entries,
        geometry.source_ranges,
    );
    found.equal("map source_ranges: flags", info.flags, F_NO_PREALLOC);
    found.0
}

/// Judges every map; a map that is missing is a finding too.
pub(crate) fn check_maps(
    geometry: &Geometry,
    infos: &BTreeMap<&'static str, MapInfo>,
) -> Vec<String> {
    let missing = |name: &str| vec![format!("map {name}: its pin is missing")];
    let mut found: Vec<String> = geometry
        .arrays()
        .iter()
        .flat_map(|shape| match infos.get(shape.name) {
            Some(info) => check_array(shape, info),
            None => missing(shape.name),
        })
        .collect();
    found.extend(match infos.get(REDIRECTS) {
        Some(info) => check_redirects(info),
        None => missing(REDIRECTS),
    });
    found.extend(match infos.get(SOURCE_RANGES) {
        Some(info) => check_source_ranges(geometry, info),
        None => missing(SOURCE_RANGES),
    });
    found
}

#[cfg(test)]
mod tests;
