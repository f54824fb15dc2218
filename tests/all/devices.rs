//! Backends that take packets out of tunnels with devices of their own kernel, as most do. Only built for kernels that
//! have those devices (feature `devices`): `cargo xtask test --kernel`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Health, Status};
use lb_tests::server::{MESSAGE_BYTES, NAME_BYTES, Server, signature};
use lb_tests::topology::{Family, Forwarding, Shape, Topology, backend};

use crate::stage::{ECHO, SHAPES, Turn, UDP};

mod senders;
mod vlans;

/// For anything: the machine is emulated, on a host that may have more to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// A way into the devices of the backends.
struct Way {
    forwarding: Forwarding,
    /// Backends are of the other family.
    mixed: bool,
    /// More lines for each service.
    keys: &'static str,
    /// The devices that take out what services of IPv4 and of IPv6 send.
    devices: [&'static str; 2],
}

const WAYS: [Way; 5] = [
    Way {
        forwarding: Forwarding::Ipip,
        mixed: false,
        keys: "",
        devices: ["ipip0", "ip6tnl1"],
    },
    Way {
        forwarding: Forwarding::Ipip,
        mixed: true,
        keys: "",
        devices: ["ip6tnl1", "sit1"],
    },
    Way {
        forwarding: Forwarding::Gue,
        mixed: false,
        keys: "",
        devices: ["ipip0", "ip6tnl1"],
    },
    Way {
        forwarding: Forwarding::Gue,
        mixed: true,
        keys: "",
        devices: ["ip6tnl1", "sit1"],
    },
    Way {
        forwarding: Forwarding::Gue,
        mixed: false,
        keys: "gue-variant = 0",
        devices: ["ipip0", "ip6tnl1"],
    },
];

/// The services that echo, with checks for a machine that is emulated.
fn echoing(topology: &Topology) -> Config {
    let mut config = Config::lab(topology);
    let wanted = [ECHO, UDP].concat();
    config
        .services
        .retain(|service| wanted.contains(&service.name.as_str()));
    for service in &mut config.services {
        service.health = Health {
            kind: "tcp",
            interval_ms: 5000,
            timeout_ms: 4000,
            rise: 1,
            ..Health::LAB
        };
    }
    Config {
        flows: 1 << 12,
        ..config
    }
}

impl Way {
    fn config(&self, topology: &Topology) -> Config {
        let mut config = echoing(topology);
        for service in &mut config.services {
            service.forwarding = self.forwarding;
            service.extra += &format!("\n{}", self.keys);
            let outer = match service.address.is_ipv4() ^ self.mixed {
                true => Family::V4,
                false => Family::V6,
            };
            for (number, member) in (1..).zip(&mut service.backends) {
                member.address = backend(outer, number);
            }
        }
        config
    }
}

fn ip(topology: &Topology, host: &str, line: &str) -> Vec<u8> {
    let output = topology.run_in(host, || Command::new("ip").args(line.split(' ')).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{host}: ip {line}: {output:?}");
    output.stdout
}

/// Connects to the services that echo, and sends them datagrams.
fn ask_all(topology: &Topology, daemon: &Daemon) {
    for (names, ask) in [(ECHO, tcp as fn(SocketAddr) -> String), (UDP, udp)] {
        for target in daemon.config().targets(&names) {
            for _ in 0..4 {
                let name = topology.run_in("client", || ask(target));
                assert!(["b1", "b2"].contains(&name.as_str()), "{target}: {name}");
            }
        }
    }
}

/// What an operator types on a backend, once for all tunnels.
fn receive(topology: &Topology, number: u8) {
    let (v4, v6) = (backend(Family::V4, number), backend(Family::V6, number));
    let host = format!("b{number}");
    let ip = |line: &str| ip(topology, &host, line);
    ip(&format!("link add ipip0 type ipip local {v4}"));
    ip(&format!("link add sit1 type sit mode ip6ip local {v4}"));
    ip(&format!("link add ip6tnl1 type ip6tnl mode any local {v6}"));
    let namespace = topology.namespace(&host);
    for device in ["ipip0", "sit1", "ip6tnl1"] {
        ip(&format!("link set {device} up"));
        // What comes out of a tunnel is from clients, to whom the way back is another one.
        let filter = format!("net/ipv4/conf/{device}/rp_filter");
        namespace.sysctl(&[(&filter, "0")]).unwrap();
    }
    namespace
        .sysctl(&[("net/ipv4/conf/all/rp_filter", "0")])
        .unwrap();
    ip("fou add port 6080 gue");
    ip("-6 fou add port 6080 gue");
}

/// Packets that have come out of a device of all backends.
fn taken_out(topology: &Topology, device: &str) -> u64 {
    let of = |host: String| {
        let shown = ip(topology, &host, &format!("-j -s link show {device}"));
        let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    };
    (1..=topology.shape().backends)
        .map(|n| of(format!("b{n}")))
        .sum()
}

fn tcp(target: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = [0x5a; MESSAGE_BYTES];
    stream.write_all(&sent).unwrap();
    let mut answer = [0; MESSAGE_BYTES];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[NAME_BYTES..], sent[NAME_BYTES..]);
    signature(&answer).to_owned()
}

fn udp(target: SocketAddr) -> String {
    let local = match target.is_ipv4() {
        true => "0.0.0.0:0",
        false => "[::]:0",
    };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&[0x5a; MESSAGE_BYTES]).unwrap();
    let mut answer = [0; MESSAGE_BYTES];
    assert_eq!(socket.recv(&mut answer).unwrap(), MESSAGE_BYTES);
    signature(&answer).to_owned()
}

#[test]
fn backends_take_packets_out_of_every_tunnel_with_devices_of_their_kernel() {
    let _turn = Turn::shared();
    // No decapsulator of ours: for the topology this is l2dsr.
    let shape = Shape {
        backends: 2,
        ..SHAPES[3]
    };
    let topology = Topology::build(shape).unwrap();
    (1..=shape.backends).for_each(|number| receive(&topology, number));
    let _servers = Server::threads(&topology).unwrap();
    for way in &WAYS {
        let before = way.devices.map(|device| taken_out(&topology, device));
        let mut daemon = Daemon::prepare(&topology, way.config(&topology)).unwrap();
        daemon.spawn().unwrap();
        // Checks go the same way: a backend that takes nothing out is down.
        let all = |status: &Status| status.ready && status.all_are("up");
        daemon.wait_until("all are up", PATIENCE, all).unwrap();
        ask_all(&topology, &daemon);
        let after = way.devices.map(|device| taken_out(&topology, device));
        for (number, device) in way.devices.iter().enumerate() {
            // Four connections of three packets or more, and four datagrams.
            let more = after[number] - before[number];
            assert!(more >= 16, "{device}: {more} packets");
        }
        daemon.check_conservation().unwrap();
        daemon.stop().unwrap();
        daemon.unload().unwrap();
    }
}
