//! By which interfaces packets can be sent, and what follows for backends behind the others.

use lb_common::vlan::TPID_8021Q;

use super::*;
use crate::model::{AttachMode, Link, Vlan};

const NATIVE: AttachMode = AttachMode::Native;
const GENERIC: AttachMode = AttachMode::Generic;

/// `lan`, 1, is where clients are. The way to `web/a` leaves by it, that to `web/b` by `ifindex`, whose links are told.
fn arms(links: &[Link], ifindex: u32) -> Sim {
    let mut sim = running(config(WEB));
    for link in links {
        sim.event(Event::Link(link.clone()));
    }
    sim.route(ip("10.0.0.2"), ifindex, 7);
    sim.effects.clear();
    sim
}

fn runs(sim: &mut Sim, on: &[(u32, AttachMode)]) {
    sim.event(Event::Running(on.iter().copied().collect()));
}

fn reason(sim: &Sim) -> String {
    let way = sim.state.way(ip("10.0.0.2"));
    way.resolved.err().unwrap_or_default()
}

fn told(sim: &mut Sim) -> Vec<(String, bool)> {
    let records = sim.records().into_iter();
    let told = records.filter_map(|record| match record {
        Record::Barred { interface, reason } => Some((interface, reason.is_some())),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_way_by_an_interface_without_the_program_is_none_while_another_is_in_native_mode() {
    let mut sim = arms(&[link(2, true)], 2);
    sim.check(&[("web/a", ALL), ("web/b", ALL)]);
    runs(&mut sim, &[(1, NATIVE)]);
    sim.check(&[("web/a", ALL), ("web/b", NONE)]);
    let expected = "packets would leave by lan2, where no program is attached: \
                    add lan2 to `interfaces`";
    assert_eq!(reason(&sim), expected);
    assert_eq!(told(&mut sim), [("lan2".to_owned(), true)]);
    // The same once more is no news.
    runs(&mut sim, &[(1, NATIVE)]);
    assert_eq!(told(&mut sim), []);
    runs(&mut sim, &[(1, NATIVE), (2, NATIVE)]);
    sim.check(&[("web/b", ALL)]);
    assert_eq!(told(&mut sim), [("lan2".to_owned(), false)]);
    let index = sim.state.way(ip("10.0.0.2")).index;
    runs(&mut sim, &[(1, NATIVE)]);
    assert_eq!(sim.state.way(ip("10.0.0.2")).index, index);
    // A way that comes later is judged, too, and one that goes elsewhere.
    sim.route(ip("10.0.0.1"), 2, 8);
    sim.check(&[("web/a", NONE)]);
    sim.route(ip("10.0.0.1"), 1, 8);
    sim.check(&[("web/a", ALL), ("web/b", NONE)]);
}

#[test]
fn every_way_can_be_used_in_generic_mode_and_while_nobody_knows() {
    let mut sim = arms(&[link(2, true)], 2);
    // Nor where modes differ: from the one frames go by the stack, and to the other they need not go.
    for on in [
        &[(1, GENERIC)][..],
        &[(1, GENERIC), (2, GENERIC)],
        &[(1, NATIVE), (2, GENERIC)],
        &[(1, GENERIC), (2, NATIVE)],
        &[],
    ] {
        runs(&mut sim, on);
        sim.check(&[("web/a", ALL), ("web/b", ALL)]);
    }
    assert_eq!(told(&mut sim), []);
}

#[test]
fn an_interface_that_is_configured_and_runs_nothing_is_not_to_be_added() {
    let mut sim = arms(&[link(2, true)], 2);
    let mut config = (**sim.state.config()).clone();
    config.daemon.interfaces.push("lan2".to_owned());
    sim.event(Event::Config(config.into()));
    runs(&mut sim, &[(1, NATIVE)]);
    assert!(reason(&sim).ends_with("see in the log why lan2 has none"));
}

#[test]
fn a_way_by_an_interface_that_is_not_configured_is_none_and_checks_say_why() {
    let mut sim = running(config(WEB));
    let route = Route::Elsewhere {
        interface: "wan.9".to_owned(),
        port: "wan".to_owned(),
    };
    sim.event(Event::Route {
        address: ip("10.0.0.2"),
        route: route.clone(),
    });
    sim.check(&[("web/a", ALL), ("web/b", NONE)]);
    assert_eq!(reason(&sim), route.to_string());
    let bar = sim.state.bar_to(ip("10.0.0.2")).unwrap();
    assert_eq!(bar.to_string(), route.to_string());
    sim.probe("web/b", true, 1);
    let keys = [key("web/b")];
    let why = sim.state.explain(sim.now, &keys, &Counters::default());
    assert_eq!(why.backends[0].obstacles[0].cure, "add wan to `interfaces`");
    let last = why.backends[0].backend.last_results.last().unwrap();
    assert_eq!(last.verdict, ProbeVerdict::Void(route.to_string()));
}

#[test]
fn of_vlans_and_bonds_it_counts_where_frames_leave() {
    let vlan = Link {
        vlan: Some(Vlan {
            lower: Some(2),
            tag: lb_common::Tags::tag(TPID_8021Q, 9),
        }),
        ..link(3, true)
    };
    let mut sim = arms(&[link(2, true), vlan], 3);
    runs(&mut sim, &[(1, NATIVE)]);
    assert!(reason(&sim).contains("leave by lan2, where no program"));
    runs(&mut sim, &[(1, NATIVE), (2, NATIVE)]);
    sim.check(&[("web/b", ALL)]);

    let member = |number| Link {
        bond: Some(2),
        ..link(number, true)
    };
    let mut sim = arms(&[link(2, true), member(3), member(4)], 2);
    runs(&mut sim, &[(1, NATIVE), (3, NATIVE)]);
    assert!(reason(&sim).contains("leave by lan2, where no program"));
    for on in [2, 4] {
        runs(&mut sim, &[(1, NATIVE), (3, NATIVE), (on, NATIVE)]);
        sim.check(&[("web/b", ALL)]);
    }
    // One joins that runs nothing.
    sim.event(Event::Link(member(5)));
    sim.check(&[("web/b", NONE)]);
    sim.event(Event::LinkGone { ifindex: 5 });
    sim.check(&[("web/b", ALL)]);
}

#[test]
fn a_restart_cuts_nothing_before_all_is_known() {
    let mut sim = arms(&[link(2, true)], 2);
    runs(&mut sim, &[(1, NATIVE), (2, NATIVE)]);
    let mut again = sim.restarted(config(WEB), sim.now);
    again.check(&[("web/a", ALL), ("web/b", ALL)]);
    // Netlink has spoken of nobody yet, then of one.
    runs(&mut again, &[(1, NATIVE)]);
    again.check(&[("web/a", ALL), ("web/b", ALL)]);
    again.event(Event::Link(link(2, true)));
    again.check(&[("web/a", ALL), ("web/b", ALL)]);
    again.event(Event::Link(link(1, true)));
    again.check(&[("web/a", ALL), ("web/b", NONE)]);
}

#[test]
fn a_good_check_of_whom_no_packet_can_be_sent_to_says_nothing_and_a_bad_one_counts() {
    let mut sim = arms(&[link(2, true)], 2);
    runs(&mut sim, &[(1, NATIVE)]);
    sim.probe("web/b", true, 3);
    assert_eq!(sim.state.health(&key("web/b")), Health::Up);
    let status = |sim: &Sim| {
        let all = sim.state.config().services.values();
        let mut services = sim.state.status_of(sim.now, all, &Counters::default());
        services.remove(0).backends.remove(1)
    };
    let backend = status(&sim);
    let last = backend.last_results.last().unwrap().verdict.clone();
    assert_eq!(last, ProbeVerdict::Void(reason(&sim)));
    assert_eq!(backend.route, reason(&sim));
    assert!(backend.share_why.ends_with(&reason(&sim)), "{backend:?}");
    assert!(!backend.takes_new);
    let keys = [key("web/b")];
    let why = sim.state.explain(sim.now, &keys, &Counters::default());
    let obstacle = &why.backends[0].obstacles[0];
    assert!(obstacle.what.ends_with("where no program is attached"));
    assert_eq!(obstacle.cure, "add lan2 to `interfaces`");
    sim.probe("web/b", false, 2);
    assert_eq!(sim.state.health(&key("web/b")), Health::Down);
    runs(&mut sim, &[(1, NATIVE), (2, NATIVE)]);
    sim.probe("web/b", true, 2);
    sim.check(&[("web/b", ALL)]);
    let verdict = &status(&sim).last_results;
    assert_eq!(verdict.last().unwrap().verdict, ProbeVerdict::Good);
}
