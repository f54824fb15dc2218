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
    const AIMED: usize = 250_000;
    let (guessed, secret) = (&HashKey([1, 2]).expand(), &HashKey([1, 3]).expand());
    let aimed = (0..).map(tuple).filter(|tuple| {
        // One set in sixteen, under the key that the sender believes in.
        tuple.hash(guessed).sets(MASK, 10).first & 15 == 0
    });
    let (mut first, mut second) = (vec![0; 1024], vec![0; 1024]);
    for tuple in aimed.take(AIMED) {
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

/// A tuple's bits, so that each can be turned: addresses, then ports and protocol.
fn turned(base: &FlowTuple, bit: usize) -> FlowTuple {
    let mut tuple = *base;
    // Of IPv4, whose first twelve bytes are always the same, only the last four are the address.
    let (first, bits) = if base.vip.is_v4() { (12, 32) } else { (0, 128) };
    let turn = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    match bit {
        _ if bit < bits => turn(&mut tuple.client.0[first..], bit),
        _ if bit < 2 * bits => turn(&mut tuple.vip.0[first..], bit - bits),
        _ => match bit - 2 * bits {
            bit @ 0..16 => turn(&mut tuple.client_port, bit),
            bit @ 16..32 => turn(&mut tuple.vip_port, bit - 16),
            bit => tuple.protocol ^= 1 << (bit - 32),
        },
    }
    tuple
}

/// Bits of a tuple that [`turned`] knows.
fn bits(base: &FlowTuple) -> usize {
    (if base.vip.is_v4() { 64 } else { 256 }) + 40
}

/// One of each family.
fn bases(seed: u64) -> [FlowTuple; 2] {
    let mut numbers = Numbers(seed);
    let mut octets = || {
        let words = [numbers.next().unwrap(), numbers.next().unwrap()];
        words.map(u64::to_le_bytes).concat().try_into().unwrap()
    };
    let v4 = tuple(seed);
    let v6 = FlowTuple {
        client: Address::v6(octets()),
        vip: Address::v6(octets()),
        ..v4
    };
    [v4, v6]
}

fn keys(count: u64) -> impl Iterator<Item = lb_common::hash::FlowKey> {
    (0..count).map(|number| HashKey([number, !number]).expand())
}

/// A multilinear hash may collide for two given inputs under one key in 2^32, and then for all inputs with the same
/// difference: so what matters is that no difference is worse than that. Each difference of one or two
/// bits, under each key, is a chance of its own.
#[test]
fn no_difference_of_one_or_two_bits_collides_under_any_of_many_keys() {
    for (number, key) in (0..).zip(keys(24)) {
        for base in bases(number) {
            let mut hashes = vec![base.hash(&key).0];
            let count = bits(&base);
            for a in 0..count {
                let one = turned(&base, a);
                hashes.push(one.hash(&key).0);
                // Two tuples of one bit each differ in two; three and four bits come on top.
                hashes.extend((0..a).map(|b| turned(&one, b).hash(&key).0));
            }
            // What two flows share when they are taken for one another: a set and the tag.
            let mut places: Vec<_> = hashes
                .iter()
                .map(|hash| FlowHash(*hash).sets(0x1_ffff, 17))
                .map(|sets| (sets.tag, sets.first.min(sets.second)))
                .collect();
            let all = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), all, "key {number}, {base:?}");
        }
    }
}

/// Every bit of a tuple turns every bit of what is made of its hash for half of all keys and tuples.
#[test]
fn every_bit_of_a_tuple_bears_on_set_tag_and_slot_alike() {
    const TRIALS: u32 = 1500;
    const SLOTS: u32 = 1 << 16;
    // Set, tag, slot.
    let image = |hash: FlowHash| {
        let sets = hash.sets(0x1_ffff, 17);
        u128::from(sets.first)
            | u128::from(sets.tag) << 17
            | u128::from(hash.ring_slot(SLOTS, 0)) << 57
    };
    for family in 0..2 {
        let inputs = bits(&bases(0)[family]);
        let mut flips = vec![[0_u32; 73]; inputs];
        for (number, key) in (0..).zip(keys(u64::from(TRIALS))) {
            let base = bases(number)[family];
            let hash = image(base.hash(&key));
            for (bit, flips) in flips.iter_mut().enumerate() {
                let change = hash ^ image(turned(&base, bit).hash(&key));
                for (output, count) in flips.iter_mut().enumerate() {
                    *count += (change >> output & 1) as u32;
                }
            }
        }
        let spread = SIGMAS * (f64::from(TRIALS) / 4.0).sqrt();
        let all = flips.iter().flatten();
        let (min, max) = (all.clone().min().unwrap(), all.max().unwrap());
        println!("family {family}: {min} to {max} of {TRIALS}, bound {spread:.0} about the half");
        for count in [*min, *max] {
            let off = f64::from(count) - f64::from(TRIALS) / 2.0;
            assert!(off.abs() <= spread, "{count} of {TRIALS}");
        }
    }
}

