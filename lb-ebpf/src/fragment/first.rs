//! First pieces on their way to a backend.

use lb_common::{
    DropReason, EndpointKey, Forwarding, MidStream, Protocol, hash::FlowTuple, sources::Access,
};
use network_types::udp::UdpHdr;

use super::{Delivery, identity, next};
use crate::{
    admission,
    flow::{Assigned, Assignment, Origin},
    forward,
    frame::Frame,
    parse::{self, Arrival, Packet, Piece},
    pipeline::{Context, opaque},
    reply::Owner,
    schedule,
    service::{self, NOWHERE},
    tables::Tables,
    verdict::{Outcome, PackedOutcome, Parcel, Sent},
    wire::{Ports, Tcp, protocol},
};

/// What a first piece must be, and what it means for its flow. How long the whole will be is not known yet.
#[inline(always)]
fn check<F: Frame>(frame: &F, packet: &Packet, piece: &Piece) -> Result<Arrival, DropReason> {
    packet.check_ip(frame)?;
    if admission::is_martian(packet) {
        return Err(DropReason::MartianSource);
    }
    let l4 = packet.l4().wrapping_add(piece.header);
    let arrival = match piece.protocol {
        protocol::TCP => {
            let tcp = frame.header::<Tcp>(l4).ok_or(DropReason::Truncated)?;
            if !packet.holds(l4, size_of::<Tcp>()) {
                return Err(DropReason::Truncated);
            }
            Arrival::segment(tcp.flags)
        }
        protocol::SCTP => packet.read_sctp(frame, l4)?,
        protocol::UDP if !packet.holds(l4, UdpHdr::LEN) => return Err(DropReason::Truncated),
        _ => Arrival::DATAGRAM,
    };
    match packet.ttl <= 1 {
        true => Err(DropReason::TtlExpired),
        false => Ok(arrival),
    }
}

/// In what [`admit`] gives: the piece is refused, and the low byte says why.
pub(super) const REFUSED: u32 = 1 << 31;

/// What a first piece means for its flow, as [`Arrival::word`], unless it is refused.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn admit<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    service: u32,
) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return REFUSED | DropReason::Truncated as u32;
    };
    match judge(frame, cx, &packet, service) {
        Ok(arrival) => arrival,
        Err(reason) => REFUSED | reason as u32,
    }
}

#[inline(always)]
fn judge<F: Frame, T: Tables>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
    service: u32,
) -> Result<u32, DropReason> {
    let piece = parse::piece(frame, packet).ok_or(DropReason::Truncated)?;
    let arrival = check(frame, packet, &piece)?;
    // Two services would answer each other for ever.
    let answers = arrival.is_datagram() && piece.protocol != protocol::SCTP;
    if answers && service::is_vip(cx.tables, packet.source) {
        return Err(DropReason::MartianSource);
    }
    let rules = service::by_index(cx.tables, service)?.entry;
    if rules.sources != 0
        && cx.tables.source_range(rules.sources, packet.source.words()) == Access::Deny as u32
    {
        return Err(DropReason::SourceDenied);
    }
    // Nor does a whole one: see `other`.
    if matches!(piece.protocol, protocol::IPIP | protocol::IPV6)
        && Forwarding::from_u8(rules.forwarding).is_some_and(Forwarding::is_tunnel)
    {
        return Err(DropReason::Malformed);
    }
    Ok(arrival.word(piece.protocol))
}

/// The hash of a first piece's flow. Its ports, if its protocol has some, have been seen to be there.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn flow_hash<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u64 {
    match flow::<F, V4>(opaque(frame)) {
        Some(tuple) => cx.tables.hash_flow(&tuple),
        None => 0,
    }
}

/// What a first piece's flow is scheduled by, given its hash. Notes whose it is.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn group<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    service: u32,
    hash: u64,
) -> u64 {
    match flow::<F, V4>(opaque(frame)) {
        Some(tuple) => schedule::group_of(cx, service, &tuple, hash),
        None => hash,
    }
}

