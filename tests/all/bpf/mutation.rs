//! Pins and values that we never wrote are refused with a way out, and never misread (fault K3).

use std::cell::RefCell;
use std::fs;
use std::mem::offset_of;

use lb_common::{BackendEntry, Control, Device, EndpointSlot, Header, NextHop, ServiceEntry};
use lb_userspace::dataplane::bpf::{Bpf, BpfError};
use lb_userspace::dataplane::{Actual, Dataplane, DataplaneError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::room::{LIMITS, Room, ifindex, in_room};
use super::writes::{image, prepare, write};

const HEADER: usize = size_of::<Header>();
const CONTROL: usize = size_of::<Control>();

/// Opening must be refused, say why, and show the way out; undoing the change must heal it.
#[track_caller]
fn check_refused(
    room: &Room,
    what: &str,
    words: &str,
    change: impl Fn(&Room),
    undo: impl Fn(&Room),
) {
    change(room);
    let error = room.refused();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            BpfError::Unusable { .. } | BpfError::ForeignLayout { .. }
        ),
        "{what}: {text}"
    );
    assert!(text.contains(words), "{what}: {text}");
    assert!(text.contains("fairlead unload"), "{what}: {text}");
    undo(room);
    drop(Bpf::open(&room.settings()).unwrap_or_else(|error| panic!("{what}: {error}")));
}

#[test]
fn every_field_of_the_header_and_the_control_block_is_checked() {
    in_room(|room| {
        prepare(room);
        let header: &[(usize, &str)] = &[
            (offset_of!(Header, magic), "magic"),
            (offset_of!(Header, magic) + 7, "magic"),
            (offset_of!(Header, layout_version), "layout"),
            (offset_of!(Header, flow_sets), "flow sets"),
            (offset_of!(Header, flow_base_bits), "flow base bits"),
            (offset_of!(Header, endpoint_slots), "endpoint slots"),
            (offset_of!(Header, services), "counter lines"),
            (offset_of!(Header, ring_slots), "ring slots"),
            (offset_of!(Header, ring_slots) + 1, "rings"),
            (offset_of!(Header, source_ranges), "source_ranges"),
            (offset_of!(Header, backends), "counter lines"),
            (offset_of!(Header, next_hops), "next_hops"),
            (offset_of!(Header, cpus), "counters"),
            (offset_of!(Header, lines_per_cpu), "counter lines"),
            (offset_of!(Header, complete), "complete"),
            (offset_of!(Header, complete) + 7, "complete"),
            (offset_of!(Header, nat_flows), "NAT flows"),
            (offset_of!(Header, reserved), "reserved"),
            (offset_of!(Header, reserved) + 23, "reserved"),
            (offset_of!(Header, affinity_sets), "affinities"),
        ];
        for &(offset, words) in header {
            let flip = |room: &Room| {
                room.poke("header", 0, |bytes: &mut [u8; HEADER]| {
                    bytes[offset] ^= 0x43
                });
            };
            check_refused(room, &format!("header byte {offset}"), words, flip, flip);
        }
        let control: &[(usize, &str)] = &[
            (offset_of!(Control, live), "generation"),
            (offset_of!(Control, flow_mask), "flow mask"),
            (offset_of!(Control, flow_base_bits), "flow base bits"),
            (offset_of!(Control, endpoint_mask), "endpoint mask"),
            (offset_of!(Control, lines_per_cpu), "counter lines"),
            (offset_of!(Control, cpus), "CPUs"),
            (offset_of!(Control, multipliers), "multipliers"),
            (offset_of!(Control, multipliers) + 127, "multipliers"),
            (offset_of!(Control, tunnel_v4) + 3, "IPv4 tunnels"),
            (offset_of!(Control, tunnel_v4_spread) + 1, "IPv4 tunnels"),
            (offset_of!(Control, tunnel_v6) + 15, "IPv6 tunnels"),
            (offset_of!(Control, tunnel_v6_spread), "IPv6 tunnels"),
            (offset_of!(Control, nat_v4) + 3, "IPv4 clients"),
            (offset_of!(Control, nat_v6) + 15, "IPv6 clients"),
            (offset_of!(Control, nat_mask), "NAT mask"),
            (offset_of!(Control, flow_cpus) + 1, "new flows spread"),
            (offset_of!(Control, reserved), "reserved"),
            (offset_of!(Control, reserved) + 7, "reserved"),
            (offset_of!(Control, nat_idle), "NAT are kept"),
            (offset_of!(Control, nat_idle) + 28, "NAT are kept"),
        ];
        for &(offset, words) in control {
            let flip = |room: &Room| {
                room.poke("control", 0, |bytes: &mut [u8; CONTROL]| {
                    bytes[offset] ^= 0x43
                });
            };
            check_refused(room, &format!("control byte {offset}"), words, flip, flip);
        }
        let fill = |value: u8| {
            move |room: &Room| room.poke("header", 0, |bytes: &mut [u8; HEADER]| bytes.fill(value))
        };
        fill(0xff)(room);
        assert!(room.refused().to_string().contains("magic"));
        fill(0x5a)(room);
        assert!(room.refused().to_string().contains("magic"));
    });
}

