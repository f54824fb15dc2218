//! Flows of services whose packets go the long way: whose packets name their backend, or are scheduled one by one.

use lb_common::{DropReason, Protocol};

use super::{
    Assigned, Origin, Seeker, enter, find, find_backend, reach, refresh, replace_by, seeker,
};
use crate::{forward, parse::Arrival, schedule, service, tables::Tables};

/// Schedules a packet by itself.
#[inline(always)]
pub(super) fn alone<T: Tables>(tables: &T, seeker: &Seeker<'_>) -> Assigned {
    let Some(hash) = schedule::numbered(tables, seeker.hash) else {
        return Assigned::refused(DropReason::MapInconsistent);
    };
    match reach(tables, tables.choose_backend(seeker.service.index, hash.0)) {
        Ok(backend) => Assigned::to(backend.id, Origin::Alone, 0, 0),
        Err(reason) => Assigned::refused(reason),
    }
}

/// Enters the flow with this hash for a backend that its packet names; that the backend may keep flows of the service has been
/// seen. An [`Assigned`] in one word. In a service of TCP, whose packets name none, the packet opens a connection that is kept apart.
#[inline(always)]
pub fn adopt<T: Tables>(tables: &T, service: u32, hash: u64, backend: u32, second: u32) -> u64 {
    match seeker(tables, service, hash, Arrival::DATAGRAM, second) {
        Ok(seeker) => {
            let arrival = match seeker.service.entry.protocol == Protocol::Tcp as u8 {
                true => Arrival::OPENING,
                false => seeker.arrival,
            };
            adopt_for(tables, &Seeker { arrival, ..seeker }, backend).0
        }
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
        refresh(tables, &entry, seeker.epoch, seeker.arrival.step());
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
