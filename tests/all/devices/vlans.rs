//! Interfaces of VLANs and a bond: one cable to the balancer, clients in one VLAN and backends in another, behind a provider's
//! tag.

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::server::Server;
use lb_tests::topology::{Arms, FAMILIES, Forwarding, Shape, Topology, balancer_front};
use serde_json::Value;

use super::{PATIENCE, ask_all, echoing, ip};
use crate::stage::Turn;

const CLIENTS: &[&str] = &["type vlan id 100"];
const BACKENDS: &[&str] = &["type vlan proto 802.1ad id 7", "type vlan id 200"];

/// Makes interfaces, one on another, and says the name of the last.
fn stack(topology: &Topology, host: &str, lowest: &str, kinds: &[&str]) -> String {
    let mut lower = lowest.to_owned();
    for kind in kinds {
        let number = kind.rsplit(' ').next().unwrap();
        let name = format!("{lower}.{number}");
        ip(
            topology,
            host,
            &format!("link add link {lower} name {name} {kind}"),
        );
        ip(topology, host, &format!("link set {name} up"));
        lower = name;
    }
    lower
}

fn json(topology: &Topology, host: &str, line: &str) -> Vec<Value> {
    serde_json::from_slice(&ip(topology, host, line)).unwrap()
}

/// Moves the addresses for which `which` holds, and the routes by a router, from one interface to another.
fn rehang(topology: &Topology, host: &str, from: &str, to: &str, which: impl Fn(&str) -> bool) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut routes = Vec::new();
    for flag in ["-4", "-6"] {
        for route in json(topology, host, &format!("-j {flag} route show dev {from}")) {
            if let (Some(to), Some(via)) = (text(&route["dst"]), text(&route["gateway"])) {
                routes.push(format!("{flag} route replace {to} via {via}"));
            }
        }
    }
    let found = json(
        topology,
        host,
        &format!("-j address show dev {from} scope global"),
    );
    // What the filter leaves out is there all the same, as an empty object.
    let all = found.iter().filter_map(|link| link["addr_info"].as_array());
    for address in all.flatten() {
        let Some(local) = text(&address["local"]) else {
            continue;
        };
        if !which(&local) {
            continue;
        }
        let with_prefix = format!("{local}/{}", address["prefixlen"]);
        ip(
            topology,
            host,
            &format!("address del {with_prefix} dev {from}"),
        );
        let quick = if local.contains(':') { " nodad" } else { "" };
        ip(
            topology,
            host,
            &format!("address add {with_prefix} dev {to}{quick}"),
        );
    }
    for route in routes {
        ip(topology, host, &format!("{route} dev {to}"));
    }
}

fn serve(topology: &Topology, interface: &str) {
    let config = Config {
        interfaces: vec![interface.to_owned()],
        ..echoing(topology)
    };
    let mut daemon = Daemon::prepare(topology, config).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();
    let attachment = &daemon.status().unwrap().attachments[0];
    for vlan in [format!("{interface}.100"), format!("{interface}.7.200")] {
        assert!(attachment.vlans.contains(&vlan), "{attachment:?}");
    }
    assert_eq!(attachment.trouble, None);
    ask_all(topology, &daemon);
    daemon.check_conservation().unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}

#[test]
fn clients_and_backends_in_vlans_of_one_interface_and_of_a_bond_are_served() {
    let _turn = Turn::shared();
    let topology = Topology::build(Shape {
        backends: 2,
        arms: Arms::One,
        forwarding: Forwarding::Dnat,
    })
    .unwrap();
    topology.keep_tags_in_frames().unwrap();
    let _servers = Server::threads(&topology).unwrap();
    let is_front = |address: &str| {
        let fronts = FAMILIES.map(|family| balancer_front(family).to_string());
        fronts.iter().any(|front| front == address)
    };
    let everything = |_: &str| true;
    let clients = stack(&topology, "client", "eth0", CLIENTS);
    rehang(&topology, "client", "eth0", &clients, everything);
    for host in ["b1", "b2"] {
        let last = stack(&topology, host, "eth0", BACKENDS);
        rehang(&topology, host, "eth0", &last, everything);
    }
    let front = stack(&topology, "lb", "eth0", CLIENTS);
    let back = stack(&topology, "lb", "eth0", BACKENDS);
    rehang(&topology, "lb", "eth0", &front, is_front);
    rehang(&topology, "lb", "eth0", &back, everything);
    serve(&topology, "eth0");

    ip(
        &topology,
        "lb",
        "link add bond0 type bond mode active-backup miimon 100",
    );
    ip(&topology, "lb", "link set bond0 up");
    let bond_front = stack(&topology, "lb", "bond0", CLIENTS);
    let bond_back = stack(&topology, "lb", "bond0", BACKENDS);
    rehang(&topology, "lb", &front, &bond_front, everything);
    rehang(&topology, "lb", &back, &bond_back, everything);
    // What stands on a member gets its frames before the bond does.
    for gone in [&front, &back, "eth0.7"] {
        ip(&topology, "lb", &format!("link del {gone}"));
    }
    ip(&topology, "lb", "link set eth0 down");
    ip(&topology, "lb", "link set eth0 master bond0");
    serve(&topology, "bond0");
}
