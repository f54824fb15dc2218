//! From tier to tier and back.

use super::*;
use crate::model::{AllDown, Failback, Tier};

/// Two backends in tier 0, two in tier 1, and a sorry backend.
const TIERS: &str =
    "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.3:80 d=10.0.0.4:80 s=10.0.0.5:80";

fn tiers(failback: Failback) -> Arc<Config> {
    let mut config = (*config(TIERS)).clone();
    let web = config.services.get_mut(&name("web")).unwrap();
    web.failover.failback = failback;
    for (backend, tier) in [
        ("c", Tier::Number(1)),
        ("d", Tier::Number(1)),
        ("s", Tier::Sorry),
    ] {
        web.backends.get_mut(&name(backend)).unwrap().tier = tier;
    }
    Arc::new(config)
}

impl Sim {
    /// Down, while others answer.
    fn fall(&mut self, backends: &[&str]) {
        for _ in 0..2 {
            for backend in backends {
                self.probe(backend, false, 1);
            }
            self.probe("web/s", true, 1);
        }
        // What the velocity limit held.
        self.pass(11);
        for backend in backends {
            self.probe(backend, false, 1);
            assert_eq!(self.state.health(&key(backend)), Health::Down, "{backend}");
        }
    }

    fn mode(&self) -> String {
        self.state.mode(&name("web")).unwrap().to_string()
    }

    fn failovers(&mut self) -> Vec<(String, String)> {
        let told = |record: Record| match record {
            Record::Failover { from, to, .. } => Some((from, to)),
            _ => None,
        };
        self.records().into_iter().filter_map(told).collect()
    }
}

#[test]
fn what_the_first_tier_cannot_carry_goes_to_the_next_and_returns_and_is_told() {
    let mut sim = running(tiers(Failback::Return));
    sim.check(&[("web/a", ALL), ("web/c", KEEP), ("web/s", KEEP)]);
    sim.fall(&["web/a"]);
    assert_eq!(sim.mode(), "tier 0: 70 %, tier 1: 30 %");
    sim.check(&[
        ("web/b", ALL),
        ("web/c", ALL),
        ("web/d", ALL),
        ("web/s", KEEP),
    ]);
    let all = sim
        .state
        .all_weights(&sim.state.config.services[&name("web")]);
    assert_eq!(sim.state.share(&key("web/b"), all), 700);
    assert_eq!(sim.state.share(&key("web/c"), all), 150);
    sim.fall(&["web/a", "web/b"]);
    assert_eq!(sim.mode(), "tier 1: 100 %");
    sim.fall(&["web/a", "web/b", "web/c", "web/d"]);
    assert_eq!(sim.mode(), "the sorry backends");
    sim.check(&[("web/a", NONE), ("web/d", NONE), ("web/s", ALL)]);
    assert!(!sim.failovers().is_empty());
    sim.probe("web/a", true, 2);
    assert_eq!(sim.mode(), "tier 0: 100 %");
    sim.check(&[("web/a", ALL), ("web/c", NONE), ("web/s", KEEP)]);
    let told = ("the sorry backends".to_owned(), "tier 0: 100 %".to_owned());
    assert_eq!(sim.failovers(), [told]);
}

