//! Datagrams of QUIC that name their backend: see [`lb_common::quic`]. What is read is the same in every version of
//! QUIC (RFC 8999 section 5): the first bit tells long headers from short ones, and where the destination connection id stands.
//! The bit that version 1 fixes (RFC 9000 section 17) is not looked at, since endpoints may agree to send anything
//! in it (RFC 9287).
//!
//! A client makes up the connection id of its first packets. One of those may name a backend by chance, and then that one is
//! as good as any that takes new flows; of one that takes none, only the flow's entry says that a handshake is its own. Whoever
//! lies chooses among the backends of the service, no more.

use lb_common::{
    EndpointKind, ServiceEntry,
    counter::{MORE_LINE, More},
    quic::{self, PREFIX},
};
use network_types::udp::UdpHdr;

use crate::{
    frame::Frame,
    parse::{self, Packet},
    pipeline::{Context, opaque},
    service::{self, Live, NOWHERE},
    tables::{PackedKey, Tables},
    wire::{LongHeader, ShortHeader},
};

/// What [`backend`] gives when a datagram goes the way of its flow.
pub(crate) const NOBODY: u32 = u32::MAX;

/// In the first byte: the header is a long one.
const LONG: u8 = 0x80;

/// The BackendId that a datagram to a service names, if it may keep flows (with a long header: if it may take new ones), or
/// [`NOBODY`]. Counts which of both.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    index: u32,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Ok(service)) = (
        parse::ip::<F, V4>(frame),
        service::by_index(cx.tables, index),
    ) else {
        return NOBODY;
    };
    let id = named(frame, cx, &packet, index, service.entry);
    let which = match id {
        NOBODY if is_long(frame, &packet) => return NOBODY,
        NOBODY => More::NoServerId,
        _ => More::ByServerId,
    };
    if let Some(line) = cx.tables.counters(cx.control.lines_per_cpu, MORE_LINE) {
        cx.tables.add(line, which as u32, 1);
    }
    id
}

/// Where the datagram's payload begins.
#[inline(always)]
const fn payload(packet: &Packet) -> usize {
    packet.l4().wrapping_add(UdpHdr::LEN)
}

#[inline(always)]
fn is_long<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let first = frame.header::<[u8; 1]>(payload(packet));
    packet.holds(payload(packet), 1) && first.is_some_and(|[first]| first & LONG != 0)
}

/// The first bytes of the connection id, if its server id can lie in them. All packets of QUIC have that many behind it: what
/// protects their headers needs more (RFC 9001 section 5.4.2).
#[inline(always)]
fn connection_id<F: Frame>(
    frame: &F,
    packet: &Packet,
    service: &ServiceEntry,
) -> Option<[u8; PREFIX]> {
    let at = payload(packet);
    if !is_long(frame, packet) {
        if !packet.holds(at, size_of::<ShortHeader>()) {
            return None;
        }
        return Some(frame.header::<ShortHeader>(at)?.connection_id);
    }
    if !packet.holds(at, size_of::<LongHeader>()) {
        return None;
    }
    let header = frame.header::<LongHeader>(at)?;
    let [first, ..] = header.connection_id;
    match u32::from(header.length) > service.quic.of(first) {
        true => Some(header.connection_id),
        false => None,
    }
}

#[inline(always)]
fn named<F: Frame, T: Tables>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
    index: u32,
    service: &ServiceEntry,
) -> u32 {
    let Some(connection_id) = connection_id(frame, packet, service) else {
        return NOBODY;
    };
    let [first, ..] = connection_id;
    let length = service.quic.of(first);
    if length == 0 {
        return NOBODY;
    }
    let key = PackedKey::new(&quic::key(index, connection_id, length), [0, 0]);
    let live = Live::of(cx.control);
    let id = cx
        .tables
        .find_endpoint(key, EndpointKind::ServerId as u32, live.0);
    if id == NOWHERE {
        return NOBODY;
    }
    let Some(backend) = service::backend(cx.tables, id) else {
        return NOBODY;
    };
    let permissions = backend.state.permissions();
    let may = match is_long(frame, packet) {
        true => permissions.may_take_new(),
        false => permissions.may_keep(),
    };
    match backend.entry.service == index && may {
        true => id,
        false => NOBODY,
    }
}
