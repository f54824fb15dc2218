//! The way of packets to services with ranges, to those whose packets name their backend or are scheduled one by one, and of those that are neither TCP, UDP nor ICMP: SCTP, which has ports where
//! those have theirs, and protocols without ports, whose flows are pairs of addresses. All of it is a call aside, so that
//! [`crate::segment`] costs nothing more. Part of `pipeline`.

use lb_common::{
    Address, DropReason, EndpointKey, EndpointKind, Forwarding, MidStream, Protocol,
    hash::FlowTuple, quic::Lengths, sources::Access, timing,
};

use crate::{
    admission,
    flow::{Assigned, Assignment, Origin},
    forward::{self, End},
    frame::Frame,
    message, mss,
    parse::{self, Arrival, Packet},
    pipeline::{self, Context, opaque},
    quic,
    reply::NO_FLOW,
    schedule,
    service::{self, Live, NOWHERE},
    tables::{PackedKey, Tables},
    timing::{OPENS, OPENS_AGAIN},
    tunnel,
    verdict::{Action, Aside, Outcome, PackedOutcome, Parcel, Sent},
    wire::{Ports, protocol},
};

/// What [`find`] gives, in one word: the index of a service and this ...
const SERVICE: u64 = 1 << 62;
/// ... or that the packet is nobody's ...
const NOBODY: u64 = 0;
/// ... or that it ends before its ports do, and its destination is a VIP ...
const TRUNCATED: u64 = 1;
/// ... and besides, whether it may be a backend's reply, which goes first.
const MAY_BE_REPLY: u64 = 1 << 63;

const MID_STREAM: u64 = DropReason::MidStream as u64;
const BACKEND_LEFT: u64 = DropReason::BackendLeft as u64;

/// In what [`arrival`] gives: a reason.
const REFUSED: u32 = 1 << 31;

/// Handles such a packet. Each way on is a call, so that each has its own share of BPF's 512 bytes of
/// stack.
#[inline(always)]
pub(crate) fn route<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let found = find::<F, T, V4>(frame, cx);
    if found & MAY_BE_REPLY != 0 {
        match pipeline::returning::<F, T, V4>(frame, cx) {
            NO_FLOW => {}
            owner => {
                let outcome = pipeline::from_backend::<F, T, V4>(frame, cx, owner);
                return message::tell::<F, T, V4>(frame, cx, outcome);
            }
        }
    }
    if found & SERVICE == 0 {
        return match found {
            // To a VIP, as has been found.
            TRUNCATED => cx
                .dead(|| true)
                .unwrap_or(Outcome::drop(DropReason::Truncated))
                .into(),
            _ => PackedOutcome::PASS,
        };
    }
    let service = found as u32;
    // To a service, as has been found: nobody has to look again.
    if let Some(outcome) = cx.dead(|| true) {
        return match outcome.verdict.action {
            Action::Drop => Outcome::service_drop(DropReason::ControlPlaneDead, service).into(),
            _ => outcome.into(),
        };
    }
    let arrival = arrival::<F, T, V4>(frame, cx);
    if arrival & REFUSED != 0 {
        return PackedOutcome::service_drop(arrival as u8, service);
    }
    let asked = ask::<F, T, V4>(frame, cx, service);
    match asked {
        DENIED => return PackedOutcome::service_drop(DropReason::SourceDenied as u8, service),
        NESTED => return PackedOutcome::service_drop(DropReason::Malformed as u8, service),
        _ => {}
    }
    let hash = hash::<F, T, V4>(frame, cx);
    let second = admission::second(cx.now);
    let named = match asked {
        QUIC => quic::backend::<F, T, V4>(frame, cx, service),
        _ => quic::NOBODY,
    };
    let assigned = match named {
        quic::NOBODY => {
            let group = group::<F, T, V4>(frame, cx, service, hash);
            cx.tables.assign_flow(service, hash, arrival, second, group)
        }
        backend => cx.tables.adopt_flow(service, hash, backend, second),
    };
    // Before the question below, so that the verifier knows the answer from there on.
    let assigned = cx.tables.keep_apart(assigned, hash);
    if Assigned(assigned).is_refused() {
        return match assigned {
            MID_STREAM | BACKEND_LEFT => {
                message::mid_stream::<F, T, V4>(frame, cx, service, assigned as u32)
            }
            _ => PackedOutcome::service_drop(assigned as u8, service),
        };
    }
    let step = to_backend::<F, T, V4>(frame, cx, assigned);
    let outcome = match step & TUNNEL {
        0 => PackedOutcome::of(step),
        _ => tunnel::send_aside::<F, T, V4>(frame, cx, Parcel::open(step & !TUNNEL, 0), hash),
    };
    message::tell::<F, T, V4>(frame, cx, outcome)
}

