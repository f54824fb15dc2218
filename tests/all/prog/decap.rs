//! The compiled decapsulator against the library: every fixture, and fixtures changed at random, with equal fate, bytes
//! and counters.

use lb_common::decap::Fate;
use lb_ebpf::decap::fixture::{self, Fixture};
use lb_oracle::decap::{
    World,
    frames::{Frames, GUE_PORT},
    opinion,
};
use lb_tests::kernel::decap::{Decapsulator, object_bytes};
use lb_tests::kernel::{SHORTEST, in_namespace, object};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::cases::packets;

/// What differs between the twins, if anything. A dropped packet's bytes are nobody's.
fn difference(kernel: &Decapsulator, packet: &[u8]) -> Option<String> {
    let rules = fixture::rules();
    let (fate, output) = fixture::run_host(&rules, packet);
    let before = kernel.fates().unwrap();
    let (passed, bytes) = match kernel.run(packet) {
        Ok(ran) => ran,
        Err(error) => return Some(format!("{error:#}")),
    };
    let after = kernel.fates().unwrap();
    let counted: Vec<Fate> = Fate::ALL
        .iter()
        .copied()
        .filter(|f| after[*f as usize] != before[*f as usize])
        .collect();
    let total = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    let alike = counted == [fate]
        && total == 1
        && passed == fate.is_passed_on()
        && (!passed || bytes == output);
    (!alike).then(|| {
        format!("host {fate:?} {output:02x?}\n  kernel {counted:?} passed {passed} {bytes:02x?}")
    })
}

#[test]
fn every_packet_to_the_decapsulator_ends_alike_on_host_and_kernel() {
    in_namespace(|_| {
        let (kernel, _) = Decapsulator::load(&fixture::rules()).unwrap();
        let mut failures = vec![];
        let mut ran = 0;
        for Fixture { name, packet, .. } in fixture::all() {
            if packet.len() < SHORTEST {
                continue;
            }
            ran += 1;
            if let Some(difference) = difference(&kernel, &packet) {
                failures.push(format!("{name}: {difference}"));
            }
        }
        println!("{ran} packets in the kernel");
        assert!(ran > 100, "only {ran}");
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    })
    .unwrap();
}

#[test]
fn changed_packets_to_the_decapsulator_end_alike_on_host_and_kernel() {
    in_namespace(|_| {
        let (kernel, _) = Decapsulator::load(&fixture::rules()).unwrap();
        let fixtures = fixture::all();
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let strategy = (
            any::<prop::sample::Index>(),
            prop::collection::vec(change, 1..4),
            prop::option::weighted(0.2, any::<prop::sample::Index>()),
        );
        let config = Config {
            cases: 20_000,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&strategy, |(which, changes, cut)| {
                let mut packet = which.get(&fixtures).packet.clone();
                for (place, value) in changes {
                    let place = place.index(packet.len());
                    packet[place] = value;
                }
                if let Some(cut) = cut {
                    packet.truncate(SHORTEST + cut.index(packet.len()));
                }
                let difference = difference(&kernel, &packet);
                prop_assert!(
                    packet.len() < SHORTEST || difference.is_none(),
                    "{packet:02x?}: {difference:?}"
                );
                Ok(())
            })
            .unwrap();
    })
    .unwrap();
}

/// Random frames, unless the environment says how many.
const FRAMES: u64 = 2_000_000;
/// Frames after which counters are read.
const BATCH: u64 = 1_000;

/// Runs frames by their numbers through program, library and opinion.
fn agree(kernel: &Decapsulator, world: &World, numbers: std::ops::Range<u64>) {
    let (frames, rules) = (Frames::default(), world.rules());
    let mut output = [0; 2048];
    let mut expected = kernel.fates().unwrap();
    for number in numbers.clone() {
        let frame = frames.any(number);
        let (fate, bytes) = opinion(world, &frame);
        let (host, host_bytes) = fixture::run_host(&rules, &frame);
        let (passed, length) = kernel.run_into(&frame, &mut output).unwrap();
        assert_eq!(host, fate, "frame {number}: {frame:02x?}");
        assert_eq!(passed, fate.is_passed_on(), "frame {number}: {frame:02x?}");
        if passed {
            assert!(host_bytes == bytes, "frame {number}: {frame:02x?}");
            let ran = &output[..length];
            assert!(ran == bytes, "frame {number}: {frame:02x?}: {ran:02x?}");
        }
        expected[fate as usize] += 1;
        if number % BATCH == BATCH - 1 {
            let fates = kernel.fates().unwrap();
            assert_eq!(fates, expected, "the thousand frames to {number}");
        }
    }
    assert_eq!(kernel.fates().unwrap(), expected, "frames {numbers:?}");
}

#[test]
fn random_frames_to_the_decapsulator_end_alike_in_opinion_library_and_kernel() {
    let frames = packets(FRAMES);
    in_namespace(|_| {
        let begin = std::time::Instant::now();
        // Frames that the test of the library and the opinion does not get to.
        let first = 1 << 32;
        let parts = [Some(GUE_PORT), None]
            .into_iter()
            .zip([frames * 9 / 10, frames / 10]);
        for (gue_port, count) in parts {
            let world = World::new(gue_port);
            let (kernel, _) = Decapsulator::load(&world.rules()).unwrap();
            agree(&kernel, &world, first..first + count);
        }
        println!("{frames} frames in {:?}", begin.elapsed());
    })
    .unwrap();
}

#[test]
fn the_decapsulator_is_small_and_cannot_panic() {
    let verified = in_namespace(|_| Decapsulator::load(&fixture::rules()).unwrap().1).unwrap();
    println!(
        "{} instructions verified in {:?}",
        verified.instructions, verified.took
    );
    assert!(verified.instructions < 50_000, "{verified:?}");
    for (name, size) in object::functions(&object_bytes().unwrap()).unwrap() {
        assert!(
            !name.contains("panic") || size <= 16,
            "{name}: {size} bytes"
        );
    }
}
