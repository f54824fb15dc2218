//! Random worlds, every prefix of every plan, and plans that stop anywhere.

use std::collections::BTreeSet;

use lb_common::sources::{Access, Key, SET_BITS};
use lb_common::{
    Address, BackendEntry, EndpointKey, EndpointKind, FlowHash, HashKey, ServiceEntry,
};
use proptest::prelude::*;

use super::*;
use crate::dataplane::Dataplane;
use crate::dataplane::mem::Mem;
use crate::dataplane::mem::check::{self, Found, violations};
use crate::desired::{self, Rings};
use crate::event::{Effect, Event};
use crate::fixture::world::{self, Step, event, steps};
use crate::ids::Sizes;
use crate::state::State;
use crate::state::persistent::Start;

const SECOND: u64 = 1_000_000_000;
const KEY: HashKey = HashKey([3, 4]);

struct World {
    state: State,
    mem: Mem,
    rings: Rings,
    now: u64,
}

fn flows() -> impl Iterator<Item = FlowHash> {
    (0..48_u64).map(|n| FlowHash(HashKey([9, 9]).hash_bytes(&n.to_le_bytes())))
}

/// Backends that may keep flows: nothing may interrupt those that may before and after.
fn keepers(mem: &Mem) -> BTreeSet<(u32, [u8; 16], [u8; 2], u32)> {
    let kept = |(_, b): &(u32, &BackendEntry)| b.used == 1 && b.permissions.may_keep();
    (0..)
        .zip(&mem.backends)
        .filter(kept)
        .map(|(id, b)| (id, b.address, b.port, b.service))
        .collect()
}

/// The live rings that have somebody who takes new flows, by service index.
fn served(mem: &Mem) -> BTreeSet<u32> {
    let somebody = |index: u32| {
        let ring = mem.live_ring(index, &mem.services[index as usize]).unwrap();
        ring.iter().any(|id| {
            let backend = &mem.backends[*id as usize];
            backend.used == 1 && backend.permissions.may_take_new()
        })
    };
    (0..mem.header.services)
        .filter(|&index| mem.services[index as usize].used == 1 && somebody(index))
        .collect()
}

/// A backend that takes no new flows before, and does after.
fn gains(before: &Mem, after: &Mem, id: u32) -> bool {
    let takes = |mem: &Mem| {
        let backend = &mem.backends[id as usize];
        backend.used == 1 && backend.permissions.may_take_new()
    };
    !takes(before) && takes(after)
}

/// Runs operations one at a time on the way to `after` and looks after each whether packets are
/// told the truth.
fn run_checked(mem: &mut Mem, ops: &[MapOp], after: &Mem) -> Result<(), TestCaseError> {
    let before = mem.clone();
    let keep: Vec<_> = keepers(&before)
        .intersection(&keepers(after))
        .copied()
        .collect();
    let serve: Vec<_> = served(&before)
        .intersection(&served(after))
        .copied()
        .collect();
    let vips = check::vips(&before);
    for (index, op) in ops.iter().enumerate() {
        prop_assert!(
            allowed(mem, op),
            "operation {index}, {}: packets use that",
            short(op)
        );
        mem.apply(std::slice::from_ref(op)).unwrap();
        let at = format!("after operation {index}, {}", short(op));
        let wrong = violations(mem);
        prop_assert!(wrong.is_empty(), "{at}: {wrong:?}");
        let kept = keepers(mem);
        prop_assert!(keep.iter().all(|k| kept.contains(k)), "{at}: a flow moves");
        for (index, client) in served_clients() {
            let says = |mem: &Mem| access(mem, index, client);
            let allowed = [says(&before), says(after), None];
            prop_assert!(
                allowed.contains(&says(mem)),
                "{at}: service {index} says {:?} of a client, before {:?}, then {:?}",
                says(mem),
                says(&before),
                says(after)
            );
        }
        let serving = served(mem);
        prop_assert!(
            serve.iter().all(|s| serving.contains(s)),
            "{at}: nobody serves"
        );
        for vip in &vips {
            let [was, becomes, is] = [&before, after, mem].map(|mem| check::leads_to(mem, vip));
            let found = |mem: &Mem, service: Option<u32>, flow| {
                service.map_or(Found::Nothing, |service| check::choose(mem, service, flow))
            };
            for flow in flows() {
                let old = found(&before, was, flow);
                let new = found(after, becomes, flow);
                let now = found(mem, is, flow);
                let ends = old == Found::Nothing || new == Found::Nothing;
                prop_assert!(ends || now != Found::Nothing, "{at}: a service is missed");
                let Found::Backend(id) = old else { continue };
                let stays = after.backends[id as usize].permissions.may_take_new()
                    && after.backends[id as usize].used == 1;
                // A service may get its last ring some operations before its VIP goes to another.
                let last = is.map(|index| check::choose(after, index, flow));
                // A ring that a stopped plan left may still name somebody who is given flows again.
                let again = matches!(now, Found::Backend(id) if gains(&before, after, id));
                prop_assert!(
                    now == old || now == new || last == Some(now) || again || !stays,
                    "{at}: {old:?} becomes {now:?} on the way to {new:?}"
                );
            }
        }
    }
    Ok(())
}

