//! A prefix, a range of ports and any protocol with real sockets; SCTP and a protocol without ports as raw packets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use lb_ebpf::fixture::packet::Body;
use lb_ebpf::fixture::sctp::{crc32c, sctp};
use lb_tests::daemon::{Config, Protocol, Service};
use lb_tests::server::{HTTP_PORT, Server};
use lb_tests::topology::{FAMILIES, Family, Forwarding, Shape, vip};
use socket2::{Domain, Socket, Type};

use crate::stage::{SHAPES, Stage, WEB};

/// VIPs 4 to 7, which backends have on their loopback.
const PREFIXES: [&str; 2] = ["\"10.10.0.104/30\"", "\"fd00:10::104/126\""];
/// The first of the addresses that have a range of ports only.
const ONE: [&str; 2] = ["\"10.10.0.108\"", "\"fd00:10::108\""];
const SCTP: u8 = 132;
/// For experiments (RFC 3692): nobody's.
const EXPERIMENT: u8 = 253;
pub(super) const PORTS: [u16; 4] = [9000, 9042, 9099, 40_000];

pub(super) fn within(family: Family) -> impl Iterator<Item = IpAddr> {
    (4..8).map(move |n| vip(family, n))
}

fn domain(address: IpAddr) -> Domain {
    match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    }
}

fn with_ranges(
    topology_services: Config,
    shape: Shape,
    new: impl Fn(&str, Family) -> Service,
) -> Config {
    let mut config = topology_services;
    for (index, family) in FAMILIES.into_iter().enumerate() {
        let digit = if family == Family::V4 { 4 } else { 6 };
        if shape.forwarding != Forwarding::Dnat {
            let mut all = new(&format!("all{digit}"), family);
            all.protocol = Protocol::Any;
            all.reach = Some((PREFIXES[index], "\"any\""));
            config.services.push(all);
        }
        let mut some = new(&format!("some{digit}"), family);
        some.reach = Some((ONE[index], "\"9000-9099\""));
        config.services.push(some);
    }
    config
}

pub(super) fn stage(shape: Shape) -> Stage {
    let services = |config: Config| {
        let like = config.services.clone();
        let new = move |name: &str, family: Family| {
            let web = if family == Family::V4 { "web4" } else { "web6" };
            let mut service = like.iter().find(|s| s.name == web).unwrap().clone();
            name.clone_into(&mut service.name);
            service.health.port = Some(HTTP_PORT);
            service
        };
        with_ranges(config, shape, new)
    };
    Stage::with(shape, Server::threads, services)
}

/// Each connection is told who took it and which address and port it came to.
pub(super) fn listen(stage: &Stage) {
    for n in 1..=stage.topology.shape().backends {
        let host = format!("b{n}");
        for port in PORTS {
            let listener = stage
                .topology
                .run_in(&host, || TcpListener::bind(("::", port)).unwrap());
            let host = host.clone();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let local = stream.local_addr().unwrap();
                    let ip = local.ip().to_canonical();
                    // The client may be gone.
                    let _ = stream.write_all(format!("{host} {ip} {}", local.port()).as_bytes());
                }
            });
        }
    }
}

