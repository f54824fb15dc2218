//! Packets to services, from backends, about both, and others.

use std::net::SocketAddr;

use lb_common::{Family, Forwarding, hash::FlowTuple, quic::Lengths};
use lb_ebpf::fixture::{
    packet::{Body, Packet, Sum, with_ip_sum},
    tagging::Tagging,
    world::{CLIENT_MAC, Change, Side, World, address as as_hashed, backend_mac, nat_end, our_mac},
};

use super::{
    Choices,
    complaint::complaint,
    mutation, reach, sctp, tags,
    world::{FEW_PORTS, ROUTERS, address, client, server_id},
};
use crate::case::Arrival;

const FLAGS: [&str; 12] = [
    "S", "A", "PA", "FA", "R", "RA", "SA", "", "SF", "F", "A", "RA0",
];

/// A frame that comes in.
pub(super) fn arrival(
    choices: &mut Choices<'_>,
    world: &World,
    mtu: u32,
    tagging: &Tagging,
) -> Arrival {
    let (side, packet) = packet(choices, world, mtu);
    let ingress = match choices.one_in(12) {
        true => *choices.of(&[Side::Client, Side::Backend]),
        false => side,
    };
    let mut frame = packet.bytes();
    if choices.one_in(8) {
        frame = piece(choices, frame);
    }
    if choices.one_in(4) {
        frame = mutation::mutate(choices, frame);
        // Behind a right header checksum more is looked at.
        if choices.below(4) != 0 && frame.len() >= 14 + 60 && frame[12..14] == [8, 0] {
            frame = with_ip_sum(frame);
        }
    }
    frame = tags::tag(choices, tagging, ingress, frame);
    if choices.one_in(32) {
        frame = mutation::mutate_head(choices, frame);
    }
    Arrival { ingress, frame }
}

/// A client's frame with a packet that is about as large as this, with a tunnel's headers or without.
pub(super) fn large(
    choices: &mut Choices<'_>,
    world: &World,
    size: u32,
    tagging: &Tagging,
) -> Arrival {
    let mut packet = request(choices, world, size);
    if let Body::Tcp { data, .. } | Body::Udp { data } | Body::Other { data, .. } = &mut packet.body
    {
        let length = (size as usize + choices.below(20)).saturating_sub(20 + choices.below(110));
        data.resize(length, choices.byte());
    }
    let ingress = Side::Client;
    let frame = tags::tag(choices, tagging, ingress, packet.bytes());
    Arrival { ingress, frame }
}

fn packet(choices: &mut Choices<'_>, world: &World, mtu: u32) -> (Side, Packet) {
    match choices.below(32) {
        0..=15 => (Side::Client, request(choices, world, mtu)),
        16..=21 => (Side::Backend, reply(choices, world)),
        22 | 23 => (Side::Client, echo(choices, world)),
        24..=26 => (Side::Client, error_to_vip(choices, world)),
        27..=29 => (Side::Backend, error_to_client(choices, world)),
        30 => (Side::Client, other(choices, world)),
        _ => (Side::Backend, complaint(choices, world, mtu)),
    }
}

fn sum(choices: &mut Choices<'_>) -> Sum {
    match choices.below(12) {
        10 => Sum::Absent,
        11 => Sum::Off(choices.word() as u16),
        _ => Sum::Right,
    }
}

fn ttl(choices: &mut Choices<'_>) -> u8 {
    match choices.below(24) {
        22 => 1,
        23 => choices.byte(),
        _ => 61,
    }
}

fn data(choices: &mut Choices<'_>, mtu: u32) -> Vec<u8> {
    let length = match choices.below(32) {
        // Around what fits through a tunnel.
        28..=30 if mtu < 1000 => mtu as usize - 80 + choices.below(80),
        31 => mtu as usize - 90 + choices.below(60),
        _ => choices.below(20),
    };
    let first = choices.byte();
    (0..length).map(|at| first.wrapping_add(at as u8)).collect()
}

/// What a packet of a protocol carries; `ports`: from and to.
fn body(choices: &mut Choices<'_>, protocol: u8, mtu: u32, (from, to): (u16, u16)) -> Body {
    let data = data(choices, mtu);
    match protocol {
        6 => Body::Tcp {
            flags: choices.of::<&str>(&FLAGS),
            options: match choices.below(12) {
                0 => vec![1; 4 * choices.below(11)],
                1 => options(choices),
                _ => Vec::new(),
            },
            data,
        },
        17 => Body::Udp { data },
        132 => sctp::sctp(choices, from, to, &data),
        protocol => Body::Other { protocol, data },
    }
}