/// In what [`to_backend`] gives: the packet goes by a tunnel, a `Parcel`.
const TUNNEL: u64 = 1 << 56;

/// The ports of a packet, 0 where its protocol has none; `None` when it ends before they do.
#[inline(always)]
fn ports<F: Frame>(frame: &F, packet: &Packet) -> Option<Ports> {
    match Protocol::has_ports(packet.protocol) {
        true => packet.ports(frame),
        false => Some(Ports {
            source: [0, 0],
            destination: [0, 0],
        }),
    }
}

/// Whose packet it is: its own endpoint's, or a service's with a range.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn find<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NOBODY;
    };
    let Some(ports) = ports(frame, &packet) else {
        return match service::is_vip(cx.tables, packet.destination) {
            true => TRUNCATED,
            false => NOBODY,
        };
    };
    let live = Live::of(cx.control);
    let key = |address, port| EndpointKey {
        address,
        port,
        protocol: packet.protocol,
    };
    let packed = PackedKey::new(&key(packet.destination, ports.destination), [0, 0]);
    // TCP's and UDP's own endpoints were looked at, but perhaps in a generation that is not live any more.
    if Protocol::has_ports(packet.protocol) {
        let kind = EndpointKind::Vip as u32;
        let index = cx.tables.find_endpoint(packed, kind, live.0);
        if index != NOWHERE {
            return SERVICE | u64::from(index);
        }
    }
    let may_be_reply = match packet.protocol {
        protocol::SCTP => MAY_BE_REPLY,
        _ => 0,
    };
    if live.has_ranges() {
        let index = cx.tables.find_range(packed, live.0);
        if index != NOWHERE {
            return may_be_reply | SERVICE | u64::from(index);
        }
    }
    may_be_reply | NOBODY
}

/// What a packet must be, and what it means for its flow.
#[inline(always)]
fn check<F: Frame, T: Tables>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
) -> Result<Arrival, DropReason> {
    packet.check_ip(frame)?;
    if admission::is_martian(packet) {
        return Err(DropReason::MartianSource);
    }
    let arrival = match packet.protocol {
        number if Protocol::has_ports(number) => packet.check_transport(frame)?,
        _ => Arrival::DATAGRAM,
    };
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    // Two services would answer each other for ever.
    let answers = !matches!(packet.protocol, protocol::TCP | protocol::SCTP);
    if answers && service::is_vip(cx.tables, packet.source) {
        return Err(DropReason::MartianSource);
    }
    Ok(arrival)
}

/// The packet's flow, as it is hashed.
#[inline(always)]
fn flow<F: Frame>(frame: &F, packet: &Packet) -> Option<FlowTuple> {
    let ports = ports(frame, packet)?;
    Some(FlowTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: ports.source,
        vip_port: ports.destination,
        protocol: packet.protocol,
    })
}

/// What the packet means for its flow: [`Arrival::word`], or the reason for its drop and [`REFUSED`]. (Each step is a call of
/// its own: a stack that holds them all has no room for what finds the flow.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn arrival<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return REFUSED | DropReason::Truncated as u32;
    };
    match check(frame, cx, &packet) {
        Ok(arrival) => arrival.word(packet.protocol),
        Err(reason) => REFUSED | reason as u32,
    }
}

/// What [`ask`] gives: the service does not serve the packet's sender ...
const DENIED: u32 = 1;
/// ... or its packets may name their backend ...
const QUIC: u32 = 2;
/// ... or the packet is a tunnel itself and would go into one: a tunnel device of the backend's kernel takes off both, and
/// the sender would choose the addresses inside.
const NESTED: u32 = 3;

/// What the service says of the packet, or 0.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn ask<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    service: u32,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Ok(service)) = (
        parse::ip::<F, V4>(frame),
        service::by_index(cx.tables, service),
    ) else {
        return 0;
    };
    let sources = service.entry.sources;
    if sources != 0 && cx.tables.source_range(sources, packet.source.words()) == Access::Deny as u32
    {
        return DENIED;
    }
    let tunnelled =
        Forwarding::from_u8(service.entry.forwarding).is_some_and(Forwarding::is_tunnel);
    match packet.protocol {
        protocol::IPIP | protocol::IPV6 if tunnelled => NESTED,
        protocol::UDP if service.entry.quic != Lengths::NONE => QUIC,
        _ => 0,
    }
}

/// The hash of the packet's flow. Of a packet that cannot be read any will do: it was dropped before.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn hash<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u64 {
    let frame = opaque(frame);
    let packet = parse::ip::<F, V4>(frame);
    match packet.and_then(|packet| flow(frame, &packet)) {
        Some(tuple) => cx.tables.hash_flow(&tuple),
        None => 0,
    }
}

