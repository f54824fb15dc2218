//! The choice of a backend for a new flow: a function of the flow's hash, the ring and the
//! permissions in force, so that two CPUs that see a flow at once choose alike.

use lb_common::{FlowHash, ServiceEntry};

use crate::{
    service::{self, Service},
    tables::{Tables, load},
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
    let (base, size) = ServiceEntry::unslice(load(&service.entry.ring));
    if size == 0 {
        return NOBODY;
    }
    let mut attempt: u32 = 0;
    while attempt < ATTEMPTS {
        let slot = base.wrapping_add(FlowHash(hash).ring_slot(size, attempt));
        let Some(&[even, odd]) = tables.ring(slot >> 1) else {
            return INCONSISTENT;
        };
        let id = if slot & 1 == 0 { even } else { odd };
        if let Some(backend) = service::backend(tables, id)
            && backend.entry.service == service.index
            && backend.state.permissions().may_take_new()
        {
            return id;
        }
        attempt = attempt.wrapping_add(1);
    }
    NOBODY
}
