//! Makes a fresh packet and hands it to the program under test, as often as the kernel repeats it.
//!
//! It reads the clock between chunks of a thousand packets or more: the kernel's own measure of a repeated
//! test run includes waiting for RCU, and from many short times those that another task or
//! an interrupt fell into can be told.

use core::{
    hint::black_box,
    intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg},
};

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP},
    btf_maps::{Array, ProgramArray},
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_ebpf::bench::{Plan, Progress, STAMPS, Shape, TARGET, V4_BYTES, V6_BYTES, check, source};

#[btf_map(name = "plan")]
pub(crate) static PLAN: Array<Plan, 1> = Array::new();
#[btf_map(name = "progress")]
static PROGRESS: Array<Progress, 1> = Array::new();
#[btf_map(name = "stamps")]
static STAMP_TABLE: Array<u64, { STAMPS as usize }> = Array::new();
/// What a locked instruction works on.
#[btf_map(name = "fence")]
static FENCE: Array<u64, 1> = Array::new();
/// The flow table of the program under test, shared with it.
#[btf_map(name = "flows")]
pub(crate) static FLOWS: Array<Set, 1, { 1 << 10 }> = Array::new();
#[btf_map(name = "targets")]
static TARGETS: ProgramArray<1> = ProgramArray::new();

/// One set of the flow table.
#[repr(C)]
pub(crate) struct Set {
    pub(crate) words: [u64; 8],
}

/// The program. Dropped: the run was over. Aborted: the frame is not the plan's, or there is no program
/// to call.
#[xdp]
pub(crate) fn driver(context: XdpContext) -> u32 {
    let (Some(plan), Some(progress)) = (PLAN.get(0), PROGRESS.get_ptr_mut(0)) else {
        return XDP_ABORTED;
    };
    // SAFETY: map memory lives as long as the program, and nobody else uses it during a run.
    let progress = unsafe { &mut *progress };
    let number = progress.packets;
    if number & plan.chunk_mask == 0 {
        let stamp = STAMP_TABLE.get_ptr_mut((number >> plan.chunk_shift) as u32);
        let Some(stamp) = stamp else {
            return XDP_ABORTED;
        };
        // SAFETY: as above, and the helper takes no arguments and cannot fail.
        unsafe { *stamp = bpf_ktime_get_ns() };
    }
    if number == plan.packets {
        return XDP_DROP;
    }
    progress.packets = number.wrapping_add(1);
    let (flow, service) = (progress.flow, progress.service);
    let (mut next_flow, mut next_service) = (flow.wrapping_add(1), service.wrapping_add(1));
    if next_service == plan.services {
        next_service = 0;
    }
    if next_flow == plan.flows {
        next_flow = 0;
    }
    progress.flow = next_flow;
    progress.service = next_service;
    if plan.clears != 0
        && let Some(set) = FLOWS.get_ptr_mut(plan.set)
    {
        // SAFETY: the map holds sets of eight words, and the index is below eight.
        unsafe {
            let word = (*set).words.as_mut_ptr().add(plan.way as usize & 7);
            word.write_volatile(0);
        }
    }
    if renew(&context, plan, flow, service).is_none() {
        return XDP_ABORTED;
    }
    let Some(fence) = FENCE.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // The new packet leaves the store buffer: a packet that came by a network card is in the cache, and a load across
    // two stores that are still under way waits for both.
    // SAFETY: the pointer is a map's, aligned and valid; nothing depends on the outcome.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(fence, 0, 1) };
    // SAFETY: the map holds nothing but programs, and nothing is left to be dropped here.
    unsafe { TARGETS.tail_call(&context, TARGET) };
    XDP_ABORTED
}

