//! The choice of a backend for a new flow: a function of the flow's hash, the ring and the
//! permissions in force, so that two CPUs that see a flow at once choose alike.
//!
//! That is [`choose`]. A service may keep flows together whose hashes differ ([`group`]), or have new flows spread in
//! another way ([`pick`]); then a flow's entry is all that says where it belongs, and [`choose`] has the flows that can have none.

use lb_common::{
    Control, FlowHash, Load, Pick, ServiceEntry,
    counter::{self, Global, PerBackend},
    hash::FlowTuple,
};

use crate::{
    admission, flow,
    pipeline::Context,
    service::{self, Service},
    tables::{CacheLine, Tables, load},
};

/// Ring slots that are tried before a new flow is refused. With a share `p` of the ring closed to
/// new flows, `p^8` of them are refused until the ring is rebuilt.
pub const ATTEMPTS: u32 = 8;

/// Nobody: what [`choose`] gives when no backend of the service may take new flows.
pub const NOBODY: u32 = u32::MAX;
/// What [`choose`] gives when the maps contradict each other.
pub const INCONSISTENT: u32 = u32::MAX - 1;

/// Whom the ring of a service names first, be it allowed to take the flow or not.
#[inline(always)]
pub fn first_choice<T: Tables>(tables: &T, service: Service<'_>, hash: FlowHash) -> Option<u32> {
    let (base, size) = ServiceEntry::unslice(load(&service.entry.ring));
    if size == 0 {
        return None;
    }
    let slot = base.wrapping_add(hash.ring_slot(size, 0));
    let &[even, odd] = tables.ring(slot >> 1)?;
    Some(if slot & 1 == 0 { even } else { odd })
}

/// Chooses a backend of a service that may take new flows: its BackendId.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, service: u32, hash: u64) -> u32 {
    let Ok(service) = service::by_index(tables, service) else {
        return INCONSISTENT;
    };
    let ring = load(&service.entry.ring);
    if ring >> 32 == 0 {
        return NOBODY;
    }
    let mut attempt: u32 = 0;
    while attempt < ATTEMPTS {
        // Taken apart in each round anew: both parts would have to be kept on the stack.
        let (base, size) = ServiceEntry::unslice(core::hint::black_box(ring));
        let slot = base.wrapping_add(FlowHash(hash).ring_slot(size, attempt));
        let Some(&[even, odd]) = tables.ring(slot >> 1) else {
            return INCONSISTENT;
        };
        let id = if slot & 1 == 0 { even } else { odd };
        if takes_new(tables, id, service.index) {
            return id;
        }
        attempt = attempt.wrapping_add(1);
    }
    NOBODY
}

/// What a flow is scheduled by, where that is a hash: its own, or that of the fields that its service keeps together.
#[inline(always)]
pub fn group<T: Tables>(tables: &T, service: u32, tuple: &FlowTuple, hash: u64) -> u64 {
    match service::by_index(tables, service) {
        Ok(service) if service.entry.fields != 0 => {
            tables.hash_flow(&tuple.only(service.entry.fields, service.entry.client_bits))
        }
        _ => hash,
    }
}

/// [`group`] of a packet that looks for its backend, and notes whose it is, for [`crate::flow::keep_apart`].
#[inline(always)]
pub(crate) fn group_of<T: Tables>(
    cx: &Context<'_, T>,
    service: u32,
    tuple: &FlowTuple,
    hash: u64,
) -> u64 {
    flow::note_client(cx.tables, tuple, admission::second(cx.now));
    group(cx.tables, service, tuple, hash)
}

/// The hash with the number of packets that this CPU has seen before, which makes it another for each packet.
#[inline(always)]
pub fn numbered<T: Tables>(tables: &T, hash: FlowHash) -> Option<FlowHash> {
    let control = tables.control()?;
    let global = tables.counters(control.lines_per_cpu, counter::GLOBAL_LINE)?;
    // A read-only program does not count the packet itself.
    let counted = u64::from(!tables.read_only());
    Some(hash.nth(global.word(Global::Rx as u32).wrapping_sub(counted)))
}

/// Picks a backend as the service says, if that is not by a hash alone: its BackendId, or [`NOBODY`] where [`choose`]
/// is to say. `hash`: the flow's.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, service: u32, hash: u64) -> u32 {
    let Ok(entry) = service::by_index(tables, service).map(|service| service.entry) else {
        return INCONSISTENT;
    };
    match Pick::from_u8(entry.picks()) {
        Some(Pick::Random) => match numbered(tables, FlowHash(hash)) {
            Some(hash) => choose(tables, service, hash.0),
            None => INCONSISTENT,
        },
        Some(Pick::Turn) => by_turn(tables, service, FlowHash(hash)),
        Some(Pick::Least) => match numbered(tables, FlowHash(hash)) {
            Some(hash) => least(tables, service, hash),
            None => INCONSISTENT,
        },
        _ => NOBODY,
    }
}

