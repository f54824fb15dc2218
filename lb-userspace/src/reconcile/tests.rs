//! The loop on maps in memory: restarts, refusals, a lost state file, and how long a verdict takes.

mod mass;

use std::sync::Arc;
use std::time::Instant;

use lb_common::{HashKey, Permissions, ServiceEntry};
use proptest::prelude::*;

use super::*;
use crate::dataplane::mem::Mem;
use crate::dataplane::mem::check::violations;
use crate::event::Record;
use crate::fixture::world::{self, Step, link, steps};
use crate::fixture::{config, ip, key, name, with_services};
use crate::ids::Sizes;
use crate::model::{Check, Config, ProbeResult, ProbeVerdict, Route};

const SECOND: u64 = 1_000_000_000;
const KEY: HashKey = HashKey([5, 6]);
const WEB: &str = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.3:80";

/// A configuration without checks, so that whoever is reachable serves.
fn unchecked(text: &str) -> Arc<Config> {
    let mut config = (*config(text)).clone();
    for service in config.services.values_mut() {
        service.health.check = Check::None;
    }
    with_services(config.services)
}

fn adopt(mem: Mem, config: Arc<Config>, disk: Option<Persistent>) -> Reconciler<Mem> {
    Reconciler::adopt(SECOND, mem, config, KEY, disk).unwrap().0
}

fn new(config: Arc<Config>) -> Reconciler<Mem> {
    let mem = Mem::new(Sizes::from(&config.limits));
    let mut reconciler = adopt(mem, config, None);
    reconciler.saved();
    reconciler
}

fn route(address: &str, mac: u8) -> Event {
    Event::Route {
        address: ip(address),
        route: Route::Resolved {
            ifindex: 1,
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 1, mac],
        },
    }
}

/// All events, the disk and all writes; the number of operations.
fn feed(reconciler: &mut Reconciler<Mem>, events: impl IntoIterator<Item = Event>) -> usize {
    let folded = reconciler.fold(events.into_iter().map(|event| (2 * SECOND, event)));
    assert!(folded.refused.is_empty(), "{:?}", folded.refused);
    let fast = reconciler.write_fast(&|| 0).unwrap().ops;
    reconciler.saved();
    let full = reconciler.write_full(&|| 2 * SECOND).unwrap().ops;
    assert!(reconciler.is_settled());
    assert_eq!(violations(reconciler.dataplane()), Vec::<String>::new());
    fast + full
}

/// Three backends that serve.
fn serving() -> Reconciler<Mem> {
    let mut reconciler = new(unchecked(WEB));
    let ways = (1..4).map(|n| route(&format!("10.0.0.{n}"), n));
    feed(
        &mut reconciler,
        std::iter::once(Event::Link(link(1, true))).chain(ways),
    );
    reconciler
}

/// The whole document, however much of it has changed.
fn whole(reconciler: &mut Reconciler<Mem>, now: u64) -> Persistent {
    let ids = reconciler.take_changes(now).ids;
    Persistent {
        ids,
        ..reconciler.state().persistent(now)
    }
}

fn maps(reconciler: &mut Reconciler<Mem>) -> Mem {
    reconciler.dataplane().clone()
}

#[test]
fn a_restart_writes_nothing_even_before_netlink_has_spoken() {
    let mut before = serving();
    let disk = whole(&mut before, SECOND);
    let mem = maps(&mut before);
    let mut after = adopt(mem.clone(), unchecked(WEB), Some(disk));
    assert!(!after.is_unsaved(), "no new ids");
    assert_eq!(after.write_fast(&|| 0).unwrap().ops, 0);
    assert_eq!(after.write_full(&|| SECOND).unwrap().ops, 0);
    assert_eq!(
        feed(
            &mut after,
            [route("10.0.0.1", 1), Event::Link(link(1, true))]
        ),
        0
    );
    assert_eq!(maps(&mut after), mem);
}

#[test]
fn without_the_state_file_or_with_a_foreign_one_ids_are_taken_from_the_maps_and_it_is_told() {
    let mut before = serving();
    let foreign = {
        let mut other = new(unchecked("web 192.0.2.1:80 zz=10.0.0.9:80 a=10.0.0.1:80"));
        feed(&mut other, []);
        whole(&mut other, SECOND)
    };
    for disk in [None, Some(foreign)] {
        let mem = maps(&mut before);
        let (mut after, effects) =
            Reconciler::adopt(SECOND, mem.clone(), unchecked(WEB), KEY, disk).unwrap();
        let told = effects
            .iter()
            .any(|e| matches!(e, Effect::Record(Record::Adopted { what }) if what.contains("3 backends")));
        assert!(told, "{effects:?}");
        assert_eq!(feed(&mut after, []), 0);
        assert_eq!(maps(&mut after), mem);
        // Ids that nobody remembers are not given away.
        let four = unchecked(&format!("{WEB} d=10.0.0.4:80"));
        feed(&mut after, [Event::Config(four)]);
        assert_eq!(after.state().ids().backend(&key("web/d")).unwrap().id, 3);
    }
}

