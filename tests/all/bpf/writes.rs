//! What is written is read back, and what must not be written is refused.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::header::RANGES;
use lb_common::{
    Address, BackendEntry, Device, EndpointKey, EndpointKind, EndpointSlot, Fields, Forwarding,
    Load, NextHop, Permissions, Pick, Protocol, Reach, Rule, Scheduling, Tunnel,
    quic::Lengths,
    sources::{self, Access},
};
use lb_userspace::dataplane::bpf::Geometry;
use lb_userspace::dataplane::{
    Actual, Controls, Dataplane, Image, MapOp, ServiceImage, SourceRange, ranges as rules,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::room::{Room, ifindex, in_room};

fn key(address: Address, port: u16, protocol: u8) -> EndpointKey {
    EndpointKey {
        address,
        port: port.to_be_bytes(),
        protocol,
    }
}

/// Ranges of every second service.
fn ranges(index: u32) -> Arc<[SourceRange]> {
    let range = |address, bits, access| SourceRange {
        address,
        bits,
        access,
    };
    match index % 2 {
        0 => Arc::default(),
        _ => Arc::new([
            range(Address([0; 16]), 0, Access::Deny),
            range(Address::v4([10, 0, 0, 0]), 96 + 8, Access::Allow),
        ]),
    }
}
/// What every second service takes: a prefix, some ports, any protocol.
const REACH: Reach = Reach {
    length: 96 + 24,
    low: 1000,
    high: 2000,
};

pub fn service_image(index: u32, ring: Vec<u32>) -> ServiceImage {
    let number = u8::try_from(index).unwrap();
    let (address, port, reach, protocol) = match index % 2 {
        0 => ([192, 0, 2, number], 80, 0, Protocol::Tcp),
        _ => ([198, 18, number, 0], 0, REACH.word(), Protocol::Any),
    };
    ServiceImage {
        address: Address::v4(address).0,
        port,
        reach,
        protocol: protocol as u8,
        forwarding: 1,
        family: 4,
        idle_epochs: 0,
        mid_stream: u8::try_from(index % 3).unwrap(),
        mss: u16::try_from(index % 2).unwrap() * 1400,
        times: index.is_multiple_of(5),
        shares: index.is_multiple_of(7),
        spread: u8::try_from(index / 3 % 2).unwrap(),
        scheduling: match index % 3 {
            0 => Scheduling::USUAL,
            1 => Scheduling::picking(Pick::Random),
            _ => Scheduling::by(Fields::Vip, 120),
        },
        quic: Lengths::NONE.with(u8::try_from(index % 7).unwrap(), 4),
        sources: ranges(index),
        ring_base: index * 64,
        ring_capacity: 32,
        ring: ring.into(),
    }
}

pub fn backend_entry(id: u32, service: u32, next_hop: u32) -> BackendEntry {
    BackendEntry {
        address: Address::v4([10, 0, 0, u8::try_from(id).unwrap()]).0,
        next_hop,
        permissions: Permissions::ALL,
        used: 1,
        forwarding: Forwarding::Dnat as u8,
        reserved: 0,
        service,
        port: 8080_u16.to_be_bytes(),
        reserved2: [0; 2],
        tunnel: Tunnel::USUAL,
        load: Load::UNKNOWN,
        reserved3: [0; 2],
    }
}

pub fn next_hop(index: u32, interface: u32) -> NextHop {
    NextHop {
        destination: [2, 0, 0, 0, 0, u8::try_from(index).unwrap()],
        resolved: 1,
        source: [2, 0, 0, 0, 1, 1],
        reserved: 0,
        ifindex: interface,
        used: 1,
        mtu: 1500,
        reserved2: 0,
    }
}

/// Values that differ from each other, and with `n`.
pub fn controls(n: u32) -> Controls {
    let n = n & 0x0fff_ffff;
    let [a, b, ..] = n.to_be_bytes();
    Controls {
        nat_v4: [203, 0, 113, 8],
        nat_v4_spread: 7,
        nat_v6: [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16],
        nat_v6_spread: 15,
        nat_ports: lb_common::nat::ports(1024, 2047),
        nat_idle: lb_common::nat::Idle {
            established: 1 + n % 1000,
            ..lb_common::nat::Idle::USUAL
        }
        .table(),
        echo_per_second: n,
        new_flows_per_second: n + 1,
        icmp_errors_per_second: n + 2,
        resets_per_second: n + 3,
        tunnel_v4: [10, a, b, 0],
        tunnel_v4_spread: 0xff,
        tunnel_v6: [0xfd, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, 0, 0],
        tunnel_v6_spread: 0xffff,
    }
}

/// An image with one service a list of backends, one next hop, and `v0`.
pub fn image(rings: &[Vec<u32>], revision: u64) -> Image {
    let interface = ifindex("v0");
    let mut image = Image {
        controls: controls(100),
        config_revision: revision,
        ..Image::default()
    };
    image.next_hops.insert(1, next_hop(1, interface));
    image.devices.insert(
        interface & 255,
        Device::plain(interface, 1500, [2, 0, 0, 0, 1, 1]),
    );
    for (index, ring) in (0_u32..).zip(rings) {
        let service = service_image(index, ring.clone());
        let vip = Address(service.address);
        let one = |kind, at| vec![(kind, at)];
        if service.reach == 0 {
            let endpoints = &mut image.endpoints;
            endpoints.insert(key(vip, 80, 6), one(EndpointKind::Vip, index));
            endpoints.insert(key(vip, 0, 0), one(EndpointKind::VipAddress, 0));
        } else {
            let rule = Rule {
                service: index,
                low: REACH.low,
                high: REACH.high,
                protocol: service.protocol,
                last: 0,
                reserved: [0; 6],
            };
            image.ranges.insert((vip, REACH.length), vec![rule]);
        }
        for &id in ring {
            let entry = backend_entry(id, index, 1);
            let targets = vec![(EndpointKind::Backend, id)];
            image
                .endpoints
                .insert(key(Address(entry.address), 8080, 6), targets);
            image.backends.insert(id, entry);
        }
        image.services.insert(index, service);
    }
    image
}

/// All slots of a generation, each key placed by linear probing. The seed is the first with room.
pub fn place(image: &Image, geometry: &Geometry) -> (u64, Arc<[EndpointSlot]>, Arc<[Rule]>) {
    let empty = EndpointSlot {
        address: [0; 16],
        port: [0; 2],
        protocol: 0,
        kind: 0,
        index: 0,
        reserved: 0,
    };
    let mask = geometry.endpoint_slots - 1;
    let (rules, firsts) = rules::encode(&image.ranges).unwrap();
    let seed = if rules.is_empty() { 1 } else { 1 | RANGES };
    let prefixes = firsts.into_iter();
    let prefixes = prefixes.map(|(key, first)| (key, vec![(EndpointKind::Prefix, first)]));
    let all = image.endpoints.clone().into_iter().chain(prefixes);
    let mut slots = vec![empty; geometry.endpoint_slots as usize];
    for (key, targets) in all {
        for (kind, index) in targets {
            let mut at = key.home(seed, mask);
            while slots[at as usize].kind != 0 {
                at = (at + 1) & mask;
            }
            slots[at as usize] = EndpointSlot {
                address: key.address.0,
                port: key.port,
                protocol: key.protocol,
                kind: kind as u8,
                index,
                reserved: 0,
            };
        }
    }
    (seed, slots.into(), rules.into())
}

/// Operations that write the whole of an image over what is there.
pub fn full_write(image: &Image, actual: &Actual, geometry: &Geometry) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for (&index, &hop) in &image.next_hops {
        ops.push(MapOp::WriteNextHop { index, hop });
    }
    for (&slot, &device) in &image.devices {
        ops.push(MapOp::WriteDevice { slot, device });
    }
    for (&id, &entry) in &image.backends {
        ops.push(MapOp::WriteBackend { id, entry });
    }
    for (&service, wanted) in &image.services {
        let half = 1 - actual.live_half.get(&service).copied().unwrap_or(1);
        let base = wanted.ring_base + u32::from(half) * wanted.ring_capacity;
        ops.push(MapOp::WriteRing {
            base,
            ids: Arc::clone(&wanted.ring),
        });
        let source_half = 1 - actual.source_half.get(&service).copied().unwrap_or(1);
        if !wanted.sources.is_empty() {
            ops.push(MapOp::WriteSources {
                set: sources::set(service, source_half),
                ranges: Arc::clone(&wanted.sources),
            });
        }
        ops.push(MapOp::WriteService {
            service,
            image: Box::new(wanted.clone()),
            half,
            source_half,
        });
    }
    let generation = 1 - actual.generation;
    let (seed, slots, rules) = place(image, geometry);
    ops.push(MapOp::WriteEndpoints {
        generation,
        seed,
        slots,
        rules,
    });
    ops.push(MapOp::SwitchEndpoints { generation });
    for &service in actual.image.services.keys() {
        if !image.services.contains_key(&service) {
            ops.push(MapOp::ClearService { service });
        }
    }
    for (&service, &half) in &actual.source_half {
        ops.push(MapOp::ClearSources {
            set: sources::set(service, half),
        });
    }
    for &id in actual.image.backends.keys() {
        if !image.backends.contains_key(&id) {
            ops.push(MapOp::ClearBackend { id });
        }
    }
    for &index in actual.image.next_hops.keys() {
        if !image.next_hops.contains_key(&index) {
            ops.push(MapOp::ClearNextHop { index });
        }
    }
    for &slot in actual.image.devices.keys() {
        if !image.devices.contains_key(&slot) {
            ops.push(MapOp::ClearDevice { slot });
        }
    }
    ops.push(MapOp::SetControls {
        controls: image.controls,
    });
    ops.push(MapOp::SetRevision {
        revision: image.config_revision,
    });
    ops
}

