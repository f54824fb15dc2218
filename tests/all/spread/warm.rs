//! Slow start in the compiled program: a backend that returned gets the part of its share that the curve says, under each scheduler, while all
//! others share what is left.

use std::time::Duration;

use lb_common::{Fields, Pick, Scheduling};
use lb_userspace::{
    model::{Curve, SlowStart},
    slow_start,
};

use super::field::{Crowd, EACH, FLOWS, Field, field};
use super::{Bound, LEAVER, POOL, shares_follow};

/// Until all of its share is back.
const DURATION: Duration = Duration::from_secs(100);
/// The whole weight of a backend.
const WHOLE: u16 = 1000;

/// Weights so long after the return of one.
fn weights(curve: Curve, passed: Duration) -> [u16; POOL] {
    let policy = SlowStart {
        duration: DURATION,
        curve,
    };
    let now = u64::try_from(passed.as_nanos()).unwrap();
    let mut weights = [WHOLE; POOL];
    weights[LEAVER as usize] = u16::try_from(slow_start::warmth(policy, 0, now)).unwrap();
    weights
}

/// Runs `check` at several moments of each curve; gives the part that the backend had in each.
fn warm_up(
    scheduling: Scheduling,
    moments: &[u64],
    mut check: impl FnMut(&mut Field, &[u16; POOL]) + Send,
) {
    let moments = moments.iter().map(|part| DURATION * *part as u32 / 100);
    let moments: Vec<Duration> = moments.collect();
    field(&[WHOLE; POOL], scheduling, |field| {
        for curve in [Curve::Linear, Curve::Quadratic] {
            let mut parts = Vec::new();
            for passed in &moments {
                let weights = weights(curve, *passed);
                field.set_weights(&weights);
                field.fill();
                field.forget();
                field.new_shares();
                check(field, &weights);
                parts.push(weights[LEAVER as usize]);
            }
            println!("{scheduling:?}, {curve:?}: parts of {WHOLE} at {moments:?}: {parts:?}");
            // The curve is one: it begins low, grows, and ends with the whole.
            assert!(parts.is_sorted() && parts[0] == WHOLE / 10, "{parts:?}");
            assert_eq!(parts.last(), Some(&WHOLE));
        }
    });
}

/// Percents of the duration: all steps, and between two.
const MOMENTS: [u64; 12] = [0, 10, 20, 30, 40, 50, 55, 60, 70, 80, 90, 100];

#[test]
fn by_the_hash_of_a_flow_and_by_chance() {
    for pick in [Pick::Flow, Pick::Random] {
        warm_up(Scheduling::picking(pick), &MOMENTS, |field, weights| {
            field.open(0..FLOWS);
            shares_follow(&field.new_shares(), weights, field.dealt());
        });
    }
}

#[test]
fn by_turns() {
    warm_up(
        Scheduling::picking(Pick::Turn),
        &MOMENTS,
        |field, weights| {
            field.open(0..FLOWS);
            // Rounds with so many turns are cut to the ring: a slot of it each, and one turn too many or too few.
            let turns = Bound::Evened { per_mille: 1 };
            shares_follow(&field.new_shares(), weights, turns);
        },
    );
}

#[test]
fn by_open_flows() {
    warm_up(
        Scheduling::picking(Pick::Least),
        &MOMENTS,
        |field, weights| {
            // All are empty, so that nobody has to catch up.
            field.count(&[0; POOL], 1);
            field.open(0..FLOWS);
            let evened = Bound::Evened { per_mille: 1 };
            shares_follow(&field.new_shares(), weights, evened);
        },
    );
}

#[test]
fn by_the_hash_of_a_client() {
    let scheduling = Scheduling::by(Fields::Client, 0);
    warm_up(scheduling, &[0, 30, 50, 80, 100], |field, weights| {
        field.open_all(Crowd::Many);
        let mut clients = field.new_shares();
        clients.iter_mut().for_each(|flows| *flows /= EACH);
        shares_follow(&clients, weights, field.dealt());
    });
}
