//! Interfaces of VLANs and a bond: one cable to the balancer, clients in one VLAN and backends in another, behind a provider's
//! tag.

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::decap;
use lb_tests::server::Server;
use lb_tests::topology::{Arms, FAMILIES, Forwarding, Shape, Topology, backend, balancer_front};
use serde_json::Value;

use super::{PATIENCE, ask_all, echoing, ip};
use crate::stage::Turn;

mod bonds;
mod examples;
mod generic;

const CLIENTS: &[&str] = &["type vlan id 100"];
pub(super) const BACKENDS: &[&str] = &["type vlan proto 802.1ad id 7", "type vlan id 200"];

/// Makes interfaces, one on another, and says the name of the last.
pub(super) fn stack(topology: &Topology, host: &str, lowest: &str, kinds: &[&str]) -> String {
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
pub(super) fn rehang(
    topology: &Topology,
    host: &str,
    from: &str,
    to: &str,
    which: impl Fn(&str) -> bool,
) {
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
    let mut moved = Vec::new();
    for address in all.flatten() {
        let Some(local) = text(&address["local"]) else {
            continue;
        };
        if which(&local) {
            moved.push(format!("{local}/{}", address["prefixlen"]));
        }
    }
    // The last first: with the first one of a network the kernel takes the others away.
    for address in moved.iter().rev() {
        ip(topology, host, &format!("address del {address} dev {from}"));
    }
    for address in &moved {
        let quick = if address.contains(':') { " nodad" } else { "" };
        ip(
            topology,
            host,
            &format!("address add {address} dev {to}{quick}"),
        );
    }
    for route in routes {
        ip(topology, host, &format!("{route} dev {to}"));
    }
}

fn serve(topology: &Topology, interface: &str) {
    serve_in("native", topology, interface);
}

fn serve_in(xdp_mode: &'static str, topology: &Topology, interface: &str) {
    let config = Config {
        interfaces: vec![interface.to_owned()],
        xdp_mode,
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
    let shown = daemon.cli(&["status"]).unwrap().stdout;
    let mode = format!("{interface} ({xdp_mode}): attached");
    assert!(shown.contains(&mode), "{shown}");
    ask_all(topology, &daemon);
    daemon.check_conservation().unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}

/// A network with two backends, and tags in frames.
fn network(forwarding: Forwarding) -> Topology {
    let topology = Topology::build(Shape {
        backends: 2,
        arms: Arms::One,
        forwarding,
    })
    .unwrap();
    topology.keep_tags_in_frames().unwrap();
    topology
}

const EVERYTHING: fn(&str) -> bool = |_| true;

fn is_front(address: &str) -> bool {
    let fronts = FAMILIES.map(|family| balancer_front(family).to_string());
    fronts.iter().any(|front| front == address)
}

/// An address of a backend among the backends, not one among the clients.
fn is_behind(address: &str) -> bool {
    let all = FAMILIES
        .into_iter()
        .flat_map(|family| [1, 2].map(|n| backend(family, n)));
    all.map(|of| of.to_string()).any(|of| of == address)
}

/// Puts the clients into a VLAN and the backends into another. Who answers clients itself is in both. The balancer's two
/// interfaces.
fn wire(topology: &Topology) -> [String; 2] {
    let clients = stack(topology, "client", "eth0", CLIENTS);
    rehang(topology, "client", "eth0", &clients, EVERYTHING);
    for host in ["b1", "b2"] {
        let last = stack(topology, host, "eth0", BACKENDS);
        if topology.shape().returns_directly() {
            rehang(topology, host, "eth0", &last, is_behind);
            let first = stack(topology, host, "eth0", CLIENTS);
            rehang(topology, host, "eth0", &first, EVERYTHING);
        } else {
            rehang(topology, host, "eth0", &last, EVERYTHING);
        }
    }
    let front = stack(topology, "lb", "eth0", CLIENTS);
    let back = stack(topology, "lb", "eth0", BACKENDS);
    rehang(topology, "lb", "eth0", &front, is_front);
    rehang(topology, "lb", "eth0", &back, EVERYTHING);
    [front, back]
}

#[test]
fn clients_and_backends_in_vlans_of_one_interface_and_of_a_bond_are_served() {
    let _turn = Turn::shared();
    let topology = network(Forwarding::Dnat);
    let _servers = Server::threads(&topology).unwrap();
    let [front, back] = wire(&topology);
    serve(&topology, "eth0");

    ip(
        &topology,
        "lb",
        "link add bond0 type bond mode active-backup miimon 100",
    );
    ip(&topology, "lb", "link set bond0 up");
    let bond_front = stack(&topology, "lb", "bond0", CLIENTS);
    let bond_back = stack(&topology, "lb", "bond0", BACKENDS);
    rehang(&topology, "lb", &front, &bond_front, EVERYTHING);
    rehang(&topology, "lb", &back, &bond_back, EVERYTHING);
    // What stands on a member gets its frames before the bond does.
    for gone in [&front, &back, "eth0.7"] {
        ip(&topology, "lb", &format!("link del {gone}"));
    }
    ip(&topology, "lb", "link set eth0 down");
    ip(&topology, "lb", "link set eth0 master bond0");
    serve(&topology, "bond0");
}

#[test]
fn l2dsr_and_fullnat_serve_from_one_vlan_into_another() {
    let _turn = Turn::shared();
    for forwarding in [Forwarding::L2dsr, Forwarding::Fullnat] {
        let topology = network(forwarding);
        let _servers = Server::threads(&topology).unwrap();
        wire(&topology);
        serve(&topology, "eth0");
    }
}

#[test]
fn tunnels_behind_two_tags_are_taken_out_by_the_decapsulator_of_the_card() {
    let _turn = Turn::shared();
    let topology = network(Forwarding::Ipip);
    let _servers = Server::threads(&topology).unwrap();
    wire(&topology);
    for host in ["b1", "b2"] {
        decap::attach(&topology, host).unwrap();
    }
    serve(&topology, "eth0");
    for host in ["b1", "b2"] {
        let packets = decap::show(&topology, host).unwrap().packets;
        println!("{host}: {packets:?}");
        assert!(packets["delivered"] > 20, "{host}: {packets:?}");
        let passed_on = packets["delivered"] + packets["passed"];
        assert_eq!(packets.values().sum::<u64>(), passed_on, "{packets:?}");
    }
}

#[test]
fn tags_that_a_card_takes_out_and_a_vlan_that_is_named_for_its_card_are_told_with_the_cure() {
    let _turn = Turn::shared();
    let topology = Topology::build(Shape {
        backends: 2,
        arms: Arms::One,
        forwarding: Forwarding::Dnat,
    })
    .unwrap();
    stack(&topology, "lb", "eth0", CLIENTS);
    let mut daemon = Daemon::prepare(&topology, echoing(&topology)).unwrap();
    daemon.spawn().unwrap();
    let cure = "ethtool -K eth0 rx-vlan-hw-parse off";
    let trouble = |status: &Status| {
        let first = status.attachments.first();
        first.and_then(|first| first.trouble.clone())
    };
    let is_told = |status: &Status| trouble(status).is_some_and(|text| text.contains(cure));
    daemon
        .wait_until("the cure is told", PATIENCE, is_told)
        .unwrap();
    assert!(daemon.log().contains(cure), "{}", daemon.log());
    let shown = daemon.cli(&["status"]).unwrap().stdout;
    assert!(shown.contains(cure), "{shown}");
    topology.keep_tags_in_frames().unwrap();
    let is_cured = |status: &Status| trouble(status).is_none();
    daemon
        .wait_until("nothing is wrong", PATIENCE, is_cured)
        .unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();

    let error = decap::command_at(
        &topology,
        "lb",
        "eth0.100",
        &[
            "--xdp-mode",
            "native",
            "--source",
            "10.9.0.0/24",
            "--vip",
            "192.0.2.1",
        ],
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("attach to eth0.100: native XDP refused"),
        "{error}"
    );
    assert!(error.contains("name eth0 in its place"), "{error}");
}
