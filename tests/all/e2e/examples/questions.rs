//! What clients ask, and whose answers are right.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use lb_ebpf::fixture::packet::Body;
use lb_ebpf::fixture::sctp::crc32c;
use lb_tests::topology::Topology;
use lb_userspace::model::{self, AdminState, Protocol, Service};
use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::network::Hosts;

pub(super) const SCTP: u8 = 132;
const GRE: u8 = 47;
const ESP: u8 = 50;
/// RFC 9260 section 3.2.
const INIT: u8 = 1;
/// A port of services with any.
const SOME_PORT: u16 = 4000;
/// Clients that ask: one that gets a fifth of them and should get none is not heard once in 3,000 times ...
const LEAST: u16 = 36;
/// ... and until each backend has answered: that one of three is left out by chance happens once in 10^34.
const MOST: u16 = 200;

/// Ports that clients ask for: the first and the last.
pub(super) fn ports(service: &Service) -> BTreeSet<u16> {
    match (service.port.low(), service.port.high()) {
        (0, _) => BTreeSet::from([SOME_PORT]),
        (low, high) => BTreeSet::from([low, high]),
    }
}

/// The address that clients ask for: in a prefix the last but one.
pub(super) fn address(service: &Service) -> IpAddr {
    match (service.address.is_host(), service.address.last()) {
        (true, address) => address,
        (false, IpAddr::V4(last)) => IpAddr::V4((u32::from(last) - 1).into()),
        (false, IpAddr::V6(last)) => IpAddr::V6((u128::from(last) - 1).into()),
    }
}

/// A raw socket with an address of its own. Its packets are read and written as datagrams are.
pub(super) fn raw(protocol: u8, at: IpAddr) -> UdpSocket {
    let at = SocketAddr::new(at, 0);
    let kind = Some(i32::from(protocol).into());
    let socket = Socket::new(Domain::for_address(at), Type::RAW, kind).unwrap();
    socket
        .bind(&at.into())
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    socket.into()
}

/// What is behind the IP header, which the kernel leaves in what is read from raw sockets of IPv4.
fn payload(packet: &[u8], from: SocketAddr) -> Option<&[u8]> {
    packet.get(if from.is_ipv4() { 20 } else { 0 }..)
}

/// An SCTP packet from one port to another with one chunk.
pub(super) fn sctp([from, to]: [u16; 2], chunk: u8, data: &[u8]) -> Vec<u8> {
    match lb_ebpf::fixture::sctp::sctp(from, to, chunk, data) {
        Body::Other { data, .. } => data,
        other => panic!("SCTP is another protocol: {other:?}"),
    }
}

/// Ports and data of an SCTP packet whose sum is right.
pub(super) fn inside_sctp(packet: &[u8], from: SocketAddr) -> Option<([u16; 2], &[u8])> {
    let packet = payload(packet, from)?;
    let half = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let data = packet.get(16..12 + usize::from(half(14)?))?;
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    (crc32c(&zeroed) == packet[8..12]).then_some(([half(0)?, half(2)?], data))
}

/// The protocol without ports that a service of all protocols is asked by: `fairlead decap` takes no GRE out of tunnels.
pub(super) fn portless(service: &Service) -> u8 {
    match service.forwarding.is_tunnel() {
        true => ESP,
        false => GRE,
    }
}

/// GRE with an Ethertype for experiments (RFC 2784 section 2, IEEE 802), or ESP of some association (RFC 4303 section 2).
fn header(protocol: u8) -> &'static [u8] {
    match protocol {
        GRE => &[0, 0, 0x88, 0xb5],
        _ => &[0, 0, 1, 0, 0, 0, 0, 1],
    }
}

/// A packet of a protocol without ports.
pub(super) fn behind_header(protocol: u8, data: &[u8]) -> Vec<u8> {
    [header(protocol), data].concat()
}

/// What is in such a packet.
pub(super) fn inside(protocol: u8, packet: &[u8], from: SocketAddr) -> Option<&[u8]> {
    payload(packet, from)?.strip_prefix(header(protocol))
}

