//! How flows come to their backends.

use lb_common::{FlowRank, FlowWord, Protocol, counter::Handshake};

use super::Seeker;
use crate::{service::Backend, tables::Tables, verdict};

/// How a flow came to its backend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It had an entry and keeps it.
    Known,
    /// It was scheduled.
    New,
    /// It was scheduled, and its new entry pushed out a young one.
    NewEvicting,
    /// It had an entry, but its backend may not keep flows.
    Moved,
    /// It was scheduled, and there is no room for its entry.
    Untracked,
    /// It was scheduled, and this CPU has entered as many flows in this second as it may.
    NotAdmitted,
    /// Its service schedules each datagram by itself.
    Alone,
}

impl Origin {
    /// From its number, which travels in words.
    #[inline(always)]
    pub const fn of(number: u64) -> Self {
        match number {
            0 => Self::Known,
            1 => Self::New,
            2 => Self::NewEvicting,
            3 => Self::Moved,
            4 => Self::Untracked,
            5 => Self::NotAdmitted,
            _ => Self::Alone,
        }
    }
}

/// Counts what a segment of a flow that has its backend says of its handshake; `word`: the entry before, which it has changed or not.
///
/// Where replies take another way, the client shows that its SYN was answered: it goes on. A RST shows nothing: a server that is no longer
/// there answers for what it remembers of a connection from that port, and the client resets that (RFC 9293 section 3.10.7.3).
#[inline(always)]
pub(super) fn handshake<T: Tables>(
    tables: &T,
    seeker: &Seeker<'_>,
    word: FlowWord,
    backend: Backend<'_>,
    changed: bool,
) {
    if seeker.service.entry.protocol != Protocol::Tcp as u8 {
        return;
    }
    let rank = word.rank();
    let unseen = !backend.answers_through_us();
    if !seeker.arrival.is_opening() {
        let goes_on = changed && matches!(rank, FlowRank::Opening) && !seeker.arrival.is_reset();
        if unseen && goes_on {
            verdict::count_handshake(tables, backend.id, Handshake::Answered as u32);
        }
        return;
    }
    // Another connection may come from the port of one that has ended, or whose client gave up: its SYN comes again soon if at all.
    let goes_on = match rank {
        FlowRank::Opening => word.age(seeker.epoch) == 0,
        rank => !rank.is_over(),
    };
    if goes_on {
        verdict::count_handshake(tables, backend.id, Handshake::Resent as u32);
        return;
    }
    // What was proven stays so, and does not tell whether its client goes on.
    if !(unseen && matches!(rank, FlowRank::ClosingProven)) {
        verdict::count_handshake(tables, backend.id, Handshake::Begun as u32);
    }
}
