//! Numbers that stay, rest and run out.

use std::collections::BTreeSet;

use super::hops::{self, Hops};
use super::*;
use crate::fixture::{config, key, name};

const TWO: &str = "
    web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80
    dns 192.0.2.1:53 a=10.0.0.1:53
";
const SECOND: u64 = 1_000_000_000;

fn sizes() -> Sizes {
    Sizes::from(&config("").limits)
}

fn assigned(text: &str) -> Ids {
    let mut ids = Ids::default();
    assert!(ids.assign(&config(text), sizes(), 0).unwrap());
    ids
}

fn id(ids: &Ids, backend: &str) -> u32 {
    ids.backend(&key(backend)).unwrap().id
}

/// Slices of all rings, in use and at rest, are even and apart.
#[track_caller]
fn check_rings(ids: &Ids) {
    let used = ids.services.values();
    let used = used.map(|id| (id.ring_base, id.ring_capacity * 2));
    let resting = ids.freed_rings.iter().map(|ring| (ring.base, ring.length));
    let mut all: Vec<_> = used.chain(resting).collect();
    all.sort_unstable();
    assert!(
        all.iter()
            .all(|(base, length)| base % 2 == 0 && length % 4 == 0)
    );
    assert!(all.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "{all:?}");
}

#[test]
fn numbers_stay_through_reorder_reload_and_the_disk() {
    let mut ids = assigned(TWO);
    let before = ids.clone();
    let reordered: String = TWO.lines().rev().map(|l| format!("{l}\n")).collect();
    assert!(!ids.assign(&config(&reordered), sizes(), SECOND).unwrap());
    let text = serde_json::to_string(&ids).unwrap();
    assert_eq!(serde_json::from_str::<Ids>(&text).unwrap(), before);
    check_rings(&ids);
}

#[test]
fn a_backend_keeps_its_id_while_others_come_and_go() {
    let mut ids = assigned(TWO);
    let b = id(&ids, "web/b");
    let more = "web 192.0.2.1:80 0=10.0.0.9:80 b=10.0.0.2:80 c=10.0.0.3:80";
    assert!(ids.assign(&config(more), sizes(), SECOND).unwrap());
    assert_eq!(id(&ids, "web/b"), b);
    let all: BTreeSet<u32> = ids.backends().map(|(_, b)| b.id).collect();
    assert_eq!(all.len(), 3);
    assert!(ids.quarantined().all(|resting| !all.contains(&resting)));
    check_rings(&ids);
}

#[test]
fn a_backend_with_another_address_or_port_has_another_id() {
    for moved in ["a=10.0.0.7:80", "a=10.0.0.1:81"] {
        let mut ids = assigned(TWO);
        let before = id(&ids, "web/a");
        let text = format!("web 192.0.2.1:80 {moved} b=10.0.0.2:80");
        ids.assign(&config(&text), sizes(), 0).unwrap();
        assert_ne!(id(&ids, "web/a"), before);
    }
}

#[test]
fn a_service_with_another_address_has_another_index_and_its_backends_other_ids() {
    let mut ids = assigned(TWO);
    let before = ids.clone();
    let text = TWO.replace("192.0.2.1:80", "192.0.2.2:80");
    ids.assign(&config(&text), sizes(), 0).unwrap();
    let web = name("web");
    assert_ne!(ids.services[&web].index, before.services[&web].index);
    assert_ne!(id(&ids, "web/a"), id(&before, "web/a"));
    assert_eq!(id(&ids, "dns/a"), id(&before, "dns/a"));
    check_rings(&ids);
}

/// What happens to a freed id, in order; the id is to be free at the end or not.
enum Then {
    Written(u64),
    Swept { began: u64, flows: u64 },
    Released(u64),
    Restarted,
}

#[track_caller]
fn check_reuse(events: &[Then], reused: bool) {
    let mut ids = assigned(TWO);
    let old = id(&ids, "web/a");
    let without = TWO.replace("a=10.0.0.1:80 ", "");
    ids.assign(&config(&without), sizes(), 0).unwrap();
    let mut now = 0;
    for event in events {
        match *event {
            Then::Written(at) => {
                now = at;
                ids.written(at);
            }
            Then::Swept { began, flows } => {
                now = now.max(began);
                ids.swept(began, &BTreeMap::from([(old, flows)]));
            }
            Then::Released(at) => {
                now = at;
                ids.release(at);
            }
            Then::Restarted => {
                let text = serde_json::to_string(&ids).unwrap();
                ids = serde_json::from_str(&text).unwrap();
                ids.restart_rests();
            }
        }
    }
    ids.assign(&config(TWO), sizes(), now).unwrap();
    assert_eq!(id(&ids, "web/a") == old, reused);
}