/// Brings a data plane to hold `image`.
#[track_caller]
pub fn write(dataplane: &mut impl Dataplane, geometry: &Geometry, image: &Image) {
    let actual = dataplane.actual().unwrap();
    dataplane
        .apply(&full_write(image, &actual, geometry))
        .unwrap();
}

/// A room with a complete data plane that is attached to nothing and owned by nobody.
pub fn prepare(room: &Room) {
    let (mut bpf, _) = room.open();
    let geometry = bpf.geometry();
    write(&mut bpf, &geometry, &image(&[vec![1, 2, 3]], 9));
}

#[test]
fn images_that_are_written_are_read_back() {
    in_room(|room| {
        let (bpf, _) = room.open();
        let geometry = bpf.geometry();
        let bpf = RefCell::new(bpf);
        let rings = prop::collection::vec(prop::collection::vec(0_u32..32, 0..=32), 0..=8);
        let config = Config {
            cases: 60,
            failure_persistence: None,
            ..Config::default()
        };
        let strategy = (rings, any::<u64>(), any::<u32>());
        TestRunner::new(config)
            .run(&strategy, |(rings, revision, echo)| {
                // A backend belongs to one service.
                let mut owner = BTreeMap::new();
                let rings: Vec<Vec<u32>> = (0..)
                    .zip(rings)
                    .map(|(index, ring)| {
                        let mut mine = |id: &u32| *owner.entry(*id).or_insert(index) == index;
                        ring.into_iter().filter(|id| mine(id)).collect()
                    })
                    .collect();
                let mut wanted = image(&rings, revision);
                wanted.controls = controls(echo);
                let mut bpf = bpf.borrow_mut();
                write(&mut *bpf, &geometry, &wanted);
                let actual = bpf.actual().unwrap();
                prop_assert_eq!(actual.image, wanted);
                prop_assert!(actual.stray_sources.is_empty());
                prop_assert_eq!(actual.header.complete, 1);
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn single_words_change_nothing_else() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let mut wanted = bpf.actual().unwrap();
        let next = wanted.image.services[&0].ring_base + 32;
        bpf.apply(&[
            MapOp::SetBackendWord {
                id: 2,
                permissions: Permissions(Permissions::KEEP),
                next_hop: 5,
            },
            MapOp::WriteRing {
                base: next,
                ids: vec![3, 1, 3].into(),
            },
            MapOp::SwitchRing {
                service: 0,
                base: next,
                length: 3,
            },
        ])
        .unwrap();
        let half = wanted.live_half.get_mut(&0).unwrap();
        if *half == 0 {
            *half = 1;
        }
        let backend = wanted.image.backends.get_mut(&2).unwrap();
        backend.permissions = Permissions(Permissions::KEEP);
        backend.next_hop = 5;
        wanted.image.services.get_mut(&0).unwrap().ring = vec![3, 1, 3].into();
        assert_eq!(bpf.actual().unwrap(), wanted);
    });
}

#[test]
fn an_interface_that_vanished_does_not_hold_up_other_writes() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let interface = ifindex("v0");
        let before = bpf.actual().unwrap();
        let device = before.image.devices[&(interface & 255)];
        room.delete_veth();
        assert!(bpf.actual().unwrap().image.devices.is_empty());
        bpf.apply(&[
            MapOp::WriteDevice {
                slot: interface & 255,
                device,
            },
            MapOp::SetRevision { revision: 77 },
        ])
        .unwrap();
        let after = bpf.actual().unwrap();
        assert!(after.image.devices.is_empty());
        assert_eq!(after.image.config_revision, 77);
    });
}
