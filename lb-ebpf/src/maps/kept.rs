//! What is kept of clients and of datagrams in pieces: found and noted by calls that the verifier walks by themselves.

use super::KernelTables;

/// [`lb_ebpf::fragment::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_fragment(hash: u64, second: u32) -> u64 {
    lb_ebpf::fragment::find(&KernelTables, hash, second)
}

/// [`lb_ebpf::fragment::learn`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn learn_fragment(hash: u64, payload: u64, second: u32) -> u32 {
    lb_ebpf::fragment::learn(&KernelTables, hash, payload, second)
}

/// [`lb_ebpf::affinity::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_affinity(service: u32, group: u64, second: u32) -> u32 {
    lb_ebpf::affinity::find(&KernelTables, service, group, second)
}

/// [`lb_ebpf::affinity::note`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note_affinity(service: u32, group: u64, backend: u32, second: u32) -> u32 {
    lb_ebpf::affinity::note(&KernelTables, service, group, backend, second)
}
