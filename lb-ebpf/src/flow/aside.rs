//! Flows of services whose packets go the long way: whose packets name their backend, or are scheduled one by one.

use lb_common::{
    DropReason,
    counter::{self, Global},
};

use super::{
    Assigned, Origin, Seeker, choose, enter, find, find_backend, refresh, replace_by, seeker,
};
use crate::{forward, parse::Arrival, service, tables::Tables};

/// Schedules a packet by itself: the number of packets that this CPU has seen makes each one's hash another.
#[inline(always)]
pub(super) fn alone<T: Tables>(tables: &T, seeker: &Seeker<'_>) -> Assigned {
    let Some(control) = tables.control() else {
        return Assigned::refused(DropReason::MapInconsistent);
    };
    let Some(global) = tables.counters(control.lines_per_cpu, counter::GLOBAL_LINE) else {
        return Assigned::refused(DropReason::MapInconsistent);
    };
    // A read-only program does not count the packet itself.
    let counted = u64::from(!tables.read_only());
    let number = global.word(Global::Rx as u32).wrapping_sub(counted);
    let hash = seeker.hash.nth(number);
    match choose(tables, seeker, hash) {
        Ok(backend) => Assigned::to(backend.id, Origin::Alone, 0, 0),
        Err(reason) => Assigned::refused(reason),
    }
}

/// Enters the flow with this hash for a backend that its packet names; that the backend may keep flows of the service has been
/// seen. An [`Assigned`] in one word.
#[inline(always)]
pub fn adopt<T: Tables>(tables: &T, service: u32, hash: u64, backend: u32, second: u32) -> u64 {
    match seeker(tables, service, hash, Arrival::DATAGRAM, second) {
        Ok(seeker) => adopt_for(tables, &seeker, backend).0,
        Err(reason) => Assigned::refused(reason).0,
    }
}

#[inline(always)]
fn adopt_for<T: Tables>(tables: &T, seeker: &Seeker<'_>, backend: u32) -> Assigned {
    let Some(backend) = service::backend(tables, backend) else {
        return Assigned::refused(DropReason::MapInconsistent);
    };
    let known = find_backend(tables, seeker.sets, backend.id);
    if let Some(entry) = known {
        refresh(tables, &entry, seeker.epoch, false);
        return Assigned::to(backend.id, Origin::Known, entry.set, entry.way);
    }
    if let Err(reason) = forward::check_resolved(tables, backend) {
        return Assigned::refused(reason);
    }
    match find(tables, seeker.sets) {
        Some(entry) => replace_by(tables, seeker, &entry, backend, Origin::New),
        None => enter(tables, seeker, backend),
    }
}