#[test]
fn a_pure_reorder_writes_nothing_and_a_changed_mac_address_one_word() {
    let mut reconciler = serving();
    let reordered = "web 192.0.2.1:80 c=10.0.0.3:80 b=10.0.0.2:80 a=10.0.0.1:80";
    assert_eq!(
        feed(&mut reconciler, [Event::Config(unchecked(reordered))]),
        0
    );
    assert_eq!(feed(&mut reconciler, [route("10.0.0.2", 99)]), 1);
    assert_eq!(feed(&mut reconciler, [route("10.0.0.2", 99)]), 0);
}

#[test]
fn new_ids_are_not_written_before_they_are_on_disk_but_what_is_urgent_is() {
    let mut reconciler = serving();
    let four = unchecked(&format!("{WEB} d=10.0.0.4:80"));
    let before = maps(&mut reconciler);
    reconciler.fold([(2 * SECOND, Event::Config(four))]);
    assert!(reconciler.is_unsaved());
    let refused = reconciler.write_full(&|| 2 * SECOND);
    assert!(matches!(refused, Err(ReconcileError::NotSaved)));
    assert_eq!(maps(&mut reconciler), before);
    let lost = Route::Unresolved("gone".to_owned());
    let event = Event::Route {
        address: ip("10.0.0.1"),
        route: lost,
    };
    reconciler.fold([(2 * SECOND, event)]);
    assert!(reconciler.write_fast(&|| 0).unwrap().ops > 0);
    let a = reconciler.state().ids().backend(&key("web/a")).unwrap().id;
    let entry = reconciler.dataplane().backends[a as usize];
    assert_eq!(entry.permissions, Permissions::NONE);
    reconciler.saved();
    assert!(reconciler.write_full(&|| 2 * SECOND).unwrap().ops > 0);
    assert_eq!(violations(reconciler.dataplane()), Vec::<String>::new());
}

#[test]
fn a_configuration_with_new_ids_waits_for_the_disk_while_the_running_one_goes_on() {
    let mut reconciler = serving();
    let four = unchecked(&format!("{WEB} d=10.0.0.4:80"));
    assert!(reconciler.reserve(2 * SECOND, &four).unwrap());
    let document = whole(&mut reconciler, 2 * SECOND);
    assert_eq!(document.ids.backend(&key("web/d")).unwrap().id, 3);
    assert!(reconciler.state().ids().backend(&key("web/d")).is_none());
    // The ring of those that are there is rebuilt meanwhile, and nothing is lost of what was said.
    let lost = Event::Route {
        address: ip("10.0.0.1"),
        route: Route::Unresolved("gone".to_owned()),
    };
    reconciler.fold([(2 * SECOND, lost)]);
    assert!(reconciler.write_fast(&|| 0).unwrap().ops > 0);
    assert!(reconciler.write_full(&|| 2 * SECOND).unwrap().ops > 0);
    assert!(reconciler.reservation_saved(2 * SECOND, &four).unwrap());
    reconciler.fold([(2 * SECOND, Event::Config(Arc::clone(&four)))]);
    assert!(!reconciler.is_unsaved());
    assert!(reconciler.write_full(&|| 2 * SECOND).unwrap().ops > 0);
    let a = reconciler.state().ids().backend(&key("web/a")).unwrap().id;
    let entry = reconciler.dataplane().backends[a as usize];
    assert_eq!(entry.permissions, Permissions::NONE);
    assert_eq!(violations(reconciler.dataplane()), Vec::<String>::new());
    // One that needs nothing new needs no disk.
    assert!(!reconciler.reserve(2 * SECOND, &four).unwrap());
    // One that is given up leaves the next document as if it had not been.
    let five = unchecked(&format!("{WEB} d=10.0.0.4:80 e=10.0.0.5:80"));
    assert!(reconciler.reserve(2 * SECOND, &five).unwrap());
    reconciler.give_up_reservation();
    let document = whole(&mut reconciler, 2 * SECOND);
    assert!(document.ids.backend(&key("web/e")).is_none());
}

