//! Which events are told when; and real commands and servers that behave and that do not.

mod told;

use crate::event::Cause;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::parse;
use crate::model::{AdminState, Config, Health};

/// A configuration with two backends and these hooks.
pub(super) fn config(hooks: &str) -> Config {
    let service = "[daemon]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"dnat\"\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.0.1\"\n[[service.backend]]\nname = \"b2\"\naddress = \"10.0.0.2\"\nport = 8080\n";
    let outcome = parse("hooks.toml", &format!("{service}{hooks}"));
    let errors: Vec<_> = outcome.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
    outcome.config.unwrap()
}

pub(super) fn down(backend: &str) -> Record {
    Record::Health {
        backend: backend.parse().unwrap(),
        from: Health::Up,
        to: Health::Down,
        reason: "bad probes in a row: 3; the last: connect: refused".to_owned(),
    }
}

fn drained() -> Record {
    Record::Drained {
        backend: "web/b1".parse().unwrap(),
        left: 0,
        cause: Cause::Drain,
    }
}

fn failover() -> Record {
    Record::Failover {
        service: Name::new("web").unwrap(),
        from: "tier 0: 100 %".to_owned(),
        to: "tier 1: 100 %".to_owned(),
    }
}

fn message() -> Message {
    Message::new(
        &down("web/b2"),
        &config(""),
        Duration::from_millis(86_400_123),
    )
}

fn queue(retries: u16, rate: u32, queue: usize) -> Queue {
    Queue::new(Limits {
        retries,
        rate,
        queue,
    })
}

