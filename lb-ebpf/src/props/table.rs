//! The flow table against a plain map, and how full it may be.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use std::collections::BTreeMap;

use lb_common::{FlowRank, FlowWord, Permissions, counter::Global, flow::EPOCH_SHIFT};
use proptest::{collection::vec, prelude::*};

use crate::{
    fixture::{
        START,
        cast::PLAIN,
        world::{BackendSpec, Change, Ends, Side, World},
    },
    mem::{self, Geometry, MemFrame, MemTables},
    verdict::Action,
};

/// An `l2dsr` service of four backends.
fn world() -> World {
    let kind = PLAIN.l2dsr();
    let mut world = kind.world(4, &[0, 1, 2, 3]);
    world
        .backends
        .iter_mut()
        .for_each(|backend: &mut BackendSpec| {
            backend.side = Side::Backend;
        });
    world
}

/// The backend that a packet of a flow goes to.
fn send(tables: &MemTables, flow: u16, flags: &'static str, at: u64) -> Option<u32> {
    let packet = PLAIN.l2dsr().request(flow, flags, b"");
    let mut frame = MemFrame::new(packet.bytes(), Ends::HOST.client);
    let verdict = mem::process(&mut frame, tables, at);
    let to = (verdict.action == Action::Redirect).then(|| u32::from(frame.bytes[5]));
    assert!(to.is_some(), "{verdict:?}");
    to
}

/// Entries that nothing may push out now: what they map, and where.
fn kept(tables: &MemTables, at: u64) -> Vec<(usize, u64, u32)> {
    let now = lb_common::Epoch::at(at);
    mem::words(&tables.flows)
        .into_iter()
        .flatten()
        .map(FlowWord)
        .enumerate()
        .filter(|(_, word)| word.rank() == FlowRank::Proven && word.age(now) <= 8)
        .map(|(place, word)| (place, word.tag(), word.backend_id()))
        .collect()
}

/// What a plain map knows of a flow.
struct Known {
    backend: u32,
    last: u64,
    /// Epochs that it was seen in, none of them more than eight after the one before.
    epochs: u32,
}

#[derive(Clone, Debug)]
enum Event {
    /// A packet of a flow that lives long.
    Friend(u16),
    /// A packet of a flow of its own: a SYN, or one from the middle.
    Flood(u16, bool),
    /// Time goes on.
    Epochs(u64),
    /// Another ring: what is scheduled from now on is scheduled otherwise.
    Ring(Vec<u32>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..12_u16).prop_map(|flow| Event::Friend(1000 + flow)),
        6 => (any::<u16>(), any::<bool>())
            .prop_map(|(flow, syn)| Event::Flood(2000 + flow % 40_000, syn)),
        3 => prop_oneof![8 => Just(1_u64), 1 => 2..14_u64].prop_map(Event::Epochs),
        1 => vec(0..4_u32, 1..5).prop_map(Event::Ring),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_proven_flow_keeps_its_backend_whatever_comes(events in vec(event(), 1..300)) {
        let world = world();
        let mut tables = world.tables(&Ends::HOST);
        let mut model: BTreeMap<u16, Known> = BTreeMap::new();
        let mut epoch = 0;
        for event in events {
            let at = START + (epoch << EPOCH_SHIFT);
            let before = kept(&tables, at);
            match event {
                Event::Friend(flow) => {
                    let was_there = tracked(&tables, flow);
                    let backend = send(&tables, flow, "A", at).unwrap();
                    let known = model.entry(flow).or_insert(Known {
                        backend,
                        last: epoch,
                        epochs: 0,
                    });
                    let gap = epoch - known.last;
                    if known.epochs >= 3 && gap <= 8 {
                        prop_assert!(was_there, "flow {} was pushed out", flow);
                        prop_assert_eq!(known.backend, backend, "flow {} moved", flow);
                    }
                    // It begins anew when it was pushed out before it was proven.
                    let epochs = match (was_there && gap <= 8, tracked(&tables, flow)) {
                        (true, _) => known.epochs + u32::from(gap > 0),
                        // Such a silence reads as the clock of a CPU that is an epoch ahead: the packet shows nothing of it.
                        (false, true) if gap % 16 == 15 => 0,
                        (false, true) => 1,
                        (false, false) => 0,
                    };
                    *known = Known {
                        backend,
                        last: epoch,
                        epochs,
                    };
                }
                Event::Flood(flow, syn) => {
                    let _ = send(&tables, flow, if syn { "S" } else { "A" }, at);
                }
                Event::Epochs(by) => epoch += by,
                Event::Ring(ring) => Change::Ring(0, ring).apply(&mut tables, &Ends::HOST),
            }
            let after = kept(&tables, at);
            for entry in before {
                prop_assert!(after.contains(&entry), "{:x?} was pushed out", entry);
            }
            prop_assert!(mem::conserves(&tables.totals()));
        }
    }