/// Options of which any may say who the client is, or be malformed.
fn options(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..choices.below(6) {
        match choices.below(8) {
            0 => all.extend([*choices.of(&[254, 2, 3]), *choices.of(&[0, 1, 8, 40])]),
            1 => all.push(0),
            2 => all.extend([254, 8, 0, 7, 192, 0, 2, 9]),
            3 => all.extend([2, 4, 5, 180]),
            4 => all.extend([3, 4, 254, 254]),
            _ => all.extend([1].repeat(1 + choices.below(9))),
        }
    }
    let padding = (4 - all.len() % 4) % 4;
    all.extend([1].repeat(padding));
    all.truncate(40);
    all
}

fn padding(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.one_in(8) {
        true => vec![choices.byte(); choices.below(24)],
        false => Vec::new(),
    }
}

pub(super) fn from_client(
    choices: &mut Choices<'_>,
    source: SocketAddr,
    destination: SocketAddr,
    body: Body,
) -> Packet {
    Packet {
        to: our_mac(Side::Client),
        from: match choices.one_in(16) {
            true => [2, 0, 0, 0xc1, 1, choices.byte()],
            false => CLIENT_MAC,
        },
        source,
        destination,
        class: match choices.one_in(4) {
            true => choices.byte(),
            false => 0,
        },
        ttl: ttl(choices),
        body,
        sum: sum(choices),
        padding: padding(choices),
    }
}

/// An address and port of a service, and a protocol that it has.
fn target(choices: &mut Choices<'_>, world: &World) -> (SocketAddr, u8) {
    let service = choices.below(world.services.len());
    reach::target(choices, &world.services[service])
}

pub(super) fn request(choices: &mut Choices<'_>, world: &World, mtu: u32) -> Packet {
    let (vip, protocol) = target(choices, world);
    let source = client(choices, vip.is_ipv4());
    let mut body = body(choices, protocol, mtu, (source.port(), vip.port()));
    if let Body::Udp { data } = &mut body
        && choices.below(3) != 0
    {
        quic(choices, world, vip, data);
    }
    from_client(choices, source, vip, body)
}

/// Makes a datagram to a service that reads connection ids begin as one of QUIC does.
fn quic(choices: &mut Choices<'_>, world: &World, vip: SocketAddr, data: &mut Vec<u8>) {
    let services = world.services.iter();
    // A range's VIP is the first of its prefix, mostly of one address.
    let mut there = services.filter(|service| {
        let is_range = service.reach.is_some();
        (is_range || service.vip == vip) && service.quic != Lengths::NONE
    });
    if there.next().is_none() {
        return;
    }
    // One more than there are is nobody's.
    let server_id = server_id(choices.below(world.backends.len() + 1));
    let config = *choices.of(&[0, 0, 3, 6, 6, 7]);
    let first = config << 5 | choices.byte() & 0x1f;
    let header: &[u8] = match choices.one_in(3) {
        true => &[0xc0, 0, 0, 0, 1, *choices.of(&[20, 16, 4, 3, 2, 0])],
        false => &[0x40],
    };
    let begin = [header, &[first], &server_id].concat();
    data.splice(..0, begin);
    if choices.one_in(8) {
        data.truncate(choices.below(24));
    }
}

/// A backend with its protocol; where there is none, a router.
pub(super) fn backend(choices: &mut Choices<'_>, world: &World) -> (SocketAddr, u8, u32) {
    if world.backends.is_empty() {
        return (SocketAddr::new(address(true, ROUTERS, 0), 8080), 6, 0);
    }
    let id = choices.below(world.backends.len());
    let spec = &world.backends[id];
    let service = &world.services[spec.service as usize];
    // It has the port that its clients chose, where it has none of its own.
    let (to, protocol) = reach::target(choices, service);
    let address = match service.reach {
        Some(_) => SocketAddr::new(spec.address.ip(), to.port()),
        None => spec.address,
    };
    (address, protocol, id as u32)
}

/// As whom a backend knows a client: mostly as the first that stands for it, where something does.
fn known_as(choices: &mut Choices<'_>, world: &World, id: u32, client: SocketAddr) -> SocketAddr {
    let service = world.backends.get(id as usize);
    let Some(service) = service.map(|backend| &world.services[backend.service as usize]) else {
        return client;
    };
    if service.forwarding != Forwarding::Fullnat || choices.one_in(16) {
        return client;
    }
    let tuple = FlowTuple {
        client: as_hashed(client),
        vip: as_hashed(service.vip),
        client_port: client.port().to_be_bytes(),
        vip_port: service.vip.port().to_be_bytes(),
        protocol: service.protocol as u8,
    };
    let number = match choices.one_in(8) {
        true => choices.below(8) as u32,
        false => 0,
    };
    let family = match client.is_ipv4() {
        true => Family::V4,
        false => Family::V6,
    };
    let mut ours = nat_end(family, tuple, number);
    let few = |change: &Change| matches!(change, Change::NatPorts(Some(FEW_PORTS)));
    if world.changes.iter().any(few) {
        ours.set_port(FEW_PORTS.0);
    }
    ours
}

