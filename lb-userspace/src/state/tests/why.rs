//! What stands in the way of a backend, and what it would take.

use super::*;
use crate::why::{Kind, Whom};

fn explained(sim: &Sim, whom: &str) -> Vec<crate::why::Explained> {
    let keys = sim.state.meant(&whom.parse().unwrap());
    let counters = Counters::default();
    sim.state.explain(sim.now, &keys, &counters).backends
}

#[track_caller]
fn check_obstacles(sim: &Sim, backend: &str, expected: &[(Kind, &str, &str)]) {
    let explained = explained(sim, backend).remove(0);
    let found: Vec<(Kind, &str, &str)> = explained
        .obstacles
        .iter()
        .map(|o| (o.kind, o.what.as_str(), o.cure.as_str()))
        .collect();
    assert_eq!(found, expected);
    let held_up = !expected.is_empty() && !explained.fail_open;
    assert_eq!(explained.backend.takes_new, !held_up);
}

#[test]
fn each_thing_that_keeps_new_flows_away_is_told_with_its_cure() {
    let mut sim = running(config(WEB));
    check_obstacles(&sim, "web/a", &[]);
    sim.probe("web/a", false, 2);
    let two = "2 more good probes in a row; the next in 0.2 s";
    check_obstacles(&sim, "web/a", &[(Kind::Down, "it is down", two)]);
    sim.probe("web/a", true, 1);
    let one = "1 more good probe; the next in 0.2 s";
    check_obstacles(&sim, "web/a", &[(Kind::Down, "it is down", one)]);
    sim.now += SECOND;
    let late = "1 more good probe; the next is under way";
    check_obstacles(&sim, "web/a", &[(Kind::Down, "it is down", late)]);
    sim.admin("web/a", AdminState::Draining, None);
    let drains = (Kind::Draining, "it drains", "fairlead enable web/a");
    let down = (Kind::Down, "it is down", late);
    check_obstacles(&sim, "web/a", &[drains, down]);
    sim.admin("web/a", AdminState::Disabled, None);
    let disabled = (Kind::Disabled, "it is disabled", "fairlead enable web/a");
    check_obstacles(&sim, "web/a", &[disabled, down]);
    sim.admin("web/a", AdminState::Enabled, None);
    sim.probe("web/a", true, 1);
    check_obstacles(&sim, "web/a", &[]);
    sim.event(Event::Route {
        address: ip("10.0.0.1"),
        route: Route::Unresolved("no answer".to_owned()),
    });
    let lost = (
        Kind::Unreachable,
        "there is no way to it: no answer",
        "10.0.0.1, or the router before it, has to answer",
    );
    check_obstacles(&sim, "web/a", &[lost]);
}

#[test]
fn a_pool_that_fails_open_gets_flows_despite_all_obstacles() {
    let mut sim = running(config(WEB));
    sim.probe("web/a", false, 2);
    sim.pass(11);
    sim.probe("web/b", false, 2);
    sim.pass(11);
    let told = explained(&sim, "web/a").remove(0);
    assert!(told.fail_open && told.backend.takes_new);
    assert_eq!(told.obstacles[0].kind, Kind::Down);
    assert_eq!(told.backend.share, 500);
}

#[test]
fn weight_and_a_new_backend_are_obstacles_too() {
    let mut sim = start(
        config("web 192.0.2.1:80 a=10.0.0.1:80*0 b=10.0.0.2:80"),
        None,
        SECOND,
    );
    sim.connect();
    let weight = (
        Kind::NoWeight,
        "its weight is 0",
        "give it a weight in the configuration, then fairlead reload",
    );
    let new = (
        Kind::Unproven,
        "it is not known to be up yet",
        "2 more good probes in a row; the first is about to be made",
    );
    check_obstacles(&sim, "web/a", &[weight, new]);
    check_obstacles(&sim, "web/b", &[new]);
}

#[test]
fn a_backup_waits_for_earlier_tiers_and_a_full_one_for_its_flows() {
    let mut changed = (*config(WEB)).clone();
    let service = changed.services.values_mut().next().unwrap();
    let (a, b) = (name("a"), name("b"));
    service.backends.get_mut(&a).unwrap().max_connections = std::num::NonZeroU32::new(2);
    service.backends.get_mut(&b).unwrap().tier = crate::model::Tier::Number(1);
    let mut sim = running(Arc::new(changed));
    let waits = (
        Kind::NotChosen,
        "earlier tiers carry everything",
        "that others can carry less",
    );
    check_obstacles(&sim, "web/b", &[waits]);
    sim.flows(&[("web/a", 2)]);
    let full = (
        Kind::Full,
        "it has 2 open flows of at most 2",
        "flows that end, or a larger max-connections",
    );
    check_obstacles(&sim, "web/a", &[full]);
    check_obstacles(&sim, "web/b", &[]);
}

#[test]
fn a_damped_backend_is_told_how_long_it_must_stay_good() {
    let mut changed = (*config(WEB)).clone();
    let service = changed.services.values_mut().next().unwrap();
    service.health.damping.changes = 1;
    let mut sim = running(Arc::new(changed));
    sim.probe("web/a", false, 2);
    sim.probe("web/a", true, 3);
    let told = explained(&sim, "web/a").remove(0);
    let damped = &told.obstacles[0];
    assert_eq!(damped.kind, Kind::Damped);
    assert_eq!(damped.cure, "good probes for 9s, and no bad one");
}

#[test]
fn a_backend_is_found_by_full_name_by_name_and_by_address() {
    let sim = running(config(&format!(
        "{WEB}\nmail 192.0.2.1:25 a=10.0.0.1:25 c=10.0.0.9:25"
    )));
    let names = |whom: &str| {
        let found = explained(&sim, whom);
        let keys = found
            .iter()
            .map(|e| format!("{}/{}", e.service, e.backend.name));
        keys.collect::<Vec<_>>()
    };
    assert_eq!(names("web/a"), ["web/a"]);
    assert_eq!(names("a"), ["mail/a", "web/a"]);
    assert_eq!(names("10.0.0.1"), ["mail/a", "web/a"]);
    assert_eq!(names("c"), ["mail/c"]);
    assert_eq!(names("web/c"), [""; 0]);
    let nobody = |whom: &str| sim.state.nobody(&whom.parse().unwrap());
    assert_eq!(
        nobody("web/c"),
        "backend 'web/c': not configured (did you mean 'web/a'?)"
    );
    assert_eq!(
        nobody("z"),
        "backend 'z': not configured ('fairlead status' shows who is)"
    );
    assert!("no name".parse::<Whom>().is_err());
}
