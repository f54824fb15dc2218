//! What becomes of suspects: who is checked, and what both checks come to.

use std::num::NonZeroU16;
use std::time::Duration;

use super::*;
use crate::model::{Passive, Service};
use crate::passive::{Evidence, Sign};

const THREE: &str = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.3:80";

const WHY: Evidence = Evidence {
    sign: Sign::Unanswered,
    bad: 14,
    of: 20,
    over: 300_000_000,
};

/// These backends with passive checks and one thing changed.
fn passive(text: &str, change: impl FnOnce(&mut Service)) -> Arc<Config> {
    let mut config = (*config(text)).clone();
    // Whom the velocity limit holds says a test.
    config.daemon.velocity_percent = 100;
    let web = config.services.get_mut(&name("web")).unwrap();
    web.health.passive = Some(Passive::default());
    web.health.fall = NonZeroU16::new(3).unwrap();
    change(web);
    Arc::new(config)
}

impl Sim {
    /// Evidence against a backend: whom it has checked.
    fn suspect(&mut self, backend: &str) -> Vec<BackendKey> {
        self.suspect_all(&[backend]).pop().unwrap_or_default()
    }

    /// The same of several at once.
    fn suspect_all(&mut self, backends: &[&str]) -> Vec<Vec<BackendKey>> {
        self.effects.clear();
        let suspects = backends.iter().map(|backend| (key(backend), WHY));
        self.event(Event::Suspected {
            suspects: suspects.collect(),
        });
        let checked = self.effects.iter().filter_map(|effect| match effect {
            Effect::ProbeNow(whom) => Some(whom.clone()),
            _ => None,
        });
        checked.collect()
    }

    /// An extra check that began `ago` ends now.
    fn extra(&mut self, backend: &str, verdict: ProbeVerdict, ago: u64) {
        let now = self.now + SECOND / 10;
        self.event(Event::Probe {
            backend: key(backend),
            result: ProbeResult {
                scheduled: now - ago,
                started: now - ago,
                ended: now,
                verdict,
                extra: true,
            },
        });
    }

    /// Both checks, begun together.
    fn both(&mut self, suspect: (&str, ProbeVerdict), witness: (&str, ProbeVerdict)) {
        self.extra(witness.0, witness.1, 0);
        self.extra(suspect.0, suspect.1, SECOND / 10);
    }

    fn is(&self, backend: &str) -> Health {
        self.state.health(&key(backend))
    }
}

fn good() -> ProbeVerdict {
    ProbeVerdict::Good
}

fn bad() -> ProbeVerdict {
    ProbeVerdict::Bad("timed out".to_owned())
}

fn void() -> ProbeVerdict {
    ProbeVerdict::Void("no descriptor".to_owned())
}

