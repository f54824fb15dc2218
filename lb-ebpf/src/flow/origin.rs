//! How flows come to their backends.

use lb_common::{FlowWord, Protocol, counter::Handshake};

use super::Seeker;
use crate::{tables::Tables, verdict};

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

/// Counts a SYN of a flow that has its backend.
#[inline(always)]
pub(super) fn opening<T: Tables>(tables: &T, seeker: &Seeker<'_>, word: FlowWord, backend: u32) {
    if seeker.arrival.is_opening() && seeker.service.entry.protocol == Protocol::Tcp as u8 {
        // Another connection may come from the port of one that has ended.
        let which = match word.rank().is_over() {
            true => Handshake::Begun,
            false => Handshake::Resent,
        };
        verdict::count_handshake(tables, backend, which as u32);
    }
}