/// The frame as the plan says it, of a flow to a service.
#[inline(always)]
fn renew(context: &XdpContext, plan: &Plan, flow: u64, service: u64) -> Option<()> {
    // Opaque, or the compiler computes with 32 bits of the pointers ("R3 32-bit pointer arithmetic
    // prohibited", Linux 6.18).
    let length = black_box(context.data_end().wrapping_sub(context.data())) as u64;
    // Also when nothing is to be moved, so that every program's share of it is the same.
    // SAFETY: the context is the program's own; no pointer into the packet is held.
    let moved =
        unsafe { bpf_xdp_adjust_head(context.ctx, length.wrapping_sub(plan.length) as i32) };
    if moved != 0 {
        return None;
    }
    copy::<0, { V4_BYTES / 8 }>(context, plan)?;
    let fields = Fields::new(plan, flow, service);
    match plan.shape {
        0 => fields.write::<{ Shape::V4Tcp as u32 }, V4_BYTES>(context),
        1 => fields.write::<{ Shape::V4Udp as u32 }, V4_BYTES>(context),
        2 => {
            copy::<{ V4_BYTES / 8 }, { V6_BYTES / 8 }>(context, plan)?;
            fields.write::<{ Shape::V6Tcp as u32 }, V6_BYTES>(context)
        }
        _ => {
            copy::<{ V4_BYTES / 8 }, { V6_BYTES / 8 }>(context, plan)?;
            fields.write::<{ Shape::V6Udp as u32 }, V6_BYTES>(context)
        }
    }
}

/// Copies words of the template from one number to below another.
#[inline(always)]
fn copy<const FROM: usize, const TO: usize>(context: &XdpContext, plan: &Plan) -> Option<()> {
    let data = context.data();
    if data.wrapping_add(8 * TO) > context.data_end() {
        return None;
    }
    let mut number = FROM;
    while number < TO {
        let word = *plan.template.get(number)?;
        // SAFETY: the word lies before the packet's end (checked above, and again by the verifier).
        unsafe {
            (data.wrapping_add(8 * number) as *mut u64).write_unaligned(word);
        }
        number = number.wrapping_add(1);
    }
    Some(())
}

/// What differs from packet to packet, as the machine reads it on the wire.
#[derive(Clone, Copy)]
struct Fields {
    source: u16,
    destination: u16,
    port: u16,
    ip_check: u16,
    check: u16,
}

impl Fields {
    #[inline(always)]
    fn new(plan: &Plan, flow: u64, service: u64) -> Self {
        let (source, port) = source(flow);
        let (source, port) = (source.to_be(), port.to_be());
        let destination = (plan.first_service.wrapping_add(service) as u16).to_be();
        let addresses = u64::from(source).wrapping_add(u64::from(destination));
        let all = addresses.wrapping_add(u64::from(port));
        Self {
            source,
            destination,
            port,
            ip_check: check(plan.ip_sum.wrapping_add(addresses)),
            check: check(plan.sum.wrapping_add(all)),
        }
    }

    #[inline(always)]
    fn write<const SHAPE: u32, const BYTES: usize>(self, context: &XdpContext) -> Option<()> {
        let data = context.data();
        if data.wrapping_add(BYTES) > context.data_end() {
            return None;
        }
        let shape = match SHAPE {
            0 => Shape::V4Tcp,
            1 => Shape::V4Udp,
            2 => Shape::V6Tcp,
            _ => Shape::V6Udp,
        };
        // RFC 768: a computed zero is sent as all ones.
        let check = match shape {
            Shape::V4Udp | Shape::V6Udp if self.check == 0 => u16::MAX,
            _ => self.check,
        };
        let offsets = shape.offsets();
        let put = |offset: usize, value: u16| {
            // SAFETY: every offset is below BYTES minus one (`Offsets`), which is before the packet's end.
            unsafe { (data.wrapping_add(offset) as *mut u16).write_unaligned(value) }
        };
        put(offsets.source, self.source);
        put(offsets.destination, self.destination);
        put(offsets.port, self.port);
        put(offsets.check, check);
        if let Some(offset) = offsets.ip_check {
            put(offset, self.ip_check);
        }
        Some(())
    }
}
