//! What lowers the MSS of SYNs, as calls that the verifier walks by themselves.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};

use super::KernelTables;
use crate::context::KernelFrame;

/// [`lb_ebpf::mss::largest`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn largest_mss(
    backend: u32,
    came: u32,
    mtu: u32,
    headers: u32,
    now: u64,
) -> u32 {
    lb_ebpf::mss::largest(&KernelTables, backend, came, mtu, headers, now)
}

/// [`lb_ebpf::mss::lower`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lower_mss(context: *mut xdp_md, most: u32) -> u32 {
    let mut frame = KernelFrame::<false>::new(&XdpContext::new(context));
    lb_ebpf::mss::lower(&mut frame, &KernelTables, most);
    0
}

/// [`lb_ebpf::mss::after`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn after_option(kind: u32, length: u32, place: u32) -> u32 {
    lb_ebpf::mss::after(kind, length, place)
}
