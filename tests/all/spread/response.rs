//! The scheduler `least-response-time` in the compiled program: `maglev` by weights that the times of backends move by steps.

use lb_common::Scheduling;
use lb_userspace::latency::{self, Pace};

use super::field::{Crowd, FLOWS, field};
use super::{LEAVER, POOL, disrupt, shares_follow};

/// Nanoseconds that a check of most takes, and one of the slow backend.
const QUICK: u64 = 10_000_000;
const SLOW: u64 = 10 * QUICK;
/// Steps until nothing moves any more.
const STEPS: usize = 20;

/// A check of each backend, of which one is slow, and a step of all.
fn step(paces: &mut [Pace]) {
    for (id, pace) in (0..).zip(paces.iter_mut()) {
        pace.took(if id == LEAVER { SLOW } else { QUICK });
    }
    let times = latency::compared(paces);
    let median = latency::median(times.iter().copied().flatten()).unwrap();
    for (pace, time) in paces.iter_mut().zip(times) {
        let _moved = pace.step(time, median);
    }
}

/// Parts of a thousand of the backends' weights, which are all alike.
fn weights(paces: &[Pace]) -> Vec<u16> {
    let part = |pace: &Pace| u16::try_from(pace.part()).unwrap();
    paces.iter().map(part).collect()
}

/// Parts in a thousand of all flows.
fn per_mille(flows: usize) -> u64 {
    flows as u64 * 1000 / FLOWS
}

/// Flows whose backend is another, and as many as must have another for the shares to be what they are.
fn moves(before: &[u32], after: &[u32]) -> (usize, usize) {
    let moved = before.iter().zip(after).filter(|(old, new)| old != new);
    let count = |ids: &[u32], id| ids.iter().filter(|found| **found == id).count();
    let gained = (0..POOL as u32).map(|id| count(after, id).saturating_sub(count(before, id)));
    (moved.count(), gained.sum())
}

#[test]
fn shares_follow_the_times_by_steps_that_move_few() {
    let mut paces = vec![Pace::default(); POOL];
    field(&weights(&paces), Scheduling::USUAL, |field| {
        let (mut shares, mut worst) = (Vec::new(), 0);
        field.open(0..FLOWS);
        field.new_shares();
        for n in 1..=STEPS {
            let before = field.mapping(Crowd::Few);
            step(&mut paces);
            let parts = weights(&paces);
            field.set_weights(&parts);
            field.fill();
            field.send(0..FLOWS);
            assert_eq!(
                field.mapping(Crowd::Few),
                before,
                "step {n}: flows with an entry stay"
            );
            field.forget();
            field.open(0..FLOWS);
            let found = field.new_shares();
            shares_follow(&found, &parts, field.dealt());
            shares.push(per_mille(found[LEAVER as usize] as usize));
            let (moved, needed) = moves(&before, &field.mapping(Crowd::Few));
            let more = per_mille(moved - needed);
            worst = worst.max(more);
            assert!(
                more <= 20,
                "step {n}, parts {parts:?}: {moved} flows moved, and {needed} had to"
            );
        }
        println!(
            "least response time: one of {POOL} becomes ten times as slow: its flows in 1000 by steps {shares:?}; a step moves at most {worst} in 1000 that need not"
        );
        // A third of its fair share after ten checks, and no more later.
        let third = 1000 / POOL as u64 / 3;
        assert!(
            shares[9..].iter().all(|share| *share <= third),
            "{shares:?}"
        );
        disrupt(field, Crowd::Few, "least response time");
    });
}