/// Clients whose access is asked for, of every service.
fn served_clients() -> impl Iterator<Item = (u32, Address)> {
    let clients = [[203, 0, 113, 7], [203, 0, 113, 8], [198, 51, 100, 1]].map(Address::v4);
    (0..16).flat_map(move |index| clients.map(|client| (index, client)))
}

/// What a service in use says of a client: its longest prefix, or "served" where it has none.
fn access(mem: &Mem, index: u32, client: Address) -> Option<Access> {
    let service = mem.services.get(index as usize).filter(|s| s.used == 1)?;
    let client = u128::from_be_bytes(client.0);
    let holds = |key: &&Key| {
        let bits = key.bits - SET_BITS;
        let rest = |address: u128| address.checked_shr(128 - bits).unwrap_or(0);
        key.set() == service.sources && rest(u128::from_be_bytes(key.address)) == rest(client)
    };
    let longest = mem
        .source_ranges
        .keys()
        .filter(holds)
        .max_by_key(|key| key.bits);
    Some(longest.map_or(Access::Allow, |key| mem.source_ranges[key]))
}

/// The operation writes only what no packet reads, or what one store can change.
fn allowed(mem: &Mem, op: &MapOp) -> bool {
    let services = || mem.services.iter().filter(|s| s.used == 1);
    match op {
        MapOp::WriteRing { base, ids } => services().all(|service| {
            let (start, length) = ServiceEntry::unslice(service.ring);
            start + length <= *base || base + ids.len() as u32 <= start
        }),
        MapOp::WriteService { service, image, .. } => {
            let there = &mem.services[*service as usize];
            there.used == 0
                || (there.address, there.port, there.reach())
                    == (image.address, image.port.to_be_bytes(), image.reach)
        }
        MapOp::WriteBackend { id, .. } => mem.backends[*id as usize].used == 0,
        MapOp::WriteNextHop { index, hop } => {
            let there = &mem.next_hops[*index as usize];
            there.used == 0 || there.ifindex == hop.ifindex
        }
        MapOp::WriteEndpoints { generation, .. } => mem.control.generation() != *generation,
        MapOp::WriteSources { set, .. } | MapOp::ClearSources { set } => {
            services().all(|service| service.sources != *set)
        }
        MapOp::SetBackendWord { id, .. } => mem.backends[*id as usize].used == 1,
        _ => true,
    }
}

fn short(op: &MapOp) -> String {
    format!("{op:?}").chars().take(120).collect()
}

impl World {
    fn new() -> Self {
        let config = world::first();
        let sizes = Sizes::from(&config.limits);
        let start = Start {
            config,
            sizes,
            ring_key: KEY,
            persistent: None,
            actual: None,
        };
        let (state, _) = State::start(SECOND, start).unwrap();
        Self {
            state,
            mem: Mem::new(sizes),
            rings: Rings::default(),
            now: SECOND,
        }
    }

    /// All interfaces are up and all addresses reachable.
    fn connect(&mut self) {
        self.feed(&Step::Link(1, Some(true)));
        for address in 0..8 {
            self.feed(&Step::Route(address, Some((1, address % 3))));
        }
    }

    fn feed(&mut self, step: &Step) -> Vec<Effect> {
        self.now += match step {
            Step::Pass(seconds) => u64::from(*seconds) * SECOND,
            _ => SECOND / 10,
        };
        let ids = self.state.ids().clone();
        let event = event(step, self.now, |key| ids.backend(key).map(|b| b.id));
        // Orders for backends that are not there are refused, and that is all.
        let again = matches!(event, Event::Probe { .. }).then(|| event.clone());
        let mut effects = self.state.handle(self.now, event).unwrap_or_default();
        // Two in a row are a verdict.
        if let Some(again) = again {
            effects.extend(self.state.handle(self.now + 1, again).unwrap());
        }
        assert!(self.state.drains_are_indexed() && self.state.outages_are_indexed());
        effects
    }

    fn image(&mut self) -> Image {
        desired::image(&self.state, &mut self.rings)
    }

