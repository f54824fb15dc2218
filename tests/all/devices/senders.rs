//! Tunnels that a kernel's devices send, at a backend with the decapsulator: from a machine that is client and sender in one.

use lb_common::tunnel::GUE_PORT;
use lb_tests::decap;
use lb_tests::server::Server;
use lb_tests::topology::{
    Arms, FAMILIES, Family, Forwarding, Shape, Topology, backend, balancer_back,
};
use lb_userspace::dataplane::bpf::strips_tags;

use super::{echoing, ip, tcp, udp, vlans};
use crate::stage::{ECHO, Turn, UDP};

/// Where the tunnels come from, which `decap::attach` allows.
const SOURCES: [&str; 2] = ["10.9.0.1", "fd00:9::1"];

/// What goes around the inner packet.
const WRAPS: [&str; 3] = ["none", "fou", "gue"];

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Makes a device at the sender.
fn device(topology: &Topology, name: &str, inner: Family, outer: Family, wrap: &str) {
    let kind = match (inner, outer) {
        (Family::V4, Family::V4) => "ipip",
        (Family::V6, Family::V4) => "sit",
        (_, Family::V6) => "ip6tnl",
    };
    let mut line = format!("link add {name} type {kind}");
    if outer == Family::V6 {
        // By itself it says how many more tunnels there may be, in a destination option.
        line += match inner {
            Family::V4 => " mode ipip6 encaplimit none",
            Family::V6 => " mode ip6ip6 encaplimit none",
        };
    }
    let [four, six] = SOURCES;
    let local = if outer == Family::V4 { four } else { six };
    line += &format!(" local {local} remote {}", backend(outer, 1));
    if wrap != "none" {
        line += &format!(" encap {wrap} encap-sport auto encap-dport {GUE_PORT}");
    }
    ip(topology, "lb", &line);
    ip(topology, "lb", &format!("link set {name} up"));
}

/// Asks the services of a family that echo, in packets that leave by a device.
fn ask_by(topology: &Topology, name: &str, family: Family) {
    let config = echoing(topology);
    let targets = |names: &[&str]| {
        let all = config.targets(names).into_iter();
        all.filter(|target| target.is_ipv4() == (family == Family::V4))
            .collect::<Vec<_>>()
    };
    let source = balancer_back(family);
    for (target, ask) in targets(&ECHO)
        .into_iter()
        .map(|target| (target, tcp as fn(_) -> String))
        .chain(
            targets(&UDP)
                .into_iter()
                .map(|target| (target, udp as fn(_) -> String)),
        )
    {
        let line = format!(
            "{} route replace {} dev {name} src {source}",
            flag(family),
            target.ip()
        );
        ip(topology, "lb", &line);
        let answer = topology.run_in("lb", || ask(target));
        assert_eq!(answer, "b1", "{target} by {name}");
    }
}

fn delivered(topology: &Topology) -> u64 {
    decap::show(topology, "b1").unwrap().packets["delivered"]
}

/// Sends by every kind of device, with these wraps, to the decapsulator on the card of `b1`.
fn send_by_all(topology: &Topology, wraps: &[&str]) {
    let namespace = topology.namespace("lb");
    for (source, length) in SOURCES.into_iter().zip(["32", "128 nodad"]) {
        ip(
            topology,
            "lb",
            &format!("address add {source}/{length} dev lo"),
        );
    }
    let mut number = 0;
    for inner in FAMILIES {
        for outer in FAMILIES {
            for wrap in wraps {
                number += 1;
                let name = format!("t{number}");
                device(topology, &name, inner, outer, wrap);
                // Answers come without a tunnel.
                let filter = format!("net/ipv4/conf/{name}/rp_filter");
                namespace.sysctl(&[(&filter, "0")]).unwrap();
                let before = delivered(topology);
                ask_by(topology, &name, inner);
                let more = delivered(topology) - before;
                println!("{inner:?} in {outer:?}, {wrap}: {more} packets");
                // A connection of five packets or more, and a datagram.
                assert!(more >= 6, "{inner:?} in {outer:?}, {wrap}: {more} packets");
                ip(topology, "lb", &format!("link del {name}"));
            }
        }
    }
    let packets = decap::show(topology, "b1").unwrap().packets;
    let passed_on = packets["delivered"] + packets["passed"];
    assert_eq!(packets.values().sum::<u64>(), passed_on, "{packets:?}");
}

