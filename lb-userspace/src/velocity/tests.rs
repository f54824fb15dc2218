//! The gate, by scenes and in a small simulated world.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::health::{Thresholds, Tracker};
use crate::model::{ProbeResult, ProbeVerdict};

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

/// A world: pools of targets, each probed at an interval with jitter; what is dead or behind a
/// blackout answers nothing.
struct World {
    gate: Velocity,
    targets: Vec<Target>,
    random: u64,
    now: u64,
    /// Probes that began before this were lost in a blackout.
    dark_until: u64,
}

struct Target {
    key: BackendKey,
    tracker: Tracker,
    /// Ended probes come in order of this.
    due: u64,
    dead: bool,
}

const INTERVAL: u64 = 200 * MS;
const TIMEOUT: u64 = 100 * MS;
const JITTER: u64 = 20 * MS;

impl World {
    fn new(limit: Limit, pools: &[u8], fall: u16, seed: u64) -> Self {
        let mut world = Self {
            gate: Velocity::new(limit),
            targets: Vec::new(),
            random: seed | 1,
            now: 0,
            dark_until: 0,
        };
        for (index, size) in pools.iter().enumerate() {
            let service = name(&format!("s{index}"));
            let members = members(*size, index as u8);
            world.gate.set_pool(&service, false, &members);
            for backend in members.into_keys() {
                let due = world.random() % INTERVAL;
                let service = service.clone();
                let key = BackendKey { service, backend };
                let tracker = Tracker::new(Thresholds {
                    rise: 2,
                    fall,
                    interval_ns: INTERVAL,
                    timeout_ns: TIMEOUT,
                });
                let dead = false;
                world.targets.push(Target {
                    key,
                    tracker,
                    due,
                    dead,
                });
            }
        }
        world
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Runs until `end`; after each event all rules are checked. Gives what was applied, by time.
    fn run(&mut self, end: u64, blackout: bool) -> Vec<(u64, BackendKey, Health)> {
        let mut applied = Vec::new();
        loop {
            let next = (0..self.targets.len())
                .min_by_key(|&n| {
                    let target = &self.targets[n];
                    let fails = blackout || target.dead || target.due < self.dark_until;
                    (target.due + if fails { TIMEOUT } else { MS }, n)
                })
                .unwrap();
            let started = self.targets[next].due;
            let fails = blackout || self.targets[next].dead || started < self.dark_until;
            let ended = started + if fails { TIMEOUT } else { MS };
            let mut decisions = Vec::new();
            let deadline = self.gate.next_deadline().filter(|&at| at <= ended.min(end));
            if let Some(at) = deadline {
                self.now = self.now.max(at);
                decisions.extend(self.gate.tick(self.now));
            }
            if ended > end && deadline.is_none() {
                if blackout {
                    self.dark_until = end;
                }
                return applied;
            }
            if deadline.is_none() {
                self.now = self.now.max(ended);
                decisions.extend(self.probe(next, started, fails));
            }
            for decision in decisions {
                if let Decision::Apply { backend, to, .. } = decision {
                    applied.push((self.now, backend, to));
                }
            }
            self.check_rules();
        }
    }

    fn probe(&mut self, n: usize, started: u64, fails: bool) -> Vec<Decision> {
        let jitter = self.random() % (2 * JITTER);
        let target = &mut self.targets[n];
        let result = ProbeResult {
            scheduled: started,
            started,
            ended: self.now,
            verdict: match fails {
                true => ProbeVerdict::Bad("connect: timed out".into()),
                false => ProbeVerdict::Good,
            },
        };
        let seen = target.tracker.observe(&result, self.now);
        target.due = (started + INTERVAL + jitter - JITTER).max(self.now);
        let raw = target.tracker.health();
        self.gate
            .observe(&target.key, &seen.evidence, started, raw, self.now)
    }

    fn check_rules(&self) {
        for (service, pool) in &self.gate.pools {
            let recent = pool.entries.values().filter(|e| {
                e.applied == Health::Down && e.taken.is_some_and(|at| at + WINDOW > self.now)
            });
            let allowed = self.gate.limit.allowance(pool.entries.len());
            assert!(
                recent.count() <= allowed,
                "{service} lost more than {allowed}"
            );
        }
        for target in &self.targets {
            let applied = self.gate.applied(&target.key).unwrap();
            match target.tracker.health() {
                Health::Up => assert_eq!(applied, Health::Up, "a recovery is held"),
                Health::Down if applied == Health::Up => {
                    assert!(self.gate.held().any(|(key, _)| key == target.key));
                }
                Health::Down | Health::Unknown => {}
            }
        }
        // The running sums are the sums.
        let entries = || self.gate.pools.values().flat_map(|p| p.entries.values());
        let failing = entries().filter(|e| e.bad.is_some()).count();
        assert_eq!(self.gate.failing_targets, failing);
        assert_eq!(self.gate.failing.values().sum::<usize>(), failing);
        assert_eq!(self.gate.probed, entries().count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn blackout_of_the_checker_marks_nothing_down(
        seed: u64, pools in prop::collection::vec(1u8..6, 2..5), fall in 2u16..5,
        length in 350u64..9_000
    ) {
        let mut world = World::new(limit(50), &pools, fall, seed);
        world.run(2_000 * MS, false);
        prop_assert!(world.gate.held().next().is_none());
        let applied = world.run((2_000 + length) * MS, true);
        prop_assert!(applied.is_empty(), "{applied:?}");
        let applied = world.run((4_000 + length) * MS, false);
        prop_assert!(applied.is_empty(), "{applied:?}");
        prop_assert!(!world.gate.checker_suspect());
    }

    #[test]
    fn dead_backends_go_in_time_while_their_pool_has_a_live_one(
        seed: u64, sizes in prop::collection::vec(2u8..6, 1..4), fall in 1u16..4
    ) {
        let mut world = World::new(limit(100), &sizes, fall, seed);
        world.run(3_000 * MS, false);
        let mut dead = 0;
        for target in &mut world.targets {
            target.dead = target.key.backend != name("b1");
            dead += usize::from(target.dead);
        }
        // fall intervals and a timeout, and one more interval for the recheck after a suspicion.
        let round = INTERVAL + JITTER + TIMEOUT;
        let bound = 3_000 * MS + (u64::from(fall) + 2) * (INTERVAL + JITTER) + round;
        let applied = world.run(bound, false);
        prop_assert_eq!(applied.len(), dead, "{:?} {:?}", applied, world.gate.held().collect::<Vec<_>>());
        prop_assert!(applied.iter().all(|(_, _, to)| *to == Health::Down));
    }

    #[test]
    fn whatever_happens_the_limit_holds_and_in_the_end_the_truth_is_applied(
        seed: u64, sizes in prop::collection::vec(1u8..8, 1..4), percent in 1u8..101,
        acts in prop::collection::vec((0usize..24, any::<bool>(), 1u64..8_000, any::<bool>()), 1..12)
    ) {
        let mut world = World::new(limit(percent), &sizes, 2, seed);
        for (target, dead, length, blackout) in acts {
            let count = world.targets.len();
            world.targets[target % count].dead = dead;
            let end = world.now + length * MS;
            world.run(end, blackout && length < 3_000);
        }
        // One backend a window at the least, and a window of doubt before.
        let end = world.now + 12 * WINDOW;
        world.run(end, false);
        for target in &world.targets {
            let expected = if target.dead { Health::Down } else { Health::Up };
            prop_assert_eq!(world.gate.applied(&target.key), Some(expected));
        }
    }
}
