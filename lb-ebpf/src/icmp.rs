//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo to a VIP, and errors about a flow.
//!
//! An error quotes the packet that it is about. One that comes to a VIP quotes what the VIP "sent" and
//! goes to the backend that did; one that comes from a backend's side quotes what the
//! client sent, as translated, and goes to the client with the quote translated back (RFC 5508
//! section 4.2). Quotes with IPv4 options or IPv6 extension headers do not count, but for a fragment header; those of
//! protocols without ports have port 0 at both ends. A later piece of any other says of no flow that it is about it.

use lb_common::{Address, DropReason, Family, Protocol, counter::Handshake};
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    checksum::{Delta, Sum},
    forward::{self, End},
    frame::Frame,
    parse::{self, FRAGMENT_HEADER, Packet},
    pipeline::opaque,
    verdict::{Account, Outcome, PackedOutcome, Verdict},
    wire::{
        Check, ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, Mac, MacWords, OuterV4, OuterV6, Ports,
        protocol, v4,
    },
};

/// The TTL of an answer.
const ECHO_TTL: u8 = 64;
/// Offset of the checksum in a TCP header.
const TCP_CHECK: usize = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECK: usize = 6;

/// What an ICMP message is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An echo request.
    EchoRequest,
    /// An error about a packet that it quotes.
    Error,
    /// Anything else, neighbour discovery among it.
    Other,
}

/// The packet that an error is about.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    /// Who sent it.
    pub source: Address,
    /// Who should have received it.
    pub destination: Address,
    /// IANA number.
    pub protocol: u8,
    /// Its ports.
    pub ports: Ports,
    /// Where what it carries begins, in the frame.
    pub l4: usize,
    /// It is a later piece of a datagram.
    pub later: bool,
}

/// Reads the type; `None` when the packet ends before its ICMP header does.
#[inline(always)]
pub fn kind<F: Frame>(frame: &F, packet: &Packet) -> Option<Kind> {
    if !packet.holds(packet.l4(), Icmpv4Hdr::LEN) {
        return None;
    }
    let icmp = frame.header::<Icmpv4Hdr>(packet.l4())?;
    Some(match (packet.family, icmp.type_) {
        (Family::V4, 8) | (Family::V6, 128) => Kind::EchoRequest,
        (Family::V4, 3 | 11 | 12) | (Family::V6, 1..=4) => Kind::Error,
        _ => Kind::Other,
    })
}

/// [`Handshake::Unreachable`] for an error that says that a packet has not come to where it should: destination unreachable (RFC 792 type 3, RFC 4443
/// type 1), but for one that was too big; else 0.
#[inline(always)]
pub fn unreachable<F: Frame>(frame: &F, packet: &Packet) -> u32 {
    let Some(icmp) = frame.header::<Icmpv4Hdr>(packet.l4()) else {
        return 0;
    };
    let says = match packet.family {
        Family::V4 => icmp.type_ == 3 && icmp.code != 4,
        Family::V6 => icmp.type_ == 1,
    };
    match says {
        true => Handshake::Unreachable as u32 | packet.blur(),
        false => packet.blur(),
    }
}

/// What an error that has gone to a client says of a handshake with its backend is put to its outcome. Last, since on its way the
/// verifier would follow each answer through all that comes.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn heard<F: Frame, const V4: bool>(
    frame: &mut F,
    outcome: PackedOutcome,
) -> PackedOutcome {
    let frame = opaque(frame);
    if Outcome::from(outcome).account != Account::ErrorReturned {
        return outcome;
    }
    match parse::ip::<F, V4>(frame) {
        Some(packet) => outcome.saying(unreachable(frame, &packet)),
        None => outcome,
    }
}

/// Where the quoted IP header begins.
pub(crate) const fn quoted_l3(packet: &Packet) -> usize {
    packet.l4().wrapping_add(Icmpv4Hdr::LEN)
}

/// Where the quoted transport header begins.
pub(crate) const fn quoted_l4(packet: &Packet) -> usize {
    quoted_l3(packet).wrapping_add(match packet.family {
        Family::V4 => Ipv4Hdr::LEN,
        Family::V6 => Ipv6Hdr::LEN,
    })
}

