//! The map statics and [`Tables`] over them.
//!
//! Each map is named as `lb_common`'s table says. The sizes here are the defaults of
//! `lb_common::limits`; the loader sets the real ones.

mod counts;
mod kept;
mod mss;
mod nat;
mod path;
mod reply;
mod sizes;
mod values;
mod way;

use aya_ebpf::{
    Global,
    btf_maps::{Array, DevMap, LpmTrie, lpm_trie},
    helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_ns},
    macros::btf_map,
};
use lb_common::{
    Address, BackendEntry, Control, Device, EndpointSlot, Header, Nanos, NextHop, Rule,
    ServiceEntry, Tunnel, backend::DEVICES, fragment, hash::FlowTuple, sources, timing,
};
use lb_ebpf::{
    frame::Frame,
    tables::{CacheLine, PackedKey, Tables},
};

pub(crate) use way::{Way, go_aside, go_tagged, note_verdict, note_way, way_aside};

use kept::{find_affinity, find_fragment, learn_fragment, note_affinity};
use mss::{after_option, largest_mss, lower_mss};
use nat::{find_nat, note_nat, read_options};
use reply::{find_candidate, flow_holder, keep_apart, outdate_flow, reply_owner};
use sizes::{
    AFFINITY_SETS, BACKENDS, COUNTERS, ENDPOINTS, FLOW_SETS, NAT_FLOWS, NEXT_HOPS, RINGS, RULES,
    SERVICES, SOURCES,
};
use values::{Line, RingPair, SourceKey};

/// `BPF_F_MMAPABLE`: user space reads and writes the map without system calls.
const MMAPABLE: usize = 1 << 10;

/// 1: nothing is written, neither maps nor counters; for `explain`.
#[unsafe(no_mangle)]
static READ_ONLY: Global<u8> = Global::new(0);

#[btf_map(name = "header")]
static HEADER: Array<Header, 1, MMAPABLE> = Array::new();
#[btf_map(name = "control")]
static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();
#[btf_map(name = "endpoints")]
static ENDPOINT_TABLE: Array<EndpointSlot, ENDPOINTS, MMAPABLE> = Array::new();
#[btf_map(name = "rules")]
static RULE_TABLE: Array<Rule, RULES, MMAPABLE> = Array::new();
#[btf_map(name = "services")]
static SERVICE_TABLE: Array<ServiceEntry, SERVICES, MMAPABLE> = Array::new();
#[btf_map(name = "rings")]
static RING_TABLE: Array<RingPair, RINGS, MMAPABLE> = Array::new();
#[btf_map(name = "backends")]
static BACKEND_TABLE: Array<BackendEntry, BACKENDS, MMAPABLE> = Array::new();
#[btf_map(name = "next_hops")]
static NEXT_HOP_TABLE: Array<NextHop, NEXT_HOPS, MMAPABLE> = Array::new();
#[btf_map(name = "devices")]
static DEVICE_TABLE: Array<Device, { DEVICES as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "redirects")]
static REDIRECTS: DevMap<{ DEVICES as usize }> = DevMap::new();
#[btf_map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<SourceKey, u32, SOURCES> = LpmTrie::new();
#[btf_map(name = "flows")]
static FLOW_TABLE: Array<Line, FLOW_SETS, MMAPABLE> = Array::new();
#[btf_map(name = "return_hops")]
static RETURN_HOP_TABLE: Array<Line, FLOW_SETS, MMAPABLE> = Array::new();
#[btf_map(name = "nat_flows")]
static NAT_TABLE: Array<Line, NAT_FLOWS, MMAPABLE> = Array::new();
#[btf_map(name = "fragments")]
static FRAGMENT_TABLE: Array<Line, { fragment::SETS as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "handshakes")]
static HANDSHAKE_TABLE: Array<Line, { timing::LINES as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "affinities")]
static AFFINITY_TABLE: Array<Line, AFFINITY_SETS, MMAPABLE> = Array::new();
#[btf_map(name = "counters")]
static COUNTER_TABLE: Array<Line, COUNTERS, MMAPABLE> = Array::new();