#[test]
fn ids_that_differ_from_the_reserved_ones_wait_for_the_disk_after_all() {
    let mut reconciler = serving();
    let three = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 d=10.0.0.4:80";
    let three = unchecked(three);
    assert!(reconciler.reserve(2 * SECOND, &three).unwrap());
    assert!(reconciler.reservation_saved(2 * SECOND, &three).unwrap());
    // Another one than was asked for.
    let other = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 e=10.0.0.5:80";
    reconciler.fold([(2 * SECOND, Event::Config(unchecked(other)))]);
    assert!(reconciler.is_unsaved());
    let refused = reconciler.write_full(&|| 2 * SECOND);
    assert!(matches!(refused, Err(ReconcileError::NotSaved)));
}

#[test]
fn an_id_that_comes_free_while_its_successors_are_being_saved_is_saved_too() {
    let mut reconciler = serving();
    // The id of `c` rests, and is free again after a sweep found no flow of it.
    let two = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80";
    feed(&mut reconciler, [Event::Config(unchecked(two))]);
    let c = 2;
    let three = unchecked(&format!("{two} d=10.0.0.4:80"));
    assert!(reconciler.reserve(3 * SECOND, &three).unwrap());
    let reserved = whole(&mut reconciler, 3 * SECOND).ids;
    assert_ne!(reserved.backend(&key("web/d")).unwrap().id, c);
    let later = 3 * SECOND + crate::ids::BACKEND_GRACE;
    let swept = Event::FlowsCounted {
        began: 3 * SECOND,
        by_backend: BTreeMap::new(),
        open: BTreeMap::new(),
    };
    reconciler.fold([(later, swept)]);
    assert!(!reconciler.reservation_saved(later, &three).unwrap());
    let reserved = whole(&mut reconciler, later).ids;
    assert_eq!(reserved.backend(&key("web/d")).unwrap().id, c);
    assert!(reconciler.reservation_saved(later, &three).unwrap());
    reconciler.fold([(later, Event::Config(three))]);
    assert!(!reconciler.is_unsaved());
}

#[test]
fn a_fenced_owner_writes_nothing() {
    let mut reconciler = serving();
    reconciler.dataplane().header.owner_epoch = 2;
    let before = maps(&mut reconciler);
    reconciler.fold([(2 * SECOND, route("10.0.0.2", 50))]);
    let refused = reconciler.write_fast(&|| 0);
    assert!(matches!(
        refused,
        Err(ReconcileError::Dataplane(DataplaneError::Fenced {
            ours: 1,
            theirs: 2
        }))
    ));
    assert_eq!(maps(&mut reconciler), before);
}

#[test]
fn maps_that_hold_garbage_are_refused_by_place() {
    type Damage = fn(&mut Mem);
    /// The first slot of the live ring of service 0.
    fn ring(mem: &Mem) -> usize {
        ServiceEntry::unslice(mem.services[0].ring).0 as usize
    }
    let damages: [(Damage, &str); 9] = [
        (
            |m| {
                let slot = ring(m);
                m.rings[slot] = 9999
            },
            "services[0]",
        ),
        (|m| m.services[0].ring = u64::MAX, "services[0]"),
        (|m| m.services[0].forwarding = 77, "services[0]"),
        (
            |m| {
                let slot = ring(m);
                m.rings[slot] = 40
            },
            "services[0]",
        ),
        (
            |m| m.backends[1] = bytemuck::Zeroable::zeroed(),
            "services[0]",
        ),
        (|m| m.services[0].used = 0, "services[0]"),
        (|m| m.backends[1].next_hop = 60, "backends[1]"),
        (|m| m.devices[9].ifindex = 1, "devices[9]"),
        (
            |m| m.endpoints.iter_mut().for_each(|slot| slot.kind = 200),
            "endpoints[0]",
        ),
    ];
    let mut serving = serving();
    for (damage, place) in damages {
        let mut mem = maps(&mut serving);
        damage(&mut mem);
        let error = Reconciler::adopt(SECOND, mem, unchecked(WEB), KEY, None)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(place) && error.contains("fairlead unload"),
            "{error}"
        );
    }
}

