//! What agents say, from the report to the weights.

use std::time::Duration;

use super::*;
use crate::model::{AgentSource, AgentWeight, Curve, Scheduler, SlowStart};

fn asked(most: u16, slow: u64) -> Arc<Config> {
    web(|web| {
        web.health.agent = Some(AgentWeight {
            source: AgentSource::Header,
            least: 10,
            most,
            step: 10,
        });
        web.failover.slow_start = SlowStart {
            duration: Duration::from_secs(slow),
            curve: Curve::Linear,
        };
    })
}

impl Sim {
    /// How often it was told that what an agent says is ignored.
    fn say(&mut self, backend: &str, said: &str) -> usize {
        self.effects.clear();
        self.event(Event::Reported {
            backend: key(backend),
            said: Some(said.to_owned()),
        });
        let agent = |effect: &&Effect| matches!(effect, Effect::Record(Record::Agent { .. }));
        self.effects.iter().filter(agent).count()
    }
}

#[test]
fn a_report_moves_the_share_by_steps_and_in_few_writes() {
    let mut sim = running(asked(200, 0));
    assert_eq!(sim.weights(), (1, 1));
    sim.say("web/a", "50%");
    assert_eq!(sim.weights(), (500, 1000));
    sim.pass(1);
    let (mut seen, mut writes) = (vec![500], 0);
    for _ in 0..100 {
        // Both say the same many times a second.
        sim.say("web/a", "72%");
        sim.say("web/b", "up 100%");
        sim.state.take_dirty();
        sim.event(Event::Tick);
        writes += usize::from(!sim.state.take_dirty().is_empty());
        if seen.last() != Some(&sim.weights().0) {
            seen.push(sim.weights().0);
        }
    }
    assert_eq!(seen, [500, 600, 700, 720]);
    assert!(writes <= 4, "{writes}");
    assert_eq!(sim.weights().1, 1000);
}

#[test]
fn agents_that_lie_take_no_service_away_and_draw_no_more_than_twice_their_weight() {
    let mut sim = running(asked(200, 0));
    for backend in ["web/a", "web/b"] {
        sim.say(backend, "0%");
    }
    // Both have the least: that is as good as the whole.
    assert_eq!(sim.weights(), (1, 1));
    for _ in 0..40 {
        sim.say("web/a", "1000%");
        sim.say("web/b", "100%");
        sim.pass(1);
    }
    assert_eq!(sim.weights(), (2000, 1000));
    assert_eq!(sim.say("web/a", "100000%"), 1);
    assert_eq!(sim.say("web/a", "-1%"), 0, "it is told once");
    assert_eq!(sim.weights(), (2000, 1000));
    let web = &sim.state.config.services[&name("web")];
    let told = sim
        .state
        .share_why(sim.now, web, &web.backends[&name("a")], &key("web/a"));
    let ignored =
        "what its agent says is ignored ('-1%' is not from 0% to 1000%): 200 % of its weight";
    assert!(told.ends_with(ignored), "{told}");
    // Another configuration does not ask.
    sim.event(Event::Config(web_alone()));
    assert_eq!(sim.weights(), (1, 1));
    sim.say("web/a", "50%");
    assert_eq!(sim.weights(), (1, 1));
}

/// What agents say that lie, flap, or know no numbers.
const LIES: [&str; 9] = [
    "0%",
    "1000%",
    "NaN%",
    "-1%",
    "0%",
    "inf%",
    "1e9%",
    "1000%",
    "18446744073709551616%",
];

/// Threat 23: the agents of all backends say all and nothing in turn, and what is no number, several times a second. Their
/// parts stay within the bounds and move by one step a second at most, and so often at most is the ring filled.
#[test]
fn agents_that_flap_move_by_a_step_a_second_and_within_their_bounds() {
    let mut sim = running(asked(200, 0));
    for backend in ["web/a", "web/b"] {
        sim.say(backend, "100%");
    }
    let parts = |sim: &Sim| ["web/a", "web/b"].map(|b| sim.state.backends[&key(b)].agent.part());
    let began = sim.now;
    let (mut told, mut writes, mut moved) = (0, 0, 0);
    for n in 0..6000 {
        let before = parts(&sim);
        sim.state.take_dirty();
        let (backend, lie) = match n % 2 {
            0 => ("web/a", LIES[n / 2 % LIES.len()]),
            _ => ("web/b", LIES[n / 2 * 5 % LIES.len()]),
        };
        told += sim.say(backend, lie);
        sim.event(Event::Tick);
        writes += u64::from(!sim.state.take_dirty().is_empty());
        for (before, after) in before.into_iter().zip(parts(&sim)) {
            assert!(
                before.abs_diff(after) <= 100,
                "{lie}: {before}, then {after}"
            );
            assert!((100..=2000).contains(&after), "{lie}: {after}");
            moved += u64::from(before != after);
        }
    }
    let seconds = (sim.now - began) / SECOND;
    assert!(moved > 0 && seconds >= 600, "{moved} moves in {seconds} s");
    assert!(writes <= seconds + 1, "{writes} in {seconds} s");
    // Each is told of once in ten minutes.
    assert!(told as u64 <= 2 * (seconds / 600 + 1), "told {told} times");
}