/// A line of a map, shared with the other CPUs and with user space.
#[inline(always)]
fn line<const ENTRIES: usize>(
    map: &'static Array<Line, ENTRIES, MMAPABLE>,
    index: u32,
) -> Option<&'static CacheLine> {
    let line = map.get_ptr(index)?;
    // SAFETY: map memory lives as long as the program, has the size and alignment of eight atomics
    // (asserted above), and is only ever reached as such.
    Some(unsafe { &*line.cast::<CacheLine>() })
}

/// The maps of the loaded program.
pub(crate) struct KernelTables;

impl KernelTables {
    /// Sends the packet out of the interface in a slot; the code to return from the program.
    #[inline(always)]
    pub(crate) fn redirect(slot: u32) -> u32 {
        match REDIRECTS.redirect(slot, 0) {
            Ok(code) | Err(code) => code,
        }
    }
}

/// [`lb_ebpf::service::endpoint`]; `tail` as in [`PackedKey`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_endpoint(
    low: u64,
    high: u64,
    tail: u64,
    kind: u32,
    live: u64,
) -> u32 {
    let key = packed([low, high], tail);
    lb_ebpf::service::endpoint(&KernelTables, key, kind, live)
}

/// [`lb_ebpf::ranges::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_range(low: u64, high: u64, tail: u64, live: u64) -> u32 {
    let key = packed([low, high], tail);
    lb_ebpf::ranges::find(&KernelTables, key, live)
}

/// [`lb_ebpf::ranges::find_rule`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_rule(first: u32, tail: u64, generation: u32) -> u32 {
    lb_ebpf::ranges::find_rule(&KernelTables, first, tail, generation)
}

/// [`lb_ebpf::flow::hash`]: client, VIP, then both ports (client's first) and the protocol.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hash_flow(c0: u64, c1: u64, v0: u64, v1: u64, tail: u64) -> u64 {
    let [a, b, c, d, protocol, ..] = tail.to_ne_bytes();
    let tuple = FlowTuple {
        client: Address::from_words([c0, c1]),
        vip: Address::from_words([v0, v1]),
        client_port: [a, b],
        vip_port: [c, d],
        protocol,
    };
    lb_ebpf::flow::hash(&KernelTables, &tuple)
}

/// [`lb_ebpf::flow::assign`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn assign_flow(
    service: u32,
    hash: u64,
    arrival: u32,
    second: u32,
    group: u64,
) -> u64 {
    lb_ebpf::flow::assign(&KernelTables, service, hash, arrival, second, group)
}

/// [`lb_ebpf::flow::adopt`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn adopt_flow(service: u32, hash: u64, backend: u32, second: u32) -> u64 {
    lb_ebpf::flow::adopt(&KernelTables, service, hash, backend, second)
}

/// [`lb_ebpf::flow::find_in`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_flow(set: u32, tag: u64) -> u64 {
    lb_ebpf::flow::find_in(&KernelTables, set, tag)
}

/// [`lb_ebpf::eviction::victim`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_victim(set: u32, floor: u32, epoch: u32) -> u32 {
    lb_ebpf::eviction::victim(&KernelTables, set, floor, epoch)
}

/// [`lb_ebpf::schedule::choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn choose_backend(service: u32, hash: u64) -> u32 {
    lb_ebpf::schedule::choose(&KernelTables, service, hash)
}

/// [`lb_ebpf::schedule::pick`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pick_backend(service: u32, hash: u64) -> u32 {
    lb_ebpf::schedule::pick(&KernelTables, service, hash)
}

#[inline(always)]
const fn packed(address: [u64; 2], tail: u64) -> PackedKey {
    PackedKey { address, tail }
}

/// What map `source_ranges` says of an address; 0: nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn source_range(set: u32, a: u64, b: u64) -> u32 {
    let sources::Key { set, address, .. } =
        sources::Key::new(set, Address::from_words([a, b]), 128);
    let key = lpm_trie::Key::new(sources::SET_BITS + 128, SourceKey { set, address });
    SOURCE_RANGES.get(&key).copied().unwrap_or(0)
}

/// A result of which the compiler knows as little as the verifier does. It sees through the call, leaves out
/// masks that it has proven idle, and the verifier then misses them ("R0 max value is outside of
/// the allowed memory range", Linux 6.18).
#[inline(always)]
fn unknown<V>(value: V) -> V {
    core::hint::black_box(value)
}

