//! Reads for how long ports of `fullnat` are kept. Pure.

use std::fmt::{self, Write};
use std::ops::Range;
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

/// A time, and where it stands unless it is the default.
struct Time {
    key: &'static str,
    at: Option<Range<usize>>,
    value: Duration,
}

impl Time {
    fn of(key: &'static str, at: Option<At<Duration>>, value: Duration) -> Self {
        Self {
            key,
            at: at.map(|at| at.span),
            value,
        }
    }
}

/// Notes that the first time is longer than the second. Where both have their defaults they are in order.
fn order(reader: &Reader<'_, '_>, short: &Time, long: &Time, notes: &mut Notes<'_>) {
    if short.value <= long.value {
        return;
    }
    let told = |time: &Time| {
        let value = duration(time.value);
        match time.at {
            Some(_) => format!("`{}`, {value}", time.key),
            None => format!("`{}`, which is {value} without a word", time.key),
        }
    };
    let (at, key) = match (&short.at, &long.at) {
        (Some(at), _) => (at, short.key),
        (None, Some(at)) => (at, long.key),
        (None, None) => return,
    };
    let message = match key == short.key {
        true => format!("{}, is longer than {}", told(short), told(long)),
        false => format!("{}, is shorter than {}", told(long), told(short)),
    };
    let note = Note::new(&codes::NAT_IDLE_ORDER, at, &reader.name(key), message);
    let missing = |time: &Time| format!("add `{}`", time.key);
    notes.add(match (&short.at, &long.at) {
        (Some(_), Some(other)) => note.label(other, "shorter than the first"),
        (Some(_), None) => note.help(format!(
            "make it {} or less, or {} with {} or more",
            duration(long.value),
            missing(long),
            duration(short.value)
        )),
        (None, _) => note.help(format!(
            "make it {} or more, or {} with {} or less",
            duration(short.value),
            missing(short),
            duration(long.value)
        )),
    });
}

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
            Time::of(HANDSHAKE, handshake, idle.handshake),
            Time::of(ESTABLISHED, established, idle.established),
        ),
        (
            Time::of(UNANSWERED, unanswered, idle.unanswered),
            Time::of(DATAGRAMS, datagrams, idle.datagrams),
        ),
    ];
    for (short, long) in pairs {
        // What could not be read has been noted, and what was meant is not known.
        let is_read = |time: &Time| time.at.is_some() || !reader.has(time.key);
        if is_read(&short) && is_read(&long) {
            order(reader, &short, &long, notes);
        }
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