fn unspecified(target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks as a client of that number; who answers.
type Ask = fn(SocketAddr, u16) -> String;

fn by_tcp(target: SocketAddr, _: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn by_udp(target: SocketAddr, _: u16) -> String {
    let socket = UdpSocket::bind((unspecified(target), 0)).unwrap();
    socket.connect(target).unwrap();
    text(&exchange(&socket, b"hello", target))
}

fn by_sctp(target: SocketAddr, client: u16) -> String {
    let ports = [1024 + client, target.port()];
    let question = sctp(ports, INIT, b"hello");
    let answer = exchange(&raw_to(SCTP, target), &question, target);
    let (answered, name) = inside_sctp(&answer, target).expect("an SCTP packet");
    assert_eq!(answered, [ports[1], ports[0]], "{target}");
    text(name)
}

fn by_protocol<const PROTOCOL: u8>(target: SocketAddr, _: u16) -> String {
    let question = behind_header(PROTOCOL, b"hello");
    let answer = exchange(&raw_to(PROTOCOL, target), &question, target);
    text(inside(PROTOCOL, &answer, target).expect("a packet of the protocol"))
}

/// Hears from there only.
fn raw_to(protocol: u8, target: SocketAddr) -> UdpSocket {
    let socket = raw(protocol, unspecified(target));
    socket.connect((target.ip(), 0)).unwrap();
    socket
}

fn exchange(socket: &UdpSocket, question: &[u8], target: SocketAddr) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(question).unwrap();
    let mut answer = vec![0; 2048];
    let length = socket.recv(&mut answer);
    let length = length.unwrap_or_else(|error| panic!("{target}: {error}"));
    answer.truncate(length);
    answer
}

/// All that a service is asked. Each port has a question of its own.
fn questions(service: &Service) -> Vec<(SocketAddr, Ask)> {
    let ways: &[Ask] = match service.protocol {
        Protocol::Tcp => &[by_tcp],
        Protocol::Udp => &[by_udp],
        Protocol::Sctp => &[by_sctp],
        Protocol::Any => &[by_tcp, by_udp, by_sctp],
    };
    let at = |port| SocketAddr::new(address(service), port);
    let ports = ports(service).into_iter();
    ports
        .flat_map(|port| ways.iter().map(move |ask| (at(port), *ask)))
        .collect()
}

/// Asks every service until each of its backends that takes new flows has answered, and hears nobody else; how many
/// questions there were.
pub(super) fn ask(topology: &Topology, config: &model::Config, hosts: &Hosts) -> usize {
    let mut asked = 0;
    for service in config.services.values() {
        let enabled = |b: &&model::Backend| b.admin == AdminState::Enabled && b.weight > 0;
        let backends = service.backends.values().filter(enabled);
        let right: BTreeSet<String> = backends.map(|b| hosts.at(b.address)).collect();
        let answer = |(target, ask): (SocketAddr, Ask), client| {
            let who = topology.run_in("client", || ask(target, client));
            assert!(
                right.contains(&who),
                "{target}: {who:?} answers, not {right:?}"
            );
            who
        };
        for question in questions(service) {
            let mut heard = BTreeSet::new();
            for client in 1..=MOST {
                heard.insert(answer(question, client));
                if client >= LEAST && heard == right {
                    break;
                }
            }
            assert_eq!(heard, right, "{}: who answers", question.0);
            asked += 1;
        }
        // Its flows are pairs of addresses: all of one client's have one backend.
        if service.protocol == Protocol::Any {
            let way: Ask = match portless(service) {
                GRE => by_protocol::<GRE>,
                _ => by_protocol::<ESP>,
            };
            let question = (SocketAddr::new(address(service), 0), way);
            let who = answer(question, 0);
            assert_eq!(answer(question, 0), who, "{}: who answers", question.0);
            asked += 1;
        }
    }
    asked
}
