//! What the maps hold, and changes of it.

mod changes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{
    Control, Family, Fields, FlowRank, Forwarding, GueVariant, MidStream, Permissions, Pick,
    Protocol, Scheduling, Spread, Tunnel,
    flow::{EPOCH_SHIFT, IdleEpochs},
    quic::{Lengths, MAX_SERVER_ID},
    sources::Access,
    tunnel::{GUE_PORT, OuterTtl},
};
use lb_ebpf::fixture::{
    START,
    world::{
        BackendSpec, CLIENT_MAC, Change, NAT_PORTS, Preset, ServerId, ServiceSpec, Side, World,
    },
};

pub(super) use changes::Changes;

use super::{
    Choices, MOST_AGE,
    reach::{self, Drawn},
};

/// A pool that runs out: with one port for each address.
pub(super) const FEW_PORTS: (u16, u16) = (7000, 7000);
/// Slots that a service has in `rings`.
pub(super) const RING: usize = 8;
/// Endpoints that may stand under one key.
pub(super) const SAME_KEY: usize = 3;

/// One of a few addresses of a family: clients, VIPs, backends, routers.
pub(super) fn address(v4: bool, net: u8, host: u8) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(10, 10, net, host + 1).into(),
        false => Ipv6Addr::new(0xfd00, 10, net.into(), 0, 0, 0, 0, u16::from(host) + 1).into(),
    }
}

/// Hosts and ports of clients: some come often, so that replies and errors meet a flow.
const HOSTS: [u8; 5] = [0, 0, 0, 1, 2];
const PORTS: [u16; 6] = [40_000, 40_000, 40_000, 40_001, 8080, 53];

pub(super) const VIPS: u8 = 0;
pub(super) const BACKENDS: u8 = 1;
const CLIENTS: u8 = 2;
/// Where nobody is that the maps know.
pub(super) const ROUTERS: u8 = 3;

fn vip(choices: &mut Choices<'_>) -> SocketAddr {
    let v4 = choices.below(2) == 0;
    let host = choices.below(2) as u8;
    SocketAddr::new(address(v4, VIPS, host), *choices.of(&[80, 53, 443]))
}

/// A client; seldom it is a VIP, or a backend.
pub(super) fn client(choices: &mut Choices<'_>, v4: bool) -> SocketAddr {
    let net = match choices.below(40) {
        38 => VIPS,
        39 => BACKENDS,
        _ => CLIENTS,
    };
    SocketAddr::new(address(v4, net, *choices.of(&HOSTS)), *choices.of(&PORTS))
}

pub(super) fn world(choices: &mut Choices<'_>) -> World {
    let mut world = World {
        echo_per_second: *choices.of(&[100, 1, 0]),
        new_flows_per_second: *choices.of(&[None, None, Some(3), Some(0)]),
        icmp_errors_per_second: *choices.of(&[None, None, Some(1), Some(0), Some(9), Some(40)]),
        resets_per_second: *choices.of(&[None, Some(1), Some(0)]),
        ..World::default()
    };
    if choices.one_in(8) {
        // Well between the moments of scenes: a kernel's clock goes on while it handles a scene's packets.
        let until = START + ((choices.below(4) as u64) << EPOCH_SHIFT) + (1 << 29);
        let drop = choices.below(2) as u64;
        world.alive_until = Some(until & !Control::DROP_WHEN_DEAD | drop);
    }
    for _ in 0..1 + choices.below(4) {
        service(choices, &mut world);
    }
    while world.services.is_empty() {
        service(choices, &mut world);
    }
    let ports = match choices.below(8) {
        0 => None,
        1 | 2 => Some(FEW_PORTS),
        _ => Some(NAT_PORTS),
    };
    world.changes.push(Change::NatPorts(ports));
    for index in 0..world.services.len() {
        world.services[index].ring = ring(choices, &world, index);
        world.services[index].shares = shares(&world, index);
    }
    for _ in 0..choices.below(6) {
        preset(choices, &mut world);
    }
    world
}

