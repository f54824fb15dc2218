//! Sizes of maps that agree with each other, and those that do not.

use super::*;
use lb_common::backend::DEVICES;

const LIMITS: Limits = Limits {
    flows: 1 << 16,
    services: 16,
    backends: 64,
    ring_slots: 1 << 14,
    next_hops: 32,
    source_ranges: 64,
    nat_flows: 128,
    affinities: 64,
};

fn geometry() -> Geometry {
    Geometry::of(&LIMITS, 2)
}

fn header() -> Header {
    geometry().header(7, 1)
}

#[test]
fn limits_survive_the_way_through_a_header() {
    let found = Geometry::from_header(&header());
    assert_eq!(found, geometry());
    assert_eq!(found.limits(), LIMITS);
    assert!(limit_differences(&found.limits(), &LIMITS).is_empty());
    let wanted = Limits {
        flows: 1 << 17,
        ..LIMITS
    };
    assert_eq!(
        limit_differences(&LIMITS, &wanted),
        ["limits.flows is 131072, the live maps have 65536"]
    );
}

#[test]
fn what_we_write_we_take() {
    let limits = [
        LIMITS,
        Limits {
            flows: 1 << 10,
            services: 1,
            backends: 1,
            ring_slots: 1 << 10,
            next_hops: 1,
            source_ranges: 64,
            nat_flows: 16,
            affinities: 64,
        },
        Limits {
            flows: 1 << 27,
            services: 1 << 16,
            backends: 1 << 17,
            ring_slots: 1 << 30,
            next_hops: 1 << 20,
            source_ranges: 64,
            nat_flows: 1 << 26,
            affinities: 64,
        },
    ];
    for limits in limits {
        for cpus in [1, 2, 128] {
            let geometry = Geometry::of(&limits, cpus);
            let header = geometry.header(1, 1);
            assert_eq!(check_header(&header), Vec::<String>::new());
            let control = geometry.control(HashKey([1, 2]));
            assert_eq!(check_control(&control, &header), Vec::<String>::new());
        }
    }
}

#[test]
fn every_changed_field_of_a_header_is_noticed() {
    type Change = fn(&mut Header);
    let changes: &[(&str, Change)] = &[
        ("magic", |h| h.magic ^= 1),
        ("layout", |h| {
            h.layout_version = h.layout_version.wrapping_add(1)
        }),
        ("flow sets", |h| h.flow_sets = 3),
        ("flows", |h| h.flow_sets = 1),
        ("flow base bits", |h| h.flow_base_bits ^= 1),
        ("endpoint slots", |h| h.endpoint_slots = 0),
        ("services", |h| h.services = 0),
        ("services", |h| h.services = u32::MAX),
        ("ring slots", |h| h.ring_slots = 1025),
        ("ring-slots", |h| h.ring_slots = 0),
        ("backends", |h| h.backends = 0),
        ("backends", |h| h.backends = 1 << 18),
        ("next-hops", |h| h.next_hops = 0),
        ("no CPUs", |h| h.cpus = 0),
        ("lines per CPU", |h| h.lines_per_cpu ^= 8),
        ("owner epoch", |h| h.owner_epoch = 0),
        ("complete", |h| h.complete = 2),
        ("source-ranges", |h| h.source_ranges = 1),
        ("nat-flows", |h| h.nat_flows = 1),
        ("NAT flows", |h| h.nat_flows = 65),
        ("reserved", |h| h.reserved[3] = 1),
        ("affinity sets", |h| h.affinity_sets = 0),
        ("affinity sets", |h| h.affinity_sets = 1 << 25),
    ];
    for (words, change) in changes {
        let mut changed = header();
        change(&mut changed);
        let found = check_header(&changed);
        assert!(
            found.iter().any(|line| line.contains(words)),
            "{words}: {found:?}"
        );
    }
}

#[test]
fn a_control_block_of_another_geometry_is_noticed() {
    let good = geometry().control(HashKey([1, 2]));
    type Change = fn(&mut Control);
    let changes: &[Change] = &[
        |c| c.live ^= 2,
        |c| c.flow_mask ^= 1,
        |c| c.flow_base_bits ^= 1,
        |c| c.endpoint_mask ^= 1,
        |c| c.lines_per_cpu ^= 1,
        |c| c.cpus ^= 1,
    ];
    for change in changes {
        let mut changed = good;
        change(&mut changed);
        assert_eq!(check_control(&changed, &header()).len(), 1);
    }
}

fn infos() -> BTreeMap<&'static str, MapInfo> {
    let mut infos: BTreeMap<_, _> = geometry()
        .arrays()
        .into_iter()
        .map(|shape| {
            let info = MapInfo {
                map_type: MAP_TYPE_ARRAY,
                id: 1,
                key_size: 4,
                value_size: u32::try_from(shape.value_size).unwrap(),
                max_entries: shape.entries,
                flags: F_MMAPABLE,
            };
            (shape.name, info)
        })
        .collect();
    let redirects = MapInfo {
        map_type: MAP_TYPE_DEVMAP,
        id: 2,
        key_size: 4,
        value_size: 8,
        max_entries: DEVICES,
        flags: 0,
    };
    infos.insert(REDIRECTS, redirects);
    let source_ranges = MapInfo {
        map_type: MAP_TYPE_LPM_TRIE,
        id: 3,
        key_size: 24,
        value_size: 4,
        max_entries: LIMITS.source_ranges,
        flags: F_NO_PREALLOC,
    };
    infos.insert(SOURCE_RANGES, source_ranges);
    infos
}

#[test]
fn every_map_that_is_missing_or_differs_is_named() {
    assert_eq!(check_maps(&geometry(), &infos()), Vec::<String>::new());
    type Change = fn(&mut MapInfo);
    let changes: &[Change] = &[
        |i| i.map_type = 1,
        |i| i.key_size = 8,
        |i| i.value_size = 12,
        |i| i.max_entries = 3,
    ];
    for name in infos().into_keys() {
        for change in changes {
            let mut changed = infos();
            change(changed.get_mut(name).unwrap());
            let found = check_maps(&geometry(), &changed);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(&format!("map {name}:")), "{found:?}");
        }
        let mut changed = infos();
        changed.remove(name);
        assert_eq!(
            check_maps(&geometry(), &changed),
            [format!("map {name}: its pin is missing")]
        );
    }
}

#[test]
fn a_map_that_cannot_be_mapped_is_named() {
    let mut changed = infos();
    changed.get_mut("rings").unwrap().flags = 0;
    assert_eq!(
        check_maps(&geometry(), &changed),
        ["map rings: flags is 0, expected 1024"]
    );
}
