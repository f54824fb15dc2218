//! The short cuts give what the long way gives, for whatever the table may hold.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code"
)]

use lb_common::{
    Permissions, ServiceEntry,
    counter::{LIMITER_LINE, Limiter},
    flow::EPOCHS,
};

use super::*;
use crate::{
    fixture::{
        cast::PLAIN,
        world::{Ends, World},
    },
    mem::{self, MemTables},
    props::Numbers,
    wire::flag,
};

/// Of the flow in question: its service. The other one is there to own backends.
const SERVICE: u32 = 0;
/// Backends that there are; from here on BackendIds lead to empty entries, then out of the map.
const BACKENDS: u32 = 6;

/// Everything that the way of a packet to its backend depends on.
#[derive(Clone, Debug)]
struct State {
    hash: u64,
    arrival: Arrival,
    second: u32,
    idle_epochs: u16,
    /// Both sets of the table.
    flows: [[u64; 8]; 2],
    ring: Vec<u32>,
    permissions: Vec<u8>,
    resolved: Vec<bool>,
    limit: u32,
    /// What the limiter says of the new flows of this second.
    used: u64,
}

/// What entries a table has.
#[derive(Clone, Copy)]
enum Mix {
    Any,
    /// Nothing is idle.
    Busy,
    /// Nothing may go.
    Kept,
}

struct Dice(Numbers);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next().unwrap() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A word that the table may hold. `own`: the tag of the flow in question; `freedom`: how many eighths are
    /// free.
    fn word(&mut self, own: u64, now: Epoch, freedom: u64, mix: Mix) -> u64 {
        if self.below(8) < freedom {
            return 0;
        }
        let tag = match self.below(10) {
            0 => own,
            // Neighbours in the word, and the tag of a free entry.
            1 => own ^ 1,
            2 => 0,
            _ => self.below(1 << 40),
        };
        let (rank, age) = match mix {
            Mix::Kept => (3, self.pick(&[0, 1, 8])),
            Mix::Busy => (self.pick(&[1, 2, 3, 3, 3, 7]), self.pick(&[0, 0, 1, 8])),
            Mix::Any => (
                1 + self.below(7),
                self.pick(&[0, 0, 0, 1, 2, 4, 8, 9, 14, 15]),
            ),
        };
        let rank = FlowRank::from_bits(rank);
        let stamp = Epoch(now.0.wrapping_sub(age) & (EPOCHS - 1));
        let backend = self.pick(&[0, 1, 2, 3, 4, 5, BACKENDS, 15, 16, 0x1_ffff]);
        FlowWord::new(tag, backend, rank, stamp).0
    }

    fn state(&mut self) -> State {
        let arrival = match self.below(4) {
            0 => Arrival::segment(self.below(32) as u8),
            1 => Arrival::segment(flag::SYN),
            2 => Arrival::MIDDLE,
            _ => Arrival::DATAGRAM,
        };
        let second = self.below(1 << 32) as u32;
        let now = admission::epoch(second);
        let mut hash = self.0.next().unwrap();
        if self.once_in(20) {
            // Tag 0, as free entries have it.
            hash &= 1;
        }
        let own = FlowHash(hash).sets(1, 1).tag;
        let mix = self.pick(&[Mix::Any, Mix::Any, Mix::Busy, Mix::Busy, Mix::Kept]);
        let full = self.once_in(3);
        let half = !full && self.once_in(2);
        let freedom = match full {
            true => [0, 0],
            false => [self.pick(&[0, 4, 7, 8]), self.pick(&[0, 4, 7, 8])],
        };
        let mut flows = freedom.map(|freedom| {
            core::array::from_fn(|way| match half && way >= 4 {
                true => 0,
                false => self.word(own, now, freedom, mix),
            })
        });
        if self.once_in(3) {
            // The flow itself, once more.
            let (set, way) = (self.below(2) as usize, self.below(8) as usize);
            let rank = FlowRank::from_bits(1 + self.below(7));
            flows[set][way] = FlowWord::new(own, self.below(6) as u32, rank, now).0;
        }
        let ring = self.pick(&[0, 1, 2, 8, 8, 8, 8, 8]);
        State {
            hash,
            arrival,
            second,
            idle_epochs: self.pick(&[0, 1, 4]),
            flows,
            ring: (0..ring)
                .map(|_| self.pick(&[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, BACKENDS, 99]))
                .collect(),
            permissions: (0..BACKENDS)
                .map(|_| self.pick(&[0, 1, 2, 3, 3, 3, 3]))
                .collect(),
            resolved: (0..BACKENDS).map(|_| !self.once_in(8)).collect(),
            limit: self.pick(&[0, 3, 4, u32::MAX, u32::MAX, u32::MAX]),
            used: 3,
        }
    }
}