/// How a service with one address, port and protocol is forwarded.
fn plain(
    choices: &mut Choices<'_>,
    world: &World,
    vip: SocketAddr,
) -> Option<(Protocol, Forwarding)> {
    let protocol = *choices.of(&[
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Sctp,
    ]);
    let mut others = world.services.iter();
    if others.any(|other| other.vip == vip && other.protocol == protocol) {
        return None;
    }
    let ways = [
        Forwarding::Dnat,
        Forwarding::L2dsr,
        Forwarding::Ipip,
        Forwarding::Gue,
        Forwarding::Fullnat,
    ];
    let ways = match protocol {
        Protocol::Sctp => &ways[..4],
        _ => &ways[..],
    };
    Some((protocol, *choices.of(ways)))
}

/// A service and its backends; none where its place is taken.
fn service(choices: &mut Choices<'_>, world: &mut World) {
    let vip = vip(choices);
    let (vip, reach, protocol, forwarding) = match choices.one_in(3) {
        true => match reach::reach(choices, world, vip) {
            Some(Drawn {
                vip,
                reach,
                protocol,
                forwarding,
            }) => (vip, Some(reach), protocol, forwarding),
            None => return,
        },
        false => match plain(choices, world, vip) {
            Some((protocol, forwarding)) => (vip, None, protocol, forwarding),
            None => return,
        },
    };
    let index = world.services.len() as u32;
    let sources = match choices.one_in(4) {
        true => ranges(choices, vip.is_ipv4()),
        false => Vec::new(),
    };
    let (quic, spread) = match protocol {
        Protocol::Udp => quic(choices, forwarding),
        _ => (Lengths::NONE, Spread::Flow),
    };
    world.services.push(ServiceSpec {
        vip,
        protocol,
        forwarding,
        idle_epochs: match protocol {
            Protocol::Tcp if choices.one_in(3) => {
                let mut limit = || choices.below(9) as u8;
                IdleEpochs::new(0, limit(), limit(), limit()).0
            }
            Protocol::Tcp => 0,
            Protocol::Udp | Protocol::Sctp | Protocol::Any => choices.below(5) as u32,
        },
        reach,
        quic,
        spread,
        scheduling: scheduling(choices, spread, vip.is_ipv4()),
        mss: *choices.of(&[0, 0, 0, 0, 536, 900, 1300, u16::MAX]),
        times: protocol != Protocol::Udp && choices.one_in(4),
        shares: false,
        ring: Vec::new(),
        mid_stream: *choices.of(&[
            MidStream::Schedule,
            MidStream::Schedule,
            MidStream::Drop,
            MidStream::Reset,
        ]),
        sources,
    });
    for _ in 0..1 + choices.below(4) {
        backend(choices, world, index);
    }
}

/// One of its servers stands behind another service. In some worlds nobody has noted that.
fn shares(world: &World, index: usize) -> bool {
    let place = |backend: &BackendSpec| {
        let service = &world.services[backend.service as usize];
        let usual = service.forwarding == Forwarding::Dnat && service.quic == Lengths::NONE;
        usual.then_some((backend.address, service.protocol))
    };
    let of = |ours: bool| {
        let all = world.backends.iter();
        all.filter(move |backend| (backend.service as usize == index) == ours)
            .filter_map(place)
    };
    let noted = !world.services.len().is_multiple_of(3);
    noted && of(true).any(|ours| of(false).any(|other| other == ours))
}

