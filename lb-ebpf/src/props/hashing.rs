//! The hash of a flow: who does not know the key cannot aim, and choices are even.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use lb_common::{Address, FlowHash, HashKey, hash::FlowTuple};

use super::Numbers;

/// Standard deviations that no honest count is away from its mean: one in 10^9.
const SIGMAS: f64 = 6.1;

fn tuple(number: u64) -> FlowTuple {
    let [a, b, c, d, e, f, ..] = number.to_le_bytes();
    FlowTuple {
        client: Address::v4([10, a, b, c]),
        vip: Address::v4([192, 0, 2, 10]),
        client_port: [d, e],
        vip_port: [0, 80],
        protocol: 6 + f,
    }
}

/// Counts of things that fell into boxes alike stay near their mean.
#[track_caller]
fn check_even(what: &str, counts: &[u32]) {
    let total: u32 = counts.iter().sum();
    let share = 1.0 / counts.len() as f64;
    let mean = f64::from(total) * share;
    let spread = SIGMAS * (mean * (1.0 - share)).sqrt();
    let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    println!("{what}: {min} to {max} about {mean:.1}, bound {spread:.1}");
    for count in [*min, *max] {
        assert!(
            (f64::from(count) - mean).abs() <= spread,
            "{what}: {count} about {mean}"
        );
    }
}

#[test]
fn tuples_chosen_under_another_key_fall_evenly_under_this_one() {
    const MASK: u32 = 1023;
    let (guessed, secret) = (&HashKey([1, 2]).expand(), &HashKey([1, 3]).expand());
    let aimed = (0..).map(tuple).filter(|tuple| {
        // One set in sixteen, under the key that the sender believes in.
        tuple.hash(guessed).sets(MASK, 10).first & 15 == 0
    });
    let (mut first, mut second) = (vec![0; 1024], vec![0; 1024]);
    for tuple in aimed.take(100_000) {
        let sets = tuple.hash(secret).sets(MASK, 10);
        first[sets.first as usize] += 1;
        second[sets.second as usize] += 1;
        assert_ne!(sets.first, sets.second);
    }
    check_even("first sets", &first);
    check_even("second sets", &second);
}

#[test]
fn slots_of_a_ring_are_chosen_evenly_at_every_attempt() {
    for size in [1_u32, 2, 7, 251, 1021] {
        for attempt in 0..4 {
            for (name, hashes) in [
                (
                    "random",
                    Numbers(u64::from(size)).take(200_000).collect::<Vec<_>>(),
                ),
                // The worst that a hash could be.
                ("counted", (0..200_000).collect()),
            ] {
                let mut counts = vec![0; size as usize];
                for hash in hashes {
                    counts[FlowHash(hash).ring_slot(size, attempt) as usize] += 1;
                }
                check_even(
                    &format!("{name}, ring of {size}, attempt {attempt}"),
                    &counts,
                );
            }
        }
    }
}

#[test]
fn a_second_attempt_does_not_follow_from_the_first() {
    const SIZE: u32 = 64;
    let mut counts = vec![0; (SIZE * SIZE) as usize];
    for hash in Numbers(9).take(1_000_000) {
        let [a, b] = [0, 1].map(|attempt| FlowHash(hash).ring_slot(SIZE, attempt));
        counts[(a * SIZE + b) as usize] += 1;
    }
    check_even("pairs of attempts", &counts);
}

#[test]
fn both_families_and_every_field_count() {
    let key = &HashKey([5, 6]).expand();
    let base = tuple(1);
    let v6 = FlowTuple {
        client: Address::v6([0x20; 16]),
        vip: Address::v6([0x30; 16]),
        ..base
    };
    for base in [base, v6] {
        let mut variants = vec![base; 6];
        variants[1].client.0[15] ^= 1;
        variants[2].vip.0[15] ^= 1;
        variants[3].client_port[1] ^= 1;
        variants[4].vip_port[0] ^= 1;
        variants[5].protocol = 17;
        let mut hashes: Vec<_> = variants.iter().map(|tuple| tuple.hash(key)).collect();
        hashes.push(base.hash(&HashKey([5, 7]).expand()));
        hashes.push(base.hash(&HashKey([4, 6]).expand()));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 8);
    }
}
