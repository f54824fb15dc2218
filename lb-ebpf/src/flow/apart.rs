//! Flows of one client's port to two services that one server stands behind (`dnat`): the server could not tell them apart, so the later one
//! gets another server, where there is one.
//!
//! Only a packet that may begin a flow is looked at. A connection that has lasted keeps its server, whatever a SYN says: who forges one
//! to the other service gains nothing, as it is that one that goes elsewhere. One that was seen in fewer than three epochs can be made to
//! look ended (see [`super::anew`]), and then be moved.

use lb_common::{
    Address, EndpointKey, FlowHash, FlowRank, FlowWord, Protocol, ServiceEntry,
    counter::{Handshake, REST_LINE, Rest},
    hash::FlowTuple,
};

use super::{Assigned, Origin, Seeker, anew::seems_over};
use crate::{
    admission, reply,
    service::{self, Backend},
    tables::{CacheLine, PackedKey, Tables},
    verdict,
};

/// Servers that are drawn before a flow goes to one that cannot tell it from another. Of two that the ring names alike, one in 2^31 flows
/// finds the same one each time; of two that it names nine times to one, one in 26.
const TRIES: u32 = 32;

impl Assigned {
    /// Its server may have another flow of the client's port: [`keep`].
    const MAY_CLASH: u64 = 1 << 56;

    /// The same with [`Self::MAY_CLASH`].
    #[inline(always)]
    pub(super) const fn doubted(self) -> Self {
        Self(self.0 | Self::MAY_CLASH)
    }

    /// The same without [`Self::MAY_CLASH`]: nobody looks on the short way, which packets of such services leave before, but for one that comes while
    /// sharing begins.
    #[inline(always)]
    pub(crate) const fn without_doubt(self) -> Self {
        Self(self.0 & !Self::MAY_CLASH)
    }

    /// The same with another origin.
    #[inline(always)]
    const fn with_origin(self, origin: Origin) -> Self {
        Self(self.0 & !(15 << 52) | (origin as u64).wrapping_add(1) << 52)
    }
}

#[inline(always)]
fn shares(seeker: &Seeker<'_>) -> bool {
    seeker.service.entry.pick & ServiceEntry::SHARES != 0
}

/// Doubts a flow that was scheduled.
#[inline(always)]
pub(super) fn doubted(seeker: &Seeker<'_>, assigned: Assigned) -> Assigned {
    match assigned.origin() {
        Some(Origin::New | Origin::NewEvicting | Origin::Moved)
            if shares(seeker) && seeker.arrival.may_begin() =>
        {
            assigned.doubted()
        }
        _ => assigned,
    }
}

/// A connection that begins where another from the same port has ended or was silent for long. It is counted by [`keep`].
#[inline(always)]
pub(super) fn opens_another(seeker: &Seeker<'_>, word: FlowWord) -> bool {
    shares(seeker)
        && seeker.arrival.is_opening()
        && (seems_over(seeker, word) || matches!(word.rank(), FlowRank::Idle))
}

/// Notes whose packet it is, for [`keep`].
#[inline(always)]
pub(crate) fn note_client<T: Tables>(tables: &T, tuple: &FlowTuple, second: u32) {
    let [client, more] = tuple.client.words();
    let ([a, b], [c, d]) = (tuple.client_port, tuple.vip_port);
    let [e, f, g, h] = second.to_ne_bytes();
    tables.note([client, more, u64::from_ne_bytes([a, b, c, d, e, f, g, h])]);
}

/// The client's port, the service's, and the second, as [`note_client`] has noted them.
#[inline(always)]
fn noted(notes: &CacheLine) -> ([u8; 2], [u8; 2], u32) {
    let [a, b, c, d, e, f, g, h] = notes.word(2).to_ne_bytes();
    ([a, b], [c, d], u32::from_ne_bytes([e, f, g, h]))
}

/// Finds a server for a flow that was just assigned, if [`Assigned::MAY_CLASH`] stands there, that has no other flow of its client's port; whose it is has been noted
/// ([`note_client`]). An [`Assigned`] in one word.
#[inline(always)]
pub fn keep<T: Tables>(tables: &T, assigned: u64, hash: u64) -> u64 {
    if assigned & Assigned::MAY_CLASH == 0 {
        return assigned;
    }
    let mut assigned = Assigned(assigned).without_doubt();
    let first = assigned.backend();
    let Some(entry) = tables.backend(first) else {
        return assigned.0;
    };
    let mut id = first;
    let mut round: u32 = 0;
    while round < TRIES {
        // It has been asked.
        let again = round != 0 && id == first;
        round = round.wrapping_add(1);
        if !again
            && let Some(backend) = service::backend(tables, id)
            && !has_another(tables, backend)
        {
            if id == assigned.backend() {
                stays(tables, entry.service, assigned);
                return assigned.0;
            }
            let second = tables.notes().map_or(0, |notes| noted(notes).2);
            let moved = Assigned(tables.adopt_flow(entry.service, hash, id, second));
            // Else it cannot be reached.
            if let Some(origin) = moved.origin() {
                assigned = match (origin, assigned.origin()) {
                    (Origin::New, Some(before @ (Origin::NewEvicting | Origin::Moved))) => {
                        moved.with_origin(before)
                    }
                    _ => moved,
                };
                // It is asked once more: another CPU may have sent the other flow there meanwhile.
                continue;
            }
        }
        id = tables.choose_backend(entry.service, FlowHash(hash).nth(u64::from(round)).0);
    }
    // The last one that was drawn has taken it.
    if assigned.backend() != first {
        return assigned.0;
    }
    if let Some(control) = tables.control()
        && let Some(line) = tables.counters(control.lines_per_cpu, REST_LINE)
    {
        tables.add(line, Rest::Clashed as u32, 1);
    }
    stays(tables, entry.service, assigned);
    assigned.0
}

/// Counts the SYN of a connection that begins with the server that had the one before.
#[inline(always)]
fn stays<T: Tables>(tables: &T, service: u32, assigned: Assigned) {
    if let (Some(Origin::Known), Ok(service)) =
        (assigned.origin(), service::by_index(tables, service))
        && service.entry.protocol == Protocol::Tcp as u8
    {
        verdict::count_handshake(tables, assigned.backend(), Handshake::Begun as u32);
    }
}

/// The server has a flow of this client's port by another service than the backend's.
#[inline(always)]
fn has_another<T: Tables>(tables: &T, backend: Backend<'_>) -> bool {
    let (Ok(service), Some(notes)) = (
        service::by_index(tables, backend.entry.service),
        tables.notes(),
    ) else {
        return false;
    };
    let (client_port, vip_port, second) = noted(notes);
    let key = EndpointKey {
        address: Address(backend.entry.address),
        port: match backend.entry.port {
            [0, 0] => vip_port,
            port => port,
        },
        protocol: service.entry.protocol,
    };
    reply::is_taken(
        tables,
        PackedKey::new(&key, client_port),
        [notes.word(0), notes.word(1)],
        (admission::epoch(second), service.index),
    )
}
