//! Whose a reply is, who has a flow, and which server is to have it.

use super::{KernelTables, packed};

/// [`lb_ebpf::reply::owner`]; the backend's key, then the client.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reply_owner(b0: u64, b1: u64, tail: u64, c0: u64, c1: u64) -> u64 {
    let key = packed([b0, b1], tail);
    lb_ebpf::reply::owner(&KernelTables, key, [c0, c1])
}

/// [`lb_ebpf::reply::outdate`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn outdate_flow(flow: u64, tail: u64) -> u32 {
    lb_ebpf::reply::outdate(&KernelTables, flow, tail);
    0
}

/// [`lb_ebpf::reply::candidate`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_candidate(
    b0: u64,
    b1: u64,
    tail: u64,
    live: u64,
    distance: u32,
) -> u32 {
    let key = packed([b0, b1], tail);
    lb_ebpf::reply::candidate(&KernelTables, key, live, distance)
}

/// [`lb_ebpf::flow::keep_apart`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn keep_apart(assigned: u64, hash: u64) -> u64 {
    lb_ebpf::flow::keep_apart(&KernelTables, assigned, hash)
}

/// [`lb_ebpf::flow::holder`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_holder(service: u32, hash: u64, group: u64) -> u32 {
    lb_ebpf::flow::holder(&KernelTables, service, hash, group)
}