#[test]
fn every_pin_that_is_missing_or_another_map_is_noticed() {
    in_room(|room| {
        prepare(room);
        let names = [
            "control",
            "endpoints",
            "rules",
            "services",
            "rings",
            "backends",
            "next_hops",
            "devices",
            "redirects",
            "flows",
            "return_hops",
            "counters",
        ];
        let aside = room.pins().join("aside");
        for name in names {
            let pin = room.pins().join(name);
            let words = format!("map {name}: its pin is missing");
            let hide = |_: &Room| fs::rename(&pin, &aside).unwrap();
            let show = |_: &Room| fs::rename(&aside, &pin).unwrap();
            check_refused(room, name, &words, hide, show);
        }
        // Everything under a wrong name; `flows` and `return_hops` have the same shape.
        for (one, other) in [
            ("header", "control"),
            ("endpoints", "services"),
            ("rings", "backends"),
            ("next_hops", "devices"),
            ("redirects", "counters"),
            ("flows", "program"),
            ("header", "program"),
        ] {
            let swap = |room: &Room| {
                let (one, other) = (room.pins().join(one), room.pins().join(other));
                fs::rename(&one, &aside).unwrap();
                fs::rename(&other, &one).unwrap();
                fs::rename(&aside, &other).unwrap();
            };
            check_refused(room, &format!("{one} and {other}"), "map ", swap, swap);
        }
    });
}

/// `actual` must be refused with this map in the message.
#[track_caller]
fn check_value<const N: usize>(
    room: &Room,
    map: &'static str,
    index: u32,
    changes: &[(usize, u8)],
) {
    for &(offset, value) in changes {
        let mut before = [0; N];
        room.poke(map, index, |bytes: &mut [u8; N]| {
            before = *bytes;
            assert_ne!(bytes[offset], value, "{map}[{index}] byte {offset}");
            bytes[offset] = value;
        });
        let (mut bpf, _) = room.open();
        match bpf.actual() {
            Err(error @ DataplaneError::Invalid { map: named, .. }) => {
                assert_eq!(named, map, "byte {offset}");
                assert!(error.to_string().contains("fairlead unload"), "{error}");
            }
            other => panic!("{map}[{index}] byte {offset} = {value}: {other:?}"),
        }
        room.poke(map, index, |bytes: &mut [u8; N]| *bytes = before);
        bpf.actual().unwrap();
    }
}

#[test]
fn values_that_we_never_write_are_refused() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let actual = bpf.actual().unwrap();
        drop(bpf);
        let live = u32::from(actual.generation) * (bpf_slots());
        let slot = (live..live + bpf_slots())
            .find(|&index| {
                let mut kind = 0;
                room.poke("endpoints", index, |bytes: &mut [u8; 32]| {
                    kind = bytes[offset_of!(EndpointSlot, kind)];
                });
                kind == 1
            })
            .unwrap();
        check_value::<32>(
            room,
            "endpoints",
            slot,
            &[
                (offset_of!(EndpointSlot, kind), 4),
                (offset_of!(EndpointSlot, kind), 255),
                (offset_of!(EndpointSlot, kind), 2),
                (offset_of!(EndpointSlot, index), 8),
                (offset_of!(EndpointSlot, index) + 3, 1),
                (offset_of!(EndpointSlot, protocol), 0),
                (offset_of!(EndpointSlot, protocol), 47),
                (offset_of!(EndpointSlot, reserved), 1),
            ],
        );
        check_value::<64>(
            room,
            "services",
            0,
            &[
                (offset_of!(ServiceEntry, ring), 1),
                (offset_of!(ServiceEntry, ring) + 3, 1),
                (offset_of!(ServiceEntry, ring) + 4, 33),
                (offset_of!(ServiceEntry, ring) + 7, 1),
                (offset_of!(ServiceEntry, protocol), 1),
                (offset_of!(ServiceEntry, forwarding), 0),
                (offset_of!(ServiceEntry, forwarding), 9),
                (offset_of!(ServiceEntry, family), 6),
                (offset_of!(ServiceEntry, family), 5),
                (offset_of!(ServiceEntry, used), 2),
                (offset_of!(ServiceEntry, pair), 1),
                (offset_of!(ServiceEntry, pair) + 3, 1),
                (offset_of!(ServiceEntry, pair) + 5, 255),
                (offset_of!(ServiceEntry, sources), 99),
                (offset_of!(ServiceEntry, sources) + 3, 1),
                (offset_of!(ServiceEntry, mid_stream), 3),
                (offset_of!(ServiceEntry, reserved2), 1),
                (offset_of!(ServiceEntry, ports), 1),
                (offset_of!(ServiceEntry, length), 1),
                (offset_of!(ServiceEntry, mss), 1),
                (offset_of!(ServiceEntry, pick), 0x80),
                (offset_of!(ServiceEntry, spread), 2),
                (offset_of!(ServiceEntry, quic) + 7, 1),
            ],
        );
        check_value::<64>(
            room,
            "backends",
            2,
            &[
                (offset_of!(BackendEntry, next_hop), 16),
                (offset_of!(BackendEntry, next_hop) + 3, 128),
                (offset_of!(BackendEntry, permissions), 32),
                (offset_of!(BackendEntry, used), 2),
                (offset_of!(BackendEntry, reserved), 1),
                (offset_of!(BackendEntry, service), 8),
                (offset_of!(BackendEntry, service) + 3, 1),
                (offset_of!(BackendEntry, reserved2), 1),
                (offset_of!(BackendEntry, tunnel) + 2, 1),
                (offset_of!(BackendEntry, tunnel) + 7, 128),
                (offset_of!(BackendEntry, reserved3) + 15, 1),
            ],
        );
        check_value::<32>(
            room,
            "next_hops",
            1,
            &[
                (offset_of!(NextHop, resolved), 2),
                (offset_of!(NextHop, reserved), 1),
                (offset_of!(NextHop, used), 2),
                (offset_of!(NextHop, reserved2), 1),
            ],
        );
        check_value::<32>(
            room,
            "devices",
            ifindex("v0") & 255,
            &[
                (offset_of!(Device, ifindex), 200),
                (offset_of!(Device, tagged), 1),
                (offset_of!(Device, tags), 1),
            ],
        );
        let base = u32::from(actual.live_half[&0]) * 32 / 2;
        check_value::<8>(room, "rings", base, &[(0, 32), (3, 1), (4, 32), (7, 255)]);
    });
}

