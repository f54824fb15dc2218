//! What the kernel says over rtnetlink(7), read from its bytes.
//!
//! Only the attributes that are needed are looked at, one by one, so that a newer kernel's unknown
//! ones never make a message unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::Tags;
use lb_common::vlan::{TPID_8021Q, Tag};
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressFlags;
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType};
use netlink_packet_route::neighbour::{
    NeighbourExtFlags, NeighbourFlags, NeighbourHeader, NeighbourState as Nud,
};
use netlink_packet_route::route::{RouteHeader, RouteType};

use super::{Answer, Hop, InterfaceAddress, LinkState, Neighbour, NeighbourState};
use crate::model::{Link, Vlan};

/// Bytes that make no sense, and in what way.
#[derive(Debug, thiserror::Error)]
#[error("read a netlink message: {0} (this kernel may be newer than this program)")]
pub struct Malformed(String);

/// One thing the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A link appeared or changed.
    Link(LinkState),
    /// A link is gone.
    LinkGone(u32),
    /// A neighbour entry appeared or changed.
    Neighbour(Hop, Neighbour),
    /// A neighbour entry is gone.
    NeighbourGone(Hop),
    /// A route to this prefix appeared, changed or went; as an answer: the way.
    Route {
        /// The prefix.
        to: (IpAddr, u8),
        /// The way it describes.
        answer: Answer,
    },
    /// Rules or next-hop objects changed: any way may have.
    Routing,
    /// An interface has an address.
    Address {
        /// The address.
        at: InterfaceAddress,
        /// Duplicate address detection has not ended: nothing can be sent from it yet.
        tentative: bool,
    },
    /// An interface lost an address.
    AddressGone(InterfaceAddress),
}

/// A message: a notice, the end of a dump, or an error number (0: done).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Notice(Notice),
    Other,
    Done,
    Error(i32),
}

/// Reads all messages of a datagram: sequence number, flags, content.
pub(super) fn read(mut bytes: &[u8]) -> Result<Vec<(u32, u16, Message)>, Malformed> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let buffer = NetlinkBuffer::new_checked(bytes).map_err(malformed)?;
        let message = content(buffer.message_type(), buffer.payload())?;
        messages.push((buffer.sequence_number(), buffer.flags(), message));
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    Ok(messages)
}

fn malformed(error: impl std::fmt::Display) -> Malformed {
    Malformed(error.to_string())
}

fn content(kind: u16, body: &[u8]) -> Result<Message, Malformed> {
    let notice = match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => link(kind == libc::RTM_DELLINK, body)?,
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => neighbour(kind == libc::RTM_DELNEIGH, body)?,
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => route(body)?,
        libc::RTM_NEWADDR | libc::RTM_DELADDR => address(kind == libc::RTM_DELADDR, body)?,
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Notice::Routing),
        // RTM_NEWNEXTHOP, RTM_DELNEXTHOP
        104 | 105 => Some(Notice::Routing),
        // NLMSG_DONE carries an error number too, if the dump broke off.
        3 => match number(body) {
            Some(code) if code < 0 => return Ok(Message::Error(code.saturating_neg())),
            _ => return Ok(Message::Done),
        },
        // NLMSG_ERROR
        2 => {
            let code = number(body).ok_or_else(|| malformed("an error without a number"))?;
            return Ok(Message::Error(code.saturating_neg()));
        }
        _ => None,
    };
    Ok(notice.map_or(Message::Other, Message::Notice))
}

fn number(body: &[u8]) -> Option<i32> {
    body.first_chunk().map(|b| i32::from_ne_bytes(*b))
}

