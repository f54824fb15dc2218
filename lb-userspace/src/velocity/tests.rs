//! The gate, by scenes; in a small simulated world (`world.rs`); what it keeps in sums and indexes (`index.rs`).

mod index;
mod world;

use std::net::Ipv4Addr;

use super::*;

const MS: u64 = 1_000_000;
const WINDOW: u64 = 10_000 * MS;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(text: &str) -> BackendKey {
    text.parse().unwrap()
}

fn members(count: u8, subnet: u8) -> BTreeMap<Name, Member> {
    let member = |n: u8| Member {
        address: Ipv4Addr::new(10, 0, subnet, n).into(),
        enabled: true,
        probed: true,
        trusted: false,
    };
    (1..=count)
        .map(|n| (name(&format!("b{n}")), member(n)))
        .collect()
}

fn limit(percent: u8) -> Limit {
    Limit {
        percent,
        window_ns: WINDOW,
    }
}

/// One pool `web` of `count` backends, all up.
fn up(percent: u8, count: u8) -> Velocity {
    let mut gate = Velocity::new(limit(percent));
    gate.set_pool(&name("web"), false, &members(count, 0));
    for n in 1..=count {
        say(&mut gate, 0, &format!("web/b{n} good up"));
    }
    gate
}

/// `BACKEND EVIDENCE HEALTH` at a time in milliseconds, which is also when the probe began.
fn say(gate: &mut Velocity, at_ms: u64, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let evidence = match words[1] {
        "good" => Evidence::Good,
        "bad" => Evidence::Bad("refused".into()),
        "void" => Evidence::Void("late".into()),
        other => panic!("no such evidence: {other}"),
    };
    let raw = match words[2] {
        "unknown" => Health::Unknown,
        "up" => Health::Up,
        "down" => Health::Down,
        other => panic!("no such health: {other}"),
    };
    tell(gate.observe(&key(words[0]), &evidence, at_ms * MS, raw, at_ms * MS))
}

fn tell(decisions: Vec<Decision>) -> Vec<String> {
    let word = |health: Health| format!("{health:?}").to_lowercase();
    let text = |decision| match decision {
        Decision::Apply { backend, to, .. } => format!("{} {}", backend.backend, word(to)),
        Decision::Hold { backend, why } => {
            let why = match why {
                Hold::Velocity { until } => format!("velocity {}", until / MS),
                Hold::CheckerSuspect { until } => format!("suspect {}", until / MS),
                Hold::Recheck => "recheck".into(),
            };
            format!("{} held: {why}", backend.backend)
        }
        Decision::Release { backend } => format!("{} released", backend.backend),
        Decision::Suspect { failing, probed } => format!("suspect {failing}/{probed}"),
        Decision::Trust => "trust".into(),
    };
    decisions.into_iter().map(text).collect()
}

/// Plays `(milliseconds, line, expected decisions)`; the line `tick` lets time pass.
#[track_caller]
fn check(mut gate: Velocity, scene: &[(u64, &str, &[&str])]) {
    for (at, line, expected) in scene {
        let said = match *line {
            "tick" => tell(gate.tick(at * MS)),
            line => say(&mut gate, *at, line),
        };
        assert_eq!(said, *expected, "at {at}: {line}");
    }
}

#[test]
fn allowance_is_a_share_rounded_down_but_at_least_one() {
    let allowance = |percent, size| limit(percent).allowance(size);
    let table = [
        (50, [0, 1, 2, 3, 4, 5, 100], [1, 1, 1, 1, 2, 2, 50]),
        (10, [0, 1, 9, 10, 19, 20, 100], [1, 1, 1, 1, 1, 2, 10]),
        (100, [0, 1, 2, 3, 4, 5, 100], [1, 1, 2, 3, 4, 5, 100]),
    ];
    for (percent, sizes, expected) in table {
        assert_eq!(sizes.map(|size| allowance(percent, size)), expected);
    }
    assert_eq!(allowance(255, usize::MAX), usize::MAX / 100);
}

#[test]
fn first_down_of_any_pool_takes_effect_at_once() {
    for size in 1..=4 {
        check(
            up(50, size),
            &[
                (100, "web/b1 bad up", &[]),
                (200, "web/b1 bad down", &["b1 down"]),
            ],
        );
    }
}

#[test]
fn share_of_a_pool_is_taken_out_and_the_rest_held_until_the_window_ends() {
    check(
        up(50, 4),
        &[
            (100, "web/b1 bad up", &[]),
            (101, "web/b2 bad up", &[]),
            (102, "web/b3 bad up", &[]),
            (190, "web/b4 good up", &[]),
            (200, "web/b1 bad down", &["b1 down"]),
            (201, "web/b2 bad down", &["b2 down"]),
            (202, "web/b3 bad down", &["b3 held: velocity 10200"]),
            (300, "web/b3 bad down", &[]),
            (10_199, "tick", &[]),
            (10_200, "tick", &["b3 down"]),
        ],
    );
}

