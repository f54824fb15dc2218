//! The MSS that a SYN says (RFC 9293 section 3.7.1), lowered where its service wants that (`mss`), never raised.
//!
//! What a client's SYN says is how large the segments are that its backend sends, and the other way round. A SYN without the option
//! stays without. Two calls, one with numbers and one with the packet and a number, so that the verifier walks them once, whoever calls.

use lb_common::{Address, Family, Forwarding, Nanos, backend::device_slot};

use crate::{
    checksum::Delta,
    forward,
    frame::Frame,
    parse::{Arrival, Packet},
    path,
    pipeline::Context,
    service::{self, Backend},
    tables::Tables,
    wire::{ETHERTYPE_IPV4, Ethernet, L3, L4_V4, L4_V6, Tcp, flag},
};

/// What a host may say of itself without a word (RFC 9293 section 3.7.1, MUST-15): no MSS is lowered below it.
const LEAST: u32 = 536;
/// A TCP header without options, in bytes.
const BARE: usize = size_of::<Tcp>();
/// Bytes that options can have.
const OPTIONS: usize = 40;

/// Where the last one may begin, counted from the TCP header.
const LAST: usize = BARE + OPTIONS - LENGTH as usize;

/// Kinds of options (RFC 9293 section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// Bytes of the option.
const LENGTH: u8 = 4;

/// The largest MSS that a SYN of a flow of this backend may say over IP and TCP headers of so many bytes: what its service wants and what
/// fits, on the way to the backend, tunnel included, on the interface with the index `came`, and in `mtu` bytes. 0: what it likes.
///
/// An SCTP packet that opens looks the same to who calls; its service has none, or is of any protocol and asks for what no option there has.
#[inline(always)]
pub fn largest<T: Tables>(
    tables: &T,
    backend: u32,
    came: u32,
    mtu: u32,
    headers: u32,
    now: Nanos,
) -> u32 {
    let Some(backend) = service::backend(tables, backend) else {
        return 0;
    };
    let Ok(service) = service::by_index(tables, backend.entry.service) else {
        return 0;
    };
    if service.entry.mss == 0 {
        return 0;
    }
    let way = way(tables, backend, came, now).min(mtu);
    let fits = way.saturating_sub(headers).max(LEAST);
    fits.min(u32::from(service.entry.mss))
}

/// Both, for a SYN in one piece.
#[inline(always)]
pub(crate) fn clamp<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    arrival: Arrival,
    (backend, mtu): (u32, u32),
) {
    if arrival.is_syn() {
        let (came, headers) = (frame.ingress_ifindex(), headers(packet.family));
        let most = cx.tables.largest_mss(backend, came, mtu, headers, cx.now);
        cx.tables.lower_mss(frame, most);
    }
}

/// Lowers the MSS in a packet, which is TCP's and in one piece, if it is a SYN. `most`: 0: what it likes.
#[inline(always)]
pub fn lower<F: Frame, T: Tables>(frame: &mut F, tables: &T, most: u32) {
    let Some(&Ethernet { ether_type, .. }) = frame.header::<Ethernet>(0) else {
        return;
    };
    match ether_type == ETHERTYPE_IPV4 {
        _ if most == 0 => {}
        true => within::<F, T, true>(frame, tables, most as u16),
        false => within::<F, T, false>(frame, tables, most as u16),
    }
}

/// The largest packet that fits between the backend and an interface, in bytes.
#[inline(always)]
fn way<T: Tables>(tables: &T, backend: Backend<'_>, came: u32, now: Nanos) -> u32 {
    let near = match tables.device(device_slot(came)) {
        Some(device) if device.ifindex == came => device.mtu,
        _ => u32::MAX,
    };
    let Ok(exit) = forward::line_to_backend(tables, backend) else {
        return near;
    };
    let entry = backend.entry;
    let far = match Forwarding::from_u8(entry.forwarding) {
        Some(Forwarding::Ipip | Forwarding::Gue) => {
            let tunnel = tables.tunnel(backend);
            let growth = tunnel.growth(Address(entry.address).family());
            path::mtu(tunnel, exit.mtu, now).saturating_sub(growth)
        }
        _ => exit.mtu,
    };
    near.min(far)
}

/// IP and TCP headers without options, in bytes.
pub(crate) const fn headers(family: Family) -> u32 {
    let transport = match family {
        Family::V4 => L4_V4,
        Family::V6 => L4_V6,
    };
    transport.wrapping_sub(L3).wrapping_add(BARE) as u32
}

#[inline(always)]
fn within<F: Frame, T: Tables, const V4: bool>(frame: &mut F, tables: &T, most: u16) {
    let start = if V4 { L4_V4 } else { L4_V6 };
    let Some(&Tcp { offset, flags, .. }) = frame.header::<Tcp>(start) else {
        return;
    };
    if flags & flag::SYN == 0 {
        return;
    }
    let end = start.wrapping_add(usize::from(offset >> 4).wrapping_mul(4));
    let last = start.wrapping_add(LAST);
    // Behind the byte before the first one.
    let before = start.wrapping_add(BARE).wrapping_sub(1) as u32;
    let mut place = tables.after_option(NO_OPERATION.into(), 0, before);
    let mut turn: usize = 0;
    while turn < OPTIONS {
        turn = turn.wrapping_add(1);
        let at = place as usize;
        // The last place of all that an option may begin at: the verifier of Linux 6.1 does not compare two unknown numbers.
        if at > last || at >= end {
            return;
        }
        let Some(&[kind, length]) = frame.header::<[u8; 2]>(at) else {
            return;
        };
        if kind == MSS && length == LENGTH && at.wrapping_add(LENGTH as usize) <= end {
            put(frame, start, at, most);
        }
        place = tables.after_option(kind.into(), length.into(), place);
    }
}

/// Where the option behind one begins; far behind all if that is the last one. A call in BPF, so that the verifier knows nothing of the place
/// and takes one option for the other: it would follow each turn for each place ("BPF program is too large", Linux 6.18).
#[inline(always)]
pub const fn after(kind: u32, length: u32, place: u32) -> u32 {
    match kind as u8 {
        NO_OPERATION => place.wrapping_add(1),
        END => u32::MAX,
        _ if length < 2 => u32::MAX,
        _ => place.wrapping_add(length),
    }
}

/// Lowers what the option at `place` says.
#[inline(always)]
fn put<F: Frame>(frame: &mut F, start: usize, place: usize, most: u16) {
    let Some(value) = frame.header_mut::<[u8; 2]>(place.wrapping_add(2)) else {
        return;
    };
    let old = *value;
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    *value = new;
    // At an odd place it lies in two words of the checksum, each of its bytes in the other half.
    let turn = (place.wrapping_sub(start) as u32 & 1).wrapping_mul(8);
    let turned = |bytes| u16::from_ne_bytes(bytes).rotate_left(turn).to_ne_bytes();
    let delta = Delta::NONE.swap2(turned(old), turned(new));
    if let Some(tcp) = frame.header_mut::<Tcp>(start) {
        tcp.check = delta.apply(tcp.check);
    }
}
