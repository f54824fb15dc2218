//! What follows from returns in time: slow start, limits of flows, VIPs that are live.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::model::{Curve, SlowStart, Tier};

fn slowly(curve: Curve) -> Arc<Config> {
    web(|web| {
        web.failover.slow_start = SlowStart {
            duration: Duration::from_secs(20),
            curve,
        };
    })
}

impl Sim {
    pub(super) fn weights(&self) -> (u32, u32) {
        (
            self.state.weight(&key("web/a")),
            self.state.weight(&key("web/b")),
        )
    }

    /// `web/a` down, which `web/b` is not.
    pub(super) fn fall_and_return(&mut self) {
        for good in [false, true] {
            for _ in 0..2 {
                self.probe("web/a", good, 1);
                self.probe("web/b", true, 1);
            }
        }
    }
}

#[test]
fn who_returns_gets_its_share_by_and_by_in_few_steps() {
    let mut sim = running(slowly(Curve::Quadratic));
    sim.pass(60);
    assert_eq!(sim.weights(), (1, 1));
    sim.fall_and_return();
    assert_eq!(sim.weights(), (100, 1000));
    assert_eq!(sim.state.warming(), [name("web")]);
    let mut seen = vec![100];
    let mut rings = 0;
    for _ in 0..230 {
        sim.state.take_dirty();
        sim.event(Event::Tick);
        rings += usize::from(!sim.state.take_dirty().is_empty());
        let (a, b) = sim.weights();
        let part = a * 1000 / b;
        if seen.last() != Some(&part) {
            seen.push(part);
        }
    }
    assert_eq!(seen, [100, 160, 250, 360, 490, 640, 810, 1000]);
    assert_eq!(sim.weights(), (1, 1));
    assert!(sim.state.warming().is_empty());
    assert!(rings <= 10, "{rings} changes");
}

#[test]
fn a_drain_and_a_lost_way_are_told_apart() {
    let mut sim = running(slowly(Curve::Linear));
    sim.pass(60);
    sim.event(Event::Route {
        address: ip("10.0.0.1"),
        route: Route::Unresolved("failed".to_owned()),
    });
    assert_eq!(sim.weights(), (0, 1));
    sim.route(ip("10.0.0.1"), 1, 7);
    assert_eq!(sim.weights(), (1, 1));
    sim.admin("web/a", AdminState::Draining, None);
    sim.admin("web/a", AdminState::Enabled, None);
    assert_eq!(sim.weights(), (100, 1000));
}

#[test]
fn a_restart_is_no_return_and_a_return_goes_on_over_it() {
    let config = slowly(Curve::Linear);
    let mut sim = running(config.clone());
    sim.pass(60);
    let mut same = sim.restarted(config.clone(), sim.now + SECOND);
    same.connect();
    assert_eq!(same.weights(), (1, 1));
    same.fall_and_return();
    same.pass(9);
    assert_eq!(same.weights(), (400, 1000));
    let mut same = same.restarted(config, same.now + SECOND / 10);
    same.connect();
    assert_eq!(same.weights(), (400, 1000));
}

#[test]
fn who_has_as_many_flows_as_it_may_gets_none_until_a_tenth_is_gone() {
    let mut sim = running(web(|web| {
        let mut backends = web.backends.values_mut();
        backends.next().unwrap().max_connections = NonZeroU32::new(100);
        backends.next().unwrap().tier = Tier::Number(1);
    }));
    assert!(sim.state.has_limits());
    sim.check(&[("web/a", ALL), ("web/b", KEEP)]);
    sim.flows(&[("web/a", 99)]);
    sim.check(&[("web/a", ALL)]);
    sim.flows(&[("web/a", 100)]);
    sim.check(&[("web/a", KEEP), ("web/b", ALL)]);
    sim.flows(&[("web/a", 91)]);
    sim.check(&[("web/a", KEEP)]);
    sim.flows(&[("web/a", 90)]);
    sim.check(&[("web/a", ALL), ("web/b", KEEP)]);
    // A reload without the limit.
    sim.flows(&[("web/a", 100)]);
    sim.event(Event::Config(config(WEB)));
    assert!(!sim.state.has_limits());
    sim.check(&[("web/a", ALL), ("web/b", ALL)]);
}

fn claims(sim: &mut Sim) -> Option<Vec<(String, IpAddr)>> {
    let effects = std::mem::take(&mut sim.effects);
    let told = effects.into_iter().filter_map(|effect| match effect {
        Effect::Claim(claims) => Some(claims),
        _ => None,
    });
    told.last()
}

fn claimed(text: &str, min_healthy: u16) -> Arc<Config> {
    let mut config = (*config(text)).clone();
    for service in config.services.values_mut() {
        service.claim = Some("lan".to_owned());
        service.failover.min_healthy = min_healthy;
    }
    Arc::new(config)
}

