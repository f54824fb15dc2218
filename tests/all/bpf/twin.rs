//! The kernel's maps and those in plain memory are twins: the same plans make the same of both.

use std::cell::RefCell;

use lb_common::Permissions;
use lb_userspace::dataplane::mem::Mem;
use lb_userspace::dataplane::{Actual, Dataplane, Image};
use lb_userspace::ids::Sizes;
use lb_userspace::plan::plan;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::room::{ifindex, in_room};
use super::writes::{image, next_hop};

/// What a test case chooses for a service.
#[derive(Clone, Debug)]
struct Choice {
    present: bool,
    /// Numbers of its four backends, in the order of the ring.
    ring: Vec<u32>,
    /// Permissions of each.
    permissions: [u8; 4],
    /// Next hop of each, less one.
    hops: [bool; 4],
}

fn choice() -> impl Strategy<Value = Choice> {
    (
        any::<bool>(),
        prop::collection::vec(0_u32..4, 0..=32),
        prop::array::uniform4(0..=Permissions::KNOWN),
        prop::array::uniform4(any::<bool>()),
    )
        .prop_map(|(present, ring, permissions, hops)| Choice {
            present,
            ring,
            permissions,
            hops,
        })
}

fn desired(choices: &[Choice], resolved: bool, revision: u64) -> Image {
    let interface = ifindex("v0");
    // Backend `n` of service `s` is BackendId `4 s + n`: as in real life, an id is not given to another.
    let rings: Vec<Vec<u32>> = (0..)
        .zip(choices)
        .map(|(service, choice)| choice.ring.iter().map(|n| service * 4 + n).collect())
        .collect();
    let mut wanted = image(&rings, revision);
    let mut second = next_hop(2, interface);
    second.resolved = resolved.into();
    wanted.next_hops.insert(2, second);
    for (id, entry) in &mut wanted.backends {
        let choice = &choices[(id / 4) as usize];
        let n = (id % 4) as usize;
        entry.permissions = Permissions(choice.permissions[n]);
        entry.next_hop = 1 + u32::from(choice.hops[n]);
    }
    let gone = |service: u32| !choices[service as usize].present;
    wanted.services.retain(|&index, _| !gone(index));
    let absent: Vec<u32> = wanted
        .backends
        .iter()
        .filter(|(_, entry)| gone(entry.service))
        .map(|(&id, _)| id)
        .collect();
    wanted.backends.retain(|id, _| !absent.contains(id));
    let services = wanted.services.clone();
    let backends = wanted.backends.clone();
    wanted.endpoints.retain(|key, targets| {
        services
            .values()
            .any(|service| service.address == key.address.0)
            || targets.iter().any(|(_, id)| {
                backends
                    .get(id)
                    .is_some_and(|entry| entry.address == key.address.0)
            })
    });
    wanted.ranges.retain(|_, rules| {
        rules
            .iter()
            .all(|rule| services.contains_key(&rule.service))
    });
    wanted
}

fn check_equal(kernel: &Actual, memory: &Actual) -> Result<(), TestCaseError> {
    let mut kernel = kernel.clone();
    prop_assert_eq!(
        (kernel.header.config_revision, kernel.header.complete),
        (memory.header.config_revision, memory.header.complete)
    );
    kernel.header = memory.header;
    prop_assert_eq!(&kernel, memory);
    Ok(())
}

#[test]
fn every_prefix_of_every_plan_makes_the_same_of_kernel_and_memory() {
    in_room(|room| {
        let (bpf, _) = room.open();
        let sizes = Sizes::from(&room.settings().limits);
        assert_eq!(sizes.endpoint_slots, bpf.geometry().endpoint_slots);
        let twins = RefCell::new((bpf, Mem::new(sizes)));
        let config = Config {
            cases: 200,
            failure_persistence: None,
            ..Config::default()
        };
        let strategy = (
            prop::collection::vec(choice(), 8),
            any::<bool>(),
            any::<u64>(),
            any::<prop::sample::Index>(),
        );
        TestRunner::new(config)
            .run(&strategy, |(choices, resolved, revision, stop)| {
                let (kernel, memory) = &mut *twins.borrow_mut();
                let wanted = desired(&choices, resolved, revision);
                let ops = plan(&memory.actual().unwrap(), &wanted).unwrap();
                prop_assert_eq!(&plan(&kernel.actual().unwrap(), &wanted).unwrap(), &ops);
                let (now, later) = ops.split_at(stop.index(ops.len() + 1));
                for part in [now, later] {
                    kernel.apply(part).unwrap();
                    memory.apply(part).unwrap();
                    check_equal(&kernel.actual().unwrap(), &memory.actual().unwrap())?;
                }
                let actual = kernel.actual().unwrap();
                prop_assert_eq!(&actual.image, &wanted);
                prop_assert_eq!(plan(&actual, &wanted).unwrap(), vec![]);
                Ok(())
            })
            .unwrap();
    });
}
