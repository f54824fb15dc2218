//! Searches and changes of `fullnat`'s table, as calls that the verifier walks by themselves.

use super::KernelTables;

/// [`lb_ebpf::nat::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_nat(hash: u64, backend: u32, second: u32) -> u64 {
    lb_ebpf::nat::find(&KernelTables, hash, backend, second)
}

/// [`lb_ebpf::nat::note`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note_nat(slot: u32, seen: u64, event: u32, second: u32) -> u32 {
    lb_ebpf::nat::note(&KernelTables, slot, seen, event, second)
}

/// [`lb_ebpf::nat::read_options`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn read_options(bytes: u32, state: u64) -> u64 {
    lb_ebpf::nat::read_options(bytes, state)
}
