//! The XDP entry point.

use aya_ebpf::{
    Global,
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use lb_common::{Nanos, counter::Global as Counted};
use lb_ebpf::{
    pipeline::{self, Clock},
    tables::{CacheLine, Tables},
    verdict::{Action, Verdict},
};

use crate::{context::KernelFrame, maps::KernelTables};

/// 1: a line is logged for each packet. 0: the verifier removes the code.
#[unsafe(no_mangle)]
static DEBUG_LOG: Global<u8> = Global::new(0);

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

/// The program. In the entry itself: as a call it would be one more frame in each chain of calls.
#[xdp]
#[inline(always)]
pub(crate) fn fairlead(context: XdpContext) -> u32 {
    let mut frame = KernelFrame::new(&context);
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