#[test]
fn backend_that_came_back_makes_room_so_that_a_rolling_restart_is_not_held() {
    let mut gate = up(50, 3);
    for (n, at) in [(1, 1000), (2, 2000), (3, 3000), (1, 4000), (2, 5000)] {
        let scene: [(u64, &str, &str); 4] = [
            (at, "bad up", ""),
            (at + 200, "bad down", "down"),
            (at + 600, "good down", ""),
            (at + 800, "good up", "up"),
        ];
        for (at, words, expected) in scene {
            let said = say(&mut gate, at, &format!("web/b{n} {words}"));
            let expected = match expected {
                "" => vec![],
                to => vec![format!("b{n} {to}")],
            };
            assert_eq!(said, expected, "at {at}");
        }
    }
}

#[test]
fn held_backend_goes_when_another_comes_back_and_stays_when_it_recovers() {
    check(
        up(50, 3),
        &[
            (100, "web/b1 bad up", &[]),
            (101, "web/b2 bad up", &[]),
            (102, "web/b3 good up", &[]),
            (200, "web/b1 bad down", &["b1 down"]),
            (201, "web/b2 bad down", &["b2 held: velocity 10200"]),
            (300, "web/b1 good up", &["b1 up", "b2 down"]),
            (400, "web/b1 bad up", &[]),
            (410, "web/b3 good up", &[]),
            (500, "web/b1 bad down", &["b1 held: velocity 10300"]),
            (600, "web/b1 good up", &["b1 released"]),
            (20_000, "tick", &[]),
        ],
    );
}

#[test]
fn total_failure_is_held_and_ends_with_the_first_good_probe_without_a_down() {
    check(
        up(50, 3),
        &[
            (100, "web/b1 bad up", &[]),
            (101, "web/b2 bad up", &[]),
            (102, "web/b3 bad up", &["suspect 3/3"]),
            (200, "web/b1 bad down", &["b1 held: suspect 10100"]),
            (201, "web/b2 bad down", &["b2 held: suspect 10100"]),
            (202, "web/b3 bad down", &["b3 held: suspect 10100"]),
            (9000, "tick", &[]),
            (
                9001,
                "web/b2 good up",
                &[
                    "trust",
                    "b1 held: recheck",
                    "b2 held: recheck",
                    "b3 held: recheck",
                    "b2 released",
                ],
            ),
            (9002, "web/b3 good up", &["b3 released"]),
            // This one is really down: its next probe shows it.
            (9003, "web/b1 bad down", &["b1 down"]),
        ],
    );
}

#[test]
fn failure_is_suspect_before_the_last_target_has_failed() {
    check(
        up(50, 3),
        &[
            (100, "web/b1 bad up", &[]),
            (150, "web/b2 bad up", &[]),
            (
                200,
                "web/b1 bad down",
                &["b1 held: suspect 10100", "suspect 2/3"],
            ),
        ],
    );
}

#[test]
fn total_failure_that_lasts_a_window_is_believed_at_the_velocity_limit() {
    check(
        up(50, 4),
        &[
            (100, "web/b1 bad down", &["b1 down"]),
            (
                101,
                "web/b2 bad down",
                &["b2 held: suspect 10100", "suspect 2/4"],
            ),
            (102, "web/b3 bad down", &["b3 held: suspect 10100"]),
            (103, "web/b4 bad down", &["b4 held: suspect 10100"]),
            (10_099, "tick", &[]),
            (
                10_100,
                "tick",
                &["b2 down", "b3 down", "b4 held: velocity 20100"],
            ),
            (20_100, "tick", &["b4 down"]),
        ],
    );
}

#[test]
fn two_targets_at_one_address_are_one_witness() {
    let mut gate = Velocity::new(limit(50));
    for service in ["web", "api"] {
        gate.set_pool(&name(service), false, &members(1, 0));
        say(&mut gate, 0, &format!("{service}/b1 good up"));
    }
    check(
        gate,
        &[
            (100, "web/b1 bad down", &["b1 down"]),
            (101, "api/b1 bad down", &["b1 down"]),
        ],
    );
}

