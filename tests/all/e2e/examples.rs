//! Every file in `examples/` as it stands, in a network that has its addresses: all of its services answer over real
//! sockets.
//!
//! One host has the addresses of all backends; whose answer it was is other tests' matter. Files for devices that not every
//! kernel has are read here, and run in [`crate::devices`](../devices.rs) on one that has them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::decap;
use lb_tests::topology::{Arms, FAMILIES, Family, Shape, Topology, balancer_back, balancer_front};
use lb_userspace::config;
use lb_userspace::model::{self, Forwarding, Protocol, Service};

use crate::stage::{SHAPES, Turn};

/// For a daemon that starts, and for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// A port of services with any.
const SOME_PORT: u16 = 4000;
/// Routes of packets from backends whose replies go through the balancer.
const TABLE: &str = "100";

/// What `fairlead.toml` expects of its server; other checks want less.
const READY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready";

fn read(text: &str) -> model::Config {
    let outcome = config::parse("example", text);
    outcome.config.expect("a good file")
}

/// The file with places of its own for the daemon's files, and nothing else changed.
fn with_places(text: &str, daemon: &Daemon) -> String {
    let home = daemon.home().display();
    let mut lines = Vec::new();
    for line in text.lines() {
        let place = ["state-dir", "run-dir", "bpffs"]
            .iter()
            .any(|key| line.starts_with(key));
        if !place {
            lines.push(line.to_owned());
        }
        if line == "[daemon]" {
            lines.push(format!("state-dir = \"{home}/state\""));
            lines.push(format!("run-dir = \"{home}/run\""));
            lines.push(format!("bpffs = \"{home}/bpf\""));
        }
    }
    lines.join("\n")
}

/// Ports that clients ask for: the first and the last.
fn ports(service: &Service) -> BTreeSet<u16> {
    match (service.port.low(), service.port.high()) {
        (0, _) => BTreeSet::from([SOME_PORT]),
        (low, high) => BTreeSet::from([low, high]),
    }
}

/// The address that clients ask for: in a prefix the last but one.
fn address(service: &Service) -> IpAddr {
    match (service.address.is_host(), service.address.last()) {
        (true, address) => address,
        (false, IpAddr::V4(last)) => IpAddr::V4((u32::from(last) - 1).into()),
        (false, IpAddr::V6(last)) => IpAddr::V6((u128::from(last) - 1).into()),
    }
}

fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

fn ip(topology: &Topology, host: &str, line: &str) {
    let output = topology.run_in(host, || Command::new("ip").args(line.split(' ')).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{host}: ip {line}: {output:?}");
}

/// Backends are asked at their own addresses.
fn is_translated(service: &Service) -> bool {
    matches!(service.forwarding, Forwarding::Dnat | Forwarding::Fullnat)
}

/// Every address of a prefix.
fn each(prefix: &model::Prefix) -> Vec<IpAddr> {
    match (prefix.address(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first)..=u32::from(last))
            .map(|address| IpAddr::V4(address.into()))
            .collect(),
        (first, _) => {
            assert!(prefix.is_host(), "{prefix}");
            vec![first]
        }
    }
}

/// Interfaces between balancer and backends.
pub(crate) struct Devices {
    /// The balancer's.
    pub(crate) balancer: &'static str,
    /// The backends'.
    pub(crate) backend: &'static str,
}

/// Gives the hosts the addresses and routes that the file speaks of.
fn furnish(topology: &Topology, config: &model::Config, devices: &Devices) {
    let device = devices.balancer;
    for of in FAMILIES {
        let gateway = balancer_back(of);
        let flag = if of == Family::V4 { "-4" } else { "-6" };
        ip(
            topology,
            "b1",
            &format!("{flag} route add default via {gateway} table {TABLE}"),
        );
    }
    for source in &config.daemon.nat_source {
        let gateway = balancer_back(family(source.address()));
        ip(
            topology,
            "b1",
            &format!("route replace {source} via {gateway}"),
        );
        for address in each(source) {
            ip(
                topology,
                "lb",
                &format!("address add {address} dev {device}"),
            );
        }
    }
    let mut backends = BTreeSet::new();
    for service in config.services.values() {
        let vip = service.address;
        let of = family(vip.address());
        let flag = if of == Family::V4 { "-4" } else { "-6" };
        let through = balancer_front(of);
        ip(
            topology,
            "client",
            &format!("{flag} route replace {vip} via {through}"),
        );
        if !is_translated(service) {
            ip(
                topology,
                "b1",
                &format!("{flag} route replace local {vip} dev lo"),
            );
        }
        for backend in service.backends.values() {
            backends.insert((backend.address, service.forwarding == Forwarding::Dnat));
        }
    }
    for (address, through_balancer) in backends {
        let (flag, length) = match family(address) {
            Family::V4 => ("-4", 32),
            Family::V6 => ("-6", 128),
        };
        let own = devices.backend;
        if !topology.has_address("b1", own, address).unwrap() {
            topology.add_address("b1", own, address, length).unwrap();
            ip(
                topology,
                "lb",
                &format!("{flag} route replace {address} dev {device}"),
            );
        }
        if through_balancer {
            ip(
                topology,
                "b1",
                &format!("{flag} rule add from {address} table {TABLE}"),
            );
        }
    }
}

/// Takes out of tunnels what the file puts into them.
fn take_out(topology: &Topology, config: &model::Config) {
    let tunnels = config
        .services
        .values()
        .filter(|service| service.forwarding.is_tunnel());
    let vips: Vec<String> = tunnels.map(|service| service.address.to_string()).collect();
    if vips.is_empty() {
        return;
    }
    let mut arguments = vec!["--xdp-mode", "native", "--gue-port", "6080"];
    for source in decap::TUNNEL_SOURCES {
        arguments.extend(["--source", source]);
    }
    for vip in &vips {
        arguments.extend(["--vip", vip]);
    }
    decap::command(topology, "b1", &arguments).unwrap();
}

