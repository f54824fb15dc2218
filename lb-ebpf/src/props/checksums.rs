//! A checksum changed by differences is the one computed anew (RFC 1624).
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use proptest::{collection::vec, prelude::*};

use crate::checksum::{Delta, ipv4_header_is_right};

/// The sum of big-endian words in ones' complement arithmetic, the slow way.
fn sum(words: &[u8]) -> u64 {
    let sum: u64 = words
        .chunks(2)
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    match sum {
        0 => 0,
        _ => (sum - 1) % 0xffff + 1,
    }
}

fn checksum(words: &[u8]) -> [u8; 2] {
    (!(sum(words) as u16)).to_be_bytes()
}

/// Bytes at a place become others.
#[derive(Clone, Debug)]
enum Rewrite {
    Two(usize, [u8; 2]),
    Four(usize, [u8; 4]),
    Sixteen(usize, [u8; 16]),
}

const WORDS: usize = 20;

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let extreme = prop_oneof![Just(0_u8), Just(0xff), any::<u8>()];
    let bytes = vec(extreme, 16);
    (0..3, 0..WORDS, bytes).prop_map(|(size, word, bytes)| {
        let take = |n: usize| &bytes[..n];
        let at = |n: usize| (word * 2).min(WORDS * 2 - n);
        match size {
            0 => Rewrite::Two(at(2), take(2).try_into().unwrap()),
            1 => Rewrite::Four(at(4), take(4).try_into().unwrap()),
            _ => Rewrite::Sixteen(at(16), take(16).try_into().unwrap()),
        }
    })
}

fn swap<const N: usize>(data: &mut [u8], at: usize, new: [u8; N]) -> [u8; N] {
    let place = &mut data[at..at + N];
    let old = (&*place).try_into().unwrap();
    place.copy_from_slice(&new);
    old
}

fn apply(data: &mut [u8], rewrites: &[Rewrite]) -> Delta {
    rewrites.iter().fold(Delta::NONE, |delta, one| match *one {
        Rewrite::Two(at, new) => delta.swap2(swap(data, at, new), new),
        Rewrite::Four(at, new) => delta.swap4(swap(data, at, new), new),
        Rewrite::Sixteen(at, new) => {
            let old = swap(data, at, new);
            Delta::NONE
                .swap16(
                    lb_common::Address(old).words(),
                    lb_common::Address(new).words(),
                )
                .plus(delta)
        }
    })
}

/// A ones' complement number without its second zero.
fn value(field: [u8; 2]) -> u64 {
    u64::from(u16::from_be_bytes(field)) % 0xffff
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_right_checksum_stays_right(
        mut data in vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], WORDS * 2),
        rewrites in vec(rewrite(), 0..8),
    ) {
        data[0] |= 1;
        let before = checksum(&data);
        let delta = apply(&mut data, &rewrites);
        // All zero data has two right sums, and no packet.
        prop_assume!(data.iter().any(|byte| *byte != 0));
        prop_assert_eq!(delta.apply(before), checksum(&data));
        let udp = match checksum(&data) {
            [0, 0] => [0xff, 0xff],
            other => other,
        };
        if before != [0, 0] {
            prop_assert_eq!(delta.apply_udp(before), udp);
        }
        prop_assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn a_wrong_checksum_stays_exactly_as_wrong(
        mut data in vec(any::<u8>(), WORDS * 2),
        rewrites in vec(rewrite(), 0..8),
        field: [u8; 2],
    ) {
        let error = |data: &[u8], field| (value(field) + 0xffff - value(checksum(data))) % 0xffff;
        let before = error(&data, field);
        let delta = apply(&mut data, &rewrites);
        prop_assert_eq!(error(&data, delta.apply(field)), before);
        if field != [0, 0] {
            prop_assert_eq!(error(&data, delta.apply_udp(field)), before);
            prop_assert_ne!(delta.apply_udp(field), [0, 0]);
        }
    }

    #[test]
    fn the_ipv4_header_check_agrees_with_the_slow_sum(header: [[u8; 4]; 5], right: bool) {
        let mut bytes = header.concat();
        if right {
            bytes[10..12].copy_from_slice(&[0, 0]);
            let check = checksum(&bytes);
            bytes[10..12].copy_from_slice(&check);
        }
        let words = core::array::from_fn(|n| bytes[n * 4..n * 4 + 4].try_into().unwrap());
        prop_assert_eq!(ipv4_header_is_right(words), sum(&bytes) == 0xffff);
        prop_assert!(!right || ipv4_header_is_right(words));
    }
}
