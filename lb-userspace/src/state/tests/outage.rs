//! Flows of backends that are down or lost: until when they stay, and who is told that none is left.

use std::time::Duration;

use super::*;

fn keeping(on_down: OnDown, seconds: Option<u64>) -> Arc<Config> {
    web(|web| {
        web.on_down = on_down;
        web.on_down_deadline = seconds.map(Duration::from_secs);
    })
}

fn drained(left: u64) -> Record {
    Record::Drained {
        backend: key("web/a"),
        left,
        cause: Cause::Outage,
    }
}

/// What the end of flows is told as.
fn told(sim: &mut Sim) -> Vec<Record> {
    let records = sim.records().into_iter();
    let ends = records.filter(|record| matches!(record, Record::Drained { .. }));
    ends.collect()
}

fn lose(sim: &mut Sim) {
    sim.event(Event::Route {
        address: ip("10.0.0.1"),
        route: Route::Unresolved("neighbour failed".to_owned()),
    });
}

#[test]
fn the_flows_that_stay_with_a_dead_backend_are_counted_until_none_is_left() {
    for by_way in [false, true] {
        let mut sim = running(keeping(OnDown::Keep, None));
        sim.flows(&[("web/a", 3)]);
        match by_way {
            true => lose(&mut sim),
            false => sim.probe("web/a", false, 2),
        }
        sim.check(&[("web/a", STAY), ("web/b", ALL)]);
        assert!(sim.state.drains());
        sim.flows(&[("web/a", 2), ("web/b", 9)]);
        sim.pass(1_000_000);
        assert_eq!((told(&mut sim), sim.state.drains()), (vec![], true));
        let outage = |sim: &Sim| {
            let (service, backend) = sim.state.config.backend(&key("web/a")).unwrap();
            let all = sim.state.all_weights(service);
            let counters = Counters::default();
            let key = key("web/a");
            let status =
                sim.state
                    .backend_status(sim.now, &key, (service, all), backend, &counters);
            let outage = status.unwrap().outage?;
            Some((outage.left, outage.done, outage.deadline_in_ms))
        };
        assert_eq!(outage(&sim), Some((2, false, None)));
        sim.flows(&[("web/b", 9)]);
        assert_eq!(outage(&sim), Some((0, true, None)));
        assert_eq!(told(&mut sim), [drained(0)]);
        sim.flows(&[]);
        assert_eq!((told(&mut sim), sim.state.drains()), (vec![], false));
        sim.connect();
        sim.probe("web/a", true, 2);
        sim.check(&[("web/a", ALL)]);
        assert_eq!(outage(&sim), None);
    }
}

#[test]
fn what_had_no_flows_or_lost_them_at_once_is_not_told_of() {
    let mut idle = running(keeping(OnDown::Keep, Some(30)));
    idle.probe("web/a", false, 2);
    idle.flows(&[("web/b", 9)]);
    assert!(!idle.state.drains());
    idle.pass(31);
    let mut moved = running(keeping(OnDown::Migrate, None));
    moved.flows(&[("web/a", 3)]);
    moved.probe("web/a", false, 2);
    assert!(!moved.state.drains());
    moved.flows(&[("web/b", 3)]);
    for sim in [&mut idle, &mut moved] {
        assert_eq!(told(sim), []);
    }
    // Nobody is lost who has never been found.
    let mut new = start(keeping(OnDown::Keep, None), None, SECOND);
    new.event(Event::Tick);
    assert!(!new.state.drains() && new.state.outages.is_empty());
    // A sweep that began before says nothing.
    let mut early = running(keeping(OnDown::Keep, None));
    early.flows(&[("web/a", 3)]);
    let began = early.now;
    early.probe("web/a", false, 2);
    early.event(Event::FlowsCounted {
        began,
        by_backend: BTreeMap::new(),
        open: BTreeMap::new(),
    });
    assert_eq!((told(&mut early), early.state.drains()), (vec![], true));
}

#[test]
fn at_the_deadline_of_an_outage_on_down_acts() {
    for (policy, left) in [
        (OnDown::Migrate, NONE),
        (OnDown::Keep, STAY),
        (OnDown::Reset, Permissions::RESET),
    ] {
        let mut sim = running(keeping(policy, Some(30)));
        sim.probe("web/a", false, 2);
        sim.flows(&[("web/a", 3)]);
        sim.pass(29);
        sim.check(&[("web/a", STAY)]);
        assert_eq!(told(&mut sim), []);
        sim.pass(1);
        sim.check(&[("web/a", left)]);
        assert_eq!(told(&mut sim), [drained(3)]);
        sim.flows(&[]);
        assert_eq!(told(&mut sim), []);
        // The next one has its own time.
        sim.probe("web/a", true, 2);
        sim.check(&[("web/a", ALL)]);
        sim.probe("web/a", false, 2);
        sim.check(&[("web/a", STAY)]);
        sim.pass(31);
        sim.check(&[("web/a", left)]);
    }
}

