//! How long backends take to answer a SYN: see [`lb_common::timing`]. For services that ask for it ([`ServiceEntry::TIMES`]), whose
//! SYNs take the long way; nobody else pays.
//!
//! Once a SYN has come again, the connection is not timed: to which of them the answer is could not be told (RFC 6298 section 3).

use lb_common::{
    ServiceEntry,
    counter::{self, Handshake},
    timing::{self, COUNT, SUM, Start},
};

use crate::{
    service,
    tables::{CacheLine, Tables},
};

/// A SYN of a new flow.
pub const OPENS: u32 = 16;
/// A SYN of a flow that is known: it comes again, or the connection before has ended.
pub const OPENS_AGAIN: u32 = 17;
/// An answer: what [`crate::parse::Packet::check_reply`] says of it.
const ANSWERED: u32 = Handshake::Answered as u32;

/// The clock starts, stops or is read, if the backend's service asks for it. `key`: [`timing::of_flow`] or
/// [`timing::of_nat`]; `event`: [`OPENS`], [`OPENS_AGAIN`], or what an answer says.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, key: u32, backend: u32, event: u32) {
    // Most packets say nothing of this.
    if !matches!(event, OPENS | OPENS_AGAIN | ANSWERED) {
        return;
    }
    let (line, position) = timing::place(key);
    let (Some(to), Some(line)) = (tables.backend(backend), tables.handshakes(line)) else {
        return;
    };
    match service::by_index(tables, to.service) {
        Ok(service) if service.entry.pick & ServiceEntry::TIMES != 0 => {}
        _ => return,
    }
    let found = Start(line.word(position));
    let now = tables.precise_now();
    let is_running = found.is_of(key, backend) && found.elapsed(now) <= timing::LONGEST;
    match event {
        OPENS_AGAIN if is_running => {
            let again = Start::new(key, backend, now).again();
            tables.set(line, position, again.0);
        }
        OPENS | OPENS_AGAIN => tables.set(line, position, Start::new(key, backend, now).0),
        ANSWERED if is_running => {
            // An answer that comes twice is read once.
            let is_first = tables.exchange(line, position, found.0, Start::NONE.0);
            if is_first && !found.is_again() {
                add(tables, backend, found.elapsed(now));
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn add<T: Tables>(tables: &T, backend: u32, nanos: u64) {
    let Some(control) = tables.control() else {
        return;
    };
    let line = counter::handshake_line(control.lines_per_cpu, backend);
    let line: Option<&CacheLine> = tables.counters(control.lines_per_cpu, line);
    if let Some(line) = line {
        tables.add(line, SUM, nanos);
        tables.add(line, COUNT, 1);
    }
}