fn web_alone() -> Arc<Config> {
    web(|_| {})
}

#[test]
fn who_warms_up_gets_a_part_of_what_its_agent_leaves() {
    let mut sim = running(asked(100, 20));
    sim.pass(60);
    sim.say("web/a", "50%");
    sim.fall_and_return();
    assert_eq!(sim.weights(), (50, 1000));
    sim.pass(60);
    assert_eq!(sim.weights(), (500, 1000));
}

#[test]
fn who_is_slow_gets_less_under_least_response_time_and_nobody_is_left_out() {
    let config = web(|web| web.scheduler = Scheduler::LeastResponseTime);
    let mut sim = running(config);
    assert_eq!(sim.weights(), (1, 1));
    let mut seen = Vec::new();
    for _ in 0..300 {
        for (backend, ms) in [("web/a", 80), ("web/b", 5)] {
            let at = sim.now + SECOND / 10;
            let result = ProbeResult {
                extra: false,
                scheduled: at,
                started: at,
                ended: at + ms * SECOND / 1000,
                verdict: ProbeVerdict::Good,
            };
            sim.event(Event::Probe {
                backend: key(backend),
                result,
            });
        }
        seen.push(sim.weights());
    }
    // The median of two is the slower one: the faster gets up to twice its weight, but for less than a step.
    assert_eq!(sim.weights(), (1000, 1975));
    let steps = seen.windows(2).map(|pair| pair[1].1.abs_diff(pair[0].1));
    assert!(
        steps
            .skip(1)
            .filter(|step| *step < 900)
            .all(|step| step <= 50),
        "{seen:?}"
    );
    let web = &sim.state.config.services[&name("web")];
    let told = sim
        .state
        .share_why(sim.now, web, &web.backends[&name("b")], &key("web/b"));
    assert!(told.contains(" ms: 197 % of its weight"), "{told}");
    sim.event(Event::Config(web_alone()));
    assert_eq!(sim.weights(), (1, 1));
}

fn known(sim: &Sim, backend: &str) -> crate::latency::Pace {
    sim.state.backends[&key(backend)].pace
}

#[test]
fn who_answers_syns_late_gets_less_though_checks_are_quick() {
    let config = web(|web| web.scheduler = Scheduler::LeastResponseTime);
    let mut sim = running(config);
    let timed: BTreeSet<BackendKey> = sim.state.timed().into_values().collect();
    assert_eq!(timed, [key("web/a"), key("web/b")].into());
    let means = [("web/a", 80_000_000), ("web/b", 500_000), ("gone/a", 1)];
    let means: BTreeMap<BackendKey, u64> = means.map(|(of, mean)| (key(of), mean)).into();
    for _ in 0..100 {
        sim.event(Event::Answered {
            means: means.clone(),
        });
        sim.pass(1);
    }
    assert_eq!(sim.weights(), (1000, 1975));
    let web = &sim.state.config.services[&name("web")];
    let told = sim
        .state
        .share_why(sim.now, web, &web.backends[&name("b")], &key("web/b"));
    assert!(told.contains("its answers to SYNs "), "{told}");
    // Nothing of a service that does not ask for it.
    sim.event(Event::Config(web_alone()));
    assert!(sim.state.timed().is_empty());
    sim.event(Event::Answered { means });
    sim.pass(5);
    assert_eq!(sim.weights(), (1, 1));
}

#[test]
fn times_of_checks_are_forgotten_when_checks_are_of_another_type() {
    let with = |check: Check| {
        web(|web| {
            web.scheduler = Scheduler::LeastResponseTime;
            web.health.check = check.clone();
        })
    };
    let mut sim = running(with(Check::Tcp));
    for check in [Check::None, Check::Icmp, Check::Tcp] {
        for backend in ["web/a", "web/b"] {
            sim.probe(backend, true, 1);
        }
        assert!(known(&sim, "web/a").mean().is_some());
        // What is the same check stays measured.
        let same = with(sim.state.config.services[&name("web")].health.check.clone());
        sim.event(Event::Config(same));
        assert!(known(&sim, "web/a").mean().is_some());
        sim.event(Event::Config(with(check)));
        assert_eq!(known(&sim, "web/a"), crate::latency::Pace::default());
    }
}
