//! Encapsulation: a client's packet inside another IP packet, addressed to its backend (RFC 2003 for IPv4 in IPv4,
//! RFC 2473 for what is in IPv6, RFC 4213 for IPv6 in IPv4), with UDP in between where that is wanted. The backend
//! takes it out and answers the client directly.
//!
//! The usual tunnel, whose headers are all of one family, is part of the usual packet's way. [`send`], a call of its
//! own, makes them all.

use lb_common::{Address, Control, DropReason, Family, FlowHash, Tunnel, tunnel::OuterTtl};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum::{Delta, Sum},
    forward,
    frame::Frame,
    parse::{self, Packet},
    path,
    pipeline::{self, Context},
    service::{self, Backend},
    tables::Tables,
    verdict::{Outcome, PackedOutcome, PackedSending, Parcel, Refusal},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacWords, OuterV4, OuterV6, protocol},
};

mod gue;

/// TTL and hop limit of the usual outer header.
const TTL: u8 = match OuterTtl::DEFAULT {
    OuterTtl::Fixed(ttl) => ttl,
    OuterTtl::Inherit => 0,
};
/// Don't fragment (RFC 791 section 3.1), set in every outer header: a datagram that is not fragmented needs no
/// identification (RFC 6864 section 4.1).
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// Bytes that the usual tunnel adds to a packet of a family.
#[inline(always)]
pub const fn growth(family: Family) -> usize {
    match family {
        Family::V4 => Ipv4Hdr::LEN,
        Family::V6 => Ipv6Hdr::LEN,
    }
}

/// What an outer header says besides its addresses.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// DSCP and ECN.
    class: u8,
    ttl: u8,
    protocol: u8,
    /// Bytes behind the outer header.
    payload: u32,
    /// Bytes that the frame grows by.
    growth: u16,
    /// What the wire may show of the flow's hash.
    shown: u64,
    macs: MacWords,
}

impl Head {
    /// Of any tunnel's outer header around a packet. `ttl`: what the packet has left.
    #[inline(always)]
    pub(crate) fn of(
        packet: &Packet,
        outer: Family,
        tunnel: Tunnel,
        ttl: u8,
        shown: u64,
        macs: MacWords,
    ) -> Self {
        Self {
            class: packet.class,
            ttl: tunnel.ttl(ttl),
            protocol: match tunnel.gue_port() {
                0 => protocol_of(packet.family),
                _ => protocol::UDP,
            },
            payload: packet.size().wrapping_add(tunnel.between()),
            growth: tunnel.growth(outer) as u16,
            shown,
            macs,
        }
    }
}

/// Puts the usual outer header before the packet, and these Ethernet addresses before that. TTL and ECN bits are those
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
    let family = if V4 { Family::V4 } else { Family::V6 };
    let growth = growth(family) as u16;
    // First: what the header says need not be kept over the call then.
    if !frame.grow_head(growth) {
        return Err(DropReason::NoHeadroom);
    }
    let head = Head {
        class: packet.class,
        ttl: TTL,
        protocol: protocol_of(family),
        payload: packet.size(),
        growth,
        shown: hash.shown(&control.multipliers),
        macs,
    };
    match V4 {
        true => write_v4(frame, &head, addresses_v4(control, backend, head.shown)),
        false => write_v6(frame, &head, addresses_v6(control, backend, head.shown)),
    }
}

/// What the outer header says of a packet inside.
#[inline(always)]
const fn protocol_of(inner: Family) -> u8 {
    match inner {
        Family::V4 => protocol::IPIP,
        Family::V6 => protocol::IPV6,
    }
}

/// Sends a [`Parcel`] by any tunnel, and counts what is to be counted: a client's packet, or an ICMP error for a backend with
/// a hash of 0. Sealed with the hash. The way to the backend is known.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn send<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    sealed: u64,
    hash: u64,
) -> PackedSending {
    let parcel = Parcel::open(sealed, hash);
    let bytes = frame.len() as u64;
    let wrapped = wrap::<F, T, V4>(frame, cx, parcel.backend(), FlowHash(hash));
    if let Some(sent) = parcel.sent(bytes) {
        pipeline::count(cx, &sent, wrapped.map(|()| parcel.verdict()));
    }
    match wrapped {
        Ok(()) => PackedSending::sent(parcel),
        Err(refusal) => refusal.into(),
    }
}

/// [`send`] for those that are no part of the usual way: its outcome, or [`PackedOutcome::too_big`].
#[inline(always)]
pub(crate) fn send_aside<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    parcel: Parcel,
    hash: u64,
) -> PackedOutcome {
    let sending = send::<F, T, V4>(frame, cx, parcel.seal(hash), hash);
    let service = match service::backend(cx.tables, parcel.backend()) {
        Some(backend) => backend.entry.service,
        None => return Outcome::drop(DropReason::MapInconsistent).into(),
    };
    match Result::from(sending) {
        Ok(verdict) => PackedOutcome::counted(verdict),
        Err(refusal) => PackedOutcome::refused(refusal, service),
    }
}

