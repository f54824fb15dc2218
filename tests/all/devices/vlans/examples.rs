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

/// The commands of the file.
const LINE: [&str; 2] = [
    "link set eth0 mtu 1504",
    "link add link eth0 name eth0.7 type vlan proto 802.1ad id 7",
];

/// A VLAN of that line, as the file makes it.
fn on_the_line(topology: &Topology, host: &str, id: u16) -> String {
    let name = format!("eth0.7.{id}");
    let add = format!("link add link eth0.7 name {name} mtu 1500 type vlan id {id}");
    ip(topology, host, &add);
    ip(topology, host, &format!("link set {name} up"));
    name
}

fn behind_two_tags(topology: &Topology) -> Devices {
    topology.keep_tags_in_frames().unwrap();
    for cable in topology.shape().cables() {
        topology.set_mtu("switch", &cable.port, 1504).unwrap();
    }
    for host in topology.shape().hosts() {
        LINE.iter().for_each(|line| drop(ip(topology, &host, line)));
        ip(topology, &host, "link set eth0.7 up");
        if ["client", "lb"].contains(&host.as_str()) {
            let clients = on_the_line(topology, &host, 100);
            let here = |address: &str| host == "client" || is_front(address);
            rehang(topology, &host, "eth0", &clients, here);
        }
        if host != "client" {
            let servers = on_the_line(topology, &host, 200);
            rehang(topology, &host, "eth0", &servers, EVERYTHING);
        }
    }
    Devices {
        balancer: "eth0.7.200",
        backend: "eth0.7.200",
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
    clients_and_servers_behind_two_tags_serve_as_the_example_says: "qinq.toml", 2, behind_two_tags;
    clients_and_servers_in_vlans_of_one_card_serve_as_the_example_says: "vlan.toml", 2, in_vlans;
}

#[test]
fn every_example_for_devices_has_a_test() {
    assert_eq!(SERVED, WITH_DEVICES);
}