/// What a quoted packet carries: protocol, where that begins, and whether it is a later piece of a datagram.
#[inline(always)]
fn carried<F: Frame>(frame: &F, packet: &Packet) -> Option<(u8, usize, bool)> {
    let l4 = quoted_l4(packet);
    match packet.family {
        Family::V4 => {
            let ip = frame.header::<Ipv4Hdr>(quoted_l3(packet))?;
            let later = u16::from_be_bytes(ip.frags) & 0x1fff != 0;
            (ip.vihl == 0x45).then_some((ip.proto, l4, later))
        }
        Family::V6 => {
            let ip = frame.header::<Ipv6Hdr>(quoted_l3(packet))?;
            let [first, ..] = ip.vcf;
            if first >> 4 != 6 {
                return None;
            }
            if ip.next_hdr != protocol::FRAGMENT {
                return Some((ip.next_hdr, l4, false));
            }
            if !packet.holds(l4, FRAGMENT_HEADER) {
                return None;
            }
            let [next, _, high, low] = *frame.header::<[u8; 4]>(l4)?;
            let later = u16::from_be_bytes([high, low]) >> 3 != 0;
            Some((next, l4.wrapping_add(FRAGMENT_HEADER), later))
        }
    }
}

/// Reads the quote of an error.
#[inline(always)]
pub fn quote<F: Frame>(frame: &F, packet: &Packet) -> Option<Quote> {
    let (protocol, l4, later) = carried(frame, packet)?;
    let nobodys = match packet.family {
        Family::V4 => protocol == protocol::ICMP,
        // Extension headers (RFC 8200 section 4, RFC 4302, RFC 6275), behind which the protocol would stand.
        Family::V6 => matches!(protocol, protocol::ICMPV6 | 0 | 43 | 44 | 51 | 60 | 135),
    };
    // The ports are the first piece's.
    if nobodys || later && Protocol::has_ports(protocol) || !packet.holds(l4, size_of::<Ports>()) {
        return None;
    }
    let ports = match Protocol::has_ports(protocol) {
        true => *frame.header::<Ports>(l4)?,
        false => Ports {
            source: [0, 0],
            destination: [0, 0],
        },
    };
    let (source, destination) = match packet.family {
        Family::V4 => {
            let ip = frame.header::<Ipv4Hdr>(quoted_l3(packet))?;
            (v4(ip.src_addr), v4(ip.dst_addr))
        }
        Family::V6 => {
            let ip = frame.header::<Ipv6Hdr>(quoted_l3(packet))?;
            (Address::v6(ip.src_addr), Address::v6(ip.dst_addr))
        }
    };
    Some(Quote {
        source,
        destination,
        protocol,
        ports,
        l4,
        later,
    })
}

/// Turns an echo request into its reply, out of the interface it came from. The reply is exactly as
/// long as the request.
#[inline(always)]
pub fn answer_echo<F: Frame>(frame: &mut F, packet: &Packet) -> Result<Verdict, DropReason> {
    let words = frame
        .header_mut::<MacWords>(0)
        .ok_or(DropReason::Truncated)?;
    *words = Mac::words(Mac::source(words), Mac::destination(words));
    let reply = match packet.family {
        Family::V4 => {
            let ip = frame
                .header_mut::<Ipv4Hdr>(L3)
                .ok_or(DropReason::Truncated)?;
            // Swapping the addresses does not change the sum.
            let delta = Delta::NONE.swap2([packet.ttl, ip.proto], [ECHO_TTL, ip.proto]);
            ip.check = delta.apply(ip.check);
            ip.ttl = ECHO_TTL;
            0
        }
        Family::V6 => {
            frame
                .header_mut::<Ipv6Hdr>(L3)
                .ok_or(DropReason::Truncated)?
                .hop_limit = ECHO_TTL;
            129
        }
    };
    forward::put_address(frame, L3, packet.family, End::Source, packet.destination)?;
    forward::put_address(frame, L3, packet.family, End::Destination, packet.source)?;
    let icmp = frame
        .header_mut::<Icmpv4Hdr>(packet.l4())
        .ok_or(DropReason::Truncated)?;
    let delta = Delta::NONE.swap2([icmp.type_, icmp.code], [reply, icmp.code]);
    icmp.check = delta.apply(icmp.check);
    icmp.type_ = reply;
    Ok(Verdict::TX)
}

