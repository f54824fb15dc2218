//! The XDP entry point, and [`Frame`] over its context.

use aya_ebpf::{
    Global,
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
    },
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use lb_common::{Nanos, counter::Global as Counted};
use lb_ebpf::{
    frame::{Frame, Header, opaque},
    pipeline::{self, Clock},
    tables::{CacheLine, Tables},
    verdict::{Action, Verdict},
};

use crate::maps::KernelTables;

/// 1: a line is logged for each packet. 0: the verifier removes the code.
#[unsafe(no_mangle)]
static DEBUG_LOG: Global<u8> = Global::new(0);

/// A packet in the driver's memory.
struct KernelFrame {
    context: *mut xdp_md,
}

impl KernelFrame {
    /// Address of the first byte.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the kernel's and lives as long as the program runs.
        unsafe { (*self.context).data as usize }
    }

    /// Address behind the last byte.
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.context).data_end as usize }
    }
}

/// The monotonic clock of the kernel, read once per tick and CPU: the coarse clock advances with the tick and a
/// call costs as much as all else that a packet of a known flow needs the time for.
#[derive(Clone, Copy)]
struct KernelClock;

impl Clock for KernelClock {
    #[inline(always)]
    fn now<T: Tables>(self, tables: &T, notes: &CacheLine) -> Nanos {
        // SAFETY: the helper takes no arguments and cannot fail. Inlined by the verifier (Linux 5.6).
        let tick = unsafe { bpf_jiffies64() };
        if notes.word(Counted::Tick as u32) == tick {
            return notes.word(Counted::Now as u32);
        }
        // SAFETY: the helper takes no arguments and cannot fail. The coarse clock (Linux 5.11) has the
        // same origin as bpf_ktime_get_ns; its grain of some milliseconds is far below an epoch.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        tables.set(notes, Counted::Now as u32, now);
        tables.set(notes, Counted::Tick as u32, tick);
        now
    }
}

impl Frame for KernelFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        // Opaque: from `end <= len` the compiler would prove accesses that the verifier cannot ("R3 offset
        // is outside of the packet", Linux 6.18), and leave out their checks.
        opaque(self.data_end().wrapping_sub(self.data()))
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn aside<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        let mut other = Self {
            context: self.context,
        };
        call(&mut other)
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let start = self.data().wrapping_add(offset);
        if start.wrapping_add(size_of::<H>()) > self.data_end() {
            return None;
        }
        // SAFETY: the whole header lies before the packet's end (checked above, and again by the
        // verifier), and `Header` promises that any bytes at any address are right for it.
        Some(unsafe { &*(start as *const H) })
    }

    #[inline(always)]
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let start = self.data().wrapping_add(offset);
        if start.wrapping_add(size_of::<H>()) > self.data_end() {
            return None;
        }
        // SAFETY: as in `header`, and the borrow of the frame is exclusive.
        Some(unsafe { &mut *(start as *mut H) })
    }

    #[inline(always)]
    fn grow_head(&mut self, bytes: u16) -> bool {
        // SAFETY: the context is the kernel's, and no header is borrowed: `self` is exclusive.
        unsafe { bpf_xdp_adjust_head(self.context, i32::from(bytes).wrapping_neg()) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, bytes: u16) -> bool {
        let by = usize::from(bytes).wrapping_sub(self.len()) as i32;
        // SAFETY: as in `grow_head`. A positive difference would grow the tail; it is refused here.
        by <= 0 && unsafe { bpf_xdp_adjust_tail(self.context, by) == 0 }
    }
}

/// The program.
#[xdp]
pub(crate) fn fairlead(context: XdpContext) -> u32 {
    let mut frame = KernelFrame {
        context: context.ctx,
    };
    let verdict = pipeline::process(&mut frame, &KernelTables, KernelClock);
    if DEBUG_LOG.load() != 0 {
        log(&context, verdict);
    }
    match verdict.action {
        Action::Pass => XDP_PASS,
        Action::Tx => XDP_TX,
        Action::Redirect => KernelTables::redirect(verdict.detail),
        Action::Drop => XDP_DROP,
    }
}

/// One line about a packet. A call, so that its buffers are not in everybody's stack.
#[inline(never)]
fn log(context: &XdpContext, verdict: Verdict) {
    let ingress = context.ingress_ifindex() as u32;
    let detail = verdict.detail;
    match verdict.action {
        Action::Pass => debug!(context, "interface {}: pass", ingress),
        Action::Tx => debug!(context, "interface {}: tx", ingress),
        Action::Redirect => debug!(
            context,
            "interface {}: redirect to slot {}", ingress, detail
        ),
        Action::Drop => debug!(context, "interface {}: drop, reason {}", ingress, detail),
    }
}
