//! What is known of paths, in the lines of their backends.

use core::mem::offset_of;

use lb_common::{BackendEntry, Tunnel};
use lb_ebpf::tables::{CacheLine, Tables};

use super::{BACKEND_TABLE, KernelTables};

/// The word of [`BackendEntry::tunnel`].
const TUNNEL: u32 = (offset_of!(BackendEntry, tunnel) / 8) as u32;

const _: () = assert!(size_of::<BackendEntry>() == size_of::<CacheLine>());
const _: () = assert!(align_of::<BackendEntry>() == align_of::<CacheLine>());

/// The line of a backend, of which only that word is ever written here.
#[inline(always)]
fn line(backend: u32) -> Option<&'static CacheLine> {
    let line = BACKEND_TABLE.get_ptr(backend)?;
    // SAFETY: map memory lives as long as the program and has the size and alignment of eight atomics (asserted above); whoever
    // reads what changes reads it once, by `load`.
    Some(unsafe { &*line.cast::<CacheLine>() })
}

/// [`Tables::exchange_tunnel`].
#[inline(always)]
pub(super) fn exchange(backend: u32, Tunnel(current): Tunnel, Tunnel(new): Tunnel) -> bool {
    match line(backend) {
        Some(line) => KernelTables.exchange(line, TUNNEL, current, new),
        None => false,
    }
}

/// [`lb_ebpf::path::note`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note_path(low: u64, high: u64, said: u64, now: u64) -> u32 {
    lb_ebpf::path::note(&KernelTables, [low, high], said, now)
}

/// [`lb_ebpf::path::note_next`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note_path_next(
    low: u64,
    high: u64,
    said: u64,
    now: u64,
    told: u64,
) -> u64 {
    lb_ebpf::path::note_next(&KernelTables, [low, high], said, now, told)
}