#[test]
fn a_new_vip_is_down_until_enough_are_up_and_then_stays() {
    let vip = ("lan".to_owned(), ip("192.0.2.1"));
    let config = claimed(WEB, 2);
    let mut sim = start(config.clone(), None, SECOND);
    sim.connect();
    assert_eq!(claims(&mut sim), Some(vec![]));
    sim.probe("web/a", true, 2);
    assert_eq!(claims(&mut sim), None);
    // A new backend is down, too, until it is proven.
    sim.check(&[("web/a", ALL), ("web/b", KEEP)]);
    sim.probe("web/b", true, 2);
    assert_eq!(claims(&mut sim), Some(vec![vip.clone()]));
    sim.fall_and_return();
    assert_eq!(claims(&mut sim), None);
    // Over a restart, whoever is up by then.
    let mut again = sim.restarted(config, sim.now + SECOND);
    assert_eq!(claims(&mut again), Some(vec![vip.clone()]));
    // A new service on a live VIP finds it up, and one with another VIP has to prove itself.
    let more = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80\nmail 192.0.2.1:25 m=10.0.0.3:25\nnews 192.0.2.2:119 n=10.0.0.4:119";
    again.event(Event::Config(claimed(more, 1)));
    assert_eq!(claims(&mut again), None);
    again.connect();
    again.probe("mail/m", true, 2);
    assert_eq!(claims(&mut again), None);
    again.probe("news/n", true, 2);
    let both = vec![vip.clone(), ("lan".to_owned(), ip("192.0.2.2"))];
    assert_eq!(claims(&mut again), Some(both));
    // Another service on the same VIP in place of the first: it stays live.
    let other = "mail 192.0.2.1:25 x=10.0.0.9:25";
    again.event(Event::Config(claimed(other, 1)));
    assert_eq!(claims(&mut again), Some(vec![vip]));
}

#[test]
fn a_new_service_on_a_live_vip_serves_until_its_checks_say_otherwise() {
    let mut sim = running(config(WEB));
    let mail = "mail 192.0.2.1:25 m=10.0.0.3:25";
    let news = "news 192.0.2.2:119 n=10.0.0.4:119";
    sim.event(Event::Config(config(&format!("{WEB}\n{mail}\n{news}"))));
    sim.connect();
    // At another VIP nobody serves yet.
    sim.check(&[("mail/m", ALL), ("news/n", KEEP)]);
    assert_eq!(sim.state.health(&key("mail/m")), Health::Unknown);
    // What comes later, or gets another address, is new at an old service.
    let mail = "mail 192.0.2.1:25 m=10.0.0.3:25 k=10.0.0.5:25";
    sim.event(Event::Config(config(&format!("{WEB}\n{mail}\n{news}"))));
    sim.connect();
    sim.check(&[("mail/m", ALL), ("mail/k", KEEP)]);
    let moved = "mail 192.0.2.1:25 m=10.0.0.6:25 k=10.0.0.5:25";
    sim.event(Event::Config(config(&format!("{WEB}\n{moved}\n{news}"))));
    sim.connect();
    sim.check(&[("mail/m", KEEP), ("mail/k", KEEP)]);
    // One that has another name from now on loses nobody; who is bad is out as ever.
    sim.event(Event::Config(config(&WEB.replace("web", "www"))));
    sim.connect();
    sim.check(&[("www/a", ALL), ("www/b", ALL)]);
    sim.probe("www/a", false, 2);
    sim.check(&[("www/a", NONE), ("www/b", ALL)]);
    // Over a restart they are as they were.
    let mut sim = running(config(WEB));
    let renamed = config(&WEB.replace("web", "www"));
    sim.event(Event::Config(renamed.clone()));
    sim.connect();
    let mut sim = sim.restarted(renamed, sim.now + SECOND);
    sim.connect();
    sim.check(&[("www/a", ALL), ("www/b", ALL)]);
    // All at once are not believed to be down, as ever: half of them at most.
    for _ in 0..9 {
        sim.probe("www/a", false, 1);
        sim.probe("www/b", false, 1);
    }
    let down = ["www/a", "www/b"].map(|name| sim.state.health(&key(name)) == Health::Down);
    assert_ne!(down, [true, true]);
    // Where all are down, nobody is believed.
    let mut sim = running(config("web 192.0.2.1:80 a=10.0.0.1:80"));
    sim.probe("web/a", false, 2);
    assert_eq!(sim.state.health(&key("web/a")), Health::Down);
    sim.event(Event::Config(config("www 192.0.2.1:80 a=10.0.0.1:80")));
    sim.connect();
    sim.check(&[("www/a", KEEP)]);
    // And who claims, claims nothing by it: a VIP that waits for enough goes on waiting.
    let mut sim = start(claimed(WEB, 2), None, SECOND);
    sim.connect();
    sim.probe("web/a", true, 2);
    assert_eq!(claims(&mut sim), Some(vec![]));
    sim.event(Event::Config(claimed(&WEB.replace("web", "www"), 2)));
    sim.connect();
    assert_eq!(claims(&mut sim), None);
    sim.check(&[("www/a", KEEP), ("www/b", KEEP)]);
}

#[test]
fn nobody_needs_to_be_up_where_zero_is_enough_and_a_reboot_begins_anew() {
    let vip = ("lan".to_owned(), ip("192.0.2.1"));
    let mut sim = start(claimed(WEB, 0), None, SECOND);
    assert_eq!(claims(&mut sim), Some(vec![vip]));
    let persistent = sim.state.persistent(sim.now);
    let mut sim = start(claimed(WEB, 1), Some(persistent), SECOND);
    assert_eq!(claims(&mut sim), Some(vec![]));
}

#[test]
fn a_drain_without_a_deadline_has_that_of_its_service() {
    let mut sim = running(web(|web| {
        web.drain_deadline = Some(Duration::from_secs(30))
    }));
    sim.flows(&[("web/a", 3)]);
    sim.admin("web/a", AdminState::Draining, None);
    sim.flows(&[("web/a", 3)]);
    sim.pass(29);
    sim.check(&[("web/a", KEEP)]);
    sim.pass(1);
    sim.check(&[("web/a", NONE)]);
    let drained = Record::Drained {
        backend: key("web/a"),
        left: 3,
        cause: Cause::Drain,
    };
    assert!(sim.records().contains(&drained));
}