impl Tables for KernelTables {
    #[inline(always)]
    fn find_endpoint(&self, key: PackedKey, kind: u32, live: u64) -> u32 {
        let [low, high] = key.address;
        unknown(find_endpoint(low, high, key.tail, kind, live))
    }

    #[inline(always)]
    fn find_range(&self, key: PackedKey, live: u64) -> u32 {
        let [low, high] = key.address;
        unknown(find_range(low, high, key.tail, live))
    }

    #[inline(always)]
    fn find_rule(&self, first: u32, tail: u64, generation: u32) -> u32 {
        unknown(find_rule(first, tail, generation))
    }

    #[inline(always)]
    fn hash_flow(&self, tuple: &FlowTuple) -> u64 {
        let ([c0, c1], [v0, v1]) = (tuple.client.words(), tuple.vip.words());
        let ([a, b], [c, d]) = (tuple.client_port, tuple.vip_port);
        let tail = u64::from_ne_bytes([a, b, c, d, tuple.protocol, 0, 0, 0]);
        hash_flow(c0, c1, v0, v1, tail)
    }

    #[inline(always)]
    fn assign_flow(&self, service: u32, hash: u64, arrival: u32, second: u32, group: u64) -> u64 {
        unknown(assign_flow(service, hash, arrival, second, group))
    }

    #[inline(always)]
    fn adopt_flow(&self, service: u32, hash: u64, backend: u32, second: u32) -> u64 {
        unknown(adopt_flow(service, hash, backend, second))
    }

    #[inline(always)]
    fn find_flow(&self, set: u32, tag: u64) -> u64 {
        unknown(find_flow(set, tag))
    }

    #[inline(always)]
    fn find_victim(&self, set: u32, floor: u32, epoch: u32) -> u32 {
        unknown(find_victim(set, floor, epoch))
    }

    #[inline(always)]
    fn choose_backend(&self, service: u32, hash: u64) -> u32 {
        unknown(choose_backend(service, hash))
    }

    #[inline(always)]
    fn pick_backend(&self, service: u32, hash: u64) -> u32 {
        unknown(pick_backend(service, hash))
    }

    #[inline(always)]
    fn flow_holder(&self, service: u32, hash: u64, group: u64) -> u32 {
        unknown(flow_holder(service, hash, group))
    }

    #[inline(always)]
    fn reply_owner(&self, backend: PackedKey, client: [u64; 2]) -> u64 {
        let ([b0, b1], [c0, c1]) = (backend.address, client);
        unknown(reply_owner(b0, b1, backend.tail, c0, c1))
    }

    #[inline(always)]
    fn keep_apart(&self, assigned: u64, hash: u64) -> u64 {
        unknown(keep_apart(assigned, hash))
    }

    #[inline(always)]
    fn notes(&self) -> Option<&CacheLine> {
        way::notes()
    }

    #[inline(always)]
    fn outdate_flow(&self, flow: u64, tail: u64) {
        unknown(outdate_flow(flow, tail));
    }

    #[inline(always)]
    fn find_candidate(&self, backend: PackedKey, live: u64, distance: u32) -> u32 {
        let [b0, b1] = backend.address;
        unknown(find_candidate(b0, b1, backend.tail, live, distance))
    }

    #[inline(always)]
    fn find_nat(&self, hash: u64, backend: u32, second: u32) -> u64 {
        unknown(find_nat(hash, backend, second))
    }

    #[inline(always)]
    fn note_nat(&self, slot: u32, seen: u64, event: u32, second: u32) -> u32 {
        unknown(note_nat(slot, seen, event, second))
    }

    #[inline(always)]
    fn read_options(&self, bytes: u32, state: u64) -> u64 {
        unknown(read_options(bytes, state))
    }

    #[inline(always)]
    fn largest_mss(&self, backend: u32, came: u32, mtu: u32, headers: u32, now: u64) -> u32 {
        unknown(largest_mss(backend, came, mtu, headers, now))
    }

    #[inline(always)]
    fn note_path(&self, [low, high]: [u64; 2], said: u64, now: u64) -> u32 {
        unknown(path::note_path(low, high, said, now))
    }

    #[inline(always)]
    fn note_path_next(&self, [low, high]: [u64; 2], said: u64, now: u64, told: u64) -> u64 {
        unknown(path::note_path_next(low, high, said, now, told))
    }

