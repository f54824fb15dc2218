//! Services with a prefix, a range of ports or any protocol: what they are, and what is sent to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Forwarding, Protocol, Reach};
use lb_ebpf::fixture::world::{ServiceSpec, World};

use super::{Choices, world::first_of};

/// First and last ports; some share ports, and some lie within others.
const PORTS: [(u16, u16); 6] = [
    (0, u16::MAX),
    (0, u16::MAX),
    (50, 90),
    (53, 443),
    (80, 80),
    (8000, 8099),
];

/// What a service takes, and how it may be forwarded.
pub(super) struct Drawn {
    pub(super) vip: SocketAddr,
    pub(super) reach: Reach,
    pub(super) protocol: Protocol,
    pub(super) forwarding: Forwarding,
}

/// A service around a VIP; `None`: it is no range, or as specific as another that takes some of the same packets.
pub(super) fn reach(choices: &mut Choices<'_>, world: &World, vip: SocketAddr) -> Option<Drawn> {
    let host = match vip.is_ipv4() {
        true => *choices.of(&[0, 0, 1, 2, 8]),
        false => *choices.of(&[0, 0, 1, 64, 80]),
    };
    let (low, high) = *choices.of(&PORTS);
    let protocol = *choices.of(&[
        Protocol::Any,
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Sctp,
        Protocol::Any,
    ]);
    let own = protocol != Protocol::Any;
    if own && host == 0 && low == high {
        return None;
    }
    let ways = [
        Forwarding::L2dsr,
        Forwarding::Ipip,
        Forwarding::Gue,
        Forwarding::Dnat,
        Forwarding::Dnat,
        Forwarding::Dnat,
    ];
    // Behind a prefix a reply does not tell which address its client sent to, and without ports not even whose it is.
    let ways = match own && host == 0 {
        true => &ways[..],
        false => &ways[..3],
    };
    let longest = if vip.is_ipv4() { 32 } else { 128 };
    let reach = Reach {
        length: 128 - host,
        low,
        high,
    };
    let drawn = Drawn {
        vip: SocketAddr::new(first_of(vip.ip(), longest - u32::from(host)), 0),
        reach,
        protocol,
        forwarding: *choices.of(ways),
    };
    let mut others = world.services.iter();
    (!others.any(|other| drawn.clashes(other))).then_some(drawn)
}

impl Drawn {
    /// Neither is more specific, and there are packets that both take.
    fn clashes(&self, other: &ServiceSpec) -> bool {
        let Some(reach) = other.reach else {
            return false;
        };
        let same = other.vip == self.vip
            && other.protocol == self.protocol
            && (reach.length, reach.high - reach.low)
                == (self.reach.length, self.reach.high - self.reach.low);
        same && reach.low <= self.reach.high && self.reach.low <= reach.high
    }
}

/// Where a packet to a service goes, and its protocol.
pub(super) fn target(choices: &mut Choices<'_>, service: &ServiceSpec) -> (SocketAddr, u8) {
    let Some(reach) = service.reach else {
        return (service.vip, service.protocol as u8);
    };
    let protocol = match service.protocol {
        Protocol::Any => match choices.below(12) {
            0..=2 => 6,
            3 | 4 => 17,
            5 | 6 => 132,
            7 | 8 => 47,
            9 => 50,
            10 => *choices.of(&[4, 41, 2, 51]),
            _ => choices.byte(),
        },
        own => own as u8,
    };
    let address = within(choices, service.vip.ip(), 128 - reach.length);
    (SocketAddr::new(address, port(choices, reach)), protocol)
}

/// A port that a service takes, mostly the first; seldom one beside.
pub(super) fn port(choices: &mut Choices<'_>, reach: Reach) -> u16 {
    match choices.below(12) {
        0..=5 => reach.low.max(50),
        6 => reach.low,
        7 => reach.high,
        8 => *choices.of(&[53, 80, 443]),
        9 => 8080,
        10 => reach.low.wrapping_sub(1),
        _ => reach.high.wrapping_add(1),
    }
}

/// An address of a prefix with so many bits for hosts: one of the first, or the last, or the one behind it.
fn within(choices: &mut Choices<'_>, first: IpAddr, host: u8) -> IpAddr {
    let last = 1_u128
        .checked_shl(host.into())
        .map_or(u128::MAX, |size| size - 1);
    let by = match choices.below(16) {
        0..=8 => 1,
        9..=11 => 2,
        12 => 0,
        13 | 14 => last,
        _ => last + 1,
    };
    let by = if by > last && by < 4 { 0 } else { by };
    match first {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a).wrapping_add(by as u32)).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a).wrapping_add(by)).into(),
    }
}
