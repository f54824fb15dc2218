//! Clients that stay with their backend for a time, whatever the ring says meanwhile. Asked for new flows only, and only of services that want
//! it: their new flows go the long way.

use lb_common::{
    FlowHash,
    affinity::{Client, Entry, WAYS},
    counter::{self, More},
};

use crate::{
    schedule::{self, NOBODY},
    service,
    tables::{CacheLine, Tables},
};

/// The backend that a client of a service has had, if it may take new flows and the client's last one came within the service's
/// time; or [`NOBODY`]. `group`: as [`schedule::group`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, service: u32, group: u64, second: u32) -> u32 {
    let Ok(entry) = service::by_index(tables, service).map(|service| service.entry) else {
        return NOBODY;
    };
    let client = Client::new(FlowHash(group), service);
    let Some(line) = line(tables, client) else {
        return NOBODY;
    };
    let mut way: u32 = 0;
    while way < WAYS {
        let found = Entry(line.word(way));
        if found.is_of(client)
            && found.age(second) <= u32::from(entry.affinity)
            && schedule::takes_new(tables, found.backend(), service)
        {
            return found.backend();
        }
        way = way.wrapping_add(1);
    }
    NOBODY
}

/// Notes who got the client's new flow: in the place of its own entry, or of the oldest of its set. If that would have held for longer as far
/// as this service goes, it is counted.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, service: u32, group: u64, backend: u32, second: u32) -> u32 {
    let Ok(entry) = service::by_index(tables, service).map(|service| service.entry) else {
        return 0;
    };
    let client = Client::new(FlowHash(group), service);
    let Some(line) = line(tables, client) else {
        return 0;
    };
    let (mut chosen, mut oldest) = (0, 0);
    let mut way: u32 = 0;
    while way < WAYS {
        let there = Entry(line.word(way));
        let age = match there {
            own if own.is_of(client) => OWN,
            Entry(0) => FREE,
            other => other.age(second),
        };
        if age >= oldest {
            (chosen, oldest) = (way, age);
        }
        way = way.wrapping_add(1);
    }
    if oldest <= u32::from(entry.affinity) {
        count(tables);
    }
    let new = Entry::new(client, backend, second);
    // Most of a client's flows come within one second, and the line is shared.
    if line.word(chosen) != new.0 {
        tables.set(line, chosen, new.0);
    }
    1
}

/// Older than any entry: a place of nobody, and the client's own.
const FREE: u32 = u32::MAX - 1;
const OWN: u32 = u32::MAX;

#[inline(always)]
fn line<T: Tables>(tables: &T, client: Client) -> Option<&CacheLine> {
    tables.affinities(client.set(tables.header()?.affinity_sets))
}

/// A client lost its backend before its time.
#[inline(always)]
fn count<T: Tables>(tables: &T) {
    if let Some(control) = tables.control()
        && let Some(more) = tables.counters(control.lines_per_cpu, counter::MORE_LINE)
    {
        tables.add(more, More::AffinityEvicted as u32, 1);
    }
}
