//! The files in `examples/` for VLANs and bonds, as they stand, with their interfaces.

use lb_tests::topology::Topology;

use super::super::ip;
use super::{CLIENTS, EVERYTHING, is_front, rehang, stack};
use crate::e2e::examples::{Devices, WITH_DEVICES, served};

const SERVERS: &[&str] = &["type vlan id 200"];

fn in_vlans(topology: &Topology) -> Devices {
    topology.keep_tags_in_frames().unwrap();
    let clients = stack(topology, "client", "eth0", CLIENTS);
    rehang(topology, "client", "eth0", &clients, EVERYTHING);
    let front = stack(topology, "lb", "eth0", CLIENTS);
    rehang(topology, "lb", "eth0", &front, is_front);
    for host in topology.shape().hosts() {
        if host != "client" {
            let servers = stack(topology, &host, "eth0", SERVERS);
            rehang(topology, &host, "eth0", &servers, EVERYTHING);
        }
    }
    Devices {
        balancer: "eth0.200",
        backend: "eth0.200",
    }
}

fn by_a_bond(topology: &Topology) -> Devices {
    let on_lb = |line: &str| drop(ip(topology, "lb", line));
    on_lb("link add bond0 type bond mode active-backup miimon 100");
    on_lb("link set bond0 up");
    rehang(topology, "lb", "eth0", "bond0", EVERYTHING);
    on_lb("link set eth0 down");
    on_lb("link set eth0 master bond0");
    Devices {
        balancer: "bond0",
        backend: "eth0",
    }
}

served! {
    a_bond_serves_as_the_example_says: "bond.toml", 1, by_a_bond;
    clients_and_servers_in_vlans_of_one_card_serve_as_the_example_says: "vlan.toml", 2, in_vlans;
}

#[test]
fn every_example_for_devices_has_a_test() {
    assert_eq!(SERVED, WITH_DEVICES);
}
