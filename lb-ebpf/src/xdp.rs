//! The XDP entry point.

use aya_ebpf::{
    Global,
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use lb_common::{Nanos, counter::Global as Counted};
use lb_ebpf::{
    frame::Frame,
    pipeline::{self, Clock, Step},
    tables::{CacheLine, Tables},
    verdict::{Action, Outcome, PackedOutcome, Verdict},
    vlan::{self, Came},
};

use crate::{
    context::KernelFrame,
    maps::{self, KernelTables, Way},
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
    let mut frame = KernelFrame::<false>::new(&context);
    match pipeline::usual(&mut frame, &KernelTables, KernelClock) {
        Step::Done(verdict) if verdict.leaves_tagged() => {
            let word = PackedOutcome::counted(verdict).word();
            maps::note_way(Way::plainly(word, frame.port()));
            leave(&context)
        }
        Step::Done(verdict) => end(&context, verdict),
        Step::Aside(way) => {
            match way.is_tagged() {
                true => maps::go_tagged(&context),
                false => maps::go_aside(&context, Way::plainly(way.word(), frame.port())),
            }
            // There is no other program: a loader's mistake.
            end(&context, pipeline::lost(&KernelTables))
        }
    }
}

/// The same of frames with VLAN tags, which `fairlead` leaves to this one: the loader puts it into its map `asides`.
#[xdp]
#[inline(always)]
pub(crate) fn fairlead_tagged(context: XdpContext) -> u32 {
    if enter(&context) == 0 {
        return end(&context, pipeline::passed(&KernelTables));
    }
    let came = maps::way_aside();
    let mut frame = KernelFrame::<true>::new(&context);
    frame.came_by(came.ingress as u32);
    match pipeline::untagged(&mut frame, &KernelTables, KernelClock) {
        Step::Done(verdict) => {
            maps::note_verdict(PackedOutcome::counted(verdict).word());
            leave(&context)
        }
        Step::Aside(way) => {
            let word = way.word();
            maps::go_aside(&context, Way { word, ..came });
            end(&context, pipeline::lost(&KernelTables))
        }
    }
}

/// Takes the tags off a frame and notes them as its [`Way`]; 0: it is the kernel's. A call, so that the verifier walks what
/// follows once, and not for each number of tags.
#[inline(never)]
fn enter(context: &XdpContext) -> u32 {
    let mut frame = KernelFrame::<true>::new(context);
    frame.came_by(frame.port());
    let Some(came) = vlan::enter(&mut frame, &KernelTables) else {
        return 0;
    };
    maps::note_way(Way {
        word: 0,
        tags: came.tags,
        ingress: frame.ingress_ifindex().into(),
    });
    1
}

/// What `fairlead` leaves aside: the loader puts this into its map `asides`.
#[xdp]
#[inline(always)]
pub(crate) fn fairlead_aside(context: XdpContext) -> u32 {
    let mut frame = KernelFrame::<true>::new(&context);
    let way = maps::way_aside();
    frame.came_by(way.ingress as u32);
    let outcome = PackedOutcome::of(way.word);
    let verdict = pipeline::aside(&mut frame, &KernelTables, KernelClock, outcome);
    maps::note_verdict(PackedOutcome::counted(verdict).word());
    leave(&context)
}

/// The end of a frame that came with tags or may be to have some, whose [`Way`] names its verdict. From there, and as a call, so
/// that the verifier walks it once, and not for each verdict that there can be.
#[inline(never)]
fn leave(context: &XdpContext) -> u32 {
    let mut frame = KernelFrame::<false>::new(context);
    let way = maps::way_aside();
    let verdict = Outcome::from(PackedOutcome::of(way.word)).verdict;
    let came = Came {
        port: frame.port(),
        tags: way.tags,
    };
    if !vlan::leaves_otherwise(&came, verdict) {
        return end(context, verdict);
    }
    match vlan::leave(&mut frame, &KernelTables, &came, verdict) {
        Some(verdict) => end(context, verdict),
        // It is counted as sent, like what a full queue drops.
        None => XDP_ABORTED,
    }
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
