//! The client's address and port for its backend, as an option of the SYN, where its service wants that (`client-option`).
//!
//! Kind, length, port, address, as other balancers do it ("TOA"). Only the SYN has it: it is never near the MTU, the option shifts no
//! sequence number, and a SYN that is lost comes again and gets it again. It stands before the options that are there.

use lb_common::{
    DropReason,
    counter::{REST_LINE, Rest},
};

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

/// End of the options, and one that is a kind alone (RFC 9293 section 3.1).
const END: u64 = 0;
const NO_OPERATION: u64 = 1;

/// In what is known of options so far: their end has come ...
const ENDED: u64 = 1 << 16;
/// ... the next byte is a length ...
const LENGTH: u64 = 1 << 17;
/// ... one says who the client is, or cannot be read.
const CLAIMS: u64 = 1 << 18;
/// A byte more that belongs to the last option. Below is the kind that says who the client is.
const ONE: u64 = 1 << 8;

/// A SYN with an option of this kind of its own, anywhere, or with options that cannot be read, goes nowhere, so that nobody is believed
/// what he says of himself; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn check<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
    hash: u64,
) -> u32 {
    let kind = match cx.tables.backend(backend) {
        Some(entry) => entry.tunnel.option_kind(),
        None => 0,
    };
    let reason = match kind {
        0 => DONE,
        kind => match claims::<F, T, V4>(frame, cx.tables, u32::from(kind)) {
            0 => DONE,
            _ => DropReason::Malformed as u32,
        },
    };
    sealed(reason, hash)
}

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
    let told = has_room
        && match V4 {
            true => into_v4(frame, &packet, kind),
            false => into_v6(frame, &packet, kind),
        };
    if !told && let Some(line) = cx.tables.counters(cx.control.lines_per_cpu, REST_LINE) {
        cx.tables.add(line, Rest::OptionLeftOut as u32, 1);
    }
    DONE
}

/// 1: a SYN has such an option already, or its options are malformed. (A call: else the compiler joins the frame's bounds of
/// several paths, "R5 invalid mem access 'scalar'", Linux 6.18.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn claims<F: Frame, T: Tables, const V4: bool>(frame: &mut F, tables: &T, kind: u32) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return 0;
    };
    let at = if V4 { L4_V4 } else { L4_V6 };
    let Some(&Tcp { offset, flags, .. }) = frame.header::<Tcp>(at) else {
        return 0;
    };
    if packet.protocol != protocol::TCP || !Arrival::segment(flags).is_opening() {
        return 0;
    }
    let first = at.wrapping_add(size_of::<Tcp>());
    let end = usize::from(offset >> 4).saturating_sub(usize::from(BARE)) << 2;
    let state = twenty(frame, tables, (first, 0), end, u64::from(kind));
    let state = twenty(frame, tables, (first, 20), end, state);
    u32::from(state & !ENDED >= ONE)
}

/// Reads twenty bytes of options that end after `end` bytes, if there are so many. No loop: the verifier of Linux 6.1 would follow each
/// turn of it through all that comes ("BPF program is too large").
#[inline(always)]
fn twenty<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    (first, place): (usize, usize),
    end: usize,
    state: u64,
) -> u64 {
    let state = four(frame, tables, (first, place), end, state);
    let state = four(frame, tables, (first, place.wrapping_add(4)), end, state);
    let state = four(frame, tables, (first, place.wrapping_add(8)), end, state);
    let state = four(frame, tables, (first, place.wrapping_add(12)), end, state);
    four(frame, tables, (first, place.wrapping_add(16)), end, state)
}

#[inline(always)]
fn four<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    (first, place): (usize, usize),
    end: usize,
    state: u64,
) -> u64 {
    if place >= end {
        return state;
    }
    match frame.header::<[u8; 4]>(first.wrapping_add(place)) {
        Some(bytes) => tables.read_options(u32::from_le_bytes(*bytes), state),
        None => state | CLAIMS,
    }
}

/// Reads four bytes more of a SYN's options, the first in the low bits.
#[inline(always)]
pub fn read(bytes: u32, state: u64) -> u64 {
    let mut state = state;
    for byte in bytes.to_le_bytes() {
        state = read_one(u64::from(byte), state);
    }
    state
}

#[inline(always)]
const fn read_one(byte: u64, state: u64) -> u64 {
    if state & (ENDED | CLAIMS) != 0 {
        return state;
    }
    if state & LENGTH != 0 {
        return match byte {
            0 | 1 => state | CLAIMS,
            length => (state ^ LENGTH).wrapping_add(length.wrapping_sub(2).wrapping_mul(ONE)),
        };
    }
    if state >> 8 & 0xff != 0 {
        return state.wrapping_sub(ONE);
    }
    match byte {
        kind if kind == state & 0xff => state | CLAIMS,
        END => state | ENDED,
        NO_OPERATION => state,
        _ => state | LENGTH,
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
