//! How new flows spread in the compiled program: shares over at least 100,000 flows, and what moves when one of ten
//! backends leaves and returns, for each scheduler.

mod clients;
mod field;
mod least;
mod mass;
mod response;
mod stay;
mod warm;

use lb_common::{Pick, Scheduling};

use field::{Crowd, FLOWS, Field, field};

/// Backends of every pool here.
const POOL: usize = 10;
/// The one that leaves.
const LEAVER: u32 = 7;

/// Weights that differ.
const WEIGHTS: [u16; POOL] = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1];

/// How far the flows of a backend may be from its share.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Chance deals them by slots of a ring with so many: the ring is right within 1 % and a slot, chance within six standard deviations
    /// (of so many that are dealt together: flows, or clients).
    Dealt { slots: u64 },
    /// They are evened: so many in a thousand of all.
    Evened { per_mille: u64 },
}

/// The share of each backend is its weight's, within a bound.
#[track_caller]
fn shares_follow(found: &[u64], weights: &[u16], bound: Bound) {
    let all: u64 = found.iter().sum();
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    for (share, weight) in found.iter().zip(weights) {
        let part = f64::from(*weight) / total as f64;
        let fair = all as f64 * part;
        let most = match bound {
            Bound::Dealt { slots } => {
                let chance = (fair * (1.0 - part)).sqrt();
                6.0 * chance + fair / 100.0 + all as f64 / slots as f64
            }
            Bound::Evened { per_mille } => (all * per_mille) as f64 / 1000.0,
        };
        assert!(
            (*share as f64 - fair).abs() <= most,
            "weight {weight} of {total}: {share} of {all}, fair {fair:.0} +- {most:.0}: {found:?}"
        );
    }
}

/// Of those that were not the leaver's, the part that has another backend.
fn moved(before: &[u32], after: &[u32]) -> f64 {
    assert_eq!(before.len(), after.len());
    let others = before.iter().zip(after).filter(|(id, _)| **id != LEAVER);
    let (mut all, mut moved) = (0, 0);
    for (old, new) in others {
        all += 1;
        moved += u32::from(old != new);
    }
    f64::from(moved) / f64::from(all)
}

/// What the flows do while a backend leaves and returns: those with an entry stay; of those that nobody knows any more, which go where a
/// hash says, no more move than slots of the ring do, and all are back when it is.
fn disrupt(field: &mut Field, crowd: Crowd, what: &str) {
    let had_some = |ids: &[u32]| {
        let its = ids.iter().filter(|id| **id == LEAVER).count();
        assert!(its >= ids.len() / 50, "{what}: the leaver has {its} flows");
    };
    // Segments in the middle of flows: nobody knows these.
    field.forget();
    field.send_all(crowd);
    let named = field.mapping(crowd);
    had_some(&named);
    field.forget();
    field.open_all(crowd);
    let before = field.mapping(crowd);
    had_some(&before);
    let ring = field.ring();
    field.leave(LEAVER);
    // A ring of turns is another one, and may be shorter.
    let slots = (ring.len() == field.ring().len()).then(|| moved(&ring, &field.ring()));
    field.send_all(crowd);
    assert_eq!(
        field.mapping(crowd),
        before,
        "{what}: flows with an entry stay"
    );
    field.forget();
    field.open_all(crowd);
    assert!(
        !field.mapping(crowd).contains(&LEAVER),
        "{what}: it takes no new flows"
    );
    field.forget();
    field.send_all(crowd);
    let without = field.mapping(crowd);
    assert!(
        !without.contains(&LEAVER),
        "{what}: it takes no flows that nobody knows"
    );
    let away = moved(&named, &without);
    field.come_back(LEAVER);
    field.send_all(crowd);
    assert_eq!(field.mapping(crowd), without, "{what}: and stay again");
    field.forget();
    field.send_all(crowd);
    println!(
        "{what}: 1 of {POOL} leaves: of flows with an entry 0 move, of others' without one {away:.3}, of their slots {slots:.3?}"
    );
    assert_eq!(
        field.mapping(crowd),
        named,
        "{what}: all are where they were"
    );
    if let Some(part) = slots {
        let chance = (part * (1.0 - part) / crowd.dealt() as f64).sqrt();
        assert!(away <= part + 6.0 * chance, "{what}: {away} moved");
    }
}

