//! The bytes: what goes into a word comes out of it, and no map value has padding.

use super::*;
use crate::flow::MAX_BACKENDS;
use crate::hash::FlowTuple;

#[test]
fn a_flow_word_gives_back_its_parts() {
    for (tag, id, rank, epoch) in [
        (0, 0, FlowRank::Probation, 0),
        (
            0xff_ffff_ffff,
            MAX_BACKENDS - 1,
            FlowRank::ClosingProven,
            15,
        ),
        (0x12_3456_789a, 77, FlowRank::Idle, 9),
    ] {
        let word = FlowWord::new(tag, id, rank, Epoch(epoch));
        let parts = (word.tag(), word.backend_id(), word.rank(), word.epoch());
        assert_eq!(parts, (tag, id, rank, Epoch(epoch)));
        assert!(word.is_live() && word.matches(tag) && !word.matches(tag ^ 1));
    }
    assert!(!FlowWord::FREE.is_live());
}

#[test]
fn lines_are_lines_and_half_lines_half() {
    assert_eq!(size_of::<BackendEntry>(), 64);
    assert_eq!(size_of::<ServiceEntry>(), 64);
    assert_eq!(size_of::<Control>() % 64, 0);
    assert_eq!(core::mem::offset_of!(Control, multipliers), 64);
    assert_eq!(size_of::<EndpointSlot>(), 32);
    assert_eq!(size_of::<NextHop>(), 32);
    assert_eq!(size_of::<ReturnHop>(), 8);
}

#[test]
fn every_drop_reason_has_a_number_of_its_own_in_order_and_a_label() {
    for (number, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, number);
        assert!(!reason.label().is_empty() && !reason.help().is_empty());
    }
    let mut labels: [&str; DropReason::ALL.len()] =
        core::array::from_fn(|n| DropReason::ALL[n].label());
    labels.sort_unstable();
    assert!(labels.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn another_key_another_port_and_another_family_give_another_hash() {
    let tuple = FlowTuple {
        client: Address::v4([10, 0, 0, 1]),
        vip: Address::v4([192, 0, 2, 1]),
        client_port: [0x30, 0x39],
        vip_port: [0, 80],
        protocol: 6,
    };
    let key = &HashKey([1, 2]).expand();
    let hash = tuple.hash(key);
    assert_eq!(hash, tuple.hash(key));
    assert_ne!(hash, tuple.hash(&HashKey([2, 1]).expand()));
    assert_ne!(
        hash,
        FlowTuple {
            client_port: [0x30, 0x3a],
            ..tuple
        }
        .hash(key)
    );
    assert_ne!(
        hash,
        FlowTuple {
            protocol: 17,
            ..tuple
        }
        .hash(key)
    );
    assert_ne!(tuple.hash_v4(key), tuple.hash_v6(key));
}

#[test]
fn the_two_sets_of_a_flow_differ_and_lead_to_each_other() {
    for n in 0..10_000_u64 {
        let hash = FlowHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let sets = hash.sets(1023, 10);
        assert_ne!(sets.first, sets.second);
        assert!(sets.first < 1024 && sets.second < 1024 && sets.tag < 1 << 40);
    }
}

#[test]
fn a_load_bears_flows_by_weight_and_its_product_fits_a_word() {
    let load = Load::new(11, 3);
    assert_eq!(load.with(0), 12 * u64::from(u32::MAX / 3));
    assert_eq!(load.with(7), 19 * u64::from(u32::MAX / 3));
    assert_eq!(Load::UNKNOWN.with(7), 0);
    // Twice the flows at twice the weight are the same, up to what a flow weighs.
    for weight in [1, 7, 1000, 999_983, 2_000_000] {
        let one = Load::new(500 * weight - 1, weight).with(0);
        let other = Load::new(500 * 2 * weight - 1, 2 * weight).with(0);
        assert!(one.abs_diff(other) <= one / 500, "{weight}: {one} {other}");
    }
    // Never as much as one that takes none; more flows than there are numbers are not known, at any weight.
    for weight in [0, 1, 1000, u32::MAX] {
        let most = Load::new(u32::MAX - 1, weight).with(0);
        assert!((1..u64::MAX).contains(&most), "{weight}: {most}");
        for (flows, since) in [(u32::MAX, 0), (u32::MAX - 1, 1), (0, u64::MAX)] {
            let found = Load::new(flows, weight).with(since);
            assert_eq!(found, 0, "{weight}: {flows} and {since}");
        }
    }
}

#[test]
fn a_pick_is_its_number() {
    let all = [
        Pick::Flow,
        Pick::Fields,
        Pick::Random,
        Pick::Turn,
        Pick::Least,
    ];
    for pick in all {
        assert_eq!(Pick::from_u8(pick as u8), Some(pick));
    }
    assert_eq!(Pick::from_u8(all.len() as u8), None);
}

#[test]
fn tags_are_counted_without_priority_and_keep_that_of_others() {
    use crate::vlan::{TPID_8021AD, TPID_8021Q, Tags};
    let (outer, inner) = (Tags::tag(TPID_8021AD, 4094), Tags::tag(TPID_8021Q, 1));
    assert_eq!(outer, [0x88, 0xa8, 0x0f, 0xfe]);
    let (one, two) = (Tags([inner, [0; 4]]), Tags([outer, inner]));
    assert_eq!([Tags::NONE, one, two].map(|tags| tags.count()), [0, 1, 2]);
    let mut urgent = two;
    urgent.0[0][2] |= 0xf0;
    assert_eq!(urgent.plain(), two);
    assert_eq!(two.with_priority_of(&urgent), urgent);
    assert_eq!(
        one.with_priority_of(&urgent).0,
        [[0x81, 0, 0xf0, 1], [0; 4]]
    );
    let priority = |vlan| Tags([Tags::tag(TPID_8021Q, vlan), [0; 4]]);
    assert!(priority(0).is_priority_alone() && !priority(1).is_priority_alone());
    assert!(!Tags([priority(0).0[0], inner]).is_priority_alone());
}