/// Backends 0 to 3 are the service's, 4 and 5 another's.
fn world() -> World {
    let mut world = PLAIN.l2dsr().world(BACKENDS, &[0]);
    let mut other = world.services[0].clone();
    other.vip.set_port(81);
    world.services.push(other);
    for backend in &mut world.backends[4..] {
        backend.service = 1;
    }
    world
}

impl State {
    fn write(&self, tables: &mut MemTables) {
        for (line, words) in tables.flows.iter_mut().zip(self.flows) {
            *line = CacheLine::new(words);
        }
        let service = &mut tables.services[SERVICE as usize];
        service.idle_epochs = self.idle_epochs;
        service.ring = ServiceEntry::slice(0, self.ring.len() as u32);
        tables.write_ring(0, &self.ring);
        for (id, permissions) in self.permissions.iter().enumerate() {
            tables.backends[id].permissions = Permissions(*permissions);
            tables.next_hops[id].resolved = u16::from(self.resolved[id]);
        }
        tables.control.new_flows_per_second = self.limit;
        let mut limiter = [0; 8];
        limiter[Limiter::NewWindow as usize] = u64::from(self.second);
        limiter[Limiter::NewCount as usize] = self.used;
        tables.counters[LIMITER_LINE as usize] = CacheLine::new(limiter);
    }

    fn seeker<'t>(&self, tables: &'t MemTables) -> Seeker<'t> {
        seeker(tables, SERVICE, self.hash, self.arrival, self.second).unwrap()
    }

    /// As a packet goes, short cuts first.
    fn short(&self, tables: &MemTables) -> (Way, Outcome) {
        let (hash, now) = (FlowHash(self.hash), admission::epoch(self.second));
        if let Some(found) = young(tables, &tables.control, SERVICE, hash, self.arrival, now) {
            return (Way::Young, Outcome::of(Ok(found)));
        }
        let seeker = self.seeker(tables);
        match settle(tables, &tables.control, &seeker) {
            Some(found) => (Way::Settled, Outcome::of(Ok(found))),
            None => (Way::Long, self.long(tables)),
        }
    }

    fn long(&self, tables: &MemTables) -> Outcome {
        Outcome::of(assign_for(tables, &self.seeker(tables)).assignment(tables))
    }
}

/// By which way a packet found its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Young,
    Settled,
    Long,
}

/// What came out: backend, origin and place, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    To(u32, Origin, Option<(u32, u32)>),
    Refused(DropReason),
}

impl Outcome {
    fn of(result: Result<Assignment<'_>, DropReason>) -> Self {
        match result {
            Ok(found) => {
                let place = match found.origin {
                    Origin::Untracked | Origin::NotAdmitted => None,
                    _ => Some((found.set, found.way)),
                };
                Self::To(found.backend.id, found.origin, place)
            }
            Err(reason) => Self::Refused(reason),
        }
    }
}

/// All that the data plane has written.
fn written(tables: &MemTables) -> [Vec<[u64; 8]>; 3] {
    [&tables.flows, &tables.return_hops, &tables.counters].map(|map| mem::words(map))
}

#[test]
fn the_short_cuts_give_what_the_long_way_gives() {
    const STATES: u32 = 200_000;
    let mut dice = Dice(Numbers(0x5eed));
    let [mut a, mut b] = [0, 1].map(|_| world().tables(&Ends::HOST));
    let mut seen: std::collections::BTreeMap<(Way, String), u32> = Default::default();
    for _ in 0..STATES {
        let state = dice.state();
        state.write(&mut a);
        state.write(&mut b);
        let (way, short) = state.short(&a);
        let long = state.long(&b);
        assert_eq!(short, long, "by {way:?}, the long way: {state:x?}");
        assert_eq!(
            written(&a),
            written(&b),
            "by {way:?}, the long way: {state:x?}"
        );
        let what = match short {
            Outcome::To(_, origin, _) => format!("{origin:?}"),
            Outcome::Refused(reason) => format!("{reason:?}"),
        };
        *seen.entry((way, what)).or_default() += 1;
    }
    println!("{seen:?}");
    // Each end of each way was reached, or nothing was compared.
    for (way, what) in [
        (Way::Young, "Known"),
        (Way::Settled, "New"),
        (Way::Settled, "NotAdmitted"),
        (Way::Long, "Known"),
        (Way::Long, "New"),
        (Way::Long, "NewEvicting"),
        (Way::Long, "Moved"),
        (Way::Long, "Untracked"),
        (Way::Long, "NotAdmitted"),
        (Way::Long, "NoBackend"),
        (Way::Long, "NextHopUnresolved"),
    ] {
        let count = seen.get(&(way, what.to_owned())).copied().unwrap_or(0);
        assert!(
            count >= STATES / 2000,
            "{way:?}, {what}: only {count} times"
        );
    }
}