    #[test]
    fn a_flow_has_one_backend_while_ring_and_permissions_stay(
        flows in vec((0..60_u16, 0..4_usize, 0..3_u64), 1..300),
        ring in vec(0..4_u32, 1..8),
        closed in 0..4_usize,
    ) {
        let mut world = world();
        world.backends[closed].permissions = Permissions(Permissions::KEEP);
        let mut tables = world.tables(&Ends::HOST);
        // Backend `closed` takes nothing new, so at least one other must be there.
        let ring: Vec<_> = ring.into_iter().chain([(closed as u32 + 1) % 4; 8]).take(8).collect();
        Change::Ring(0, ring).apply(&mut tables, &Ends::HOST);
        let mut model = BTreeMap::new();
        let mut epoch = 0;
        for (flow, flags, wait) in flows {
            epoch += wait;
            let flags = ["S", "A", "FA", "R"][flags];
            let at = START + (epoch << EPOCH_SHIFT);
            let packet = PLAIN.l2dsr().request(3000 + flow, flags, b"");
            let mut frame = MemFrame::new(packet.bytes(), Ends::HOST.client);
            let verdict = mem::process(&mut frame, &tables, at);
            // All eight attempts may fall on the closed one: then the flow is refused, always.
            let backend = (verdict.action == Action::Redirect).then(|| frame.bytes[5]);
            let first = *model.entry(flow).or_insert(backend);
            prop_assert_eq!(first, backend);
            prop_assert_ne!(backend, Some(closed as u8));
        }
    }
}

fn tracked(tables: &MemTables, flow: u16) -> bool {
    let service = &world().services[0];
    let hash = service
        .tuple(PLAIN.client(flow))
        .hash(&tables.control.multipliers);
    let sets = hash.sets(tables.control.flow_mask, tables.control.flow_base_bits);
    [sets.first, sets.second]
        .map(|set| tables.flows[set as usize].words())
        .concat()
        .into_iter()
        .any(|word| FlowWord(word).matches(sets.tag))
}

/// Filling one set before looking at the other would leave 2.3e-4 without a place.
#[test]
fn half_full_the_table_has_room_for_every_flow() {
    let geometry = Geometry {
        flow_sets: 16_384,
        ..crate::fixture::world::GEOMETRY
    };
    let small = world().tables(&Ends::HOST);
    let big = MemTables::new(geometry, small.control.flow_key);
    let mut tables = small;
    tables.control.flow_mask = big.control.flow_mask;
    tables.control.flow_base_bits = big.control.flow_base_bits;
    tables.flows = big.flows;
    tables.return_hops = big.return_hops;
    let places = geometry.flow_sets * 8;
    let template = PLAIN.l2dsr().request(0, "S", b"").bytes();
    for number in 0..places * 3 / 4 {
        // The client's address and port; the sum is not looked at by what is tested here.
        let [a, b, c, d] = number.to_be_bytes();
        let mut bytes = crate::fixture::packet::patched(template.clone(), 26, &[10, a, b, c]);
        bytes = crate::fixture::packet::patched(bytes, 34, &[200, d]);
        let mut frame = MemFrame::new(
            crate::fixture::packet::with_ip_sum(bytes),
            Ends::HOST.client,
        );
        mem::process(&mut frame, &tables, START);
        let sent = number + 1;
        if sent == places / 2 || sent == places * 3 / 4 {
            let [.., untracked, evicted] = tables.totals().global;
            let share = (untracked + evicted) as f64 / f64::from(sent);
            println!("{sent} flows in {places} places: a share of {share:e} without one");
            let live = mem::words(&tables.flows)
                .into_iter()
                .flatten()
                .filter(|word| FlowWord(*word).is_live())
                .count() as u64;
            assert_eq!(live + untracked + evicted, u64::from(sent));
            if sent == places / 2 {
                assert_eq!(untracked + evicted, 0);
            }
        }
    }
    assert_eq!(
        tables.totals().global[Global::Redirect as usize],
        u64::from(places * 3 / 4)
    );
}