#[test]
fn from_verdict_to_map_write_takes_one_word_at_a_thousand_backends() {
    let backends: String = (0..1000)
        .map(|n| format!(" b{n}=10.1.{}.{}:80", n / 250, n % 250 + 1))
        .collect();
    let mut config = (*config(&format!("web 192.0.2.1:80{backends}"))).clone();
    config.limits.backends = 2048;
    config.limits.ring_slots = 1 << 20;
    config.limits.next_hops = 2048;
    let web = config.services.get_mut(&name("web")).unwrap();
    web.ring_size = None;
    web.health.trust_at_start = true;
    let mut reconciler = new(Arc::new(config));
    let ways = (0..1000).map(|n| route(&format!("10.1.{}.{}", n / 250, n % 250 + 1), 1));
    feed(
        &mut reconciler,
        std::iter::once(Event::Link(link(1, true))).chain(ways),
    );

    let mut at = 3 * SECOND;
    let mut probe = |reconciler: &mut Reconciler<Mem>, backend: &str, good: bool| {
        at += SECOND / 10;
        let verdict = match good {
            true => ProbeVerdict::Good,
            false => ProbeVerdict::Bad("refused".to_owned()),
        };
        let result = ProbeResult {
            extra: false,
            scheduled: at,
            started: at,
            ended: at,
            verdict,
        };
        let event = Event::Probe {
            backend: key(backend),
            result,
        };
        let began = Instant::now();
        reconciler.fold([(at, event)]);
        let ops = reconciler.write_fast(&|| 0).unwrap().ops;
        (ops, began.elapsed())
    };
    let mut times = Vec::new();
    for n in 0..50 {
        let backend = format!("web/b{n}");
        probe(&mut reconciler, &backend, false);
        probe(&mut reconciler, "web/b999", true);
        let (ops, took) = probe(&mut reconciler, &backend, false);
        assert_eq!(ops, 1);
        times.push(took);
    }
    times.sort();
    println!(
        "verdict to word in memory, 1,000 backends: median {:?}, worst {:?} of {} (this build)",
        times[25],
        times[49],
        times.len()
    );
    let began = Instant::now();
    let ops = reconciler.write_full(&|| at).unwrap().ops;
    println!(
        "the ring behind it: {ops} operations in {:?} (this build)",
        began.elapsed()
    );
    assert_eq!(ops, 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Refused operations, restarts with and without the state file, in any order.
    #[test]
    fn whatever_is_refused_and_whenever_it_restarts_it_ends_where_it_should(
        steps in steps(),
        faults in proptest::collection::vec((0..12_u8, 0..9_usize), 60),
    ) {
        let mut reconciler = new(world::first());
        let mut now = SECOND;
        // As the thread that writes has it.
        let mut written = Persistent::default();
        let mut disk = None;
        for (step, (fault, after)) in steps.iter().zip(faults) {
            now += SECOND / 5;
            if let Step::Pass(seconds) = step {
                now += u64::from(*seconds) * SECOND;
            }
            if fault < 4 {
                reconciler.dataplane().fail_after = Some(after);
            }
            let ids = reconciler.state().ids().clone();
            let event = world::event(step, now, |key| ids.backend(key).map(|b| b.id));
            reconciler.fold([(now, event)]);
            let fast = reconciler.write_fast(&|| 0);
            if fault % 3 == 0 {
                written.take(reconciler.take_changes(now));
                prop_assert_eq!(&written, &reconciler.state().persistent(now));
                disk = Some(written.clone());
                reconciler.saved();
            }
            let full = reconciler.write_full(&|| now);
            for result in [fast, full] {
                let expected = matches!(
                    result,
                    Ok(_) | Err(ReconcileError::NotSaved | ReconcileError::Dataplane(DataplaneError::Kernel { .. }))
                );
                prop_assert!(expected, "{result:?}");
            }
            reconciler.dataplane().fail_after = None;
            let wrong = violations(reconciler.dataplane());
            prop_assert!(wrong.is_empty(), "{wrong:?}");
            if fault == 6 || fault == 7 {
                // A crash wherever it was; the second time the disk is lost as well.
                disk = disk.filter(|_| fault == 6);
                written = Persistent::default();
                let config = Arc::clone(reconciler.state().config());
                let mem = maps(&mut reconciler);
                reconciler = Reconciler::adopt(now, mem, config, KEY, disk.clone()).unwrap().0;
            }
        }
        reconciler.saved();
        reconciler.write_fast(&|| 0).unwrap();
        reconciler.write_full(&|| now).unwrap();
        let desired = desired::image(reconciler.state(), &mut Rings::default());
        prop_assert_eq!(reconciler.dataplane().actual().unwrap().image, desired);
        reconciler.distrust();
        prop_assert_eq!(reconciler.write_full(&|| now).unwrap().ops, 0);
    }
}

#[test]
fn complete_lists_replace_each_other_and_all_suspects_are_probed_at_once() {
    let at_once = |backend: &str| Effect::ProbeNow(vec![key(backend)]);
    let mut all = vec![Effect::Probe(vec![]), at_once("web/a"), Effect::Persist];
    let more = vec![at_once("web/b"), Effect::Persist, Effect::Probe(vec![])];
    merge(&mut all, more);
    let both = [
        at_once("web/a"),
        at_once("web/b"),
        Effect::Persist,
        Effect::Probe(vec![]),
    ];
    assert_eq!(all, both);
}
