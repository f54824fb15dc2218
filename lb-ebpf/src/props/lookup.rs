//! The endpoint table finds what was placed in it, and nothing else.

use std::collections::BTreeSet;

use bytemuck::Zeroable;
use lb_common::{
    Address, BackendEntry, EndpointKey, EndpointKind, ServiceEntry, endpoint::MAX_PROBES,
};
use proptest::{collection::vec, prelude::*};

use crate::{
    mem::{Endpoint, Geometry, MemTables},
    reply,
    service::{self, Live},
    tables::PackedKey,
};

const GEOMETRY: Geometry = Geometry {
    flow_sets: 1,
    endpoint_slots: 64,
    services: 32,
    ring_slots: 2,
    backends: 32,
    next_hops: 1,
    nat_flows: 16,
};

fn endpoint() -> impl Strategy<Value = Endpoint> {
    // Few addresses and ports, so that keys meet.
    (
        0..4_u8,
        0..3_u8,
        prop_oneof![Just(6), Just(17)],
        0..3_usize,
        0..32_u32,
        any::<bool>(),
    )
        .prop_map(|(host, port, protocol, kind, index, v6)| {
            let kind = [
                EndpointKind::Vip,
                EndpointKind::VipAddress,
                EndpointKind::Backend,
            ][kind];
            let bare = kind == EndpointKind::VipAddress;
            Endpoint {
                key: EndpointKey {
                    address: match v6 {
                        true => Address::v6([0xfd; 16].map(|byte: u8| byte ^ host)),
                        false => Address::v4([10, 0, 0, host]),
                    },
                    port: if bare { [0, 0] } else { [0, port] },
                    protocol: if bare { 0 } else { protocol },
                },
                kind,
                index,
            }
        })
}

/// As a control plane makes them: a VIP once, a backend's endpoint as often as it has services.
fn distinct(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut seen = BTreeSet::new();
    endpoints
        .into_iter()
        .filter(|e| {
            let which = match e.kind {
                EndpointKind::Backend => Some(e.index),
                _ => None,
            };
            seen.insert((e.key, e.kind, which))
        })
        .collect()
}

fn tables() -> MemTables {
    let mut tables = MemTables::new(GEOMETRY, [1, 2]);
    tables.services.fill(ServiceEntry {
        used: 1,
        ..ServiceEntry::zeroed()
    });
    tables.backends.fill(BackendEntry {
        used: 1,
        ..BackendEntry::zeroed()
    });
    tables
}

fn backends(tables: &MemTables, key: &EndpointKey) -> Vec<u32> {
    let live = Live::of(&tables.control).0;
    let key = PackedKey::new(key, [0, 0]);
    let mut found: Vec<_> = (0..MAX_PROBES)
        .map(|distance| reply::candidate(tables, key, live, distance))
        .take_while(|id| *id != reply::END_OF_SEARCH)
        .filter(|id| *id != reply::SOMEBODY_ELSE)
        .collect();
    found.sort_unstable();
    found
}

#[track_caller]
fn check(tables: &MemTables, placed: &[Endpoint], asked: &[Endpoint]) {
    for Endpoint { key, .. } in placed.iter().chain(asked) {
        let of = |kind| {
            placed
                .iter()
                .filter(move |e| e.kind == kind && e.key == *key)
        };
        let vip = service::at(tables, key).map(|found| found.unwrap().index);
        assert_eq!(
            vip,
            of(EndpointKind::Vip).map(|e| e.index).next(),
            "{key:?}"
        );
        let is_vip = service::is_vip(tables, key.address);
        let expected = placed
            .iter()
            .any(|e| e.kind == EndpointKind::VipAddress && e.key.address == key.address);
        assert_eq!(is_vip, expected, "{key:?}");
        let mut ids: Vec<_> = of(EndpointKind::Backend).map(|e| e.index).collect();
        ids.sort_unstable();
        assert_eq!(backends(tables, key), ids, "{key:?}");
    }
}

proptest! {
    #[test]
    fn what_is_placed_is_found_and_nothing_else(
        generations in vec(vec(endpoint(), 0..24), 1..4),
        asked in vec(endpoint(), 8),
    ) {
        let mut tables = tables();
        let mut live = Vec::new();
        for endpoints in generations {
            let endpoints = distinct(endpoints);
            // More than a lookup looks at under one key has no place: then the old ones stay.
            if tables.publish_endpoints(&endpoints).is_ok() {
                live = endpoints;
            }
            check(&tables, &live, &asked);
        }
    }
}

#[test]
fn a_server_in_as_many_services_as_a_lookup_looks_at_has_a_place_and_one_more_has_none() {
    let many = |count| {
        let endpoints: Vec<_> = (0..count)
            .map(|index| Endpoint {
                key: EndpointKey {
                    address: Address::v4([10, 0, 0, 1]),
                    port: [0, 80],
                    protocol: 6,
                },
                kind: EndpointKind::Backend,
                index,
            })
            .collect();
        tables().publish_endpoints(&endpoints)
    };
    assert!(many(MAX_PROBES).is_ok());
    assert!(many(MAX_PROBES + 1).is_err());
}