#[test]
fn a_drain_and_an_outage_are_told_of_once() {
    let mut sim = running(keeping(OnDown::Reset, Some(30)));
    sim.flows(&[("web/a", 3)]);
    sim.admin("web/a", AdminState::Draining, None);
    sim.probe("web/a", false, 2);
    sim.check(&[("web/a", STAY)]);
    sim.flows(&[("web/b", 3)]);
    let [Record::Drained { cause, left, .. }] = told(&mut sim)[..] else {
        panic!("it is told once");
    };
    assert_eq!((cause, left), (Cause::Drain, 0));
    sim.pass(31);
    sim.check(&[("web/a", Permissions::RESET)]);
    sim.admin("web/a", AdminState::Disabled, None);
    assert!(sim.state.outages.is_empty());
}

#[test]
fn an_outage_goes_on_over_a_restart_a_reboot_and_a_reload() {
    let config = keeping(OnDown::Migrate, Some(30));
    let mut sim = running(Arc::clone(&config));
    sim.flows(&[("web/a", 3)]);
    sim.probe("web/a", false, 2);
    sim.pass(10);
    let left = |sim: &Sim| {
        let known = &sim.state.backends[&key("web/a")];
        let service = &sim.state.config.services[&name("web")];
        known.outage.unwrap().deadline(service).unwrap() - sim.now
    };
    let before = left(&sim);
    assert!(before < 20 * SECOND);
    let later = sim.restarted(Arc::clone(&config), sim.now + SECOND);
    assert_eq!(left(&later), before - SECOND);
    later.check(&[("web/a", STAY)]);
    let rebooted = sim.restarted(Arc::clone(&config), 5);
    assert_eq!(left(&rebooted), before);
    sim.event(Event::Config(keeping(OnDown::Migrate, Some(60))));
    assert_eq!(left(&sim), before + 30 * SECOND - SECOND / 10);
    sim.event(Event::Config(keeping(OnDown::Migrate, None)));
    sim.check(&[("web/a", NONE)]);
    assert!(sim.state.outages.is_empty());
}

#[test]
fn after_a_restart_a_backend_has_time_to_be_found_again() {
    let config = keeping(OnDown::Migrate, Some(30));
    let mut sim = running(Arc::clone(&config));
    sim.flows(&[("web/a", 3)]);
    sim.probe("web/a", false, 2);
    sim.pass(10);
    let restarted = || {
        let mut late = sim.restarted(Arc::clone(&config), sim.now + 3600 * SECOND);
        late.connect();
        late.event(Event::Tick);
        late.check(&[("web/a", STAY)]);
        late
    };
    let mut found = restarted();
    found.probe("web/a", true, 2);
    found.pass(3600);
    found.check(&[("web/a", ALL)]);
    let mut gone = restarted();
    gone.pass(3600);
    gone.check(&[("web/a", NONE)]);
}

#[test]
fn a_deadline_before_flows_were_counted_is_told_of() {
    let mut sim = running(keeping(OnDown::Reset, Some(1)));
    sim.probe("web/a", false, 2);
    sim.pass(2);
    sim.check(&[("web/a", Permissions::RESET)]);
    assert_eq!(told(&mut sim), [drained(0)]);
}

#[test]
fn a_deadline_that_a_reload_brings_holds_for_an_outage_that_is_over() {
    let mut sim = running(keeping(OnDown::Keep, None));
    sim.probe("web/a", false, 2);
    sim.flows(&[]);
    assert!(sim.state.outages.is_empty());
    sim.event(Event::Config(keeping(OnDown::Reset, Some(60))));
    sim.check(&[("web/a", STAY)]);
    sim.pass(61);
    sim.check(&[("web/a", Permissions::RESET)]);
}

#[test]
fn what_on_down_has_done_is_not_undone_by_a_later_deadline() {
    let mut sim = running(keeping(OnDown::Reset, Some(10)));
    sim.flows(&[("web/a", 3)]);
    sim.probe("web/a", false, 2);
    sim.pass(11);
    sim.check(&[("web/a", Permissions::RESET)]);
    sim.event(Event::Config(keeping(OnDown::Reset, Some(60))));
    sim.pass(1);
    sim.check(&[("web/a", Permissions::RESET)]);
    assert_eq!(told(&mut sim), [drained(3)]);
}