fn bpf_slots() -> u32 {
    let keys = LIMITS.services * 2 + LIMITS.backends;
    (keys * 8).next_power_of_two()
}

/// Everything that the planner would use as an index lies within its map.
fn leads_nowhere(actual: &Actual) -> Option<String> {
    let image = &actual.image;
    for (index, service) in &image.services {
        let end = u64::from(service.ring_base) + 2 * u64::from(service.ring_capacity);
        if end > u64::from(LIMITS.ring_slots)
            || service.ring.len() > service.ring_capacity as usize
            || service.ring.iter().any(|&id| id >= LIMITS.backends)
        {
            return Some(format!("service {index}"));
        }
    }
    for (id, backend) in &image.backends {
        if backend.next_hop >= LIMITS.next_hops || backend.service >= LIMITS.services {
            return Some(format!("backend {id}"));
        }
    }
    for rule in image.ranges.values().flatten() {
        if rule.service >= LIMITS.services {
            return Some(format!("rule {rule:?}"));
        }
    }
    for (key, targets) in &image.endpoints {
        if targets.iter().any(|&(_, index)| index >= LIMITS.backends) {
            return Some(format!("endpoint {key:?}"));
        }
    }
    None
}

#[test]
fn random_damage_is_refused_or_harmless() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let geometry = bpf.geometry();
        write(&mut bpf, &geometry, &image(&[vec![1, 2, 3], vec![4]], 9));
        drop(bpf);
        let config = Config {
            cases: 10_000,
            failure_persistence: None,
            ..Config::default()
        };
        let (mut bpf, _) = room.open();
        let generation = u32::from(bpf.actual().unwrap().generation);
        let live = generation * bpf_slots();
        let strategy = (0..7_usize, any::<u32>(), any::<usize>(), any::<u8>());
        let bpf = RefCell::new(bpf);
        TestRunner::new(config)
            .run(&strategy, |(map, index, offset, value)| {
                fn damage<const N: usize>(
                    room: &Room,
                    map: &str,
                    index: u32,
                    offset: usize,
                    value: u8,
                ) -> u8 {
                    let mut old = 0;
                    room.poke(map, index, |bytes: &mut [u8; N]| {
                        old = std::mem::replace(&mut bytes[offset % N], value);
                    });
                    old
                }
                let hit = |value: u8| match map {
                    0 => damage::<64>(room, "services", index % 2, offset, value),
                    1 => damage::<64>(room, "backends", index % 5, offset, value),
                    2 => damage::<32>(room, "next_hops", index % 3, offset, value),
                    3 => damage::<8>(room, "rings", index % 40, offset, value),
                    4 => damage::<32>(room, "devices", index % 256, offset, value),
                    // The lengths and the one rule.
                    5 => damage::<16>(room, "rules", 2 * (index % 2) + generation, offset, value),
                    _ => damage::<32>(room, "endpoints", live + index % bpf_slots(), offset, value),
                };
                let old = hit(value);
                let found = bpf.borrow_mut().actual();
                hit(old);
                match found {
                    Ok(actual) => prop_assert_eq!(leads_nowhere(&actual), None),
                    Err(error) => {
                        prop_assert!(matches!(error, DataplaneError::Invalid { .. }), "{}", error)
                    }
                }
                Ok(())
            })
            .unwrap();
        bpf.borrow_mut().actual().unwrap();
    });
}
