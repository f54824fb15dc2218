//! What the path of a packet is measured against. The driver calls them as it calls the program under
//! test.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX},
    btf_maps::HashMap,
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_ebpf::bench::V4_BYTES;

use crate::driver::{FLOWS, PLAN};

/// A service's address as a hash map would have it: as much as any balancer looks up.
#[repr(C)]
#[derive(Clone, Copy)]
struct Key {
    address: [u32; 4],
    port: u16,
    protocol: u16,
}

#[btf_map(name = "hash")]
static HASH: HashMap<Key, u64, 4096> = HashMap::new();

/// Nothing.
#[xdp]
pub(crate) fn null(_context: XdpContext) -> u32 {
    XDP_TX
}

/// Both MAC addresses exchanged.
#[xdp]
pub(crate) fn mac_swap(context: XdpContext) -> u32 {
    let data = context.data();
    if data.wrapping_add(14) > context.data_end() {
        return XDP_ABORTED;
    }
    let words = data as *mut u32;
    // SAFETY: the twelve bytes lie before the packet's end (checked above, and again by the verifier).
    unsafe {
        let a = words.read_unaligned();
        let b = words.wrapping_add(1).read_unaligned();
        let c = words.wrapping_add(2).read_unaligned();
        // a and the low half of b are the first address.
        words.write_unaligned(b >> 16 | c << 16);
        words.wrapping_add(1).write_unaligned(c >> 16 | a << 16);
        words.wrapping_add(2).write_unaligned(a >> 16 | b << 16);
    }
    XDP_TX
}

/// Twenty bytes more before the packet: the one helper that a tunnel cannot do without.
#[xdp]
pub(crate) fn grow(context: XdpContext) -> u32 {
    // SAFETY: the context is the program's own; no pointer into the packet is held.
    match unsafe { bpf_xdp_adjust_head(context.ctx, -20) } {
        0 => XDP_TX,
        _ => XDP_ABORTED,
    }
}

/// One lookup of an IPv4 packet's destination, which is there, in a kernel hash map of a few entries.
#[xdp]
pub(crate) fn hash_lookup(context: XdpContext) -> u32 {
    let data = context.data();
    if data.wrapping_add(V4_BYTES) > context.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: all of it lies before the packet's end (checked above, and again by the verifier).
    let key = unsafe {
        Key {
            address: [
                (data.wrapping_add(30) as *const u32).read_unaligned(),
                0,
                0,
                0,
            ],
            port: (data.wrapping_add(36) as *const u16).read_unaligned(),
            protocol: u16::from((data.wrapping_add(23) as *const u8).read()),
        }
    };
    // SAFETY: nobody changes the map while the value is read.
    match unsafe { HASH.get(key) } {
        Some(_) => XDP_TX,
        None => XDP_DROP,
    }
}

/// One load from a line of the flow table that an IPv4 packet's source and port choose as if at random: what
/// a flow costs whose line is not in the cache, when nothing else is done.
#[xdp]
pub(crate) fn flow_line(context: XdpContext) -> u32 {
    let data = context.data();
    if data.wrapping_add(V4_BYTES) > context.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: both lie before the packet's end (checked above, and again by the verifier).
    let (source, port) = unsafe {
        (
            (data.wrapping_add(28) as *const u16).read_unaligned(),
            (data.wrapping_add(34) as *const u16).read_unaligned(),
        )
    };
    let Some(plan) = PLAN.get(0) else {
        return XDP_ABORTED;
    };
    // Fibonacci hashing: high bits of a product with 2^64 divided by the golden ratio.
    let mixed = (u64::from(source) << 16 | u64::from(port)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let Some(set) = FLOWS.get_ptr((mixed >> 32 & plan.set_mask) as u32) else {
        return XDP_ABORTED;
    };
    // SAFETY: the pointer is a map's, aligned and valid; what is read decides no address.
    match unsafe { (*set).words.as_ptr().read_volatile() } {
        u64::MAX => XDP_DROP,
        _ => XDP_TX,
    }
}
