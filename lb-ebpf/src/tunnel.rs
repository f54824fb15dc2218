//! Encapsulation: a client's packet inside another IP packet, addressed to its backend (RFC 2003 for IPv4 in IPv4,
//! RFC 2473 for IPv6 in IPv6). The backend takes it out and answers the client directly.

use lb_common::{Address, Control, DropReason, Family, FlowHash};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum::Sum,
    forward,
    frame::Frame,
    parse::Packet,
    service::Backend,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacWords, OuterV4, OuterV6, protocol},
};

/// TTL and hop limit of the outer header.
const TTL: u8 = 64;
/// Don't fragment (RFC 791 section 3.1), set in every outer header: a datagram that is not fragmented needs no
/// identification (RFC 6864 section 4.1).
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// Bytes that the outer header adds to a packet of a family.
#[inline(always)]
pub const fn growth(family: Family) -> usize {
    match family {
        Family::V4 => Ipv4Hdr::LEN,
        Family::V6 => Ipv6Hdr::LEN,
    }
}

/// Puts the outer header before the packet, and these Ethernet addresses before that. TTL and ECN bits are those
/// of RFC 2003 section 3.1 and RFC 6040 section 4.1: the inner header ages by its own rules, the traffic
/// class is copied.
#[inline(always)]
pub fn encapsulate<F: Frame, const V4: bool>(
    frame: &mut F,
    control: &Control,
    packet: &Packet,
    backend: Backend<'_>,
    hash: FlowHash,
    macs: MacWords,
) -> Result<(), DropReason> {
    match V4 {
        true => ipv4(frame, control, packet, backend, hash, macs),
        false => ipv6(frame, control, packet, backend, hash, macs),
    }
}

#[inline(always)]
fn ipv4<F: Frame>(
    frame: &mut F,
    control: &Control,
    packet: &Packet,
    backend: Backend<'_>,
    hash: FlowHash,
    macs: MacWords,
) -> Result<(), DropReason> {
    let length = packet.size().wrapping_add(Ipv4Hdr::LEN as u32);
    let spread = control.tunnel_v4_spread;
    let source = u32::from_be_bytes(control.tunnel_v4)
        | (hash.shown(&control.multipliers) >> 32) as u32 & spread;
    let (source, destination) = (
        source.to_be_bytes(),
        forward::octets(Address(backend.entry.address)),
    );
    let [high, low] = (length as u16).to_be_bytes();
    let [flags, offset] = DONT_FRAGMENT;
    let first = [0x45, packet.class, high, low];
    let second = [0, 0, flags, offset];
    let third = [TTL, protocol::IPIP, 0, 0];
    let [c, d] = Sum::NONE
        .words(&[first, second, third, source, destination])
        .check();
    if !frame.grow_head(Ipv4Hdr::LEN as u16) {
        return Err(DropReason::NoHeadroom);
    }
    let outer = frame
        .header_mut::<OuterV4>(0)
        .ok_or(DropReason::Truncated)?;
    outer.macs = macs;
    outer.ether_type = ETHERTYPE_IPV4;
    outer.ip = [
        first,
        second,
        [TTL, protocol::IPIP, c, d],
        source,
        destination,
    ];
    Ok(())
}

#[inline(always)]
fn ipv6<F: Frame>(
    frame: &mut F,
    control: &Control,
    packet: &Packet,
    backend: Backend<'_>,
    hash: FlowHash,
    macs: MacWords,
) -> Result<(), DropReason> {
    let payload = packet.size();
    let [a, b] = Address(control.tunnel_v6).words();
    let spread = u64::from(control.tunnel_v6_spread);
    let shown = hash.shown(&control.multipliers);
    let b = (u64::from_be(b) | shown >> 12 & spread).to_be();
    // RFC 6438 section 3: the flow label carries the flow's entropy for routers that balance.
    let label = (shown >> 44) as u32;
    let first = 6 << 28 | u32::from(packet.class) << 20 | label;
    let [high, low] = (payload as u16).to_be_bytes();
    let [c, d] = Address(backend.entry.address).words();
    if !frame.grow_head(Ipv6Hdr::LEN as u16) {
        return Err(DropReason::NoHeadroom);
    }
    let outer = frame
        .header_mut::<OuterV6>(0)
        .ok_or(DropReason::Truncated)?;
    outer.macs = macs;
    outer.ether_type = ETHERTYPE_IPV6;
    outer.first = first.to_be_bytes();
    outer.second = [high, low, protocol::IPV6, TTL];
    outer.addresses = [a, b, c, d].map(u64::to_ne_bytes);
    Ok(())
}