#[track_caller]
fn tells(queue: &mut Queue, now: u64) -> Attempt {
    match queue.next(now) {
        Next::Tell(attempt) => attempt,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn waits_until(queue: &mut Queue, now: u64, at: u64) {
    match queue.next(now) {
        Next::At(found) => assert_eq!(found, at),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hook_is_told_its_kinds_of_events_of_its_services() {
    let hook = |lines: &str| {
        let text = format!("[[hook]]\nname = \"h\"\ncommand = [\"/bin/true\"]\n{lines}");
        config(&text).hooks.into_values().next().unwrap()
    };
    let suspect = Record::CheckerSuspect {
        suspected: true,
        reason: String::new(),
    };
    let held = Record::Held {
        backend: "web/b1".parse().unwrap(),
        reason: String::new(),
    };
    let ordered = Record::Admin {
        backend: "web/b1".parse().unwrap(),
        from: AdminState::Enabled,
        to: AdminState::Draining,
    };
    let events = [
        down("web/b1"),
        held,
        suspect,
        ordered,
        drained(),
        failover(),
    ];
    let told = |lines: &str| {
        let hook = hook(lines);
        events.each_ref().map(|record| wants(&hook, record))
    };
    assert_eq!(told(""), [true; 6]);
    assert_eq!(
        told("on = [\"health\"]"),
        [true, true, true, false, false, false]
    );
    assert_eq!(
        told("on = [\"drain\"]"),
        [false, false, false, true, true, false]
    );
    assert_eq!(
        told("on = [\"failover\"]"),
        [false, false, false, false, false, true]
    );
    // Whether the checker is suspected is no service's matter.
    assert_eq!(
        told("services = [\"web\"]"),
        [true, true, false, true, true, true]
    );
    let mail = down("mail/b1");
    assert!(!wants(&hook("services = [\"web\"]"), &mail) && wants(&hook(""), &mail));
    let link = Record::Link {
        name: "eth0".to_owned(),
        what: "gone".to_owned(),
    };
    assert!(!wants(&hook(""), &link));
}

#[test]
fn a_full_queue_loses_the_oldest_and_says_how_many_but_not_too_often() {
    let mut queue = queue(0, 6000, 2);
    queue.push(message());
    let first = tells(&mut queue, 0);
    assert_eq!(first.message.number, 1);
    for _ in 0..5 {
        queue.push(message());
    }
    assert_eq!((queue.waiting(), queue.counts().dropped), (3, 3));
    assert_eq!(queue.dropped_unsaid(1), Some(3));
    queue.push(message());
    assert_eq!(queue.dropped_unsaid(2), None);
    assert_eq!(queue.dropped_unsaid(1 + QUIET), Some(1));
    assert_eq!(queue.ended(first.number, 3, Ok(())), Ended::Sent);
    // The newest are left.
    let numbers = [(); 2].map(|()| {
        let attempt = tells(&mut queue, 4);
        assert_eq!(queue.ended(attempt.number, 5, Ok(())), Ended::Sent);
        attempt.message.number
    });
    assert_eq!(numbers, [6, 7]);
    assert!(matches!(queue.next(6), Next::Idle));
    let counts = Counts {
        sent: 3,
        failed: 0,
        dropped: 4,
    };
    assert_eq!(queue.counts(), counts);
}

#[test]
fn an_attempt_that_failed_is_made_again_later_and_later_and_then_given_up() {
    let mut queue = queue(3, 60, 10);
    queue.push(message());
    queue.push(message());
    let mut now = 5 * SECOND;
    for (failures, wait) in [(0, 1), (1, 2), (2, 4)] {
        let attempt = tells(&mut queue, now);
        assert_eq!((attempt.failures, attempt.message.number), (failures, 1));
        assert!(matches!(queue.next(now), Next::Idle), "one at a time");
        let ended = queue.ended(attempt.number, now, Err("refused".to_owned()));
        assert_eq!(ended, Ended::Again(wait * SECOND));
        assert_eq!(queue.trouble(), Some("refused"));
        waits_until(&mut queue, now, now + wait * SECOND);
        now += wait * SECOND;
    }
    let last = tells(&mut queue, now);
    let ended = queue.ended(last.number, now, Err("refused".to_owned()));
    assert_eq!((ended, queue.counts().failed), (Ended::Failed, 1));
    // The next one has all its attempts again.
    let next = tells(&mut queue, now);
    assert_eq!((next.failures, next.message.number), (0, 2));
    queue.ended(next.number, now, Ok(()));
    assert_eq!(queue.trouble(), None);
    let mut patient = Queue::new(Limits {
        retries: 10,
        ..queue.limits
    });
    patient.push(message());
    let mut waits = Vec::new();
    for _ in 0..10 {
        let attempt = tells(&mut patient, now);
        match patient.ended(attempt.number, now, Err(String::new())) {
            Ended::Again(wait) => waits.push(wait / SECOND),
            other => panic!("{other:?}"),
        }
        now += 100 * SECOND;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
}

#[test]
fn what_was_under_way_when_a_hook_changed_is_told_again_and_its_old_end_means_nothing() {
    let mut queue = queue(0, 60, 10);
    for _ in 0..3 {
        queue.push(message());
    }
    let before = tells(&mut queue, 0);
    queue.change(Limits {
        queue: 1,
        ..queue.limits
    });
    assert_eq!(queue.counts().dropped, 1);
    let after = tells(&mut queue, 1);
    assert_eq!(after.message, before.message);
    assert_eq!(queue.ended(before.number, 2, Ok(())), Ended::Stale);
    assert_eq!(
        queue.counts(),
        Counts {
            dropped: 1,
            ..Counts::default()
        }
    );
    assert_eq!(queue.ended(after.number, 2, Ok(())), Ended::Sent);
    assert_eq!(tells(&mut queue, 3).message.number, 3);
}

/// Between a change and its end, the worker before it may begin an attempt that nobody finishes.
#[test]
fn an_attempt_of_a_worker_that_another_has_followed_is_made_again() {
    let mut queue = queue(0, 60, 10);
    let old = queue.begin();
    queue.push(message());
    queue.change(queue.limits);
    assert!(matches!(queue.next_for(old, 0), Next::Tell(_)));
    let new = queue.begin();
    assert!(matches!(queue.next_for(old, 1), Next::Idle));
    assert!(matches!(queue.next_for(new, 1), Next::Tell(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// With always enough to tell, and a hook that takes no time, as many as `rate` are begun at once, then so many a
    /// minute; in no minute more than twice as many.
    #[test]
    fn the_rate_holds(rate in 1_u32..=6000, pauses in proptest::collection::vec(0_u64..200, 0..5)) {
        let mut queue = queue(0, rate, 100_000);
        for _ in 0..rate * 5 {
            queue.push(Message { number: 0, time: Duration::ZERO, record: failover(), at: None });
        }
        let (mut now, mut begun) = (0, Vec::new());
        let mut pauses = pauses.into_iter();
        loop {
            match queue.next(now) {
                Next::Tell(attempt) => {
                    queue.ended(attempt.number, now, Ok(()));
                    begun.push(now);
                }
                Next::At(at) => {
                    prop_assert!(at > now);
                    // It may be asked later than it said.
                    now = at + pauses.next().unwrap_or(0) * SECOND;
                }
                Next::Idle => break,
            }
        }
        let rate = usize::try_from(rate).unwrap();
        prop_assert_eq!(begun.len(), rate * 5);
        prop_assert_eq!(begun.iter().filter(|at| **at == 0).count(), rate);
        for pair in begun.windows(rate * 2 + 1) {
            prop_assert!(pair[rate * 2] - pair[0] >= MINUTE - SECOND / 1000);
        }
    }
}

#[test]
fn an_event_is_told_as_json_of_one_line_and_as_an_environment() {
    let mut message = message();
    message.number = 17;
    let json: serde_json::Value = serde_json::from_str(&message.json("pager", "lb1")).unwrap();
    let expected = serde_json::json!({
        "event": "health",
        "backend": "web/b2",
        "service": "web",
        "address": "10.0.0.2",
        "port": 8080,
        "from": "up",
        "to": "down",
        "reason": "bad probes in a row: 3; the last: connect: refused",
        "hook": "pager",
        "host": "lb1",
        "number": 17,
        "time": "1970-01-02T00:00:00.123Z",
    });
    assert_eq!(json, expected);
    let environment = message.environment("pager");
    let pairs: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("FAIRLEAD_HOOK", "pager"),
            ("FAIRLEAD_EVENT", "health"),
            ("FAIRLEAD_SERVICE", "web"),
            ("FAIRLEAD_BACKEND", "b2"),
            ("FAIRLEAD_ADDRESS", "10.0.0.2"),
            ("FAIRLEAD_PORT", "8080"),
        ]
    );
    // Of a service: no backend. A long text is cut, so that it fits into a pipe.
    let long = Record::Failover {
        service: Name::new("web").unwrap(),
        from: "\"é".repeat(5000),
        to: "\u{1}".repeat(5000),
    };
    let told = Message::new(&long, &config(""), Duration::ZERO);
    let text = told.json("pager", "lb1");
    assert!(text.len() < 4096 && !text.contains('\n'), "{}", text.len());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&json["service"], &json["backend"]),
        (&"web".into(), &serde_json::Value::Null)
    );
}