/// Who answers at an address and port.
fn ask(stage: &Stage, target: SocketAddr) -> String {
    let text = stage.topology.run_in("client", || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let (host, rest) = text.split_once(' ').unwrap();
    match stage.topology.shape().forwarding {
        // The backend's own address, and the port that the client chose.
        Forwarding::Dnat => assert!(rest.ends_with(&format!(" {}", target.port())), "{text}"),
        _ => assert_eq!(rest, format!("{} {}", target.ip(), target.port())),
    }
    host.to_owned()
}

/// What arrives at the raw sockets of all backends: whose, and the bytes behind the IP header.
fn raw(stage: &Stage, family: Family, protocol: u8) -> Receiver<(String, Vec<u8>)> {
    let (sender, receiver) = channel();
    for n in 1..=stage.topology.shape().backends {
        let host = format!("b{n}");
        let socket = stage.topology.run_in(&host, || {
            let domain = domain(vip(family, 0));
            Socket::new(domain, Type::RAW, Some(i32::from(protocol).into())).unwrap()
        });
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let sender = sender.clone();
        std::thread::spawn(move || receive(&socket, family, &host, &sender));
    }
    receiver
}

/// Until nobody listens any more.
fn receive(socket: &Socket, family: Family, host: &str, sender: &Sender<(String, Vec<u8>)>) {
    let header = if family == Family::V4 { 20 } else { 0 };
    loop {
        let mut buffer = [MaybeUninit::uninit(); 2000];
        let length = socket.recv(&mut buffer).unwrap_or(0);
        // SAFETY: the kernel wrote so many bytes.
        let bytes = unsafe { &*(&raw const buffer[..length] as *const [u8]) };
        let got = bytes.get(header..).unwrap_or_default().to_vec();
        let told = match length {
            // An empty message asks whether anybody listens.
            0 => sender.send((String::new(), Vec::new())),
            _ => sender.send((host.to_owned(), got)),
        };
        if told.is_err() {
            return;
        }
    }
}

/// The next packet and who got it.
fn next(receiver: &Receiver<(String, Vec<u8>)>) -> (String, Vec<u8>) {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok((host, bytes)) if !host.is_empty() => return (host, bytes),
            Err(RecvTimeoutError::Disconnected) => panic!("no backend listens"),
            _ => assert!(std::time::Instant::now() < deadline, "nothing arrives"),
        }
    }
}

fn send_raw(stage: &Stage, target: IpAddr, protocol: u8, payload: &[u8]) {
    stage.topology.run_in("client", || {
        let protocol = i32::from(protocol).into();
        let socket = Socket::new(domain(target), Type::RAW, Some(protocol)).unwrap();
        socket
            .send_to(payload, &SocketAddr::new(target, 0).into())
            .unwrap();
    });
}

fn check_right(packet: &[u8]) {
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(packet[8..12], crc32c(&zeroed), "{packet:02x?}");
}

/// One backend for all chunks of an association, whole; different ones for different associations.
fn associations(stage: &Stage, family: Family) {
    let arrived = raw(stage, family, SCTP);
    let mut hosts = BTreeSet::new();
    for port in 1000..1024 {
        let target = vip(family, 5);
        let mut hosts_of_one = BTreeSet::new();
        for chunk in [1, 10, 0, 0] {
            let Body::Other { data, .. } = sctp(port, 7, chunk, b"sixteen bytes...") else {
                panic!("SCTP is another protocol");
            };
            send_raw(stage, target, SCTP, &data);
            let (host, bytes) = next(&arrived);
            assert_eq!(bytes, data, "{host}");
            check_right(&bytes);
            hosts_of_one.insert(host);
        }
        assert_eq!(hosts_of_one.len(), 1, "{hosts_of_one:?}");
        hosts.extend(hosts_of_one);
    }
    assert_eq!(hosts.len(), 3, "{hosts:?}");
}

/// Flows by pairs of addresses.
fn without_ports(stage: &Stage, family: Family) {
    let arrived = raw(stage, family, EXPERIMENT);
    for target in within(family) {
        let mut hosts = BTreeSet::new();
        for text in ["one", "another one", "a third"] {
            send_raw(stage, target, EXPERIMENT, text.as_bytes());
            let (host, bytes) = next(&arrived);
            assert_eq!(bytes, text.as_bytes());
            hosts.insert(host);
        }
        assert_eq!(hosts.len(), 1, "{target}: {hosts:?}");
    }
}

