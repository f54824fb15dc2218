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
    pipeline::{self, Clock, Step},
    tables::{CacheLine, Tables},
    verdict::{Action, PackedOutcome, Verdict},
};

use crate::{
    context::KernelFrame,
    maps::{self, KernelTables},
};

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

/// The usual packet's way. Where another's leaves it, [`fairlead_aside`] goes on. That is a tail call and no other, as each
/// has BPF's whole stack then, and the usual packet no call and no return of one (which cost it 6 ns, a seventh: Linux
/// 6.18 with return thunks).
#[xdp]
#[inline(always)]
pub(crate) fn fairlead(context: XdpContext) -> u32 {
    let mut frame = KernelFrame::new(&context);
    match pipeline::usual(&mut frame, &KernelTables, KernelClock) {
        Step::Done(verdict) => end(&context, verdict),
        Step::Aside(way) => {
            maps::go_aside(&context, way.word());
            // There is no other program: a loader's mistake.
            end(&context, pipeline::lost(&KernelTables))
        }
    }
}

/// What `fairlead` leaves aside: the loader puts this into its map `asides`.
#[xdp]
#[inline(always)]
pub(crate) fn fairlead_aside(context: XdpContext) -> u32 {
    let mut frame = KernelFrame::new(&context);
    let way = PackedOutcome::of(maps::way_aside());
    let verdict = pipeline::aside(&mut frame, &KernelTables, KernelClock, way);
    end(&context, verdict)
}

/// The action of a verdict.
#[inline(always)]
fn end(context: &XdpContext, verdict: Verdict) -> u32 {
    if DEBUG_LOG.load() != 0 {
        log(context, verdict);
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