fn network() -> Topology {
    let topology = Topology::build(Shape {
        backends: 1,
        arms: Arms::One,
        forwarding: Forwarding::Ipip,
    })
    .unwrap();
    for host in ["lb", "b1"] {
        let off = [
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/eth0/rp_filter", "0"),
        ];
        topology.namespace(host).sysctl(&off).unwrap();
    }
    topology
}

#[test]
fn the_decapsulator_takes_out_what_every_tunnel_device_sends() {
    let _turn = Turn::shared();
    let topology = network();
    let _servers = Server::threads(&topology).unwrap();
    decap::attach(&topology, "b1").unwrap();
    send_by_all(&topology, &WRAPS);

    // A device that says how deep tunnels may be is no balancer's.
    let dropped = || decap::show(&topology, "b1").unwrap().packets["other_protocol"];
    assert_eq!(dropped(), 0);
    let [_, six] = SOURCES;
    let far = backend(Family::V6, 1);
    let line = format!("link add limited type ip6tnl mode ip6ip6 local {six} remote {far}");
    ip(&topology, "lb", &line);
    ip(&topology, "lb", "link set limited up");
    let config = echoing(&topology);
    let six = config
        .targets(&UDP)
        .into_iter()
        .find(|target| target.is_ipv6());
    let target = six.unwrap();
    let source = balancer_back(Family::V6);
    let route = format!("-6 route replace {} dev limited src {source}", target.ip());
    ip(&topology, "lb", &route);
    topology.run_in("lb", || {
        let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
        socket.send_to(b"lost", target).unwrap();
    });
    crate::stage::wait_until("it is dropped", super::PATIENCE, || dropped() == 1);
    ip(&topology, "lb", "link del limited");
    for source in SOURCES {
        let length = if source.contains(':') { 128 } else { 32 };
        ip(
            &topology,
            "lb",
            &format!("address del {source}/{length} dev lo"),
        );
    }
}

/// Puts both ends into a VLAN within another.
fn wire(topology: &Topology) {
    for host in ["lb", "b1"] {
        let last = vlans::stack(topology, host, "eth0", vlans::BACKENDS);
        vlans::rehang(topology, host, "eth0", &last, |_| true);
        let filter = format!("net/ipv4/conf/{last}/rp_filter");
        topology.namespace(host).sysctl(&[(&filter, "0")]).unwrap();
    }
}

#[test]
fn what_tunnel_devices_send_in_a_vlan_reaches_the_vlans_interface() {
    let _turn = Turn::shared();
    let topology = network();
    topology.keep_tags_in_frames().unwrap();
    let _servers = Server::threads(&topology).unwrap();
    wire(&topology);
    decap::attach(&topology, "b1").unwrap();
    send_by_all(&topology, &WRAPS);
}

/// Where the card takes out the first tag and hands it over beside the frame, and where the kernel runs the program.
#[test]
fn the_decapsulator_takes_out_what_comes_with_tags_beside_frames_and_in_generic_mode() {
    let _turn = Turn::shared();
    for (mode, beside) in [("native", true), ("generic", true), ("generic", false)] {
        let topology = network();
        if !beside {
            topology.keep_tags_in_frames().unwrap();
        }
        let _servers = Server::threads(&topology).unwrap();
        wire(&topology);
        let taken_out = topology.run_in("b1", || strips_tags("eth0")).unwrap();
        assert_eq!(!taken_out.is_empty(), beside, "{taken_out:?}");
        println!("{mode}, tags beside frames: {beside}");
        decap::attach_in(&topology, "b1", mode).unwrap();
        send_by_all(&topology, &["none", "gue"]);
    }
}
