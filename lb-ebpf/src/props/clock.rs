//! Ages, ranks and evictions of flow entries, for every pair of epochs.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use lb_common::{
    Epoch, FlowRank, FlowWord,
    flow::{EPOCH_SHIFT, EPOCHS, IDLE_AFTER, MAX_BACKENDS, Step},
};
use proptest::prelude::*;

const RANKS: [FlowRank; 8] = [
    FlowRank::Free,
    FlowRank::Probation,
    FlowRank::Probation2,
    FlowRank::Proven,
    FlowRank::Idle,
    FlowRank::ClosingProbation,
    FlowRank::Opening,
    FlowRank::ClosingProven,
];

const STEPS: [Step; 4] = [Step::Opens, Step::GoesOn, Step::Closes, Step::Answers];

const TAG: u64 = 0xab_cdef_0123;
const BACKEND: u32 = 0x1_2345;

fn word(rank: FlowRank, stamp: u8) -> FlowWord {
    match rank {
        FlowRank::Free => FlowWord::FREE,
        _ => FlowWord::new(TAG, BACKEND, rank, Epoch(stamp)),
    }
}

/// Every rank, stamp and time, with the entry's true age: -1 for a stamp of a clock ahead.
fn each(mut check: impl FnMut(FlowWord, FlowRank, Epoch, u8)) {
    for rank in RANKS {
        for stamp in 0..EPOCHS {
            for now in 0..EPOCHS {
                let passed = (now + EPOCHS - stamp) % EPOCHS;
                let age = if passed == EPOCHS - 1 { 0 } else { passed };
                check(word(rank, stamp), rank, Epoch(now), age);
            }
        }
    }
}

/// How much a rank has proven; what is idle, in its handshake, or closing without proof begins again.
fn proof(rank: FlowRank) -> u8 {
    match rank {
        FlowRank::Free => 0,
        FlowRank::Idle | FlowRank::Opening | FlowRank::Probation | FlowRank::ClosingProbation => 1,
        FlowRank::Probation2 => 2,
        FlowRank::Proven | FlowRank::ClosingProven => 3,
    }
}

#[test]
fn an_age_is_the_number_of_epochs_passed_and_a_clock_ahead_counts_as_now() {
    each(|word, rank, now, age| {
        if rank != FlowRank::Free {
            assert_eq!(word.age(now), age, "{word:?} at {now:?}");
        }
    });
}

#[test]
fn an_epoch_is_the_same_wherever_the_clock_wraps() {
    for turn in [0_u64, 1, 7, (1 << 26) - 1] {
        for epoch in 0..u64::from(EPOCHS) {
            let begin = (turn * u64::from(EPOCHS) + epoch) << EPOCH_SHIFT;
            let last = begin + ((1 << EPOCH_SHIFT) - 1);
            assert_eq!(Epoch::at(begin), Epoch(epoch as u8));
            assert_eq!(Epoch::at(last), Epoch(epoch as u8));
        }
    }
    assert_eq!(Epoch::at(u64::MAX), Epoch(EPOCHS - 1));
}

#[test]
fn a_packet_raises_an_entry_by_one_rank_an_epoch_and_never_moves_it() {
    each(|word, rank, now, age| {
        for step in STEPS {
            let seen = word.seen(now, step);
            let closing = step == Step::Closes;
            let context = format!("{word:?} ({rank:?}, age {age}) at {now:?}, {step:?}");
            assert_eq!(
                (seen.tag(), seen.backend_id()),
                (word.tag(), word.backend_id()),
                "{context}"
            );
            if rank == FlowRank::Free {
                assert_eq!(seen, FlowWord::FREE, "{context}");
                continue;
            }
            assert_eq!(seen.age(now), 0, "{context}");
            assert_eq!(seen.seen(now, step), seen, "a second packet: {context}");
            let unproven_end = rank == FlowRank::ClosingProbation;
            let begins = rank == FlowRank::Idle || unproven_end;
            let waits = rank == FlowRank::Opening && matches!(step, Step::Opens | Step::Answers);
            let opening = waits || begins && step == Step::Opens;
            assert_eq!(seen.rank() == FlowRank::Opening, opening, "{context}");
            if opening {
                continue;
            }
            let risen = (proof(rank) + u8::from(age > 0)).min(3);
            // An end takes what little proof there was.
            let left = match seen.rank().is_closing() && risen < 3 {
                true => 1,
                false => risen,
            };
            assert_eq!(proof(seen.rank()), left, "{context}");
            // Within an epoch what was closing stays so, or a close's last ACK would undo it.
            let closes = closing || rank.is_closing() && age == 0;
            assert_eq!(seen.rank().is_closing(), closes, "{context}");
            assert_ne!(seen.rank(), FlowRank::Idle, "{context}");
        }
    });
}

#[test]
fn an_entry_past_its_age_is_written_down_as_idle_once() {
    each(|word, rank, now, age| {
        let old = age > IDLE_AFTER && !matches!(rank, FlowRank::Free | FlowRank::Idle);
        let settled = word.settled(now);
        assert_eq!(settled.is_some(), old, "{word:?} ({rank:?}) at {now:?}");
        if let Some(idle) = settled {
            assert_eq!(
                (idle.tag(), idle.backend_id(), idle.rank(), idle.age(now)),
                (TAG, BACKEND, FlowRank::Idle, 0)
            );
            assert_eq!(idle.settled(now), None);
            assert_eq!(idle.eviction(now), word.eviction(now));
        }
    });
}

#[test]
fn evictions_follow_the_ranks_and_older_entries_go_first() {
    let order = |rank, age: u8| match rank {
        FlowRank::Free => 7,
        _ if age > IDLE_AFTER => 6,
        FlowRank::Idle => 6,
        FlowRank::ClosingProbation => 5,
        FlowRank::Probation | FlowRank::Opening => 4,
        FlowRank::Probation2 => 3,
        FlowRank::ClosingProven if age >= 4 => 2,
        FlowRank::ClosingProven | FlowRank::Proven => 0,
    };
    let mut all = Vec::new();
    each(|word, rank, now, age| {
        let class = order(rank, age);
        let eviction = word.eviction(now);
        assert_eq!(eviction == 0, class == 0, "{word:?} ({rank:?}, age {age})");
        // Neither kept entries nor idle nor free ones have an order among themselves.
        let age = if matches!(class, 0 | 6 | 7) { 0 } else { age };
        all.push(((class, age), eviction));
    });
    all.sort_unstable();
    all.dedup();
    for pair in all.windows(2) {
        assert!(pair[0].0 < pair[1].0, "two evictions for one age: {pair:?}");
        assert!(pair[0].1 < pair[1].1, "out of order: {pair:?}");
    }
}

proptest! {
    #[test]
    fn an_entry_gives_back_its_parts(
        tag in 0_u64..1 << 40,
        backend in 0..MAX_BACKENDS,
        rank in 0_usize..8,
        epoch in 0..EPOCHS,
    ) {
        let word = FlowWord::new(tag, backend, RANKS[rank], Epoch(epoch));
        prop_assert_eq!(
            (word.tag(), word.backend_id(), word.rank(), word.epoch()),
            (tag, backend, RANKS[rank], Epoch(epoch))
        );
        prop_assert_eq!(word.is_live(), rank != 0);
        prop_assert_eq!(word.matches(tag), rank != 0);
        prop_assert!(!word.matches(tag ^ 1));
    }
}