/// The attributes after a header of `header` bytes: kind and value.
fn attributes(body: &[u8], header: usize) -> Result<Vec<(u16, &[u8])>, Malformed> {
    let rest = body
        .get(header..)
        .ok_or_else(|| malformed("a header cut short"))?;
    let mut list = Vec::new();
    for attribute in NlasIterator::new(rest) {
        let attribute = attribute.map_err(malformed)?;
        let offset = attribute.into_inner();
        let (head, value) = offset
            .split_at_checked(4)
            .ok_or_else(|| malformed("an attribute cut short"))?;
        let length = match head {
            [a, b, ..] => usize::from(u16::from_ne_bytes([*a, *b])),
            _ => 0,
        };
        let kind = match head {
            // The two upper bits are flags.
            [_, _, a, b] => u16::from_ne_bytes([*a, *b]) & 0x3fff,
            _ => 0,
        };
        let value = value.get(..length.saturating_sub(4)).unwrap_or(value);
        list.push((kind, value));
    }
    Ok(list)
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value)
        .ok()
        .map(|b| IpAddr::V4(b.into()));
    v4.or_else(|| {
        <[u8; 16]>::try_from(value)
            .ok()
            .map(|b| IpAddr::V6(b.into()))
    })
}

/// Set up, with carrier, and its queue works: the kernel reports a carrier before it stops throwing
/// away what is sent.
const WORKING: LinkFlags = LinkFlags::Up
    .union(LinkFlags::LowerUp)
    .union(LinkFlags::Running);

/// Attributes: IFLA_ADDRESS 1, IFLA_IFNAME 3, IFLA_MTU 4, IFLA_LINK 5, IFLA_MASTER 10, IFLA_LINKINFO 18, IFLA_LINK_NETNSID 37.
fn link(gone: bool, body: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = LinkHeader::parse(body).map_err(malformed)?;
    if header.interface_family != AddressFamily::Unspec {
        // A bridge speaks of its ports in the same group; a port that leaves is no link that goes.
        return Ok(None);
    }
    if gone {
        return Ok(Some(Notice::LinkGone(header.index)));
    }
    let (mut name, mut mtu, mut mac) = (None, None, [0; 6]);
    let (mut lower, mut master, mut elsewhere) = (None, None, false);
    let mut info = LinkInfo::default();
    for (kind, value) in attributes(body, 16)? {
        match kind {
            1 => mac = value.try_into().unwrap_or_default(),
            3 => {
                name = Some(
                    String::from_utf8_lossy(value)
                        .trim_end_matches('\0')
                        .to_owned(),
                )
            }
            4 => mtu = word(value),
            5 => lower = word(value),
            10 => master = word(value),
            18 => info = link_info(value)?,
            37 => elsewhere = true,
            _ => {}
        }
    }
    let (Some(name), Some(mtu)) = (name, mtu) else {
        // Wireless drivers send messages that carry nothing but their own event.
        return Ok(None);
    };
    Ok(Some(Notice::Link(LinkState {
        link: Link {
            ifindex: header.index,
            name,
            mac,
            mtu,
            up: header.flags.contains(WORKING),
            vlan: info.tag.map(|tag| Vlan {
                lower: lower.filter(|_| !elsewhere),
                tag,
            }),
            bond: master.filter(|_| info.of_bond),
        },
        ethernet: header.link_layer_type == LinkLayerType::Ether,
    })))
}

/// What IFLA_LINKINFO says.
#[derive(Default)]
struct LinkInfo {
    tag: Option<Tag>,
    of_bond: bool,
}

/// Attributes: IFLA_INFO_KIND 1, IFLA_INFO_DATA 2, IFLA_INFO_SLAVE_KIND 4; in that of a VLAN: IFLA_VLAN_ID 1, in host order, and
/// IFLA_VLAN_PROTOCOL 5, in network order.
fn link_info(value: &[u8]) -> Result<LinkInfo, Malformed> {
    let text = |value: &[u8]| {
        String::from_utf8_lossy(value)
            .trim_end_matches('\0')
            .to_owned()
    };
    let mut found = LinkInfo::default();
    let (mut kind, mut data) = (String::new(), None);
    for (attribute, value) in attributes(value, 0)? {
        match attribute {
            1 => kind = text(value),
            2 => data = Some(value),
            4 => found.of_bond = text(value) == "bond",
            _ => {}
        }
    }
    if let (true, Some(data)) = (kind == "vlan", data) {
        let (mut number, mut protocol) = (None, TPID_8021Q);
        for (attribute, value) in attributes(data, 0)? {
            match attribute {
                1 => number = value.first_chunk().map(|b| u16::from_ne_bytes(*b)),
                5 => protocol = value.first_chunk().copied().unwrap_or(protocol),
                _ => {}
            }
        }
        found.tag = number.map(|number| Tags::tag(protocol, number));
    }
    Ok(found)
}

