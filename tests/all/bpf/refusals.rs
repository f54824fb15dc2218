//! Writes that go beyond a map or against its rules.

use std::sync::Arc;

use lb_common::Permissions;
use lb_userspace::dataplane::{Dataplane, DataplaneError, MapOp};

use super::room::{LIMITS, ifindex, in_room};
use super::writes::{backend_entry, next_hop, place, prepare, service_image};

#[test]
fn operations_beyond_a_map_or_against_its_rules_are_refused_and_change_nothing() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let before = bpf.actual().unwrap();
        let geometry = bpf.geometry();
        let live = before.generation;
        let (seed, slots, rules) = place(&before.image, &geometry);
        let mut large = service_image(1, vec![1; 33]);
        let interface = ifindex("v0");
        let device = before.image.devices[&(interface & 255)];
        let refused = vec![
            MapOp::SetBackendWord {
                id: LIMITS.backends,
                permissions: Permissions::ALL,
                next_hop: 0,
            },
            MapOp::SetBackendWord {
                id: 1,
                permissions: Permissions::ALL,
                next_hop: LIMITS.next_hops,
            },
            MapOp::WriteRing {
                base: LIMITS.ring_slots - 2,
                ids: vec![1; 3].into(),
            },
            MapOp::WriteRing {
                base: 1,
                ids: vec![1].into(),
            },
            MapOp::WriteRing {
                base: u32::MAX - 1,
                ids: vec![1; 3].into(),
            },
            MapOp::WriteRing {
                base: 200,
                ids: vec![LIMITS.backends].into(),
            },
            MapOp::SwitchRing {
                service: LIMITS.services,
                base: 0,
                length: 0,
            },
            MapOp::SwitchRing {
                service: 0,
                base: 0,
                length: LIMITS.ring_slots + 1,
            },
            MapOp::WriteService {
                service: 1,
                image: Box::new(large.clone()),
                half: 0,
                source_half: 0,
            },
            MapOp::WriteService {
                service: 1,
                image: Box::new({
                    large.ring = Arc::new([1]);
                    large.clone()
                }),
                half: 2,
                source_half: 0,
            },
            MapOp::WriteService {
                service: 1,
                image: Box::new({
                    large.ring_base = LIMITS.ring_slots - 32;
                    large
                }),
                half: 0,
                source_half: 0,
            },
            MapOp::ClearService {
                service: LIMITS.services,
            },
            MapOp::WriteBackend {
                id: LIMITS.backends,
                entry: backend_entry(1, 0, 1),
            },
            MapOp::WriteBackend {
                id: 4,
                entry: backend_entry(1, 0, LIMITS.next_hops),
            },
            MapOp::ClearBackend { id: u32::MAX },
            MapOp::WriteNextHop {
                index: LIMITS.next_hops,
                hop: next_hop(1, 1),
            },
            MapOp::ClearNextHop {
                index: LIMITS.next_hops,
            },
            MapOp::WriteDevice { slot: 4096, device },
            MapOp::WriteDevice {
                slot: (interface + 1) & 4095,
                device,
            },
            MapOp::ClearDevice { slot: 4096 },
            MapOp::WriteEndpoints {
                generation: live,
                seed,
                slots: Arc::clone(&slots),
                rules: Arc::clone(&rules),
            },
            MapOp::WriteEndpoints {
                generation: 1 - live,
                seed,
                slots: slots.iter().copied().skip(1).collect(),
                rules,
            },
            MapOp::SwitchEndpoints { generation: 2 },
        ];
        for op in refused {
            let error = bpf.apply(std::slice::from_ref(&op)).unwrap_err();
            assert!(
                matches!(
                    error,
                    DataplaneError::OutOfRange { .. } | DataplaneError::Invalid { .. }
                ),
                "{op:?}: {error}"
            );
            assert_eq!(bpf.actual().unwrap(), before, "{op:?}");
        }
    });
}