#[inline(always)]
fn flow<F: Frame, const V4: bool>(frame: &F) -> Option<FlowTuple> {
    let packet = parse::ip::<F, V4>(frame)?;
    let piece = parse::piece(frame, &packet)?;
    let ports = match Protocol::has_ports(piece.protocol) {
        true => *frame.header::<Ports>(packet.l4().wrapping_add(piece.header))?,
        false => Ports {
            source: [0, 0],
            destination: [0, 0],
        },
    };
    Some(FlowTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: ports.source,
        vip_port: ports.destination,
        protocol: piece.protocol,
    })
}

/// A first piece to its backend: the entry for the others is made.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn first_to_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    assigned: u64,
    arrival: u32,
) -> u64 {
    let frame = opaque(frame);
    let (Some(packet), Ok(assignment)) = (
        parse::ip::<F, V4>(frame),
        Assigned(assigned).assignment(cx.tables),
    ) else {
        return PackedOutcome::from(Outcome::drop(DropReason::MapInconsistent)).word();
    };
    let service = assignment.backend.entry.service;
    match begin(frame, cx, &packet, &assignment, Arrival::of_word(arrival).0) {
        Ok(step) => step,
        Err(reason) => PackedOutcome::service_drop(reason as u8, service).word(),
    }
}

#[inline(always)]
fn begin<F: Frame, T: Tables>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
    assignment: &Assignment<'_>,
    arrival: Arrival,
) -> Result<u64, DropReason> {
    let piece = parse::piece(frame, packet).ok_or(DropReason::Truncated)?;
    let backend = assignment.backend;
    let rules = service::by_index(cx.tables, backend.entry.service)?.entry;
    if backend.entry.forwarding == Forwarding::Fullnat as u8 {
        let sent = Sent {
            backend: backend.id,
            origin: assignment.origin,
            arrival: match arrival.is_opening() || arrival.is_datagram() {
                true => Arrival::DATAGRAM,
                false => Arrival::MIDDLE,
            },
            bytes: frame.len() as u64,
        };
        let exit = forward::to_backend(frame, cx.tables, backend)?;
        return Ok(next::NAT | Parcel::new(&sent, exit.verdict()).word());
    }
    let is_dnat = backend.entry.forwarding == Forwarding::Dnat as u8;
    // Without an entry TCP's next segment would come in the middle of nothing.
    let has_middle =
        piece.protocol == protocol::TCP && rules.mid_stream != MidStream::Schedule as u8;
    if is_dnat || has_middle {
        match assignment.origin {
            Origin::Untracked => return Err(DropReason::FlowTableFull),
            Origin::NotAdmitted => return Err(DropReason::NotAdmitted),
            Origin::Alone => return Err(DropReason::MapInconsistent),
            _ => {}
        }
    }
    forward::check_resolved(cx.tables, backend)?;
    if is_dnat {
        forward::learn_return_hop(frame, cx.tables, assignment.set, assignment.way)?;
    }
    if piece.more && Protocol::has_ports(piece.protocol) {
        let owner = Owner {
            backend: backend.id,
            set: 0,
            way: 0,
        };
        let identity = identity(cx.tables, packet, &piece);
        let second = admission::second(cx.now);
        cx.tables.learn_fragment(identity, owner.pack(), second);
    }
    let delivery = Delivery::new(backend.id, assignment.origin).with(Delivery::FIRST);
    let delivery = match arrival.is_opening() || arrival.is_datagram() {
        false => delivery,
        true => delivery.with(Delivery::OPENS),
    };
    Ok(next::DELIVER | delivery.0)
}

/// The service with a range that a first piece goes to, or [`NOWHERE`]. Its ports have been seen to be there.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn range<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NOWHERE;
    };
    let Some(piece) = parse::piece(frame, &packet) else {
        return NOWHERE;
    };
    let Some(ports) = frame.header::<Ports>(packet.l4().wrapping_add(piece.header)) else {
        return NOWHERE;
    };
    let key = EndpointKey {
        address: packet.destination,
        port: ports.destination,
        protocol: piece.protocol,
    };
    // Its own endpoint, too: perhaps another generation is live by now.
    service::find(cx.tables, cx.control, &key)
}