/// Attributes: NDA_DST 1, NDA_LLADDR 2, NDA_FLAGS_EXT 15.
fn neighbour(gone: bool, body: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = NeighbourHeader::parse(body).map_err(malformed)?;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return Ok(None);
    }
    let (mut address, mut mac, mut managed) = (None, None, false);
    for (kind, value) in attributes(body, 12)? {
        match kind {
            1 => address = ip(value),
            2 => mac = value.try_into().ok(),
            15 => {
                let flags = NeighbourExtFlags::from_bits_retain(word(value).unwrap_or_default());
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let Some(address) = address else {
        return Ok(None);
    };
    if header.flags.contains(NeighbourFlags::Proxy) {
        return Ok(None);
    }
    let hop = (header.ifindex, address);
    let state = match header.state {
        Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe => NeighbourState::Usable,
        Nud::Permanent | Nud::Noarp => NeighbourState::Fixed,
        Nud::Failed => NeighbourState::Failed,
        _ => NeighbourState::Pending,
    };
    Ok(Some(if gone {
        Notice::NeighbourGone(hop)
    } else {
        Notice::Neighbour(
            hop,
            Neighbour {
                state,
                mac,
                managed,
            },
        )
    }))
}

/// Attributes: RTA_DST 1, RTA_OIF 4, RTA_GATEWAY 5, RTA_VIA 18.
fn route(body: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = RouteHeader::parse(body).map_err(malformed)?;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Ok(None),
    };
    let (mut to, mut interface, mut gateway) = (any, None, None);
    for (kind, value) in attributes(body, 12)? {
        match kind {
            1 => to = ip(value).unwrap_or(any),
            4 => interface = word(value),
            5 => gateway = ip(value),
            // struct rtvia: a family, then an address of it (RFC 5549 next hops)
            18 => gateway = value.get(2..).and_then(ip),
            _ => {}
        }
    }
    let answer = match (header.kind, interface) {
        (RouteType::Unicast, Some(ifindex)) => Answer::Via((ifindex, gateway.unwrap_or(to))),
        (RouteType::Unicast, None) => Answer::None("the route names no interface".to_owned()),
        (RouteType::Local, _) => Answer::None("the address is this host's own".to_owned()),
        (kind, _) => {
            let kind = format!("{kind:?}").to_lowercase();
            Answer::None(format!("the route is of type {kind}"))
        }
    };
    let to = (to, header.destination_prefix_length);
    Ok(Some(Notice::Route { to, answer }))
}

/// Attributes: IFA_ADDRESS 1, IFA_LOCAL 2, IFA_FLAGS 8.
fn address(gone: bool, body: &[u8]) -> Result<Option<Notice>, Malformed> {
    let [_, prefix, low_flags, _, a, b, c, d, ..] = *body else {
        return Err(malformed("an address message cut short"));
    };
    let (mut own, mut peer, mut flags) = (None, None, u32::from(low_flags));
    for (kind, value) in attributes(body, 8)? {
        match kind {
            1 => peer = ip(value),
            2 => own = ip(value),
            8 => flags = word(value).unwrap_or(flags),
            _ => {}
        }
    }
    let Some(address) = own.or(peer) else {
        return Ok(None);
    };
    let ifindex = u32::from_ne_bytes([a, b, c, d]);
    let at = InterfaceAddress {
        ifindex,
        address,
        prefix,
    };
    let flags = AddressFlags::from_bits_retain(flags);
    let tentative = flags.contains(AddressFlags::Tentative);
    Ok(Some(if gone {
        Notice::AddressGone(at)
    } else {
        Notice::Address { at, tentative }
    }))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