#[test]
fn a_flow_behind_a_freed_entry_is_known() {
    let mut tables = world().tables(&Ends::HOST);
    let state = State {
        hash: 0x0123_4567_89ab_cdef,
        arrival: Arrival::MIDDLE,
        second: 1 << 10,
        idle_epochs: 0,
        flows: [[0; 8]; 2],
        ring: vec![2],
        permissions: vec![Permissions::ALL.0; BACKENDS as usize],
        resolved: vec![true; BACKENDS as usize],
        limit: u32::MAX,
        used: 0,
    };
    for way in 0..8 {
        let sets = FlowHash(state.hash).sets(1, 1);
        // Of the epoch before, so that the packet has something to write down.
        let before = Epoch(admission::epoch(state.second).0.wrapping_sub(1) & (EPOCHS - 1));
        let mut flows = [[0; 8]; 2];
        flows[sets.first as usize][way] = FlowWord::new(sets.tag, 1, FlowRank::Proven, before).0;
        let state = State {
            flows,
            ..state.clone()
        };
        state.write(&mut tables);
        let (_, outcome) = state.short(&tables);
        let place = Some((sets.first, way as u32));
        assert_eq!(outcome, Outcome::To(1, Origin::Known, place));
    }
}

/// The rated load is half of the entries. Six tables of the default size, each under a key of its own: with no
/// failure in three million flows the share is below 1e-6 with 95 % confidence.
#[test]
fn at_the_rated_load_less_than_one_flow_in_a_million_has_no_place() {
    const ENTRIES: u32 = lb_common::limits::FLOWS.default as u32;
    let template = world().services[0].tuple(PLAIN.client(0));
    let mut tables = world().tables(&Ends::HOST);
    let geometry = mem::Geometry {
        flow_sets: ENTRIES / 8,
        ..crate::fixture::world::GEOMETRY
    };
    let mut lost = 0;
    for fill in 0..6_u32 {
        let big = MemTables::new(geometry, [u64::from(fill), 7]);
        tables.flows = big.flows;
        tables.control.flow_mask = big.control.flow_mask;
        tables.control.flow_base_bits = big.control.flow_base_bits;
        let key = big.control.multipliers;
        let last = if fill == 0 {
            ENTRIES / 4 * 3
        } else {
            ENTRIES / 2
        };
        let mut without = 0_u32;
        for number in 0..last {
            let [a, b, c, d] = number.to_le_bytes();
            let tuple = FlowTuple {
                client: lb_common::Address::v4([10, a, b, c]),
                client_port: [200, d],
                ..template
            };
            let hash = tuple.hash_v4(&key).0;
            let seeker = seeker(&tables, SERVICE, hash, Arrival::MIDDLE, 0).unwrap();
            let origin = match settle(&tables, &tables.control, &seeker) {
                Some(found) => found.origin,
                None => {
                    assign_for(&tables, &seeker)
                        .assignment(&tables)
                        .unwrap()
                        .origin
                }
            };
            without += u32::from(origin != Origin::New);
            let sent = number + 1;
            if fill == 0 && sent * 8 % ENTRIES == 0 && sent >= ENTRIES / 2 {
                let (share, load) = (
                    f64::from(without) / f64::from(sent),
                    f64::from(sent) / f64::from(ENTRIES),
                );
                println!(
                    "{:.1} % full: {without} of {sent} flows without a place, {share:.1e}",
                    load * 100.0
                );
            }
            if sent == ENTRIES / 2 {
                lost += without;
            }
        }
    }
    assert_eq!(lost, 0);
}