/// The translation of an error: one end of its quote, and perhaps one end of the packet itself.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// The end of the quoted packet that changes.
    pub quoted: End,
    /// Its address before.
    pub old: Address,
    /// Its address from now on.
    pub address: Address,
    /// Its port from now on.
    pub port: [u8; 2],
    /// The end of the packet itself that gets `outer_address`.
    pub outer: End,
    /// The packet's own address from now on; the old one leaves it as it is.
    pub outer_address: Address,
    /// The packet loses a hop. Not where it has lost one for its other end.
    pub ages: bool,
}

/// Translates an error.
#[inline(always)]
pub fn translate<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    quote: &Quote,
    t: &Translation,
) -> Result<(), DropReason> {
    let family = packet.family;
    let inner = forward::address_delta(family, t.old, t.address);
    forward::put_address(frame, quoted_l3(packet), family, t.quoted, t.address)?;
    // All that changes in what the ICMP checksum covers.
    let mut covered = inner;
    if matches!(family, Family::V4) {
        let ip = frame
            .header_mut::<Ipv4Hdr>(quoted_l3(packet))
            .ok_or(DropReason::Truncated)?;
        let old = ip.check;
        ip.check = inner.apply(old);
        covered = covered.swap2(old, ip.check);
    }
    let port = forward::put_port(frame, quote.l4, t.quoted, t.port)?;
    covered = covered.plus(port);
    let check_at = quote.l4.wrapping_add(match quote.protocol {
        protocol::TCP => TCP_CHECK,
        _ => UDP_CHECK,
    });
    // RFC 792 promises eight bytes of the quoted segment; TCP's checksum lies behind them.
    // SCTP's covers no address, and its ports stay.
    if quote.protocol != protocol::SCTP
        && packet.holds(check_at, size_of::<Check>())
        && let Some(Check(check)) = frame.header_mut::<Check>(check_at)
    {
        let old = *check;
        *check = match quote.protocol {
            protocol::TCP => inner.plus(port).apply(old),
            _ => inner.plus(port).apply_udp(old),
        };
        covered = covered.swap2(old, *check);
    }
    let before = match t.outer {
        End::Source => packet.source,
        End::Destination => packet.destination,
    };
    let outer = forward::address_delta(family, before, t.outer_address);
    match t.ages {
        true => forward::age_and_patch(frame, packet, outer)?,
        false => forward::patch(frame, packet, outer)?,
    }
    forward::put_address(frame, L3, family, t.outer, t.outer_address)?;
    if matches!(family, Family::V6) {
        // ICMPv6 covers a pseudo-header (RFC 4443 section 2.3), ICMP does not.
        covered = covered.plus(outer);
    }
    let icmp = frame
        .header_mut::<Icmpv4Hdr>(packet.l4())
        .ok_or(DropReason::Truncated)?;
    icmp.check = covered.apply(icmp.check);
    Ok(())
}

/// Bytes of the IP packet that "packet too big" quotes: more than RFC 792 asks for, so that senders recognise
/// segments with options. Whoever sends less (to a next hop with an MTU below a hundred bytes) is not told.
const QUOTED_V4: usize = 64;
const QUOTED_V6: usize = 96;

/// Turns a packet into the news that it is too big for the way behind us, from the address that it was sent to, out
/// of the interface it came from: ICMP type 3 code 4 (RFC 1191 section 4), ICMPv6 type 2 (RFC 4443 section 3.2).
#[inline(always)]
pub fn too_big<F: Frame, const V4: bool>(frame: &mut F, mtu: u32) -> Result<Verdict, DropReason> {
    match V4 {
        true => too_big_v4(frame, mtu),
        false => too_big_v6(frame, mtu),
    }
}