#[inline(always)]
fn wrap<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
    hash: FlowHash,
) -> Result<(), Refusal> {
    let packet = parse::ip::<F, V4>(frame).ok_or(DropReason::Truncated)?;
    // It was in use when it was chosen.
    let backend = service::backend(cx.tables, backend).ok_or(DropReason::NoBackend)?;
    let exit = forward::line_to_backend(cx.tables, backend)?;
    let (outer, tunnel) = (
        Address(backend.entry.address).family(),
        cx.tables.tunnel(backend),
    );
    let growth = tunnel.growth(outer);
    let room = path::mtu(tunnel, exit.mtu, cx.now).saturating_sub(growth);
    path::forget_if_old(cx.tables, backend.id, tunnel, cx.now);
    if packet.size() > room {
        return Err(Refusal::too_big(room));
    }
    forward::age_and_patch(frame, &packet, Delta::NONE)?;
    let shown = hash.shown(&cx.control.multipliers);
    let ttl = packet.ttl.wrapping_sub(1);
    let head = Head::of(&packet, outer, tunnel, ttl, shown, exit.macs());
    match outer {
        Family::V4 => {
            let addresses = addresses_v4(cx.control, backend, head.shown);
            put_v4(frame, &head, tunnel, packet.family, addresses)?;
        }
        Family::V6 => {
            let addresses = addresses_v6(cx.control, backend, head.shown);
            put_v6::<F, V4>(frame, &head, tunnel, &packet, addresses)?;
        }
    }
    Ok(())
}

/// Puts any outer header of IPv4 before the packet.
#[inline(always)]
pub(crate) fn put_v4<F: Frame>(
    frame: &mut F,
    head: &Head,
    tunnel: Tunnel,
    inner: Family,
    addresses: [[u8; 4]; 2],
) -> Result<(), DropReason> {
    ipv4(frame, head, addresses)?;
    match tunnel.gue_port() {
        0 => Ok(()),
        _ => gue::over_ipv4(frame, head, tunnel, inner),
    }
}

/// Puts any outer header of IPv6 before the packet.
#[inline(always)]
pub(crate) fn put_v6<F: Frame, const V4: bool>(
    frame: &mut F,
    head: &Head,
    tunnel: Tunnel,
    packet: &Packet,
    addresses: [[u8; 8]; 4],
) -> Result<(), DropReason> {
    let inside = match tunnel.gue_port() {
        0 => 0,
        _ => gue::inner_sum::<F, V4>(frame, packet),
    };
    ipv6(frame, head, addresses)?;
    match tunnel.gue_port() {
        0 => Ok(()),
        _ => gue::over_ipv6(frame, head, tunnel, packet.family, addresses, inside),
    }
}

/// Source and destination of an outer IPv4 header.
#[inline(always)]
fn addresses_v4(control: &Control, backend: Backend<'_>, shown: u64) -> [[u8; 4]; 2] {
    let spread = (shown >> 32) as u32 & control.tunnel_v4_spread;
    let source = u32::from_be_bytes(control.tunnel_v4) | spread;
    [
        source.to_be_bytes(),
        forward::octets(Address(backend.entry.address)),
    ]
}

/// Source and destination of an outer IPv6 header, two words each.
#[inline(always)]
fn addresses_v6(control: &Control, backend: Backend<'_>, shown: u64) -> [[u8; 8]; 4] {
    let [a, b] = Address(control.tunnel_v6).words();
    let spread = u64::from(control.tunnel_v6_spread);
    let b = (u64::from_be(b) | shown >> 12 & spread).to_be();
    let [c, d] = Address(backend.entry.address).words();
    [a, b, c, d].map(u64::to_ne_bytes)
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &mut F, head: &Head, addresses: [[u8; 4]; 2]) -> Result<(), DropReason> {
    match frame.grow_head(head.growth) {
        true => write_v4(frame, head, addresses),
        false => Err(DropReason::NoHeadroom),
    }
}

/// Into the room that is there. Whole words, since a field is a shift and a store of its own else.
#[inline(always)]
fn write_v4<F: Frame>(
    frame: &mut F,
    head: &Head,
    [source, destination]: [[u8; 4]; 2],
) -> Result<(), DropReason> {
    let length = head.payload.wrapping_add(Ipv4Hdr::LEN as u32) & 0xffff;
    let first = 0x4500_0000 | u32::from(head.class) << 16 | length;
    let (first, [flags, offset]) = (first.to_be_bytes(), DONT_FRAGMENT);
    let second = [0, 0, flags, offset];
    let third = [head.ttl, head.protocol, 0, 0];
    let sum = Sum::NONE.words(&[first, second, third, source, destination]);
    let outer = frame
        .header_mut::<OuterV4>(0)
        .ok_or(DropReason::Truncated)?;
    outer.macs = head.macs;
    outer.ether_type = ETHERTYPE_IPV4;
    outer.ip = [first, second, sum.put_last(third), source, destination];
    Ok(())
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &mut F, head: &Head, addresses: [[u8; 8]; 4]) -> Result<(), DropReason> {
    match frame.grow_head(head.growth) {
        true => write_v6(frame, head, addresses),
        false => Err(DropReason::NoHeadroom),
    }
}

/// As [`write_v4`].
#[inline(always)]
fn write_v6<F: Frame>(
    frame: &mut F,
    head: &Head,
    addresses: [[u8; 8]; 4],
) -> Result<(), DropReason> {
    // RFC 6438 section 3: the flow label carries the flow's entropy for routers that balance.
    let label = (head.shown >> 44) as u32;
    let first = 6 << 28 | u32::from(head.class) << 20 | label;
    let second = head.payload << 16 | u32::from(head.protocol) << 8 | u32::from(head.ttl);
    let outer = frame
        .header_mut::<OuterV6>(0)
        .ok_or(DropReason::Truncated)?;
    outer.macs = head.macs;
    outer.ether_type = ETHERTYPE_IPV6;
    outer.first = first.to_be_bytes();
    outer.second = second.to_be_bytes();
    outer.addresses = addresses;
    Ok(())
}