#[test]
fn maglev_spreads_by_weight_and_moves_few() {
    field(&WEIGHTS, Scheduling::USUAL, |field| {
        field.open(0..FLOWS);
        let shares = field.shares();
        println!("maglev: {shares:?}");
        shares_follow(&shares, &WEIGHTS, field.dealt());
        disrupt(field, Crowd::Few, "maglev");
    });
}

#[test]
fn random_spreads_by_weight_and_flows_with_an_entry_stay() {
    field(&WEIGHTS, Scheduling::picking(Pick::Random), |field| {
        field.open(0..FLOWS);
        let shares = field.shares();
        println!("random: {shares:?}");
        shares_follow(&shares, &WEIGHTS, field.dealt());
        disrupt(field, Crowd::Few, "random");
    });
}

/// Of many turns each backend has its share, up to less than two: wherever in a round they begin and end.
#[track_caller]
fn shares_are_exact(found: &[u64], weights: &[u16], most: u64) {
    let flows: u64 = found.iter().sum();
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    for (share, weight) in found.iter().zip(weights) {
        let fair = flows * u64::from(*weight);
        assert!(
            (share * total).abs_diff(fair) <= most * total,
            "weight {weight} of {total}: {share} of {flows} flows: {found:?}"
        );
    }
}

#[test]
fn turns_are_exact_over_any_window_on_a_cpu_and_bounded_over_all() {
    let turn = Scheduling::picking(Pick::Turn);
    for weights in [[1; POOL], WEIGHTS] {
        let round: u64 = weights.iter().copied().map(u64::from).sum();
        field(&weights, turn, |field| {
            // Whole rounds: not one flow too many.
            for n in 0..20 {
                field.open(n * round..(n + 1) * round);
                shares_are_exact(&field.new_shares(), &weights, 0);
            }
            field.forget();
            for (n, flows) in [1, 2, 3, 17, 29, 101, 997].into_iter().enumerate() {
                let first = 10_000 * (n as u64 + 1);
                field.open(first..first + flows);
                shares_are_exact(&field.new_shares(), &weights, 2);
            }
            field.forget();
            field.open(0..FLOWS);
            let shares = field.new_shares();
            println!("by turns, weights {weights:?}: {shares:?} of {FLOWS}");
            shares_are_exact(&shares, &weights, 2);
            field.forget();
            // Each CPU has its own turns: at most two too many each.
            let cpus = field.cpus();
            let part = FLOWS / cpus.len() as u64;
            for (n, cpu) in (0..).zip(&cpus) {
                field.stay_on(*cpu);
                field.open(n * part..(n + 1) * part);
            }
            let shares = field.new_shares();
            println!("the same on {} CPUs: {shares:?}", cpus.len());
            shares_are_exact(&shares, &weights, 2 * cpus.len() as u64);
        });
    }
}

#[test]
fn turns_go_on_without_who_leaves_and_flows_with_an_entry_stay() {
    for weights in [[1; POOL], WEIGHTS] {
        field(&weights, Scheduling::picking(Pick::Turn), |field| {
            disrupt(field, Crowd::Few, &format!("by turns, weights {weights:?}"));
            // It loses its turns to all others alike before the ring is filled without it.
            field.forget();
            field.new_shares();
            field.deny(LEAVER);
            field.open(0..FLOWS);
            let (mut shares, mut others) = (field.new_shares(), weights.to_vec());
            println!(
                "by turns, while the ring names one of {weights:?} that takes none: {shares:?}"
            );
            assert_eq!(shares.remove(LEAVER as usize), 0);
            others.remove(LEAVER as usize);
            // Each slot that it loses goes to whom a hash names, by the same ring.
            shares_follow(&shares, &others, field.dealt());
        });
    }
}