#[inline(always)]
fn too_big_v4<F: Frame>(frame: &mut F, mtu: u32) -> Result<Verdict, DropReason> {
    const SIZE: usize = Ipv4Hdr::LEN + Icmpv4Hdr::LEN + QUOTED_V4;
    let words = *frame.header::<MacWords>(0).ok_or(DropReason::Truncated)?;
    if !frame.truncate((L3 + QUOTED_V4) as u16) {
        return Err(DropReason::PacketTooBig);
    }
    if !frame.grow_head((Ipv4Hdr::LEN + Icmpv4Hdr::LEN) as u16) {
        return Err(DropReason::NoHeadroom);
    }
    let quote = frame
        .header::<[[u8; 4]; QUOTED_V4 / 4]>(L3 + Ipv4Hdr::LEN + Icmpv4Hdr::LEN)
        .ok_or(DropReason::Truncated)?;
    let [_, _, _, source, destination, ..] = *quote;
    let [_, _, high, low] = mtu.to_be_bytes();
    let message = [[3, 4, 0, 0], [0, 0, high, low]];
    let sum = Sum::NONE.words(&message).words(quote);
    let [c, d] = sum.check();
    let [first, rest] = message;
    let [kind, code, ..] = first;
    let [e, f] = (SIZE as u16).to_be_bytes();
    let mut ip = [
        [0x45, 0, e, f],
        [0, 0, 0x40, 0],
        [ECHO_TTL, protocol::ICMP, 0, 0],
        destination,
        source,
    ];
    let [a, b] = Sum::NONE.words(&ip).check();
    let [_, _, third, ..] = &mut ip;
    *third = [ECHO_TTL, protocol::ICMP, a, b];
    let outer = frame
        .header_mut::<OuterV4>(0)
        .ok_or(DropReason::Truncated)?;
    outer.macs = Mac::words(Mac::source(&words), Mac::destination(&words));
    outer.ether_type = ETHERTYPE_IPV4;
    outer.ip = ip;
    *frame
        .header_mut::<[[u8; 4]; 2]>(L3 + Ipv4Hdr::LEN)
        .ok_or(DropReason::Truncated)? = [[kind, code, c, d], rest];
    Ok(Verdict::TX)
}

#[inline(always)]
fn too_big_v6<F: Frame>(frame: &mut F, mtu: u32) -> Result<Verdict, DropReason> {
    const SIZE: usize = Icmpv4Hdr::LEN + QUOTED_V6;
    let words = *frame.header::<MacWords>(0).ok_or(DropReason::Truncated)?;
    if !frame.truncate((L3 + QUOTED_V6) as u16) {
        return Err(DropReason::PacketTooBig);
    }
    if !frame.grow_head((Ipv6Hdr::LEN + Icmpv4Hdr::LEN) as u16) {
        return Err(DropReason::NoHeadroom);
    }
    const QUOTE: usize = L3 + Ipv6Hdr::LEN + Icmpv4Hdr::LEN;
    const ADDRESSES: usize = QUOTE + 8;
    let (Some(quote), Some(addresses)) = (
        frame.header::<[[u8; 4]; QUOTED_V6 / 4]>(QUOTE),
        frame.header::<[[u8; 4]; 8]>(ADDRESSES),
    ) else {
        return Err(DropReason::Truncated);
    };
    let message = [[2, 0, 0, 0], mtu.to_be_bytes()];
    let [e, f] = (SIZE as u16).to_be_bytes();
    // The pseudo-header (RFC 8200 section 8.1): addresses, length, next header.
    let sum = Sum::NONE
        .words(&message)
        .words(quote)
        .words(addresses)
        .words(&[[0, 0, e, f], [0, 0, 0, protocol::ICMPV6]]);
    let [c, d] = sum.check();
    // The answer's source is the packet's destination, and the other way round.
    let [s0, s1, d0, d1] = *frame
        .header::<[[u8; 8]; 4]>(ADDRESSES)
        .ok_or(DropReason::Truncated)?;
    let outer = frame
        .header_mut::<OuterV6>(0)
        .ok_or(DropReason::Truncated)?;
    outer.macs = Mac::words(Mac::source(&words), Mac::destination(&words));
    outer.ether_type = ETHERTYPE_IPV6;
    outer.first = [0x60, 0, 0, 0];
    outer.second = [e, f, protocol::ICMPV6, ECHO_TTL];
    outer.addresses = bytemuck::cast([d0, d1, s0, s1]);
    let [first, rest] = message;
    let [kind, code, ..] = first;
    *frame
        .header_mut::<[[u8; 4]; 2]>(L3 + Ipv6Hdr::LEN)
        .ok_or(DropReason::Truncated)? = [[kind, code, c, d], rest];
    Ok(Verdict::TX)
}