/// What the packet's flow is scheduled by, given its hash. Notes whose packet it is.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn group<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    service: u32,
    hash: u64,
) -> u64 {
    let frame = opaque(frame);
    let packet = parse::ip::<F, V4>(frame);
    match packet.and_then(|packet| flow(frame, &packet)) {
        Some(tuple) => schedule::group_of(cx, service, &tuple, hash),
        None => hash,
    }
}

/// Sends the packet to the backend of an [`Assigned`]: an outcome, or [`TUNNEL`]. From an address of ours it goes elsewhere: [`Aside::Nat`].
#[cfg_attr(target_arch = "bpf", inline(never))]
fn to_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    assigned: u64,
) -> u64 {
    let frame = opaque(frame);
    let (Some(packet), Ok(assignment)) = (
        parse::ip::<F, V4>(frame),
        Assigned(assigned).assignment(cx.tables),
    ) else {
        return PackedOutcome::from(Outcome::drop(DropReason::MapInconsistent)).word();
    };
    let service = assignment.backend.entry.service;
    match send(frame, cx, &packet, &assignment) {
        Ok(step) => step,
        Err(reason) => PackedOutcome::service_drop(reason as u8, service).word(),
    }
}

/// Rewrites the packet for its backend, sends it and counts it, unless it goes by a tunnel or from an address of ours.
#[inline(always)]
fn send<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    assignment: &Assignment<'_>,
) -> Result<u64, DropReason> {
    let backend = assignment.backend;
    let untracked = match assignment.origin {
        Origin::Untracked => Some(DropReason::FlowTableFull),
        Origin::NotAdmitted => Some(DropReason::NotAdmitted),
        // Only `dnat` minds, for which no configuration asks for it.
        Origin::Alone => Some(DropReason::MapInconsistent),
        _ => None,
    };
    let service = service::by_index(cx.tables, backend.entry.service)?;
    // Without an entry its next segment would come in the middle of nothing.
    if let Some(reason) = untracked
        && (packet.protocol == protocol::TCP
            && service.entry.mid_stream != MidStream::Schedule as u8
            || backend.entry.forwarding == Forwarding::Dnat as u8)
    {
        return Err(reason);
    }
    let sent = Sent {
        backend: backend.id,
        origin: assignment.origin,
        // Only TCP's packets say whether their flow began earlier.
        arrival: match packet.protocol {
            protocol::TCP => packet.check_transport(frame)?,
            _ => Arrival::DATAGRAM,
        },
        bytes: frame.len() as u64,
    };
    let exit = forward::to_backend(frame, cx.tables, backend)?;
    mss::clamp(frame, cx, packet, sent.arrival, (backend.id, exit.mtu));
    if backend.entry.forwarding == Forwarding::Fullnat as u8 {
        let parcel = Parcel::new(&sent, exit.verdict());
        return Ok(PackedOutcome::from(Aside::Nat(parcel)).word());
    }
    if let Some(room) = exit.too_small(packet, backend.entry) {
        return Ok(pipeline::too_big(cx, &sent, room, backend.entry.service).word());
    }
    match Forwarding::from_u8(backend.entry.forwarding) {
        Some(Forwarding::L2dsr) => forward::age_and_patch(frame, packet, Default::default())?,
        Some(Forwarding::Ipip | Forwarding::Gue) => {
            return Ok(TUNNEL | Parcel::new(&sent, exit.verdict()).word());
        }
        Some(Forwarding::Dnat) => {
            forward::not_to_itself(packet, backend)?;
            forward::learn_return_hop(frame, cx.tables, assignment.set, assignment.way)?;
            if sent.arrival.is_opening() {
                let key = timing::of_flow(assignment.set, assignment.way);
                let event = match assignment.origin {
                    Origin::Known => OPENS_AGAIN,
                    _ => OPENS,
                };
                cx.tables.time_handshake(key, backend.id, event);
            }
            let address = Address(backend.entry.address);
            // Port 0, of ranges, leaves the port. SCTP's is the service's.
            let port = backend.entry.port;
            let transport = Some((packet.l4(), packet.protocol));
            forward::translate(frame, packet, transport, End::Destination, address, port)?;
        }
        // Is on its way by now.
        Some(Forwarding::Fullnat) | None => return Err(DropReason::MapInconsistent),
    }
    let verdict = forward::send(frame, exit)?;
    pipeline::count(cx, &sent, Ok(verdict));
    Ok(PackedOutcome::counted(verdict).word())
}
