//! Which backend a new flow gets, with an entry and without.

use lb_common::DropReason;

use super::{Assigned, Origin, Owner, Seeker, find, owner, seeker};
use crate::{
    forward,
    parse::Arrival,
    schedule,
    service::{self, Backend},
    tables::Tables,
};

/// The backend of a new flow.
#[inline(always)]
pub(super) fn choose<'t, T: Tables>(
    tables: &'t T,
    seeker: &Seeker<'_>,
) -> Result<Backend<'t>, DropReason> {
    let stays = seeker.service.entry.affinity != 0;
    let (service, group) = (seeker.service.index, seeker.group.0);
    let mut id = match stays {
        true => tables.find_affinity(service, group, seeker.second),
        false => schedule::NOBODY,
    };
    if id == schedule::NOBODY && seeker.is_free() {
        id = tables.pick_backend(service, seeker.hash.0);
    }
    if id == schedule::NOBODY {
        id = tables.choose_backend(service, group);
    }
    let backend = reach(tables, id)?;
    if stays {
        tables.note_affinity(service, group, id, seeker.second);
    }
    Ok(backend)
}

/// A flow that gets no entry goes where its hash says, however it was scheduled, or each of its packets would go to another
/// backend.
#[inline(always)]
pub(super) fn settled<T: Tables>(tables: &T, seeker: &Seeker<'_>, assigned: Assigned) -> Assigned {
    // A client that stays with its backend does so without an entry, too.
    if !seeker.is_free() || seeker.service.entry.affinity != 0 {
        return assigned;
    }
    let origin = match assigned.origin() {
        Some(origin @ (Origin::Untracked | Origin::NotAdmitted)) => origin,
        _ => return assigned,
    };
    let id = tables.choose_backend(seeker.service.index, seeker.group.0);
    match reach(tables, id) {
        Ok(backend) => Assigned::to(backend.id, origin, 0, 0),
        Err(reason) => Assigned::refused(reason),
    }
}

/// The backend with this id, or what [`schedule::choose`] says in its place, if a packet can reach it.
#[inline(always)]
pub(super) fn reach<T: Tables>(tables: &T, id: u32) -> Result<Backend<'_>, DropReason> {
    match id {
        schedule::NOBODY => Err(DropReason::NoBackend),
        id => {
            let backend = service::backend(tables, id).ok_or(DropReason::MapInconsistent)?;
            // Before the flow has an entry, or its next packet would not be counted as a new flow's.
            forward::check_resolved(tables, backend)?;
            Ok(backend)
        }
    }
}

/// The BackendId that has a flow, without touching the table: for errors about it. A flow without an entry
/// has whom the ring names, be its client one that stays with another or not. [`schedule::NOBODY`] or
/// [`schedule::INCONSISTENT`] when there is none.
#[inline(always)]
pub fn holder<T: Tables>(tables: &T, service: u32, hash: u64, group: u64) -> u32 {
    let Ok(seeker) = seeker(tables, service, hash, Arrival::MIDDLE, 0) else {
        return schedule::INCONSISTENT;
    };
    if let Some(entry) = find(tables, seeker.sets)
        && let Owner::Keeps(backend) = owner(tables, &seeker, entry.word)
    {
        return backend.id;
    }
    tables.choose_backend(service, group)
}