/// A datagram to a port of each address; backends answer from the address that was asked.
fn datagrams(stage: &Stage, family: Family) {
    for (target, port) in within(family).zip([53, 443, 4500, 65_535]) {
        let sockets: Vec<UdpSocket> = (1..=stage.topology.shape().backends)
            .map(|n| {
                let bind = || UdpSocket::bind((target, port)).unwrap();
                stage.topology.run_in(&format!("b{n}"), bind)
            })
            .collect();
        for socket in sockets {
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            std::thread::spawn(move || {
                // All but one of them wait in vain.
                if let Ok((length, from)) = socket.recv_from(&mut [0; 100]) {
                    socket.send_to(&vec![9; length], from).unwrap();
                }
            });
        }
        stage.topology.run_in("client", || {
            let any = if target.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect((target, port)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket.send(b"hello").unwrap();
            assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 5, "{target}:{port}");
        });
    }
}

/// An echo request and its reply.
fn ping(stage: &Stage, target: IpAddr) {
    let (protocol, request, reply, header) = match target {
        // The sum of the request is 0x0800 + 1 + 2.
        IpAddr::V4(_) => (1, [8, 0, 0xf7, 0xfc, 0, 1, 0, 2], 0, 20),
        // The kernel fills in the checksum (RFC 3542 section 3.1).
        IpAddr::V6(_) => (58, [128, 0, 0, 0, 0, 1, 0, 2], 129, 0),
    };
    stage.topology.run_in("client", || {
        let protocol = Some(protocol.into());
        let socket = Socket::new(domain(target), Type::RAW, protocol).unwrap();
        socket.connect(&SocketAddr::new(target, 0).into()).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket.send(&request).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 100];
        let length = socket.recv(&mut buffer).unwrap();
        // SAFETY: the kernel wrote so many bytes.
        let bytes = unsafe { &*(&raw const buffer[..length] as *const [u8]) };
        assert_eq!(bytes[header], reply, "{target}: {bytes:02x?}");
        assert_eq!(bytes[header + 4..], [0, 1, 0, 2], "{target}: {bytes:02x?}");
    });
}

#[test]
fn a_prefix_with_any_port_and_any_protocol_is_served_in_all_ways_that_keep_the_address() {
    for shape in [SHAPES[2], SHAPES[4]] {
        let stage = stage(shape);
        listen(&stage);
        for family in FAMILIES {
            let mut hosts = BTreeSet::new();
            for target in within(family) {
                ping(&stage, target);
                for port in PORTS {
                    for _ in 0..3 {
                        hosts.insert(ask(&stage, SocketAddr::new(target, port)));
                    }
                }
            }
            assert_eq!(hosts.len(), 3, "{hosts:?}");
            datagrams(&stage, family);
            associations(&stage, family);
            without_ports(&stage, family);
        }
        // The services beside them have their own addresses.
        stage.storm(&WEB, 200).assert_clean(200);
        stage.end();
    }
}

#[test]
fn a_range_of_ports_at_one_address_is_served_in_all_ways_and_outlives_the_daemon() {
    for shape in [SHAPES[0], SHAPES[3], SHAPES[4]] {
        let mut stage = stage(shape);
        listen(&stage);
        // With a daemon, without one, and with the next.
        for round in 0..3 {
            for family in FAMILIES {
                let mut hosts = BTreeSet::new();
                for _ in 0..8 {
                    for port in [9000, 9042, 9099] {
                        hosts.insert(ask(&stage, SocketAddr::new(vip(family, 8), port)));
                    }
                }
                assert_eq!(hosts.len(), 3, "{hosts:?}");
            }
            match round {
                0 => stage.daemon.kill().unwrap(),
                1 => {
                    stage.daemon.restart().unwrap();
                    stage.wait("all backends are up", |status| status.all_are("up"));
                }
                _ => {}
            }
        }
        let output = stage.daemon.cli(&["status"]).unwrap().succeeded().unwrap();
        for shown in ["10.10.0.108:9000-9099/tcp", "[fd00:10::108]:9000-9099/tcp"] {
            assert!(output.stdout.contains(shown), "{}", output.stdout);
        }
        stage.end();
    }
}
