//! What the kernel and its drivers lose of what XDP programs have sent, counted by interface at the kernel's tracepoints. Built for
//! the BPF target only, by `cargo xtask`.
//!
//! A tracepoint is the whole host's, so each device is asked which network namespace it is in. Where its fields lie differs from
//! kernel to kernel: user space reads that from the kernel's own description of its types, and writes it here before the programs are loaded.
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::{
        BPF_NOEXIST,
        xdp_action::{XDP_REDIRECT, XDP_TX},
    },
    btf_maps::PerCpuHashMap,
    helpers::bpf_probe_read_kernel,
    macros::{btf_map, raw_tracepoint},
    programs::RawTracePointContext,
};
use lb_common::losses::{Loss, PLACES, Place};

/// Offset in bytes of `ifindex` in `struct net_device`.
#[unsafe(no_mangle)]
static IFINDEX_AT: Global<u32> = Global::new(0);
/// Of the pointer to its `struct net`.
#[unsafe(no_mangle)]
static NET_AT: Global<u32> = Global::new(0);
/// Of the inode number in `struct net`.
#[unsafe(no_mangle)]
static INODE_AT: Global<u32> = Global::new(0);
/// The inode number of the network namespace that is looked at.
#[unsafe(no_mangle)]
static NAMESPACE: Global<u32> = Global::new(0);

#[btf_map(name = "losses")]
static LOSSES: PerCpuHashMap<Place, u64, { PLACES as usize }> = PerCpuHashMap::new();

/// Index of a device in our namespace.
#[inline(always)]
fn ours(device: *const u8) -> Option<u32> {
    let at = |offset: u32| device.wrapping_add(offset as usize);
    // SAFETY: the helper reads any address, and fails where nothing is mapped.
    let net = unsafe { bpf_probe_read_kernel(at(NET_AT.load()).cast::<*const u8>()) }.ok()?;
    let inode = net.wrapping_add(INODE_AT.load() as usize).cast::<u32>();
    // SAFETY: as above.
    if unsafe { bpf_probe_read_kernel(inode) }.ok()? != NAMESPACE.load() {
        return None;
    }
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(at(IFINDEX_AT.load()).cast::<u32>()) }.ok()
}

#[inline(always)]
fn add(place: &Place, packets: u64) -> bool {
    let Some(count) = LOSSES.get_ptr_mut(place) else {
        return false;
    };
    // SAFETY: this CPU's own word of an entry that is never removed, aligned to 8 bytes.
    let count = unsafe { &mut *count };
    *count = count.wrapping_add(packets);
    true
}

#[inline(always)]
fn lose(device: *const u8, loss: Loss, packets: i32) {
    if packets <= 0 {
        return;
    }
    let Some(ifindex) = ours(device) else {
        return;
    };
    let place = Place {
        ifindex,
        loss: loss as u32,
    };
    let packets = packets as u64;
    if !add(&place, packets)
        && LOSSES
            .insert(&place, &packets, u64::from(BPF_NOEXIST))
            .is_err()
    {
        // Another CPU was faster, or the map is full.
        let _full = add(&place, packets);
    }
}

/// `xdp_exception(dev, xdp, act)`: the verdict came to nothing. Of a redirect [`fairlead_redirect`] is told as well.
#[raw_tracepoint(tracepoint = "xdp_exception")]
fn fairlead_exception(context: RawTracePointContext) -> i32 {
    let loss = match context.arg::<u32>(2) {
        XDP_REDIRECT => return 0,
        XDP_TX => Loss::Reflect,
        _ => Loss::Aborted,
    };
    lose(context.arg(0), loss, 1);
    0
}

/// `xdp_redirect_err(dev, xdp, tgt, err, map_type, map_id, index)`.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn fairlead_redirect(context: RawTracePointContext) -> i32 {
    lose(context.arg(0), Loss::Redirect, 1);
    0
}

/// `xdp_devmap_xmit(from_dev, to_dev, sent, drops, err)`: for each batch of packets, most of which lose none.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
fn fairlead_transmit(context: RawTracePointContext) -> i32 {
    lose(context.arg(1), Loss::Transmit, context.arg(3));
    0
}

/// `xdp_bulk_tx(dev, sent, drops, err)`: what some drivers send back in batches.
#[raw_tracepoint(tracepoint = "xdp_bulk_tx")]
fn fairlead_reflect(context: RawTracePointContext) -> i32 {
    lose(context.arg(0), Loss::Reflect, context.arg(2));
    0
}

/// The licence that the kernel reads: helpers are open to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No code path panics; the compiler wants the handler.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