    /// Fast path, then the whole; each checked at every prefix. Stops after `stop` operations.
    fn converge(&mut self, stop: Option<usize>) -> Result<(), TestCaseError> {
        let dirty = self.state.take_dirty();
        let before = self.mem.actual().unwrap();
        let words = desired::words(&self.state, &dirty);
        let hops = desired::next_hops(&self.state, &dirty.hops);
        let fast = plan_words(&before.image, &words, &hops, self.state.devices());
        let mut goal = self.mem.clone();
        goal.apply(&fast).unwrap();
        let before = goal.actual().unwrap();
        let desired = self.image();
        let ops = plan(&before, &desired).unwrap();
        goal.apply(&ops).unwrap();

        run_checked(&mut self.mem, &fast, &goal)?;
        if let Some(stop) = stop {
            self.state.mark_all();
            let first = ops.get(..stop).unwrap_or(&ops);
            return run_checked(&mut self.mem, first, &goal);
        }
        run_checked(&mut self.mem, &ops, &goal)?;
        let actual = self.mem.actual().unwrap();
        prop_assert_eq!(&actual.image, &desired);
        prop_assert_eq!(&actual, &after(&before, &desired, &ops));
        prop_assert_eq!(plan(&actual, &desired).unwrap(), vec![]);

        // Back again, on a copy: the same way, as safe.
        let mut copy = self.mem.clone();
        let back = plan(&actual, &before.image).unwrap();
        let mut goal = copy.clone();
        goal.apply(&back).unwrap();
        run_checked(&mut copy, &back, &goal)?;
        let again = copy.actual().unwrap();
        prop_assert_eq!(again.image, before.image);
        self.state.written(self.now);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_of_every_plan_is_consistent_and_the_end_is_what_was_wanted(steps in steps()) {
        let mut world = World::new();
        world.converge(None)?;
        for step in &steps {
            world.feed(step);
            world.converge(None)?;
        }
    }

    #[test]
    fn a_plan_that_stops_anywhere_is_continued_from_what_is_there(
        steps in steps(),
        stops in proptest::collection::vec(proptest::option::weighted(0.7, 0..12_usize), 60),
    ) {
        let mut world = World::new();
        for (step, stop) in steps.iter().zip(stops) {
            world.feed(step);
            world.converge(stop)?;
        }
        world.converge(None)?;
    }

    #[test]
    fn many_events_at_once_make_one_safe_plan(steps in steps()) {
        let mut world = World::new();
        world.converge(None)?;
        for chunk in steps.chunks(7) {
            for step in chunk {
                world.feed(step);
            }
            world.converge(None)?;
        }
    }
}

/// A service with the backends 0 and 1, without checks.
const PAIR: [u16; 4] = [3 | 1 << 13, 0, 0, 0];

#[test]
fn when_the_last_backend_leaves_as_another_comes_somebody_always_serves() {
    use crate::model::AdminState::{Disabled, Enabled};
    let mut world = World::new();
    world.feed(&Step::Config(PAIR));
    world.connect();
    world.feed(&Step::Admin(0, 1, Disabled, None));
    world.converge(None).unwrap();
    assert_eq!(served(&world.mem).len(), 1);
    world.feed(&Step::Admin(0, 1, Enabled, None));
    world.feed(&Step::Admin(0, 0, Disabled, None));
    world.converge(None).unwrap();
    assert_eq!(served(&world.mem).len(), 1);
}

#[test]
fn a_tunnel_has_a_source_before_anybody_needs_it_and_as_long_as_anybody_does() {
    const IPIP: [u16; 4] = [3 | 1 << 13, 3 | 1 << 7 | 1 << 13, 0, 0];
    let mut world = World::new();
    world.feed(&Step::Config(PAIR));
    world.connect();
    world.converge(None).unwrap();
    let controls = |ops: &[MapOp]| {
        let places = ops.iter().enumerate();
        places
            .filter(|(_, op)| matches!(op, MapOp::SetControls { .. }))
            .map(|(place, _)| place)
            .collect::<Vec<_>>()
    };
    world.feed(&Step::Config(IPIP));
    let desired = world.image();
    let ops = plan(&world.mem.actual().unwrap(), &desired).unwrap();
    let switch = |ops: &[MapOp]| {
        let switch = |op: &MapOp| matches!(op, MapOp::SwitchEndpoints { .. });
        ops.iter().position(switch).unwrap()
    };
    assert_eq!(controls(&ops).len(), 1);
    assert!(controls(&ops)[0] < switch(&ops), "{ops:?}");
    world.converge(None).unwrap();
    assert_eq!(world.mem.control.tunnel_v4, [10, 9, 0, 0]);
    assert_eq!(world.mem.control.tunnel_v4_spread, 255);

    world.feed(&Step::Config(PAIR));
    let desired = world.image();
    let ops = plan(&world.mem.actual().unwrap(), &desired).unwrap();
    assert_eq!(controls(&ops).len(), 1);
    assert!(controls(&ops)[0] > switch(&ops), "{ops:?}");
    world.converge(None).unwrap();
    assert_eq!(world.mem.control.tunnel_v4, [0; 4]);

    // Without a source, there may be no backend that needs one.
    world.feed(&Step::Config(IPIP));
    world.converge(None).unwrap();
    world.mem.control.tunnel_v4 = [0; 4];
    assert_eq!(violations(&world.mem).len(), 2);
    let actual = world.mem.actual().unwrap();
    let error = crate::dataplane::consistent::check(&actual).unwrap_err();
    assert!(error.to_string().contains("no source"), "{error}");
}

#[test]
fn what_a_backend_may_no_longer_do_is_the_first_write_of_a_plan() {
    use crate::model::AdminState::Disabled;
    let mut world = World::new();
    world.feed(&Step::Config(PAIR));
    world.connect();
    world.converge(None).unwrap();
    world.feed(&Step::Config([7 | 1 << 13, 3, 0, 0]));
    world.feed(&Step::Admin(0, 0, Disabled, None));
    let id = world
        .state
        .ids()
        .backend(&crate::fixture::key("s0/b0"))
        .unwrap()
        .id;
    let actual = world.mem.actual().unwrap();
    let desired = world.image();
    let ops = plan(&actual, &desired).unwrap();
    let permissions = desired.backends[&id].permissions;
    assert!(!permissions.may_take_new() && !permissions.may_keep());
    let first = MapOp::SetBackendWord {
        id,
        permissions,
        next_hop: actual.image.backends[&id].next_hop,
    };
    assert_eq!(ops.first(), Some(&first));
    assert!(matches!(ops.last(), Some(MapOp::SetRevision { .. })));
}

/// The plan from a settled world to its image after a change of it is refused with this error.
#[track_caller]
fn check_refused(change: impl Fn(&mut Image), expected: &PlanError) {
    let mut world = World::new();
    world.feed(&Step::Config(PAIR));
    world.connect();
    world.converge(None).unwrap();
    let actual = world.mem.actual().unwrap();
    let mut desired = world.image();
    change(&mut desired);
    assert_eq!(&plan(&actual, &desired).unwrap_err(), expected);
}

#[test]
fn an_index_that_changes_hands_or_leads_out_of_a_map_is_refused() {
    let reused = |map, index| PlanError::Reused { map, index };
    check_refused(
        |i| i.backends.get_mut(&0).unwrap().port = [1, 2],
        &reused("backends", 0),
    );
    check_refused(
        |i| i.services.get_mut(&0).unwrap().port = 7,
        &reused("services", 0),
    );
    check_refused(
        |i| i.next_hops.get_mut(&1).unwrap().ifindex = 7,
        &reused("next_hops", 1),
    );
    let out = |map, index, size| PlanError::OutOfRange { map, index, size };
    check_refused(
        |i| {
            let backend = i.backends[&0];
            i.backends.insert(256, backend);
        },
        &out("backends", 256, 256),
    );
    check_refused(
        |i| i.services.get_mut(&0).unwrap().ring_base = 4096 - 122,
        &out("rings", 4097, 4096),
    );
    check_refused(
        |i| i.services.get_mut(&0).unwrap().ring = vec![63].into(),
        &PlanError::Stranger { service: 0, id: 63 },
    );
}

#[test]
fn endpoints_have_places_up_to_the_rated_number_and_the_rest_is_refused_by_name() {
    use crate::plan::endpoints::{PlacementError, place, slots_for};
    let none = Default::default();
    let key = |n: u32| EndpointKey {
        address: lb_common::Address::v4((n / 4).to_be_bytes()),
        port: (n as u16).to_be_bytes(),
        protocol: 6,
    };
    let table = |n: u32| {
        (0..n)
            .map(|n| (key(n), vec![(EndpointKind::Vip, n)]))
            .collect()
    };
    // The default limits, all used.
    let placed = place(&table(4096 * 2 + 16_384), &none, slots_for(4096, 16_384)).unwrap();
    assert_eq!(
        placed.slots.iter().filter(|s| s.kind != 0).count(),
        4096 * 2 + 16_384
    );
    let full = place(&table(33), &none, 64).unwrap_err();
    assert_eq!(
        full,
        PlacementError::Full {
            endpoints: 33,
            slots: 64
        }
    );
    let unlucky = place(&table(4096), &none, 8192).unwrap_err();
    assert_eq!(
        unlucky,
        PlacementError::Unlucky {
            endpoints: 4096,
            slots: 8192
        }
    );
    let mut many = BTreeMap::new();
    many.insert(key(1), (0..5).map(|n| (EndpointKind::Backend, n)).collect());
    assert!(matches!(
        place(&many, &none, 64),
        Err(PlacementError::TooMany { times: 5, .. })
    ));
    many.insert(key(1), (0..4).map(|n| (EndpointKind::Backend, n)).collect());
    assert!(place(&many, &none, 64).is_ok());
}