/// A backend of a service; none where too many have its address and port.
fn backend(choices: &mut Choices<'_>, world: &mut World, index: u32) {
    let service = &world.services[index as usize];
    let (vip, forwarding, quic) = (service.vip, service.forwarding, service.quic);
    let host = choices.below(3) as u8;
    let port = match forwarding {
        Forwarding::Dnat | Forwarding::Fullnat
            if service.reach.is_none() && service.protocol != Protocol::Sctp =>
        {
            *choices.of(&[8080, 8081])
        }
        // Of a range the client's, which is written as 0, as the range's VIP has it.
        _ => vip.port(),
    };
    let v4 = match forwarding.is_tunnel() {
        true => vip.is_ipv4() != choices.one_in(3),
        false => vip.is_ipv4(),
    };
    let address = SocketAddr::new(address(v4, BACKENDS, host), port);
    let tunnel = tunnel(choices, forwarding, vip.is_ipv4(), v4);
    let same = world.backends.iter().filter(|b| b.address == address);
    if same.count() >= SAME_KEY {
        return;
    }
    let permissions = permissions(choices, world, index);
    world.backends.push(BackendSpec {
        address,
        service: index,
        permissions,
        side: *choices.of(&[Side::Backend, Side::Client]),
        tunnel,
        server_id: (quic != Lengths::NONE).then(|| server_id(world.backends.len())),
    });
}

/// Mostly by the flow's hash. What is scheduled one by one is not kept together.
fn scheduling(choices: &mut Choices<'_>, spread: Spread, v4: bool) -> Scheduling {
    let fields = *choices.of(&[Fields::Client, Fields::Vip, Fields::Service]);
    let host = 1 + choices.below(if v4 { 32 } else { 128 }) as u8;
    let bits = match choices.below(4) {
        0 => host + if v4 { 96 } else { 0 },
        _ => 0,
    };
    let pick = *choices.of(&[Pick::Random, Pick::Turn, Pick::Least, Pick::Fields]);
    let affinity = *choices.of(&[1, 5, 17, 18, 40]);
    match (choices.below(9), spread) {
        (0 | 1, Spread::Flow) => Scheduling::by(fields, bits),
        (8, Spread::Flow) => Scheduling {
            pick,
            ..Scheduling::by(fields, bits).staying(affinity)
        },
        (2, _) => Scheduling::picking(Pick::Random),
        (3, _) => Scheduling::picking(Pick::Turn),
        (4, _) => Scheduling::picking(Pick::Least),
        _ => Scheduling::USUAL,
    }
}

/// Which config ids a UDP service has, and whether its datagrams are scheduled one by one.
fn quic(choices: &mut Choices<'_>, forwarding: Forwarding) -> (Lengths, Spread) {
    let first = 1 + choices.below(3);
    match choices.below(6) {
        0 | 1 => (Lengths::NONE.with(0, first), Spread::Flow),
        2 => (Lengths::NONE.with(3, first).with(6, 15), Spread::Flow),
        3 if forwarding != Forwarding::Dnat => (Lengths::NONE, Spread::Datagram),
        _ => (Lengths::NONE, Spread::Flow),
    }
}

/// Of the `n`th backend: the first byte is its own.
pub(super) fn server_id(n: usize) -> ServerId {
    let mut id = [0; MAX_SERVER_ID];
    (id[0], id[1], id[14]) = (0xa0 + n as u8, 0xb0, 0xc0);
    id
}

fn tunnel(choices: &mut Choices<'_>, forwarding: Forwarding, inner: bool, outer: bool) -> Tunnel {
    let family = |v4| if v4 { Family::V4 } else { Family::V6 };
    let of = [OuterTtl::DEFAULT, OuterTtl::Inherit, OuterTtl::Fixed(7)];
    match forwarding {
        Forwarding::Dnat | Forwarding::L2dsr => Tunnel::USUAL,
        Forwarding::Fullnat => Tunnel::telling(*choices.of(&[0, 0, 254])),
        Forwarding::Ipip => Tunnel::ipip(family(inner), family(outer), *choices.of(&of)),
        Forwarding::Gue => {
            let variant = *choices.of(&[GueVariant::Header, GueVariant::Direct]);
            Tunnel::gue(*choices.of(&[GUE_PORT, 9]), variant, *choices.of(&of))
        }
    }
}

