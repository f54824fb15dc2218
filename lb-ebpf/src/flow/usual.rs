//! The short cuts: flows that most packets belong to, found or entered without a call. Where one of them answers, its
//! answer is that of [`super::assign`].

use lb_common::{Control, Epoch, FlowHash, FlowWord, MidStream, flow::WAYS};

use super::{Assignment, Origin, Seeker, fresh};
use crate::{
    admission::{self, Limited},
    forward,
    parse::Arrival,
    schedule,
    service::{self, Backend},
    tables::{CacheLine, Tables, load_state},
};

/// The assignment of a flow whose entry was refreshed in this epoch and needs no change by
/// this packet, with a backend that keeps it: the usual case, without a call. `None` says nothing.
#[inline(always)]
pub fn young<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    service: u32,
    hash: FlowHash,
    arrival: Arrival,
    epoch: Epoch,
) -> Option<Assignment<'t>> {
    let sets = hash.sets(control.flow_mask, control.flow_base_bits);
    let (set, (word, way)) = match first_match(tables.flows(sets.first)?, sets.tag) {
        Some(found) => (sets.first, found),
        // Who opens is most likely not known.
        None if arrival.is_opening() => return None,
        None => (
            sets.second,
            first_match(tables.flows(sets.second)?, sets.tag)?,
        ),
    };
    // A SYN of a known flow is seldom: it is counted, and its service may have to say more.
    if !word.is_young(epoch) || !arrival.is_plain() {
        return None;
    }
    let id = word.backend_id();
    let entry = tables.backend(id)?;
    let state = load_state(entry);
    if entry.service != service || !state.keeps_flows() {
        return None;
    }
    Some(Assignment {
        backend: Backend { id, entry, state },
        origin: Origin::Known,
        set,
        way,
    })
}

/// The first word of a set with this tag, be it live or not, without the tag; and its way.
#[inline(always)]
fn first_match(line: &CacheLine, tag: u64) -> Option<(FlowWord, u32)> {
    let mut way = 0;
    while way < WAYS as u32 {
        let word = FlowWord(line.word(way) ^ tag << 24);
        if word.tag() == 0 {
            return Some((word, way));
        }
        way = way.wrapping_add(1);
    }
    None
}

/// Schedules a new flow and enters it where that is easy: the upper half of its first set is free, and the first
/// backend that the ring names may take it. The usual case of a new flow, without a call; `None`: anything
/// else, and nothing is done.
#[inline(always)]
pub fn settle<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    seeker: &Seeker<'t>,
) -> Option<Assignment<'t>> {
    if seeker.comes_too_late() {
        return None;
    }
    let line = tables.flows(seeker.sets.first)?;
    let way = free_way(line, seeker.sets.tag)?;
    if first_match(tables.flows(seeker.sets.second)?, seeker.sets.tag).is_some() {
        return None;
    }
    let id = schedule::first_choice(tables, seeker.service, seeker.hash)?;
    let backend = service::backend(tables, id)?;
    if backend.entry.service != seeker.service.index
        || !backend.state.permissions().may_take_new()
        || forward::check_resolved(tables, backend).is_err()
    {
        return None;
    }
    if !admission::admits(tables, control, Limited::NewFlow, seeker.second) {
        if seeker.service.entry.mid_stream != MidStream::Schedule as u8 {
            // Refused, and that is the long way's business.
            return None;
        }
        return Some(Assignment {
            backend,
            origin: Origin::NotAdmitted,
            set: 0,
            way: 0,
        });
    }
    let new = fresh(seeker, backend, false);
    if !tables.exchange_flow(line, way, FlowWord::FREE, new) {
        return None;
    }
    Some(Assignment {
        backend,
        origin: Origin::New,
        set: seeker.sets.first,
        way,
    })
}

/// The first free way of a set whose upper half is free and that does not know the tag: such a set is not
/// [`crate::eviction`]'s business, whose choice would be the same. All ways are looked at, as the control
/// plane's sweep frees entries, and behind a gap the flow may stand.
#[inline(always)]
fn free_way(line: &CacheLine, tag: u64) -> Option<u32> {
    if line.word(4) | line.word(5) | line.word(6) | line.word(7) != 0 {
        return None;
    }
    let mut free = 4;
    let mut way: u32 = 4;
    while way > 0 {
        way = way.wrapping_sub(1);
        let word = FlowWord(line.word(way));
        if word == FlowWord::FREE {
            free = way;
        } else if word.tag() == tag {
            return None;
        }
    }
    Some(free)
}
