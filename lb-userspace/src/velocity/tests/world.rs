//! The gate in a small simulated world.

use proptest::prelude::*;

use super::*;
use crate::health::{Thresholds, Tracker};
use crate::model::{ProbeResult, ProbeVerdict};

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
                    damping: crate::model::Damping::default(),
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
            extra: false,
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