/// Mostly both. With sources a backend asks about every packet, as the control plane makes it.
fn permissions(choices: &mut Choices<'_>, world: &World, service: u32) -> Permissions {
    let all = Permissions::ALL;
    // Whoever takes nothing new drains in one service, and is down in the next: a choice would give every recorded input another meaning.
    let down = if service.is_multiple_of(2) {
        0
    } else {
        Permissions::DOWN
    };
    let of = [
        all,
        all,
        all,
        Permissions(Permissions::KEEP | down),
        Permissions::NONE,
        Permissions(Permissions::RESET),
    ];
    let permissions = *choices.of(&of);
    match world.services[service as usize].sources.is_empty() {
        true => permissions,
        false => permissions.asking(),
    }
}

fn ranges(choices: &mut Choices<'_>, v4: bool) -> Vec<(IpAddr, u32, Access)> {
    let of = [Access::Deny, Access::Allow];
    let everybody = first_of(client(choices, v4).ip(), 0);
    let mut ranges = vec![(everybody, 0, *choices.of(&of))];
    let longest = if v4 { 32 } else { 128 };
    for _ in 0..choices.below(4) {
        let bits = match choices.below(3) {
            0 => longest,
            1 => longest - 1 - choices.below(3) as u32,
            _ => choices.below(longest as usize) as u32,
        };
        let prefix = first_of(client(choices, v4).ip(), bits);
        ranges.push((prefix, bits, *choices.of(&of)));
    }
    ranges
}

/// The first address of the prefix of so many bits that an address is in: only those stand in the maps.
pub(super) fn first_of(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Ipv4Addr::from(u32::from(a) & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Ipv6Addr::from(u128::from(a) & mask).into()
        }
    }
}

/// Backends of the service; seldom another's, or nobody.
fn ring(choices: &mut Choices<'_>, world: &World, service: usize) -> Vec<u32> {
    let ids = (0..).zip(&world.backends);
    let own: Vec<u32> = ids
        .filter(|(_, backend)| backend.service as usize == service)
        .map(|(id, _)| id)
        .collect();
    if own.is_empty() {
        return Vec::new();
    }
    let slots = match choices.one_in(16) {
        true => 0,
        false => 1 + choices.below(RING),
    };
    let slot = |_| match choices.one_in(32) {
        true => choices.below(world.backends.len()) as u32,
        false => *choices.of(&own),
    };
    (0..slots).map(slot).collect()
}

fn preset(choices: &mut Choices<'_>, world: &mut World) {
    if world.backends.is_empty() {
        return;
    }
    let service = choices.below(world.services.len());
    let spec = &world.services[service];
    if spec.reach.is_some() {
        // Its flows begin with packets.
        return;
    }
    let address = address(spec.vip.is_ipv4(), CLIENTS, *choices.of(&HOSTS));
    let client = SocketAddr::new(address, *choices.of(&PORTS));
    let known = |preset: &Preset| preset.client == client && preset.service == service as u32;
    if world.presets.iter().any(known) {
        return;
    }
    let ids: Vec<usize> = (0..world.backends.len())
        .filter(|id| world.backends[*id].service as usize == service)
        .collect();
    let backend = match ids.is_empty() || choices.one_in(16) {
        true => choices.below(world.backends.len()),
        false => *choices.of(&ids),
    };
    let hop = match (spec.forwarding, choices.one_in(8)) {
        (Forwarding::Dnat, false) => Some((CLIENT_MAC, Side::Client)),
        _ => None,
    };
    world.presets.push(Preset {
        client,
        service: service as u32,
        backend: backend as u32,
        rank: *choices.of(&[
            FlowRank::Proven,
            FlowRank::Probation,
            FlowRank::Probation2,
            FlowRank::ClosingProven,
            FlowRank::ClosingProbation,
            FlowRank::Opening,
            FlowRank::Idle,
        ]),
        age: choices.below(MOST_AGE as usize + 1) as u8,
        hop,
        second: choices.one_in(4),
    });
}
