//! Half of a thousand backends leave and return: what each gets of the new flows, in the compiled program.

use lb_common::{Permissions, Scheduling};

use super::field::{Crowd, FLOWS, Field, field};

const BACKENDS: u32 = 1000;
const HALF: u32 = BACKENDS / 2;
/// They leave and return by so many.
const BATCH: u32 = 50;
/// Of a backend that is warm; a tenth of it is what one that returns begins with.
const WEIGHT: u16 = 10;

/// Opens new flows: nobody gets more than twice of what it is to get by its weight, and those that take none get none.
///
/// With 131 flows each, chance alone gives the luckiest of a thousand half as many again.
#[track_caller]
fn check(field: &mut Field, weights: &[u16], what: &str) -> f64 {
    field.forget();
    field.open(0..FLOWS);
    let shares = field.new_shares();
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    assert_eq!(shares.iter().sum::<u64>(), FLOWS, "{what}");
    let mut worst: f64 = 0.0;
    for (id, (share, weight)) in shares.iter().zip(weights).enumerate() {
        let fair = (FLOWS * u64::from(*weight)) as f64 / total as f64;
        if *weight == 0 {
            assert_eq!(*share, 0, "{what}: backend {id} takes none");
            continue;
        }
        // A cold one has 14 flows, of which chance makes twice as many now and then: six standard deviations are allowed.
        let most = (2.0 * fair).max(fair + 6.0 * fair.sqrt());
        assert!(
            *share as f64 <= most,
            "{what}: backend {id} has {share}, {fair:.0} are fair"
        );
        if *weight == WEIGHT {
            worst = worst.max(*share as f64 / fair);
        }
    }
    worst
}

#[test]
fn half_of_a_thousand_leave_and_return_and_nobody_gets_over_twice_its_share() {
    let mut weights = vec![WEIGHT; BACKENDS as usize];
    field(&weights.clone(), Scheduling::USUAL, |field| {
        let mut worst = check(field, &weights, "all");
        let before = field.mapping(Crowd::Few);
        for first in (0..HALF).step_by(BATCH as usize) {
            let batch = first..first + BATCH;
            weights[first as usize..(first + BATCH) as usize].fill(0);
            // The ring still names them: a second hash of the flow tells who stands in.
            field.permit(batch.clone(), Permissions(Permissions::KEEP));
            worst = worst.max(check(field, &weights, &format!("{batch:?} take none")));
            field.fill();
            worst = worst.max(check(field, &weights, &format!("{batch:?} are gone")));
        }
        let left = worst;
        // They return with a tenth of their weight, and warm up.
        for first in (0..HALF).step_by(BATCH as usize) {
            let batch = first..first + BATCH;
            for id in batch.clone() {
                weights[id as usize] = 1;
            }
            field.set_weights(&weights);
            field.permit(batch.clone(), Permissions::ALL);
            field.fill();
            worst = worst.max(check(field, &weights, &format!("{batch:?} are back")));
        }
        for weight in 2..=WEIGHT {
            weights[..HALF as usize].fill(weight);
            field.set_weights(&weights);
            field.fill();
            worst = worst.max(check(
                field,
                &weights,
                &format!("warm to {weight} of {WEIGHT}"),
            ));
        }
        println!(
            "{HALF} of {BACKENDS} leave and return by {BATCH}: a warm one got at most {left:.2} times its share while they left, {worst:.2} times in all"
        );
        // Each flow is where it was: nothing is left of it.
        field.forget();
        field.open(0..FLOWS);
        assert_eq!(field.mapping(Crowd::Few), before);
    });
}