#[test]
fn flows_stay_until_a_person_says_otherwise_also_over_a_restart() {
    let config = tiers(Failback::Stay);
    let mut sim = running(config.clone());
    assert_eq!(sim.mode(), "tier 0: 100 %");
    sim.fall(&["web/a", "web/b"]);
    assert_eq!(sim.mode(), "tier 1: 100 %");
    sim.probe("web/a", true, 2);
    sim.probe("web/b", true, 2);
    assert_eq!(sim.mode(), "tier 1: 100 %");
    sim.check(&[("web/a", KEEP), ("web/c", ALL)]);
    let mut sim = sim.restarted(config, sim.now + SECOND);
    sim.connect();
    assert_eq!(sim.mode(), "tier 1: 100 %");
    sim.check(&[("web/a", KEEP), ("web/c", ALL)]);
    sim.failovers();
    let effects = sim.state.failback(sim.now, &name("web")).unwrap();
    assert!(effects.contains(&Effect::Persist));
    assert_eq!(sim.mode(), "tier 0: 100 %");
    sim.check(&[("web/a", ALL), ("web/c", KEEP)]);
    // Then again.
    sim.fall(&["web/a", "web/b"]);
    sim.probe("web/a", true, 2);
    assert_eq!(sim.mode(), "tier 1: 100 %");
    let unknown = sim
        .state
        .failback(sim.now, &name("wed"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        unknown,
        "service 'wed': not configured (did you mean 'web'?)"
    );
    let mut sim = running(tiers(Failback::Return));
    let needless = sim
        .state
        .failback(sim.now, &name("web"))
        .unwrap_err()
        .to_string();
    assert!(needless.contains("return by themselves"), "{needless}");
}

/// Who is known to be well first must not keep the flows of those that are first.
#[test]
fn at_a_start_flows_do_not_stay_with_whoever_answered_first() {
    let mut sim = start(tiers(Failback::Stay), None, SECOND);
    sim.connect();
    sim.probe("web/c", true, 2);
    assert_eq!(sim.mode(), "tier 1: 100 %");
    for backend in ["web/d", "web/s", "web/a", "web/b"] {
        sim.probe(backend, true, 2);
    }
    assert_eq!(sim.mode(), "tier 0: 100 %");
}

/// The way to the first tier may be found after that to the second: nobody was ever well there.
#[test]
fn at_a_start_flows_do_not_stay_with_whoever_was_reached_first() {
    let mut trusting = (*tiers(Failback::Stay)).clone();
    let web = trusting.services.get_mut(&name("web")).unwrap();
    web.health.trust_at_start = true;
    let address = web.backends[&name("c")].address;
    let mut sim = start(Arc::new(trusting), None, SECOND);
    sim.event(Event::Link(link(1, true)));
    sim.route(address, 1, 7);
    assert_eq!(sim.mode(), "tier 1: 100 %");
    sim.connect();
    assert_eq!(sim.mode(), "tier 0: 100 %");
}

#[test]
fn a_drained_tier_is_no_loss_while_another_can_serve() {
    let mut sim = running(tiers(Failback::Return));
    let drain = |sim: &mut Sim, backend: &str| {
        let (now, state) = (sim.now, AdminState::Draining);
        sim.state.command(now, &key(backend), state, None, false)
    };
    for backend in ["web/a", "web/b", "web/c", "web/d"] {
        drain(&mut sim, backend).unwrap();
    }
    assert_eq!(sim.mode(), "the sorry backends");
    sim.check(&[("web/d", KEEP), ("web/s", ALL)]);
    assert!(drain(&mut sim, "web/s").is_err());
}

#[test]
fn below_the_threshold_all_are_tried_or_nobody_serves() {
    for (policy, mode, then) in [
        (AllDown::FailOpen, "all that are enabled (fail-open)", ALL),
        (AllDown::FailClosed, "the sorry backends", KEEP),
    ] {
        let mut config = (*tiers(Failback::Return)).clone();
        let web = config.services.get_mut(&name("web")).unwrap();
        web.failover.panic_threshold = 50;
        web.all_down = policy;
        let mut sim = running(Arc::new(config));
        sim.fall(&["web/a", "web/b"]);
        assert_eq!(sim.mode(), "tier 1: 100 %");
        sim.fall(&["web/a", "web/b", "web/c"]);
        assert_eq!(sim.mode(), mode);
        sim.check(&[("web/d", then)]);
        sim.probe("web/b", true, 2);
        assert_eq!(sim.mode(), "tier 0: 70 %, tier 1: 30 %");
    }
}