    #[inline(always)]
    fn exchange_tunnel(&self, backend: u32, current: Tunnel, new: Tunnel) -> bool {
        path::exchange(backend, current, new)
    }

    #[inline(always)]
    fn lower_mss<F: Frame>(&self, frame: &mut F, most: u32) {
        unknown(lower_mss(frame.context().cast(), most));
    }

    #[inline(always)]
    fn after_option(&self, kind: u32, length: u32, place: u32) -> u32 {
        unknown(after_option(kind, length, place))
    }

    #[inline(always)]
    fn nat_flow(&self, slot: u32) -> Option<&CacheLine> {
        line(&NAT_TABLE, slot)
    }

    #[inline(always)]
    fn find_fragment(&self, hash: u64, second: u32) -> u64 {
        unknown(find_fragment(hash, second))
    }

    #[inline(always)]
    fn learn_fragment(&self, hash: u64, payload: u64, second: u32) {
        unknown(learn_fragment(hash, payload, second));
    }

    #[inline(always)]
    fn fragments(&self, set: u32) -> Option<&CacheLine> {
        line(&FRAGMENT_TABLE, set)
    }

    #[inline(always)]
    fn find_affinity(&self, service: u32, group: u64, second: u32) -> u32 {
        unknown(find_affinity(service, group, second))
    }

    #[inline(always)]
    fn note_affinity(&self, service: u32, group: u64, backend: u32, second: u32) {
        unknown(note_affinity(service, group, backend, second));
    }

    #[inline(always)]
    fn count_handshake(&self, backend: u32, which: u32) {
        unknown(counts::count_handshake(backend, which));
    }

    #[inline(always)]
    fn handshakes(&self, index: u32) -> Option<&CacheLine> {
        line(&HANDSHAKE_TABLE, index)
    }

    #[inline(always)]
    fn precise_now(&self) -> Nanos {
        // SAFETY: the helper takes no arguments and cannot fail.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn time_handshake(&self, key: u32, backend: u32, event: u32) {
        unknown(counts::time_handshake(key, backend, event));
    }

    #[inline(always)]
    fn count_outcome(&self, outcome: u64, bytes: u64) {
        unknown(counts::count_outcome(outcome, bytes));
    }

    #[inline(always)]
    fn count_parcel(&self, parcel: u64, bytes: u64) {
        unknown(counts::count_parcel(parcel, bytes));
    }

    #[inline(always)]
    fn affinities(&self, set: u32) -> Option<&CacheLine> {
        line(&AFFINITY_TABLE, set)
    }

    #[inline(always)]
    fn source_range(&self, set: u32, [a, b]: [u64; 2]) -> u32 {
        unknown(source_range(set, a, b))
    }

    #[inline(always)]
    fn read_only(&self) -> bool {
        READ_ONLY.load() != 0
    }

    #[inline(always)]
    fn header(&self) -> Option<&Header> {
        HEADER.get(0)
    }

    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        CONTROL.get(0)
    }

    #[inline(always)]
    fn endpoint(&self, index: u32) -> Option<&EndpointSlot> {
        ENDPOINT_TABLE.get(index)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        RULE_TABLE.get(index)
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        SERVICE_TABLE.get(index)
    }

    #[inline(always)]
    fn ring(&self, index: u32) -> Option<&[u32; 2]> {
        RING_TABLE.get(index).map(|pair| &pair.ids)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&BackendEntry> {
        BACKEND_TABLE.get(id)
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        NEXT_HOP_TABLE.get(index)
    }

    #[inline(always)]
    fn device(&self, slot: u32) -> Option<&Device> {
        DEVICE_TABLE.get(slot)
    }

    #[inline(always)]
    fn flows(&self, set: u32) -> Option<&CacheLine> {
        line(&FLOW_TABLE, set)
    }

    #[inline(always)]
    fn return_hops(&self, set: u32) -> Option<&CacheLine> {
        line(&RETURN_HOP_TABLE, set)
    }

    #[inline(always)]
    fn first_counter(&self, lines_per_cpu: u32) -> u32 {
        // SAFETY: the helper takes no arguments and cannot fail.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        cpu.wrapping_mul(lines_per_cpu)
    }

    #[inline(always)]
    fn counter(&self, index: u32) -> Option<&CacheLine> {
        line(&COUNTER_TABLE, index)
    }
}