#[test]
fn a_freed_backend_id_rests_until_a_later_sweep_finds_no_flow_and_the_grace_is_over() {
    use Then::*;
    let empty = |began| Swept { began, flows: 0 };
    check_reuse(&[Written(1), empty(2), Released(1 + BACKEND_GRACE)], true);
    check_reuse(&[], false);
    check_reuse(&[Released(u64::MAX)], false);
    check_reuse(&[Written(1), Released(u64::MAX)], false);
    check_reuse(&[empty(2), Written(3), Released(u64::MAX)], false);
    check_reuse(&[Written(3), empty(2), Released(u64::MAX)], false);
    check_reuse(&[Written(1), empty(2), Released(BACKEND_GRACE)], false);
    let flows = |began| Swept { began, flows: 1 };
    check_reuse(&[Written(1), flows(2), Released(u64::MAX)], false);
    check_reuse(&[Written(1), empty(2), flows(3), Released(u64::MAX)], false);
    check_reuse(&[Written(1), flows(2), empty(3), Released(u64::MAX)], true);
    check_reuse(
        &[Written(1), empty(2), Restarted, Released(u64::MAX)],
        false,
    );
    let again = [
        Written(1),
        Restarted,
        Written(5),
        empty(6),
        Released(5 + BACKEND_GRACE),
    ];
    check_reuse(&again, true);
}

#[test]
fn a_freed_service_index_and_ring_rest_a_second() {
    for (at, reused) in [(SECOND, false), (SECOND + 5, true)] {
        let mut ids = assigned(TWO);
        let before = ids.services[&name("web")].clone();
        ids.assign(&config("dns 192.0.2.1:53 a=10.0.0.1:53"), sizes(), 0)
            .unwrap();
        ids.written(5);
        let text = format!("{TWO}\n new 192.0.2.3:1 a=10.0.0.5:1");
        ids.assign(&config(&text), sizes(), at).unwrap();
        check_rings(&ids);
        let indexes: Vec<u32> = ids.services.values().map(|s| s.index).collect();
        assert_eq!(indexes.contains(&before.index), reused);
    }
}

#[test]
fn another_ring_size_moves_the_ring_and_nothing_else() {
    let mut ids = assigned(TWO);
    let before = ids.clone();
    let mut bigger = (*config(TWO)).clone();
    bigger.services.get_mut(&name("web")).unwrap().ring_size = Some(127);
    ids.assign(&bigger, sizes(), 0).unwrap();
    check_rings(&ids);
    let (was, is) = (&before.services[&name("web")], &ids.services[&name("web")]);
    assert_eq!(was.index, is.index);
    assert_eq!(is.ring_capacity, 128);
    assert_eq!(before.backends, ids.backends);
}

#[track_caller]
fn check_exhausted(text: &str, sizes: Sizes, limit: &str) {
    let mut ids = Ids::default();
    let error = ids.assign(&config(text), sizes, 0).unwrap_err();
    assert_eq!(error.limit, limit, "{error}");
    assert!(error.to_string().contains(limit));
    assert_eq!(ids, Ids::default(), "nothing changes on an error");
}

#[test]
fn running_out_names_the_limit_and_changes_nothing() {
    check_exhausted(
        TWO,
        Sizes {
            services: 1,
            ..sizes()
        },
        "services",
    );
    check_exhausted(
        TWO,
        Sizes {
            backends: 2,
            ..sizes()
        },
        "backends",
    );
    check_exhausted(
        TWO,
        Sizes {
            ring_slots: 246,
            ..sizes()
        },
        "ring-slots",
    );
    let mut hops = Hops::default();
    let address = crate::fixture::ip("10.0.0.1");
    assert_eq!(hops.assign((address, 1), 2, 0).unwrap(), 1);
    let error = hops.assign((address, 2), 2, 0).unwrap_err();
    assert_eq!(error.limit, "next-hops");
}

#[test]
fn a_hop_is_new_on_another_interface_and_rests_when_it_is_freed() {
    let (mut hops, address) = (Hops::default(), crate::fixture::ip("10.0.0.1"));
    let first = hops.assign((address, 1), 9, 0).unwrap();
    assert_ne!(first, hops::NOWHERE);
    assert_eq!(hops.assign((address, 1), 9, 0).unwrap(), first);
    assert_ne!(hops.assign((address, 2), 9, 0).unwrap(), first);
    assert!(hops.retain(|hop| hop.1 == 2));
    assert_ne!(hops.assign((address, 3), 9, u64::MAX).unwrap(), first);
    hops.written(5);
    assert_ne!(hops.assign((address, 4), 9, 6).unwrap(), first);
    assert_eq!(
        hops.assign((address, 5), 9, 5 + INDEX_GRACE).unwrap(),
        first
    );
}