pub(super) fn reply(choices: &mut Choices<'_>, world: &World) -> Packet {
    let (source, protocol, id) = backend(choices, world);
    let client = client(choices, source.is_ipv4());
    let destination = known_as(choices, world, id, client);
    let ports = (source.port(), destination.port());
    let body = body(choices, protocol, 1500, ports);
    let packet = from_client(choices, source, destination, body);
    Packet {
        to: our_mac(Side::Backend),
        from: backend_mac(id),
        ..packet
    }
}

fn echo(choices: &mut Choices<'_>, world: &World) -> Packet {
    let (vip, _) = target(choices, world);
    let source = client(choices, vip.is_ipv4());
    let request = if vip.is_ipv4() { 8 } else { 128 };
    let kind = match choices.one_in(6) {
        true => [choices.byte(), choices.byte()],
        false => [request, 0],
    };
    let body = Body::Icmp {
        kind,
        rest: [0, 1, 0, choices.byte()],
        data: data(choices, 1500),
    };
    from_client(choices, source, vip, body)
}

/// An error about a packet, with so much of its inside.
pub(super) fn error(choices: &mut Choices<'_>, about: Packet) -> Body {
    let kind = match about.source.is_ipv4() {
        true => *choices.of(&[[3, 1], [3, 4], [11, 0], [12, 0]]),
        false => *choices.of(&[[1, 4], [2, 0], [3, 0], [4, 1]]),
    };
    let keep = match choices.below(4) {
        0 => 8,
        1 => choices.below(40),
        _ => 20 + choices.below(40),
    };
    let rest = [0, 0, choices.byte(), choices.byte()];
    if choices.one_in(6) {
        let header = if about.source.is_ipv4() { 20 } else { 48 };
        let mut data = piece(choices, about.bytes()).split_off(14);
        data.truncate(header + keep);
        return Body::Icmp { kind, rest, data };
    }
    Body::Error {
        kind,
        rest,
        about: Box::new(about),
        keep,
    }
}

/// Somebody on the way.
pub(super) fn router(choices: &mut Choices<'_>, v4: bool) -> SocketAddr {
    SocketAddr::new(address(v4, ROUTERS, choices.below(2) as u8), 0)
}

fn error_to_vip(choices: &mut Choices<'_>, world: &World) -> Packet {
    let (vip, protocol) = target(choices, world);
    let client = client(choices, vip.is_ipv4());
    let body = body(choices, protocol, 1500, (vip.port(), client.port()));
    let about = from_client(choices, vip, client, body);
    let source = match choices.one_in(2) {
        true => client,
        false => router(choices, vip.is_ipv4()),
    };
    let body = error(choices, about);
    from_client(choices, source, vip, body)
}

fn error_to_client(choices: &mut Choices<'_>, world: &World) -> Packet {
    let (server, protocol, id) = backend(choices, world);
    let client = client(choices, server.is_ipv4());
    let client = known_as(choices, world, id, client);
    let ports = (client.port(), server.port());
    let inside = body(choices, protocol, 1500, ports);
    let about = from_client(choices, client, server, inside);
    let source = match choices.one_in(2) {
        true => router(choices, server.is_ipv4()),
        false => server,
    };
    let body = error(choices, about);
    let packet = from_client(choices, source, client, body);
    Packet {
        to: our_mac(Side::Backend),
        from: backend_mac(id),
        ..packet
    }
}

/// Another protocol, or another port.
pub(super) fn other(choices: &mut Choices<'_>, world: &World) -> Packet {
    let (vip, protocol) = target(choices, world);
    let source = client(choices, vip.is_ipv4());
    let destination = match choices.below(3) {
        0 => SocketAddr::new(vip.ip(), 81),
        1 => client(choices, vip.is_ipv4()),
        _ => vip,
    };
    let protocol = match destination == vip {
        true => choices.byte(),
        false => protocol,
    };
    let ports = (source.port(), destination.port());
    let body = body(choices, protocol, 1500, ports);
    from_client(choices, source, destination, body)
}

/// The frame as a piece of a datagram: the first, or a later one of the same bytes.
fn piece(choices: &mut Choices<'_>, mut frame: Vec<u8>) -> Vec<u8> {
    let id = choices.below(2) as u8;
    let later = choices.one_in(2);
    let more = !choices.one_in(4);
    let offset = match later {
        true => 1 + choices.below(200) as u16,
        false => 0,
    };
    if frame[12..14] == [8, 0] {
        let field = offset | if more { 0x2000 } else { 0 };
        frame[18..20].copy_from_slice(&[0, id]);
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        return with_ip_sum(frame);
    }
    let field = offset << 3 | u16::from(more);
    let [high, low] = field.to_be_bytes();
    let next = frame[20];
    let length = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(8);
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = 44;
    frame.splice(54..54, [next, 0, high, low, 0, 0, 0, id]);
    frame
}