/// Answers requests of HTTP, and sends everything else back.
fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let got = &buffer[..length];
        let http = got.starts_with(b"GET ");
        if stream.write_all(if http { READY } else { got }).is_err() || http {
            return;
        }
    }
}

/// Serves at all ports of the file, and at each address of its own for datagrams, which go back from where they came to.
fn serve(topology: &Topology, config: &model::Config) {
    let (mut streams, mut datagrams) = (BTreeSet::new(), BTreeSet::new());
    for service in config.services.values() {
        let at = ports(service);
        let own = |b: &model::Backend| b.port.map(|port| port.get());
        streams.extend(service.health.port.map(|port| port.get()));
        streams.extend(service.backends.values().filter_map(own));
        if service.protocol != Protocol::Udp {
            streams.extend(at.iter().copied());
        }
        if matches!(service.protocol, Protocol::Udp | Protocol::Any) {
            let addresses: Vec<IpAddr> = match service.forwarding {
                Forwarding::Dnat | Forwarding::Fullnat => {
                    service.backends.values().map(|b| b.address).collect()
                }
                _ => vec![address(service)],
            };
            for address in addresses {
                datagrams.extend(at.iter().map(|port| SocketAddr::new(address, *port)));
            }
        }
    }
    // A route makes an address of IPv6 this host's, but not one to bind to.
    let bind_to_any = [("net/ipv6/ip_nonlocal_bind", "1")];
    topology.namespace("b1").sysctl(&bind_to_any).unwrap();
    topology.run_in("b1", || {
        for port in streams {
            // Both families.
            let listener = TcpListener::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(|| answer(stream));
                }
            });
        }
        for address in datagrams {
            let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    drop(socket.send_to(&buffer[..length], from));
                }
            });
        }
    });
}

fn ask_tcp(target: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello", "{target}");
}

fn ask_udp(target: SocketAddr) {
    let local = match target {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"hello").unwrap();
    let mut answer = [0; 6];
    assert_eq!(socket.recv(&mut answer).unwrap(), 5, "{target}");
}

/// Asks every service; how many answers there were.
fn ask(topology: &Topology, config: &model::Config) -> usize {
    let mut answers = 0;
    for service in config.services.values() {
        for port in ports(service) {
            let target = SocketAddr::new(address(service), port);
            let (tcp, udp) = match service.protocol {
                Protocol::Tcp => (true, false),
                Protocol::Udp => (false, true),
                Protocol::Any => (true, true),
                // This kernel has none; e2e::ranges sends it as raw packets.
                Protocol::Sctp => (false, false),
            };
            for (asked, question) in [(tcp, ask_tcp as fn(SocketAddr)), (udp, ask_udp)] {
                if asked {
                    topology.run_in("client", || question(target));
                    answers += 1;
                }
            }
        }
    }
    answers
}

#[track_caller]
fn check(text: &str, expected: usize) {
    check_over(text, expected, |topology| Devices {
        balancer: topology.shape().balancer_back_device(),
        backend: "eth0",
    });
}

/// Runs a file in a network whose interfaces are made first, and asks all services: so many answers.
#[track_caller]
pub(crate) fn check_over(text: &str, expected: usize, wire: impl FnOnce(&Topology) -> Devices) {
    let _turn = Turn::shared();
    let config = read(text);
    let shape = Shape {
        backends: 1,
        arms: match config.daemon.interfaces.len() {
            1 => Arms::One,
            _ => Arms::Two,
        },
        // Replies go straight to clients, but those of backends that a rule sends through the balancer.
        ..SHAPES[3]
    };
    let topology = Topology::build(shape).unwrap();
    let devices = wire(&topology);
    furnish(&topology, &config, &devices);
    serve(&topology, &config);
    take_out(&topology, &config);
    let mut daemon = Daemon::prepare(&topology, Config::lab(&topology)).unwrap();
    daemon.write_config(&with_places(text, &daemon)).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();
    assert_eq!(ask(&topology, &config), expected);
    daemon.check_conservation().unwrap();
}

#[test]
fn the_smallest_file_serves_at_once() {
    check(include_str!("../../../examples/minimal.toml"), 1);
}

#[test]
fn the_commented_file_serves_as_it_stands() {
    check(include_str!("../../../examples/fairlead.toml"), 2);
}

#[test]
fn prefixes_ranges_and_any_protocol_serve_as_the_example_says() {
    check(include_str!("../../../examples/ranges.toml"), 8);
}

#[test]
fn backends_behind_routers_serve_through_the_tunnels_of_the_example() {
    check(include_str!("../../../examples/tunnels.toml"), 2);
}

#[test]
fn quic_serves_as_the_example_says() {
    check(include_str!("../../../examples/quic.toml"), 3);
}

#[test]
fn the_file_of_the_tour_serves() {
    check(include_str!("../../../examples/tour.toml"), 2);
}

#[test]
fn backends_without_a_route_to_clients_serve_as_the_example_says() {
    check(include_str!("../../../examples/fullnat.toml"), 2);
}

/// The file is good, and has so many services.
#[track_caller]
fn check_words(text: &str, services: usize) {
    assert_eq!(read(text).services.len(), services);
}

#[test]
fn the_files_for_vlans_and_bonds_are_good() {
    check_words(include_str!("../../../examples/vlan.toml"), 2);
    check_words(include_str!("../../../examples/bond.toml"), 1);
}

#[test]
fn every_example_has_a_test() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let tested = include_str!("examples.rs").contains(&format!("examples/{name}\"), "));
        assert!(tested, "{name} is not run by any test");
    }
}
