//! Half of a thousand backends fail and return: what each gets in every ring that is ever live.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::model::{Health, SlowStart};

const BACKENDS: u32 = 1000;
const SLOTS: u32 = 65_521;

fn thousand() -> Arc<Config> {
    let backends: String = (0..BACKENDS)
        .map(|n| format!(" b{n}=10.1.{}.{}:80", n / 250, n % 250 + 1))
        .collect();
    let mut config = (*config(&format!("web 192.0.2.1:80{backends}"))).clone();
    config.limits.backends = 2048;
    config.limits.ring_slots = 1 << 20;
    config.limits.next_hops = 2048;
    let web = config.services.get_mut(&name("web")).unwrap();
    web.ring_size = Some(SLOTS);
    web.failover.slow_start = SlowStart {
        duration: Duration::from_secs(10),
        ..SlowStart::default()
    };
    Arc::new(config)
}

/// What happened to the live ring.
struct Watched {
    reconciler: Reconciler<Mem>,
    now: u64,
    ring: Vec<u32>,
    rings: usize,
    /// The largest share that anybody ever had, in slots.
    most: usize,
    /// How often each came into the ring or left it.
    turns: BTreeMap<u32, usize>,
}

impl Watched {
    fn probe(&mut self, backends: std::ops::Range<u32>, good: bool) {
        let events = backends.map(|n| {
            let verdict = match good {
                true => ProbeVerdict::Good,
                false => ProbeVerdict::Bad("refused".to_owned()),
            };
            let result = ProbeResult {
                extra: false,
                scheduled: self.now,
                started: self.now,
                ended: self.now,
                verdict,
            };
            let backend = key(&format!("web/b{n}"));
            (self.now, Event::Probe { backend, result })
        });
        let events: Vec<_> = events.collect();
        self.step(events);
    }

    /// As the owner does, and a look at the ring.
    fn step(&mut self, mut events: Vec<(u64, Event)>) {
        self.now += SECOND / 20;
        events.push((self.now, Event::Tick));
        let folded = self.reconciler.fold(events);
        assert!(folded.refused.is_empty());
        let open = |effect: &Effect| match effect {
            Effect::Record(Record::Failover { to, .. }) => to.contains("fail"),
            _ => false,
        };
        assert!(!folded.effects.iter().any(open), "no panic");
        self.reconciler.write_fast(&|| 0).unwrap();
        self.reconciler.write_full(&|| self.now).unwrap();
        let mem = self.reconciler.dataplane();
        let (base, length) = ServiceEntry::unslice(mem.services[0].ring);
        let ring = &mem.rings[base as usize..(base + length) as usize];
        if ring == self.ring {
            return;
        }
        let shares = shares(ring);
        let before = self::shares(&self.ring);
        for id in 0..BACKENDS {
            if shares.contains_key(&id) != before.contains_key(&id) {
                *self.turns.entry(id).or_default() += 1;
            }
        }
        self.most = self.most.max(shares.values().copied().max().unwrap_or(0));
        self.ring = ring.to_vec();
        self.rings += 1;
    }
}

fn shares(ring: &[u32]) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for id in ring {
        *shares.entry(*id).or_default() += 1;
    }
    shares
}

#[test]
fn half_of_a_thousand_fail_and_return_without_oscillation_and_nobody_gets_over_twice_its_share() {
    let mut reconciler = new(thousand());
    let ways = (0..BACKENDS).map(|n| route(&format!("10.1.{}.{}", n / 250, n % 250 + 1), 1));
    feed(
        &mut reconciler,
        std::iter::once(Event::Link(link(1, true))).chain(ways),
    );
    let mut world = Watched {
        reconciler,
        now: 3 * SECOND,
        ring: Vec::new(),
        rings: 0,
        most: 0,
        turns: BTreeMap::new(),
    };
    for _ in 0..2 {
        world.probe(0..BACKENDS, true);
    }
    // All of them warm.
    world.now += 30 * SECOND;
    world.step(Vec::new());
    let ids = shares(&world.ring);
    assert_eq!(ids.len(), BACKENDS as usize);
    (world.rings, world.most) = (0, 0);
    world.turns.clear();

    let half = BACKENDS / 2;
    let batches = 10;
    let batch = |n: u32| n * half / batches..(n + 1) * half / batches;
    // They die one after the other within a second, while the others answer.
    for _ in 0..2 {
        for n in 0..batches {
            world.probe(batch(n), false);
            world.probe(half..half + 50, true);
        }
    }
    assert_eq!(shares(&world.ring).len(), half as usize);
    let down = |n: u32| {
        let state = world.reconciler.state();
        state.health(&key(&format!("web/b{n}"))) == Health::Down
    };
    assert!((0..half).all(down));
    let while_down = world.rings;
    assert!(while_down <= 20, "{while_down} rings");

    for _ in 0..2 {
        for n in 0..batches {
            world.probe(batch(n), true);
        }
    }
    let returned = world.rings - while_down;
    // Ten seconds and a step later all are warm.
    for _ in 0..240 {
        world.step(Vec::new());
    }
    let warming = world.rings - while_down - returned;
    let fair = (SLOTS / BACKENDS) as usize;
    println!(
        "{half} of {BACKENDS} fail and return: {while_down} rings while they fall, {returned} while they return, {warming} while they warm up; nobody had more than {} slots, {fair} are fair",
        world.most
    );
    assert_eq!(shares(&world.ring), ids, "all is as it was");
    assert!(warming <= 11, "{warming} rings");
    // Rounding may add a slot to what everybody has.
    assert!(
        world.most <= 2 * (fair + 1),
        "{} slots, {fair} are fair",
        world.most
    );
    // Each left once and came back once, and nobody else moved.
    assert_eq!(world.turns.len(), half as usize);
    assert!(
        world.turns.values().all(|turns| *turns == 2),
        "{:?}",
        world.turns
    );
}