/// What a sender without the key can choose: ports and addresses in a row, or in strides.
#[test]
fn patterns_of_addresses_and_ports_fall_evenly_on_sets_and_slots() {
    const SETS: u32 = 512;
    const FLOWS: u64 = 250_000;
    type Pattern = (&'static str, fn(u64) -> u64);
    let patterns: [Pattern; 4] = [
        ("addresses in a row", |number| number),
        ("ports in a row", |number| {
            (number & 0xffff) << 24 | number >> 16
        }),
        ("last octet only, then ports by 256", |number| {
            (number & 0xff) << 16 | (number >> 8) << 24
        }),
        ("strides of 2^13", |number| {
            number << 13 & 0xff_ffff_ffff | number >> 27
        }),
    ];
    for key in keys(3) {
        for (what, pattern) in patterns {
            let (mut sets, mut slots) = (vec![0; SETS as usize], vec![0; 251]);
            for number in 0..FLOWS {
                let hash = tuple(pattern(number)).hash(&key);
                sets[hash.sets(SETS - 1, 9).first as usize] += 1;
                slots[hash.ring_slot(251, 0) as usize] += 1;
            }
            // A linear hash may be more even than chance; it must not be less.
            check_even(&format!("{what}: sets"), &sets);
            check_even(&format!("{what}: slots"), &slots);
        }
    }
}

/// A flow is taken for another when both its tag and one of its sets are the other's: of the 16 entries that it is
/// compared with, each matches 40 bits by chance, 1.5e-11 a lookup. What can be counted is how often
/// fewer bits match: each bit less must double it, and no more.
#[test]
fn tags_match_by_chance_only() {
    const SETS: u32 = 1 << 13;
    const LOOKUPS: u64 = 600_000;
    let key = &HashKey([0xfeed, 0xbeef]).expand();
    // A full table of the flows of a sender who counts addresses up.
    let mut table = vec![Vec::new(); SETS as usize];
    for number in 0..u64::from(SETS) * 9 {
        let sets = tuple(number).hash(key).sets(SETS - 1, 13);
        let set = match table[sets.first as usize].len() < 8 {
            true => sets.first,
            false => sets.second,
        };
        if table[set as usize].len() < 8 {
            table[set as usize].push(sets.tag);
        }
    }
    let stored: usize = table.iter().map(Vec::len).sum();
    let mut matches = [0_u64; 41];
    for number in 1 << 24..(1 << 24) + LOOKUPS {
        let sets = tuple(number).hash(key).sets(SETS - 1, 13);
        for tag in [sets.first, sets.second]
            .iter()
            .flat_map(|set| &table[*set as usize])
        {
            matches[(tag ^ sets.tag).trailing_zeros().min(40) as usize] += 1;
        }
    }
    assert_eq!(matches[40], 0, "a flow was taken for another");
    let pairs = LOOKUPS as f64 * 2.0 * stored as f64 / f64::from(SETS);
    for bits in 4..=20 {
        let count: u64 = matches[bits..].iter().sum();
        let expected = pairs / f64::from(1_u32 << bits);
        println!("{bits} bits: {count} matches, {expected:.1} by chance");
        let bound = SIGMAS * expected.sqrt() + SIGMAS;
        assert!(
            (count as f64 - expected).abs() <= bound,
            "{bits} bits: {count}, {expected}"
        );
    }
    let rate = 2.0 * 8.0 / f64::from(1 << 20).powi(2);
    println!("40 bits: {rate:.1e} a lookup in a full table");
    assert!(rate <= 1e-9);
}
