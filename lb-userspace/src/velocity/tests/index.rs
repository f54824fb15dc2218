//! What is kept in sums and indexes is what looking at everybody gives, after any history.

use proptest::prelude::*;

use super::*;

/// Something that happens to the gate.
#[derive(Clone, Debug)]
enum Act {
    /// A pool is set: for each of its backends whether it is enabled, and whether it is probed.
    Set(u8, Vec<(bool, bool)>),
    /// A pool is removed.
    Remove(u8),
    /// A probe of a backend of a pool ended.
    Probe(u8, u8, Option<bool>, Health),
    /// Time passed.
    Tick,
}

fn act() -> impl Strategy<Value = Act> {
    let backends =
        prop::collection::vec((prop::bool::weighted(0.8), prop::bool::weighted(0.9)), 0..5);
    let health = prop::sample::select(vec![
        Health::Up,
        Health::Down,
        Health::Down,
        Health::Unknown,
    ]);
    let probe = (
        0u8..4,
        1u8..6,
        prop::option::weighted(0.9, prop::bool::weighted(0.4)),
        health,
    );
    prop_oneof![
        2 => (0u8..4, backends).prop_map(|(pool, backends)| Act::Set(pool, backends)),
        1 => (0u8..4).prop_map(Act::Remove),
        12 => probe.prop_map(|(pool, n, good, raw)| Act::Probe(pool, n, good, raw)),
        3 => Just(Act::Tick),
    ]
}

fn play(gate: &mut Velocity, act: &Act, now: u64) -> Vec<Decision> {
    let pool = |n: u8| name(&format!("s{n}"));
    match act {
        Act::Set(n, backends) => {
            let mut set = members(backends.len() as u8, *n);
            for (member, &(enabled, probed)) in set.values_mut().zip(backends) {
                (member.enabled, member.probed) = (enabled, probed);
            }
            gate.set_pool(&pool(*n), n % 2 == 0, &set);
            gate.tick(now)
        }
        Act::Remove(n) => {
            gate.remove_pool(&pool(*n));
            gate.tick(now)
        }
        Act::Probe(n, backend, good, raw) => {
            let evidence = match good {
                Some(true) => Evidence::Good,
                Some(false) => Evidence::Bad("refused".into()),
                None => Evidence::Void("late".into()),
            };
            let key = key(&format!("s{n}/b{backend}"));
            gate.observe(&key, &evidence, now - now % 7, *raw, now)
        }
        Act::Tick => gate.tick(now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn settling_what_is_queued_is_settling_everybody(
        percent in 1u8..101,
        acts in prop::collection::vec((act(), prop_oneof![4 => 0u64..200, 1 => 0u64..20_000]), 1..80)
    ) {
        let mut gate = Velocity::new(limit(percent));
        let mut now = 0;
        for (act, later) in acts {
            now += later * MS;
            let mut everybody = gate.clone();
            everybody.queued = everybody.pools.keys().cloned().collect();
            let decisions = play(&mut gate, &act, now);
            prop_assert_eq!(&decisions, &play(&mut everybody, &act, now), "{:?}", act);
            everybody.queued.retain(|service| !everybody.pools[service].queue.is_empty());
            prop_assert_eq!(&gate, &everybody);

            let entries = || gate.pools.values().flat_map(|pool| pool.entries.values());
            let mut unheard: BTreeMap<IpAddr, usize> = BTreeMap::new();
            for entry in entries() {
                if entry.bad.is_some_and(|row| !gate.witness.heard_since(row)) {
                    *unheard.entry(entry.member.address).or_default() += 1;
                }
            }
            prop_assert_eq!(&gate.fresh, &unheard);
            prop_assert_eq!(gate.failing_targets, entries().filter(|e| e.bad.is_some()).count());
        }
    }
}