#[test]
fn a_suspect_is_out_at_once_when_its_check_is_bad_and_that_of_the_witness_is_good() {
    for suspect_first in [false, true] {
        let mut sim = running(passive(THREE, |_| ()));
        assert_eq!(sim.suspect("web/a"), [key("web/a"), key("web/b")]);
        assert_eq!(sim.suspect("web/a"), []);
        if suspect_first {
            sim.extra("web/a", bad(), 0);
            assert_eq!(sim.is("web/a"), Health::Up);
            sim.extra("web/b", good(), SECOND / 10);
        } else {
            sim.both(("web/a", bad()), ("web/b", good()));
        }
        assert_eq!(sim.is("web/a"), Health::Down);
        let told = sim.records().into_iter().find_map(|record| match record {
            Record::Health { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(
            told.as_deref(),
            Some("14 of 20 handshakes unanswered in the last 0.3 s; checked at once: timed out")
        );
        assert_eq!(sim.suspect("web/a"), []);
        sim.probe("web/a", true, 2);
        assert_eq!(sim.is("web/a"), Health::Up);
        assert_eq!(sim.suspect("web/a").len(), 2);
    }
}

#[test]
fn what_fails_with_the_witness_or_says_nothing_takes_nobody_out_and_is_in_no_row() {
    for (own, theirs) in [
        (bad(), bad()),
        (bad(), void()),
        (void(), good()),
        (void(), bad()),
    ] {
        let mut sim = running(passive(THREE, |_| ()));
        // Far more often than `fall`.
        for n in 0..10 {
            let checked = sim.suspect("web/a");
            assert_eq!(checked.len(), 2, "{n}: {own:?} {theirs:?}");
            let witness = format!("web/{}", checked[1].backend);
            // One that has failed gives way to another.
            let fails = own != void();
            let expected = if fails && n == 1 { "web/c" } else { "web/b" };
            assert_eq!(witness, expected, "{n}: {own:?} {theirs:?}");
            sim.both(("web/a", own.clone()), (&witness, theirs.clone()));
            sim.pass(1);
        }
        for backend in ["web/a", "web/b", "web/c"] {
            assert_eq!(sim.is(backend), Health::Up, "{own:?} {theirs:?}");
            let tracker = &sim.state.backends[&key(backend)].tracker;
            assert_eq!(tracker.bad_until_down(), Some(3), "{own:?} {theirs:?}");
        }
    }
}

#[test]
fn checks_that_did_not_begin_together_say_nothing_of_each_other() {
    let mut sim = running(passive(THREE, |_| ()));
    assert_eq!(sim.suspect("web/a").len(), 2);
    sim.extra("web/a", bad(), 0);
    sim.pass(1);
    sim.extra("web/b", good(), 0);
    assert_eq!(sim.is("web/a"), Health::Up);
    sim.pass(1);
    assert_eq!(sim.suspect("web/a").len(), 2);
}

#[test]
fn who_cannot_be_spared_or_has_no_witness_is_no_suspect() {
    let one = "web 192.0.2.1:80 a=10.0.0.1:80";
    assert_eq!(running(passive(one, |_| ())).suspect("web/a"), []);
    // One machine.
    let same = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.1:81";
    assert_eq!(running(passive(same, |_| ())).suspect("web/a"), []);
    let panics = |web: &mut Service| web.failover.panic_threshold = 67;
    assert_eq!(running(passive(THREE, panics)).suspect("web/a"), []);
    // So it was, and then another one went.
    let panics = |web: &mut Service| web.failover.panic_threshold = 60;
    let mut sim = running(passive(THREE, panics));
    assert_eq!(sim.suspect("web/a").len(), 2);
    sim.probe("web/c", false, 3);
    assert_eq!(sim.is("web/c"), Health::Down);
    sim.extra("web/a", bad(), 0);
    sim.extra("web/b", good(), SECOND / 10);
    assert_eq!(sim.is("web/a"), Health::Up);
    let others = passive(THREE, |web| web.health.passive = None);
    assert_eq!(running(others).suspect("web/a"), []);
}

#[test]
fn a_verdict_that_the_velocity_limit_holds_is_not_sought_again_and_again() {
    let mut config = (*passive(THREE, |_| ())).clone();
    (
        config.daemon.velocity_percent,
        config.daemon.velocity_window,
    ) = (34, Duration::from_secs(3600));
    let web = config.services.get_mut(&name("web")).unwrap();
    web.failover.panic_threshold = 10;
    let mut sim = running(Arc::new(config));
    sim.probe("web/c", false, 3);
    assert_eq!(sim.is("web/c"), Health::Down);
    assert_eq!(sim.suspect("web/a").len(), 2);
    sim.both(("web/a", bad()), ("web/b", good()));
    assert_eq!(sim.is("web/a"), Health::Up);
    let held = |record: &Record| matches!(record, Record::Held { .. });
    assert!(sim.records().iter().any(held));
    for _ in 0..100 {
        assert_eq!(sim.suspect("web/a"), []);
    }
    // It was good again: it is left in peace as after a good check.
    sim.probe("web/a", true, 2);
    assert!(!sim.state.backends[&key("web/a")].suspicion.may_rise(0));
    sim.pass(60);
    assert_eq!(sim.suspect("web/a").len(), 2);
}

#[test]
fn those_that_are_suspects_together_have_one_that_is_none_as_their_witness() {
    let four = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.3:80 d=10.0.0.4:80";
    let config = passive(four, |web| {
        web.failover.panic_threshold = 25;
        web.health.timeout = Duration::from_secs(1);
    });
    let mut sim = running(config);
    let checked = sim.suspect_all(&["web/b", "web/c", "web/d"]);
    let with_a = |name| vec![key(name), key("web/a")];
    assert_eq!(checked, ["web/b", "web/c", "web/d"].map(with_a));
    sim.extra("web/a", good(), 0);
    // All begun together, and ended one after another.
    for (backend, ago) in [("web/b", 1), ("web/c", 2), ("web/d", 3)] {
        sim.extra(backend, bad(), ago * SECOND / 10);
        assert_eq!(sim.is(backend), Health::Down, "{backend}");
    }
    // Where all are suspects, one of them has to do.
    let mut sim = running(passive(THREE, |_| ()));
    let checked = sim.suspect_all(&["web/a", "web/b", "web/c"]);
    assert_eq!(
        checked,
        [[key("web/a"), key("web/b")], [key("web/b"), key("web/c")]]
    );
}

#[test]
fn who_is_down_or_leaves_does_not_serve() {
    let mut sim = running(passive(THREE, |_| ()));
    assert!(sim.state.serves(&key("web/a")) && sim.state.watched_id(&key("web/a")).is_some());
    sim.probe("web/a", false, 3);
    sim.admin("web/b", AdminState::Draining, None);
    let serving = ["web/a", "web/b", "web/c"].map(|name| sim.state.serves(&key(name)));
    assert_eq!(serving, [false, false, true]);
    sim.probe("web/a", true, 2);
    sim.admin("web/b", AdminState::Enabled, None);
    assert!(sim.state.serves(&key("web/a")) && sim.state.serves(&key("web/b")));
    let others = running(passive(THREE, |web| web.health.passive = None));
    assert_eq!(others.state.watched_id(&key("web/a")), None);
}

#[test]
fn a_good_check_gives_peace_that_grows() {
    let mut sim = running(passive(THREE, |_| ()));
    let mut checks = 0;
    for _ in 0..600 {
        // A tenth of a second each.
        if !sim.suspect("web/a").is_empty() {
            checks += 1;
            sim.both(("web/a", good()), ("web/b", bad()));
        }
    }
    // After 0, 1, 3, 7, 15, 31 seconds.
    assert_eq!(checks, 6);
    assert_eq!(sim.is("web/a"), Health::Up);
}

#[test]
fn a_suspicion_ends_with_what_it_was_about() {
    let elsewhere = THREE.replace("a=10.0.0.1:80", "a=10.0.0.9:80");
    for (text, change) in [
        (elsewhere.as_str(), (|_| ()) as fn(&mut Service)),
        (THREE, |web| web.health.passive = None),
        (THREE, |web| web.health.port = NonZeroU16::new(8080)),
    ] {
        let mut sim = running(passive(THREE, |_| ()));
        assert_eq!(sim.suspect("web/a").len(), 2);
        sim.event(Event::Config(passive(text, change)));
        sim.connect();
        sim.probe("web/a", true, 2);
        sim.both(("web/a", bad()), ("web/b", good()));
        assert_eq!(sim.is("web/a"), Health::Up, "{text}");
        let words = sim.state.suspicion_words(sim.now, &key("web/a"));
        assert_eq!(words, None);
    }
    // Another service's reload ends none.
    let mut sim = running(passive(THREE, |_| ()));
    assert_eq!(sim.suspect("web/a").len(), 2);
    sim.event(Event::Config(passive(THREE, |web| web.udp_idle *= 2)));
    sim.both(("web/a", bad()), ("web/b", good()));
    assert_eq!(sim.is("web/a"), Health::Down);
}

/// A pool that has no `panic-threshold` is left half of its backends, of those that get flows.
#[test]
fn half_of_a_pool_stays_whatever_packets_say() {
    const FOUR: &str = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.3:80 d=10.0.0.4:80";
    let mut sim = running(passive(FOUR, |_| ()));
    for (suspect, witness) in [("web/a", "web/b"), ("web/b", "web/c")] {
        assert_eq!(sim.suspect(suspect), [key(suspect), key(witness)]);
        sim.both((suspect, bad()), (witness, good()));
        assert_eq!(sim.is(suspect), Health::Down);
    }
    assert_eq!(sim.suspect("web/c"), []);
    // Of those that are up, one without a way is none that could be spared.
    let mut sim = running(passive(FOUR, |web| web.failover.panic_threshold = 50));
    assert_eq!(sim.suspect("web/a").len(), 2);
    sim.pass(200);
    for lost in ["10.0.0.2", "10.0.0.3"] {
        sim.event(Event::Route {
            address: ip(lost),
            route: crate::model::Route::Unresolved("gone".to_owned()),
        });
    }
    assert_eq!(sim.suspect("web/a"), []);
}

/// Suspects of a large service that cannot be spared do not keep those of another from being looked at.
#[test]
fn those_of_a_large_pool_do_not_take_all_turns() {
    let many: Vec<String> = (0..200)
        .map(|n| format!("b{n}=10.1.{}.{}:80", n / 200, n % 200 + 1))
        .collect();
    let text = format!(
        "many 192.0.2.9:80 {}\nweb 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.3:80",
        many.join(" ")
    );
    let mut config = (*passive(&text, |_| ())).clone();
    let large = config.services.get_mut(&name("many")).unwrap();
    large.health.passive = Some(Passive::default());
    // Nobody can be spared.
    large.failover.panic_threshold = 100;
    let mut sim = running(Arc::new(config));
    let names: Vec<String> = (0..40)
        .map(|n| format!("many/b{n}"))
        .chain(["web/a".to_owned()])
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let checked: Vec<_> = (0..4).flat_map(|_| sim.suspect_all(&names)).collect();
    assert_eq!(checked, [[key("web/a"), key("web/b")]]);
}
