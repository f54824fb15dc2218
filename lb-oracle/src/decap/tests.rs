//! The library and the opinion agree, and nothing that is forged gets in.

use std::{collections::BTreeMap, ops::Range, thread, time::Instant};

use lb_common::decap::Fate;
use lb_ebpf::decap::fixture::{self, MemRules};

use super::{
    World,
    frames::{Frames, GUE_PORT, Lie},
    opinion,
};

/// Frames of each test.
const FRAMES: u64 = 10_000_000;

/// Halves, for two threads.
fn halves() -> [Range<u64>; 2] {
    [0..FRAMES / 2, FRAMES / 2..FRAMES]
}

fn counted(rules: &MemRules) -> Vec<u64> {
    let of = |fate: &Fate| rules.fates[*fate as usize].get();
    Fate::ALL.iter().map(of).collect()
}

/// Frames by their fate, with a port of `gue` or, in every sixteenth, without.
fn agree(numbers: Range<u64>) -> Vec<u64> {
    let frames = Frames::default();
    let worlds = [Some(GUE_PORT), None].map(World::new);
    let rules = worlds.each_ref().map(World::rules);
    let mut tally = vec![0; Fate::ALL.len()];
    for number in numbers {
        let which = usize::from(number % 16 == 0);
        let frame = frames.any(number);
        let (fate, bytes) = fixture::run_host(&rules[which], &frame);
        let (expected, expected_bytes) = opinion(&worlds[which], &frame);
        assert_eq!(fate, expected, "frame {number}: {frame:02x?}");
        if fate.is_passed_on() {
            assert_eq!(bytes, expected_bytes, "frame {number}: {frame:02x?}");
        }
        tally[expected as usize] += 1;
    }
    let [with, without] = rules.each_ref().map(counted);
    let sums: Vec<u64> = with.iter().zip(without).map(|(a, b)| a + b).collect();
    assert_eq!(sums, tally);
    tally
}

#[test]
fn the_decapsulator_and_the_opinion_agree_about_ten_million_frames() {
    let begin = Instant::now();
    let tallies = thread::scope(|scope| {
        let threads = halves().map(|numbers| scope.spawn(move || agree(numbers)));
        threads.map(|thread| thread.join().expect("both agree"))
    });
    let [first, second] = tallies;
    let by_fate = Fate::ALL.iter().zip(first.iter().zip(second));
    let tally: BTreeMap<_, u64> = by_fate
        .map(|(fate, (a, b))| (fate.label(), a + b))
        .collect();
    println!("{tally:?} in {:?}", begin.elapsed());
    assert_eq!(tally.values().sum::<u64>(), FRAMES);
    // Enough of everything, or the generator has gone astray.
    assert!(tally.values().all(|n| *n > FRAMES / 1000), "{tally:?}");
    assert!(tally["delivered"] > FRAMES / 10, "{tally:?}");
}

/// Forged frames by what is forged, and how many of them are left to the kernel.
fn refused(numbers: Range<u64>) -> BTreeMap<Lie, [u64; 2]> {
    let frames = Frames::default();
    let rules = World::new(Some(GUE_PORT)).rules();
    let mut tally = BTreeMap::<Lie, [u64; 2]>::new();
    for number in numbers {
        let (lie, frame) = frames.forged(number);
        let (fate, bytes) = fixture::run_host(&rules, &frame);
        assert_ne!(
            fate,
            Fate::Delivered,
            "frame {number}, {lie:?}: {frame:02x?}"
        );
        let [all, passed] = tally.entry(lie).or_default();
        *all += 1;
        if fate == Fate::Passed {
            assert_eq!(bytes, frame, "frame {number}, {lie:?}");
            *passed += 1;
        }
    }
    tally
}

#[test]
fn ten_million_forged_frames_are_none_delivered() {
    let begin = Instant::now();
    let tallies = thread::scope(|scope| {
        let threads = halves().map(|numbers| scope.spawn(move || refused(numbers)));
        threads.map(|thread| thread.join().expect("none is delivered"))
    });
    let mut tally = BTreeMap::<Lie, [u64; 2]>::new();
    for (lie, [all, passed]) in tallies.into_iter().flatten() {
        let sum = tally.entry(lie).or_default();
        *sum = [sum[0] + all, sum[1] + passed];
    }
    println!("{tally:?} in {:?}", begin.elapsed());
    assert_eq!(tally.values().map(|[all, _]| all).sum::<u64>(), FRAMES);
    assert_eq!(tally.len(), Lie::ALL.len());
    for (lie, [all, passed]) in tally {
        assert!(all > FRAMES / 100, "{lie:?}: {all}");
        // What cannot be told to be a tunnel is the kernel's: a later piece of a datagram, an end before the ports.
        let may_pass = [Lie::OuterPiece, Lie::Cut].contains(&lie);
        assert!(passed == 0 || may_pass, "{lie:?}: {passed} passed");
    }
}
