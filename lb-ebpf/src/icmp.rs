//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo to a VIP, and errors about a flow.
//!
//! An error quotes the packet that it is about. One that comes to a VIP quotes what the VIP "sent" and
//! goes to the backend that did; one that comes from a backend's side quotes what the
//! client sent, as translated, and goes to the client with the quote translated back (RFC 5508
//! section 4.2). Only quotes of TCP and UDP without IPv4 options or IPv6 extension headers count.

use lb_common::{Address, DropReason, Family};
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    checksum::Delta,
    forward::{self, End},
    frame::Frame,
    parse::Packet,
    verdict::Verdict,
    wire::{Check, L3, Mac, MacWords, Ports, protocol, v4},
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
    /// TCP or UDP.
    pub protocol: u8,
    /// Its ports.
    pub ports: Ports,
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

/// Where the quoted IP header begins.
const fn quoted_l3(packet: &Packet) -> usize {
    packet.l4().wrapping_add(Icmpv4Hdr::LEN)
}

/// Where the quoted transport header begins.
const fn quoted_l4(packet: &Packet) -> usize {
    quoted_l3(packet).wrapping_add(match packet.family {
        Family::V4 => Ipv4Hdr::LEN,
        Family::V6 => Ipv6Hdr::LEN,
    })
}

/// Reads the quote of an error.
#[inline(always)]
pub fn quote<F: Frame>(frame: &F, packet: &Packet) -> Option<Quote> {
    if !packet.holds(quoted_l4(packet), size_of::<Ports>()) {
        return None;
    }
    let ports = *frame.header::<Ports>(quoted_l4(packet))?;
    let quote = match packet.family {
        Family::V4 => {
            let ip = frame.header::<Ipv4Hdr>(quoted_l3(packet))?;
            // Later fragments have no ports.
            if ip.vihl != 0x45 || u16::from_be_bytes(ip.frags) & 0x1fff != 0 {
                return None;
            }
            Quote {
                source: v4(ip.src_addr),
                destination: v4(ip.dst_addr),
                protocol: ip.proto,
                ports,
            }
        }
        Family::V6 => {
            let ip = frame.header::<Ipv6Hdr>(quoted_l3(packet))?;
            let [first, ..] = ip.vcf;
            if first >> 4 != 6 {
                return None;
            }
            Quote {
                source: Address::v6(ip.src_addr),
                destination: Address::v6(ip.dst_addr),
                protocol: ip.next_hdr,
                ports,
            }
        }
    };
    matches!(quote.protocol, protocol::TCP | protocol::UDP).then_some(quote)
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
}

/// Translates an error, and takes one hop from it.
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
    let port = forward::put_port(frame, quoted_l4(packet), t.quoted, t.port)?;
    covered = covered.plus(port);
    let check_at = quoted_l4(packet).wrapping_add(match quote.protocol {
        protocol::TCP => TCP_CHECK,
        _ => UDP_CHECK,
    });
    // RFC 792 promises eight bytes of the quoted segment; TCP's checksum lies behind them.
    if packet.holds(check_at, size_of::<Check>())
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
    forward::age_and_patch(frame, packet, outer)?;
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
