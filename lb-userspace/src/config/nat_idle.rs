//! Reads for how long ports of `fullnat` are kept. Pure.

use std::fmt::{self, Write};
use std::time::Duration;

use super::canonical::text;
use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::value::duration;
use crate::model::{DaemonConfig, NatIdle};

const HANDSHAKE: &str = "nat-tcp-handshake-idle";
const ESTABLISHED: &str = "nat-tcp-idle";
const CLOSING: &str = "nat-tcp-closing-idle";
const DATAGRAMS: &str = "nat-udp-idle";
const UNANSWERED: &str = "nat-udp-unanswered-idle";

/// The longest time, in seconds (`lb_common::nat::Idle::MOST`).
const MOST: u64 = 30 * 86_400;

/// What `[daemon]` says.
pub(super) fn of_daemon(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> NatIdle {
    let range = Duration::from_secs(1)..=Duration::from_secs(MOST);
    let mut time = |key| reader.duration(key, range.clone(), notes);
    let (handshake, established) = (time(HANDSHAKE), time(ESTABLISHED));
    let (closing, datagrams, unanswered) = (time(CLOSING), time(DATAGRAMS), time(UNANSWERED));
    let or = |at: &Option<At<Duration>>, usual| at.as_ref().map_or(usual, |at| at.value);
    let idle = NatIdle {
        handshake: or(&handshake, NatIdle::USUAL.handshake),
        established: or(&established, NatIdle::USUAL.established),
        closing: or(&closing, NatIdle::USUAL.closing),
        datagrams: or(&datagrams, NatIdle::USUAL.datagrams),
        unanswered: or(&unanswered, NatIdle::USUAL.unanswered),
    };
    let pairs = [
        (
            (HANDSHAKE, handshake, idle.handshake),
            (ESTABLISHED, established, idle.established),
        ),
        (
            (UNANSWERED, unanswered, idle.unanswered),
            (DATAGRAMS, datagrams, idle.datagrams),
        ),
    ];
    for ((first, before, short), (second, after, long)) in pairs {
        // Where both have their defaults they are in order.
        let Some(at) = before.or(after).filter(|_| short > long) else {
            continue;
        };
        let (short, long) = (duration(short), duration(long));
        let message = format!("`{first}`, {short}, is longer than `{second}`, {long}");
        notes.add(Note::new(
            &codes::NAT_IDLE_ORDER,
            &at.span,
            &reader.name(first),
            message,
        ));
    }
    idle
}

/// The lines of `[daemon]`.
pub(super) fn write(out: &mut String, daemon: &DaemonConfig) -> fmt::Result {
    let idle = daemon.nat_idle;
    for (key, value) in [
        (HANDSHAKE, idle.handshake),
        (ESTABLISHED, idle.established),
        (CLOSING, idle.closing),
        (DATAGRAMS, idle.datagrams),
        (UNANSWERED, idle.unanswered),
    ] {
        writeln!(out, "{key} = {}", text(&duration(value)))?;
    }
    Ok(())
}
