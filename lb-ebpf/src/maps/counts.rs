//! What counts in a function of its own.

use super::KernelTables;

/// [`lb_ebpf::verdict::count_handshake`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn count_handshake(backend: u32, which: u32) -> u32 {
    lb_ebpf::verdict::count_handshake(&KernelTables, backend, which);
    0
}

/// [`lb_ebpf::timing::note`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn time_handshake(key: u32, backend: u32, event: u32) -> u32 {
    lb_ebpf::timing::note(&KernelTables, key, backend, event);
    0
}

/// [`lb_ebpf::pipeline::count_outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn count_outcome(outcome: u64, bytes: u64) -> u32 {
    lb_ebpf::pipeline::count_outcome(&KernelTables, outcome, bytes);
    0
}

/// [`lb_ebpf::pipeline::count_parcel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn count_parcel(parcel: u64, bytes: u64) -> u32 {
    lb_ebpf::pipeline::count_parcel(&KernelTables, parcel, bytes);
    0
}
