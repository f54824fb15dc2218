//! The client's address and port for its backend, as an option of the SYN, where its service wants that (`client-option`).
//!
//! Kind, length, port, address, as other balancers do it ("TOA"). Only the SYN has it: it is never near the MTU, the option shifts no
//! sequence number, and a SYN that is lost comes again and gets it again. It stands before the options that are there.

use lb_common::DropReason;

use super::{DONE, sealed};
use crate::{
    checksum::Delta,
    forward,
    frame::Frame,
    parse::{self, Arrival, Packet},
    pipeline::{Context, opaque},
    service,
    tables::Tables,
    wire::{HeadV4, HeadV6, L4_V4, L4_V6, SynV4, SynV6, Tcp, protocol},
};

/// Bytes of the option for an IPv4 client ...
const SHORT: u16 = 8;
/// ... and for an IPv6 client.
const LONG: u16 = 20;
/// A TCP header without options, in words of four bytes.
const BARE: u8 = 5;
/// The longest TCP header, in words of four bytes.
const LONGEST: u8 = 15;

/// Puts the option into a packet that is a SYN and has room for it; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn tell<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
    hash: u64,
) -> u32 {
    sealed(put::<F, T, V4>(frame, cx, backend), hash)
}

#[inline(always)]
fn put<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Some(backend)) = (
        parse::ip::<F, V4>(frame),
        service::backend(cx.tables, backend),
    ) else {
        return DropReason::MapInconsistent as u32;
    };
    let kind = backend.entry.tunnel.option_kind();
    if kind == 0 || packet.protocol != protocol::TCP {
        return DONE;
    }
    let growth = if V4 { SHORT } else { LONG };
    let exit = match forward::line_to_backend(cx.tables, backend) {
        Ok(exit) => exit,
        Err(reason) => return reason as u32,
    };
    let Some(&Tcp { offset, flags, .. }) = frame.header::<Tcp>(packet.l4()) else {
        return DropReason::Truncated as u32;
    };
    if !Arrival::segment(flags).is_opening() {
        return DONE;
    }
    let words = offset >> 4;
    let has_room = words.wrapping_add(growth as u8 >> 2) <= LONGEST
        && packet.size().wrapping_add(u32::from(growth)) <= exit.mtu;
    let is_told = has_room
        && match V4 {
            true => into_v4(frame, &packet, kind),
            false => into_v6(frame, &packet, kind),
        };
    if is_told {
        return DONE;
    }
    match claims::<F, V4>(frame, u32::from(kind)) {
        0 => DONE,
        _ => DropReason::Malformed as u32,
    }
}

/// 1: the client says it itself, in our place. (A call: else the compiler joins the frame's bounds of several paths, "R5
/// invalid mem access 'scalar'", Linux 6.18.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn claims<F: Frame, const V4: bool>(frame: &mut F, kind: u32) -> u32 {
    let frame = opaque(frame);
    let at = if V4 { L4_V4 } else { L4_V6 };
    let Some(&Tcp { offset, .. }) = frame.header::<Tcp>(at) else {
        return 0;
    };
    if offset >> 4 <= BARE {
        return 0;
    }
    match frame.header::<[u8; 1]>(at.wrapping_add(size_of::<Tcp>())) {
        Some(&[first]) if u32::from(first) == kind => 1,
        _ => 0,
    }
}

/// What a TCP header becomes with so many bytes of options more, and what that is to the checksum.
#[inline(always)]
fn longer(tcp: &mut Tcp, packet: &Packet, growth: u16) -> Delta {
    let before = [tcp.offset, tcp.flags];
    tcp.offset = tcp.offset.wrapping_add((growth as u8 >> 2) << 4);
    // The length of the segment is part of the pseudo-header.
    let length = packet.size() as u16;
    Delta::NONE.swap2(before, [tcp.offset, tcp.flags]).swap2(
        length.to_be_bytes(),
        length.wrapping_add(growth).to_be_bytes(),
    )
}

#[inline(always)]
fn into_v4<F: Frame>(frame: &mut F, packet: &Packet, kind: u8) -> bool {
    let Some(&HeadV4 { mut outer, mut tcp }) = frame.header::<HeadV4>(0) else {
        return false;
    };
    let length = (packet.size() as u16).to_be_bytes();
    let new_length = (packet.size() as u16).wrapping_add(SHORT).to_be_bytes();
    let [first, second, third, source, destination] = outer.ip;
    let [version, class, _, _] = first;
    let [ttl, carried, a, b] = third;
    let [a, b] = Delta::NONE.swap2(length, new_length).apply([a, b]);
    let [c, d] = new_length;
    outer.ip = [
        [version, class, c, d],
        second,
        [ttl, carried, a, b],
        source,
        destination,
    ];
    let [p, q] = tcp.ports.source;
    let option = [[kind, SHORT as u8, p, q], forward::octets(packet.source)];
    let mut delta = longer(&mut tcp, packet, SHORT);
    for word in option {
        delta = delta.swap4([0; 4], word);
    }
    tcp.check = delta.apply(tcp.check);
    if !frame.grow_head(SHORT) {
        return false;
    }
    if let Some(syn) = frame.header_mut::<SynV4>(0) {
        (syn.head, syn.option) = (HeadV4 { outer, tcp }, option);
    }
    true
}

#[inline(always)]
fn into_v6<F: Frame>(frame: &mut F, packet: &Packet, kind: u8) -> bool {
    let Some(&HeadV6 { mut outer, mut tcp }) = frame.header::<HeadV6>(0) else {
        return false;
    };
    let [a, b, next, hops] = outer.second;
    let [a, b] = u16::from_be_bytes([a, b]).wrapping_add(LONG).to_be_bytes();
    outer.second = [a, b, next, hops];
    let [p, q] = tcp.ports.source;
    let head = [kind, LONG as u8, p, q];
    let address = packet.source.words();
    let mut delta = longer(&mut tcp, packet, LONG).swap4([0; 4], head);
    delta = delta.swap16([0; 2], address);
    tcp.check = delta.apply(tcp.check);
    if !frame.grow_head(LONG) {
        return false;
    }
    if let Some(syn) = frame.header_mut::<SynV6>(0) {
        syn.head = HeadV6 { outer, tcp };
        syn.option = head;
        syn.address = address.map(u64::to_ne_bytes);
    }
    true
}
