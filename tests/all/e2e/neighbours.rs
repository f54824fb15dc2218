//! Neighbour entries that the kernel keeps resolved for us: not a moment longer than we need them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use lb_tests::topology::{FAMILIES, backend};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourExtFlags};

use crate::stage::{SHAPES, Stage, wait_until};

/// The neighbours in the balancer's namespace that are marked `managed` (NTF_EXT_MANAGED).
fn managed(stage: &Stage) -> BTreeSet<IpAddr> {
    let lb = stage.topology.namespace("lb");
    let entries = lb.netlink(async |handle| {
        let entries = handle.neighbours().get().execute();
        Ok(entries.try_collect::<Vec<_>>().await?)
    });
    let mark = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
    let entries = entries.unwrap().into_iter();
    let marked = entries.filter(|entry| entry.attributes.contains(&mark));
    let addresses = marked.flat_map(|entry| entry.attributes);
    addresses
        .filter_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(a.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(a.into()),
            _ => None,
        })
        .collect()
}

fn backends(numbers: &[u8]) -> BTreeSet<IpAddr> {
    let of = |&n: &u8| FAMILIES.map(|family| backend(family, n));
    numbers.iter().flat_map(of).collect()
}

#[test]
fn kernel_stops_keeping_a_neighbour_when_its_backend_is_removed_and_all_at_unload() {
    let mut stage = Stage::new(SHAPES[0]);
    let soon = Duration::from_secs(5);
    wait_until("all backends are kept", soon, || {
        managed(&stage) == backends(&[1, 2, 3])
    });
    let mut config = stage.daemon.config().clone();
    for service in &mut config.services {
        service.backends.retain(|backend| backend.name != "b3");
    }
    stage.daemon.reload(config).unwrap();
    wait_until("the removed one is not kept", soon, || {
        managed(&stage) == backends(&[1, 2])
    });
    stage.daemon.check_conservation().unwrap();
    stage.daemon.stop().unwrap();
    assert_eq!(managed(&stage), backends(&[1, 2]), "forwarding goes on");
    // Removed while nobody looks.
    let mut config = stage.daemon.config().clone();
    for service in &mut config.services {
        service.backends.retain(|backend| backend.name != "b2");
    }
    let text = config.toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    stage.daemon.restart().unwrap();
    assert_eq!(managed(&stage), backends(&[1]));
    stage.daemon.stop().unwrap();
    stage.daemon.unload().unwrap();
    assert_eq!(managed(&stage), BTreeSet::new());
    // The entry is known and not kept when the daemon begins: that says nothing about the kernel.
    stage.daemon.restart().unwrap();
    wait_until("the last one is kept again", soon, || {
        managed(&stage) == backends(&[1])
    });
    stage.daemon.stop().unwrap();
    let log = stage.daemon.log();
    assert_eq!(log.matches("NTF_EXT_MANAGED").count(), 3, "{log}");
    assert!(!log.contains("this kernel does not keep"), "{log}");
}