/// The backend whose turn it is on this CPU. The first turn is any: many CPUs must not all begin with the same backend. One that takes
/// no new flows loses its turn, and not to the next one, which would get twice its share.
#[inline(always)]
fn by_turn<T: Tables>(tables: &T, index: u32, hash: FlowHash) -> u32 {
    let (Ok(service), Some(line)) = (service::by_index(tables, index), turn_line(tables, index))
    else {
        return INCONSISTENT;
    };
    let (base, size) = ServiceEntry::unslice(load(&service.entry.ring));
    let at = match line.word(counter::TURN & 7) {
        0 => hash.ring_slot(size, 0),
        // No rest: there is no ring.
        last => last.checked_rem(u64::from(size)).unwrap_or(0) as u32,
    };
    if at >= size {
        return NOBODY;
    }
    tables.set(line, counter::TURN & 7, u64::from(at).wrapping_add(1));
    let slot = base.wrapping_add(at);
    let Some(&[even, odd]) = tables.ring(slot >> 1) else {
        return INCONSISTENT;
    };
    let id = if slot & 1 == 0 { even } else { odd };
    match takes_new(tables, id, index) {
        true => id,
        false => NOBODY,
    }
}

/// The line that has a service's [`counter::TURN`] on this CPU.
#[inline(always)]
fn turn_line<T: Tables>(tables: &T, service: u32) -> Option<&CacheLine> {
    let line = counter::service_line(tables.header()?.backends, service);
    let line = line.wrapping_add(counter::TURN >> 3);
    tables.counters(tables.control()?.lines_per_cpu, line)
}

/// Of the backends of two slots of the ring the one that bears less for its weight with this flow. So nobody gets more than
/// twice its share, however empty it is, and no two CPUs nor two balancers all run to the same one. The first where one of the two
/// has not been counted yet.
#[inline(always)]
fn least<T: Tables>(tables: &T, index: u32, hash: FlowHash) -> u32 {
    let (Ok(service), Some(control)) = (service::by_index(tables, index), tables.control()) else {
        return INCONSISTENT;
    };
    let (base, size) = ServiceEntry::unslice(load(&service.entry.ring));
    if size == 0 {
        return NOBODY;
    }
    let mut best = (NOBODY, REFUSES);
    let mut attempt: u32 = 0;
    while attempt < 2 {
        let slot = base.wrapping_add(hash.ring_slot(size, attempt));
        let Some(&[even, odd]) = tables.ring(slot >> 1) else {
            return INCONSISTENT;
        };
        let id = if slot & 1 == 0 { even } else { odd };
        let burden = burden(tables, control, id, index);
        let known = burden != 0 || best.1 == REFUSES;
        if known && burden < best.1 {
            best = (id, burden);
        }
        attempt = attempt.wrapping_add(1);
    }
    best.0
}

/// The burden of who takes no new flows.
const REFUSES: u64 = u64::MAX;

/// What a backend bears with one more flow, as [`Load::with`], or [`REFUSES`]. What this CPU gave it since its flows were counted is known; of
/// what the others gave it that is an estimate.
#[inline(always)]
fn burden<T: Tables>(tables: &T, control: &Control, id: u32, service: u32) -> u64 {
    let line = counter::BACKEND_LINE.wrapping_add(id);
    let (true, Some(backend), Some(line)) = (
        takes_new(tables, id, service),
        tables.backend(id),
        tables.counters(control.lines_per_cpu, line),
    ) else {
        return REFUSES;
    };
    let since = line
        .word(PerBackend::NewFlows as u32)
        .wrapping_add(line.word(PerBackend::MovedIn as u32))
        .wrapping_sub(line.word(PerBackend::Counted as u32));
    let cpus = u64::from(control.flow_cpus).max(1);
    Load(load(&backend.load.0)).with(since.wrapping_mul(cpus))
}

/// The backend belongs to the service and takes new flows.
#[inline(always)]
pub(crate) fn takes_new<T: Tables>(tables: &T, id: u32, service: u32) -> bool {
    match service::backend(tables, id) {
        Some(backend) => {
            backend.entry.service == service && backend.state.permissions().may_take_new()
        }
        None => false,
    }
}
