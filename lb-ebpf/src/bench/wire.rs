//! Puts the driver's packets on a real wire and counts what comes back: for `BPF_PROG_TEST_RUN` with live
//! frames, over veth.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_ebpf::bench::{WIRE_SOURCE, Wire};

#[btf_map(name = "wire")]
static WIRE: Array<Wire, 1> = Array::new();
/// Test packets that arrived, per CPU.
#[btf_map(name = "arrived")]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The driver's target: out of the wire's interface.
#[xdp]
pub(crate) fn send(_context: XdpContext) -> u32 {
    let Some(wire) = WIRE.get(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: the helper takes numbers only; an interface that is not there drops the packet.
    unsafe { bpf_redirect(wire.ifindex, 0) as u32 }
}

/// Counts and drops the driver's IPv4 packets, which their source tells; all others pass.
#[xdp]
pub(crate) fn count(context: XdpContext) -> u32 {
    let data = context.data();
    if data.wrapping_add(34) > context.data_end() {
        return XDP_PASS;
    }
    // SAFETY: an Ethernet and an IPv4 header lie before the packet's end (checked above, and again by the
    // verifier).
    let (kind, source) = unsafe {
        (
            (data.wrapping_add(12) as *const u16).read_unaligned(),
            (data.wrapping_add(26) as *const u16).read_unaligned(),
        )
    };
    if kind != 0x0800_u16.to_be() || source != u16::from_ne_bytes(WIRE_SOURCE) {
        return XDP_PASS;
    }
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: the value is this CPU's, and XDP programs of one CPU do not interrupt each other.
        unsafe { *arrived = (*arrived).wrapping_add(1) };
    }
    XDP_DROP
}
