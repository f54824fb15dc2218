//! The scheduler `least-connections` in the compiled program: shares, what a count of flows does to them, and how far
//! everybody can run to the same backend between two counts.

use lb_common::{Pick, Scheduling};

use super::field::{Crowd, FLOWS, Field, field};
use super::{Bound, LEAVER, POOL, WEIGHTS, disrupt, shares_follow};

const LEAST: Scheduling = Scheduling::picking(Pick::Least);
/// Flows are evened to so many in a thousand.
const EVEN: Bound = Bound::Evened { per_mille: 1 };
/// The same of those that began uneven, or whose count is old.
const NEARLY: Bound = Bound::Evened { per_mille: 2 };
/// Between two counts of a busy balancer: 1 s of 8,000 connections.
const BETWEEN: u64 = 8000;

/// The flows of all backends, if they are those that they got and the ones that are told.
fn sum(told: &[u32], shares: &[u64]) -> Vec<u64> {
    let sum = |(told, share): (&u32, &u64)| u64::from(*told) + share;
    told.iter().zip(shares).map(sum).collect()
}

#[test]
fn shares_follow_weights_over_all_flows_whether_they_are_counted_or_not() {
    field(&WEIGHTS, LEAST, |field| {
        // Nobody has counted: by chance.
        field.open(0..FLOWS);
        let shares = field.new_shares();
        println!("least connections, not counted: {shares:?}");
        shares_follow(&shares, &WEIGHTS, field.dealt());
        field.forget();
        // Counted once, long ago: what this CPU gave since is all that it needs.
        field.count(&[0; POOL], 1);
        field.open(0..FLOWS);
        let shares = field.new_shares();
        println!("least connections, counted before: {shares:?}");
        shares_follow(&shares, &WEIGHTS, EVEN);
        field.forget();
        // Counted again and again.
        let mut all = [0_u64; POOL];
        for n in 0..FLOWS / BETWEEN {
            field.count(&all.map(|flows| flows as u32), 1);
            field.open(n * BETWEEN..(n + 1) * BETWEEN);
            let shares = field.new_shares();
            all.iter_mut().zip(shares).for_each(|(all, n)| *all += n);
        }
        println!("least connections, counted every {BETWEEN} flows: {all:?}");
        shares_follow(&all, &WEIGHTS, EVEN);
    });
}

#[test]
fn flows_of_all_cpus_are_spread_as_one_knows_of_the_others() {
    field(&[1; POOL], LEAST, |field| {
        let cpus = field.cpus();
        // Nobody knows how many CPUs there are, the right number, and far too many.
        for told in [0, cpus.len() as u32, 64] {
            field.forget();
            field.count(&[0; POOL], told);
            let part = FLOWS / cpus.len() as u64;
            for (n, cpu) in (0..).zip(&cpus) {
                field.stay_on(*cpu);
                field.open(n * part..(n + 1) * part);
            }
            let shares = field.new_shares();
            println!("on {} CPUs, told {told}: {shares:?}", cpus.len());
            shares_follow(&shares, &[1; POOL], EVEN);
        }
    });
}

/// Opens so many flows and gives the part in a thousand that one backend got.
fn part_of(field: &mut Field, id: u32, flows: std::ops::Range<u64>) -> u64 {
    let all = flows.end - flows.start;
    field.open(flows);
    field.new_shares()[id as usize] * 1000 / all
}

