//! What people say: drains, deadlines, force, and that orders outlive reloads and restarts.

use super::*;

#[test]
fn a_drain_ends_when_no_flow_is_left() {
    let mut sim = running(config(WEB));
    sim.flows(&[("web/a", 3)]);
    sim.admin("web/a", AdminState::Draining, None);
    sim.check(&[("web/a", KEEP), ("web/b", ALL)]);
    sim.flows(&[("web/a", 2), ("web/b", 9)]);
    assert_eq!(sim.state.drain_progress(&key("web/a")), Some((2, false)));
    sim.flows(&[("web/b", 9)]);
    assert_eq!(sim.state.drain_progress(&key("web/a")), Some((0, true)));
    let drained = Record::Drained {
        backend: key("web/a"),
        left: 0,
        cause: Cause::Drain,
    };
    assert!(sim.records().contains(&drained));
    sim.flows(&[]);
    assert!(!sim.records().contains(&drained), "it is told once");
    sim.admin("web/a", AdminState::Enabled, None);
    sim.check(&[("web/a", ALL)]);
    assert_eq!(sim.state.drain_progress(&key("web/a")), None);
}

#[test]
fn a_sweep_that_began_before_a_drain_does_not_end_it() {
    let mut sim = running(config(WEB));
    let began = sim.now;
    sim.admin("web/a", AdminState::Draining, None);
    sim.event(Event::FlowsCounted {
        began,
        by_backend: BTreeMap::new(),
        open: BTreeMap::new(),
    });
    assert_eq!(sim.state.drain_progress(&key("web/a")), Some((0, false)));
}

#[test]
fn at_the_deadline_the_policy_acts() {
    for (policy, left) in [
        (DrainPolicy::Migrate, NONE),
        (DrainPolicy::Keep, KEEP),
        (DrainPolicy::Reset, Permissions::RESET),
    ] {
        let mut sim = running(web(|s| s.drain = policy));
        sim.flows(&[("web/a", 3)]);
        sim.admin("web/a", AdminState::Draining, Some(sim.now + 30 * SECOND));
        sim.flows(&[("web/a", 3)]);
        sim.pass(29);
        sim.check(&[("web/a", KEEP)]);
        sim.records();
        sim.pass(1);
        sim.check(&[("web/a", left)]);
        let drained = Record::Drained {
            backend: key("web/a"),
            left: 3,
            cause: Cause::Drain,
        };
        assert!(sim.records().contains(&drained));
    }
}

#[test]
fn the_last_backend_that_takes_flows_is_given_up_only_by_force() {
    let mut sim = running(config(WEB));
    let order = |sim: &mut Sim, backend: &str, state, force| {
        let result = sim
            .state
            .command(sim.now, &key(backend), state, None, force);
        result.map(|_| ()).map_err(|e| e.to_string())
    };
    order(&mut sim, "web/a", AdminState::Draining, false).unwrap();
    for state in [AdminState::Draining, AdminState::Disabled] {
        let error = order(&mut sim, "web/b", state, false).unwrap_err();
        assert!(
            error.contains("--force") && error.contains("web/b"),
            "{error}"
        );
        sim.check(&[("web/b", ALL)]);
    }
    order(&mut sim, "web/a", AdminState::Disabled, false).unwrap();
    order(&mut sim, "web/b", AdminState::Disabled, true).unwrap();
    sim.check(&[("web/a", NONE), ("web/b", NONE)]);
    let error = order(&mut sim, "web/aa", AdminState::Enabled, false).unwrap_err();
    assert!(error.contains("did you mean 'web/a'?"), "{error}");
}

#[test]
fn an_order_outlives_reload_and_restart_until_it_is_taken_back() {
    let mut sim = running(config(WEB));
    sim.admin("web/a", AdminState::Disabled, None);
    assert!(sim.effects.contains(&Effect::Persist));
    let more = format!("{WEB} c=10.0.0.3:80");
    sim.event(Event::Config(config(&more)));
    assert_eq!(sim.state.admin(&key("web/a")), Some(AdminState::Disabled));
    let mut sim = sim.restarted(config(&more), sim.now + SECOND);
    assert_eq!(sim.state.admin(&key("web/a")), Some(AdminState::Disabled));
    sim.admin("web/a", AdminState::Enabled, None);
    assert!(sim.state.persistent(sim.now).orders.is_empty());
}

#[test]
fn a_drain_goes_on_over_a_restart_and_over_a_reboot() {
    let mut sim = running(config(WEB));
    sim.admin("web/a", AdminState::Draining, Some(sim.now + 30 * SECOND));
    let deadline = |sim: &Sim| sim.state.backends[&key("web/a")].drain.unwrap().deadline;
    let left = deadline(&sim).unwrap() - sim.now;
    let later = sim.restarted(config(WEB), sim.now + SECOND);
    assert_eq!(deadline(&later), deadline(&sim));
    // The clock began anew.
    let rebooted = sim.restarted(config(WEB), 5);
    assert_eq!(deadline(&rebooted), Some(5 + left));
}