#[test]
fn what_serves_nobody_is_taken_out_at_once() {
    // Unknown backends, unless they are trusted at start.
    for (trusted, expected) in [(false, "b2 down"), (true, "b2 held: velocity 10100")] {
        let mut gate = Velocity::new(limit(50));
        gate.set_pool(&name("web"), trusted, &members(3, 0));
        let third = ["b3 up"];
        check(
            gate,
            &[
                (50, "web/b1 bad unknown", &[]),
                (60, "web/b2 bad unknown", &[]),
                (70, "web/b3 good up", &third),
                (100, "web/b1 bad down", &["b1 down"]),
                (101, "web/b2 bad down", &[expected]),
            ],
        );
    }
    // A draining backend, also if it was held before.
    let mut gate = up(50, 3);
    for n in [1, 2] {
        say(&mut gate, 100, &format!("web/b{n} bad up"));
    }
    say(&mut gate, 110, "web/b3 good up");
    for n in [1, 2] {
        say(&mut gate, 200, &format!("web/b{n} bad down"));
    }
    assert_eq!(gate.held().count(), 1);
    let mut drained = members(3, 0);
    drained.get_mut(&name("b2")).unwrap().enabled = false;
    gate.set_pool(&name("web"), false, &drained);
    assert_eq!(tell(gate.tick(300 * MS)), ["b2 down"]);
}

#[test]
fn backend_without_probes_is_up_and_no_witness() {
    let mut gate = Velocity::new(limit(50));
    let mut pool = members(3, 0);
    pool.get_mut(&name("b3")).unwrap().probed = false;
    gate.set_pool(&name("web"), false, &pool);
    assert_eq!(tell(gate.tick(0)), ["b3 up"]);
    check(
        gate,
        &[
            (10, "web/b1 good up", &["b1 up"]),
            (20, "web/b2 good up", &["b2 up"]),
            (100, "web/b1 bad up", &[]),
            (110, "web/b2 bad up", &["suspect 2/2"]),
            (120, "web/b3 good up", &[]),
            (200, "web/b1 bad down", &["b1 held: suspect 10100"]),
        ],
    );
}

#[test]
fn health_from_before_a_restart_stays_until_probes_say_otherwise() {
    let mut gate = Velocity::new(limit(50));
    gate.set_pool(&name("web"), false, &members(2, 0));
    gate.restore(&key("web/b1"), Health::Up);
    gate.restore(&key("web/b2"), Health::Down);
    assert_eq!(tell(gate.tick(0)), [""; 0]);
    assert_eq!(gate.applied(&key("web/b1")), Some(Health::Up));
    check(
        gate,
        &[
            (10, "web/b1 bad unknown", &[]),
            (20, "web/b2 bad unknown", &["suspect 2/2"]),
            (110, "web/b1 bad down", &["b1 held: suspect 10010"]),
            (120, "web/b2 bad down", &[]),
            (130, "web/b2 void down", &[]),
        ],
    );
}

#[test]
fn removed_targets_are_forgotten() {
    let mut gate = up(50, 2);
    say(&mut gate, 100, "web/b1 bad up");
    say(&mut gate, 101, "web/b2 bad up");
    assert!(gate.checker_suspect());
    say(&mut gate, 200, "web/b1 bad down");
    assert_eq!(gate.next_deadline(), Some(10_100 * MS));
    gate.set_pool(&name("web"), false, &members(1, 0));
    assert_eq!(tell(gate.tick(300 * MS)), ["b1 down"]);
    gate.remove_pool(&name("web"));
    assert_eq!(tell(gate.tick(400 * MS)), ["trust"]);
    assert_eq!((gate.next_deadline(), gate.held().count()), (None, 0));
    assert_eq!(gate.failing_targets + gate.probed, 0);
}

#[test]
fn gate_survives_being_written_down() {
    let mut gate = up(50, 4);
    for n in 1..=3 {
        say(&mut gate, 100, &format!("web/b{n} bad up"));
    }
    say(&mut gate, 110, "web/b4 good up");
    for n in 1..=3 {
        say(&mut gate, 200, &format!("web/b{n} bad down"));
    }
    let text = serde_json::to_string(&gate).unwrap();
    assert_eq!(serde_json::from_str::<Velocity>(&text).unwrap(), gate);
}

#[test]
fn single_failure_is_not_held_because_others_are_long_dead() {
    let mut gate = up(50, 4);
    for n in [1, 2] {
        say(&mut gate, 100, &format!("web/b{n} bad down"));
        say(&mut gate, 110, "web/b3 good up");
        say(&mut gate, 120, &format!("web/b{n} bad down"));
    }
    gate.set_pool(&name("api"), false, &members(1, 1));
    gate.tick(130 * MS);
    check(
        gate,
        &[
            (140, "api/b1 good up", &["b1 up"]),
            (150, "web/b1 bad down", &[]),
            (160, "web/b2 bad down", &[]),
            // With `fall` 1: the first bad probe is the last word.
            (170, "api/b1 bad down", &["b1 down"]),
            // Unless it was the last that answered.
            (180, "web/b3 good up", &[]),
            (190, "web/b4 bad up", &[]),
            (
                200,
                "web/b3 bad down",
                &["suspect 5/5", "b3 held: suspect 10190"],
            ),
        ],
    );
}
