//! The library and the oracle agree.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use lb_common::DropReason;

use crate::{
    case, generate,
    tally::{Shape, Tally},
};

/// Packets in all.
const PACKETS: u64 = 10_000_000;
/// Packets after which reasons are counted that no packet meets: those of a full table.
const NEVER: [DropReason; 1] = [DropReason::FlowTableFull];

/// Of services with ranges: besides those of packets that are dropped before it is known whose they are, and of what is
/// no way to forward for them.
const NEVER_OF_RANGES: [DropReason; 6] = [
    DropReason::FlowTableFull,
    DropReason::IpOptions,
    DropReason::ExtensionHeader,
    DropReason::Fragment,
    DropReason::EchoLimited,
    DropReason::NatPortsExhausted,
];
/// Of SCTP and protocols without ports: besides those of TCP, of ICMP and of `fullnat`.
const NEVER_OF_OTHERS: [DropReason; 5] = [
    DropReason::FlowTableFull,
    DropReason::EchoLimited,
    DropReason::MidStream,
    DropReason::BackendLeft,
    DropReason::NatPortsExhausted,
];

/// Runs cases by their numbers, which the threads share, until there are enough packets.
fn run_cases(numbers: &AtomicU64, packets: &AtomicU64) -> Result<Tally, u64> {
    let mut tally = Tally::default();
    while packets.load(Ordering::Relaxed) < PACKETS {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let case = generate::numbered(number);
        let ran = case::run(&case).map_err(|_| number)?;
        packets.fetch_add(ran.packets, Ordering::Relaxed);
        tally.add(&ran);
    }
    Ok(tally)
}

#[test]
fn the_library_and_the_oracle_agree_about_ten_million_packets() {
    let begin = Instant::now();
    let (numbers, packets) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let run = || run_cases(&numbers, &packets);
        let threads = [scope.spawn(run), scope.spawn(run)];
        for thread in threads {
            match thread.join().expect("a thread that does not panic") {
                Ok(ran) => tally.add(&ran),
                Err(number) => panic!(
                    "case {number}, {}\nto run it again: cargo xtask soak --first {number} --packets 1",
                    case::explain(&generate::numbered(number))
                ),
            }
        }
    });
    let cases = numbers.into_inner();
    println!("{cases} cases, {tally:?} in {:?}", begin.elapsed());
    assert!(tally.packets >= PACKETS);
    // Enough of everything, or the generator has gone astray.
    assert!(
        tally.fates.iter().all(|count| *count > PACKETS / 100),
        "{tally:?}"
    );
    for reason in DropReason::ALL {
        let count = tally.drops[*reason as usize];
        match NEVER.contains(reason) {
            true => assert_eq!(count, 0, "{reason:?}"),
            false => assert!(count > PACKETS / 10_000, "{reason:?}: {count}"),
        }
    }
    for shape in Shape::ALL {
        let count = tally.shapes[shape as usize];
        assert!(count > PACKETS / 20_000, "{shape:?}: {count}");
    }
    check_drops("with tags", &tally.tagged_drops, &NEVER);
    check_drops("to a range", &tally.range_drops, &NEVER_OF_RANGES);
    check_drops("of other protocols", &tally.other_drops, &NEVER_OF_OTHERS);
}

/// Reasons that packets of a kind do not meet.
fn check_drops(what: &str, drops: &[u64], never: &[DropReason]) {
    for reason in DropReason::ALL {
        let count = drops[*reason as usize];
        match never.contains(reason) {
            true => assert_eq!(count, 0, "{what}: {reason:?}"),
            false => assert!(count > PACKETS / 200_000, "{what}: {reason:?}: {count}"),
        }
    }
}

/// What the fuzzer (`cargo xtask fuzz`) found worth keeping, without the fuzzer.
#[test]
fn the_fuzzers_corpus_still_agrees() {
    let corpus = include_str!("../../fuzz/corpus/pipeline.txt");
    let mut tally = Tally::default();
    for (line, number) in corpus.lines().zip(1..) {
        let digits = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("two digits");
        let input: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
        let case = generate::chosen(&input);
        match case::run(&case) {
            Ok(ran) => tally.add(&ran),
            Err(_) => panic!("line {number}, {}", case::explain(&case)),
        }
    }
    let inputs = corpus.lines().count();
    println!("{inputs} inputs, {tally:?}");
    assert!(inputs > 100, "{inputs} inputs");
    // It has inputs for edges of the code, not for reasons, but those come along.
    let met = |reason: &&DropReason| tally.drops[**reason as usize] > 0;
    let reasons: Vec<_> = DropReason::ALL.iter().filter(met).collect();
    assert!(reasons.len() >= 15, "only {reasons:?}");
    let met = |shape: &Shape| tally.shapes[*shape as usize] > 0;
    let missed: Vec<_> = Shape::ALL.into_iter().filter(|shape| !met(shape)).collect();
    assert!(missed.is_empty(), "nowhere: {missed:?}");
    assert!(!reasons.iter().any(|reason| NEVER.contains(reason)));
}