#[test]
fn an_empty_backend_gets_twice_its_share_at_most_and_no_more_than_it_lacks() {
    field(&[1; POOL], LEAST, |field| {
        let mut told = [5000; POOL];
        told[LEAVER as usize] = 0;
        // Nobody counts again: however stale the count, it is not run down.
        field.count(&told, 1);
        let first = part_of(field, LEAVER, 0..BETWEEN);
        // 1 - (9 / 10)^2, and chance.
        assert!((170..=210).contains(&first), "{first} of 1000");
        field.open(BETWEEN..FLOWS);
        field.new_shares();
        let mut shares = field.shares();
        println!("an empty one of {POOL}: {first} of 1000 first, then {shares:?}");
        shares_follow(&sum(&told, &shares), &[1; POOL], NEARLY);
        field.forget();
        // As many CPUs as it likes, it is twice its share that it gets from each.
        let cpus = field.cpus();
        for told_cpus in [1, cpus.len() as u32, 64] {
            field.count(&told, told_cpus);
            for (n, cpu) in (0..).zip(&cpus) {
                field.stay_on(*cpu);
                let part = part_of(field, LEAVER, n * BETWEEN..(n + 1) * BETWEEN);
                // It gets what it lacks, by the part of it that is this CPU's; a tenth of the rest; and twice its share at most.
                let lacks = 900 * 5000 / u64::from(told_cpus) / BETWEEN;
                let (least, most) = (90 + lacks, 115 + lacks);
                assert!(
                    (least.min(170)..=most.min(210)).contains(&part),
                    "{part} of 1000, told {told_cpus} CPUs"
                );
            }
            field.forget();
        }
        // What it lacks is what it gets more, be it counted every moment or seldom.
        for between in [500, 20 * BETWEEN / 10] {
            let mut all = told;
            shares = vec![0; POOL];
            for n in 0..FLOWS / between {
                field.count(&all, 1);
                field.open(n * between..(n + 1) * between);
                for (n, share) in field.new_shares().into_iter().enumerate() {
                    all[n] += share as u32;
                    shares[n] += share;
                }
            }
            shares_follow(&sum(&told, &shares), &[1; POOL], NEARLY);
            field.forget();
        }
    });
}

#[test]
fn whoever_has_long_connections_gets_hardly_any_new_ones() {
    field(&[1; POOL], LEAST, |field| {
        let mut told = [0; POOL];
        told[LEAVER as usize] = 1_000_000;
        field.count(&told, 1);
        let part = part_of(field, LEAVER, 0..FLOWS);
        println!("one of {POOL} with a million flows: {part} of 1000 new ones");
        // Both of the two that chance names are this one: 1 in 100.
        assert!((5..=15).contains(&part), "{part} of 1000");
    });
}

/// Flows of most end after so many counts, and those of one that is slow after ten times as many.
const LIVES: u64 = 3;

#[test]
fn a_backend_whose_flows_take_ten_times_as_long_gets_a_tenth_as_many() {
    field(&[1; POOL], LEAST, |field| {
        let between = 500;
        let mut given: Vec<Vec<u64>> = Vec::new();
        let (mut slow, mut all) = (0, 0);
        for n in 0..FLOWS / between {
            let open: Vec<u32> = (0..POOL)
                .map(|id| {
                    let lives = LIVES * if id == LEAVER as usize { 10 } else { 1 };
                    let recent = given.iter().rev().take(lives as usize);
                    recent.map(|shares| shares[id] as u32).sum()
                })
                .collect();
            field.count(&open, 1);
            field.open(n * between..(n + 1) * between);
            let shares = field.new_shares();
            if n >= FLOWS / between / 2 {
                slow += shares[LEAVER as usize];
                all += between;
            }
            given.push(shares);
        }
        let part = slow * 1000 / all;
        println!("one of {POOL} with flows that live ten times as long: {part} of 1000 new ones");
        // A tenth of what each of the nine others gets, and that it is named twice by chance: at most 1 in 91 and 1 in 100.
        assert!((8..=22).contains(&part), "{part} of 1000");
    });
}

#[test]
fn a_backend_that_warms_up_gets_the_part_of_its_weight() {
    field(&[1000; POOL], LEAST, |field| {
        field.count(&[10_000; POOL], 1);
        let mut all = [10_000_u32; POOL];
        all[LEAVER as usize] = 0;
        // Empty, and with a tenth of its weight: twice the share of that, one in 91.
        for (weight, most) in [(100, 25), (250, 57), (500, 110)] {
            field.weigh(LEAVER, weight);
            field.count(&all, 1);
            let part = part_of(field, LEAVER, 0..BETWEEN);
            println!("at {weight} of 1000 of its weight: {part} of 1000 flows");
            assert!(part <= most, "{part} of 1000 at {weight}");
            assert!(part > most / 2, "{part} of 1000 at {weight}");
            field.forget();
        }
    });
}

#[test]
fn flows_with_an_entry_stay_when_one_leaves_and_returns() {
    field(&[1; POOL], LEAST, |field| {
        field.count(&[0; POOL], 1);
        disrupt(field, Crowd::Few, "least connections");
        // Whoever takes none is passed over before the ring is filled without it.
        field.forget();
        field.count(&[0; POOL], 1);
        field.new_shares();
        field.deny(LEAVER);
        field.open(0..FLOWS);
        let mut shares = field.new_shares();
        assert_eq!(shares.remove(LEAVER as usize), 0);
        shares_follow(&shares, &[1; POOL - 1], NEARLY);
    });
}
