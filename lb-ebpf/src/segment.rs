//! The way of a client's segment or datagram to its backend: the usual packet, and so one piece without a call,
//! but for a flow that needs a place in the table.
//!
//! The order of the checks is the order of reasons: what is wrong with the packet before what is wrong with its flow.

use lb_common::{
    DropReason, EndpointKey, Epoch, Family, FlowHash, Forwarding, MidStream, Nanos, Pick,
    ServiceEntry, Tunnel, counter, hash::FlowTuple, sources::Access,
};

use crate::{
    admission,
    flow::{self, Assigned, Assignment, Origin, Seeker},
    forward::{self, Exit},
    fragment,
    frame::{Frame, Kept},
    icmp, message, nat, other,
    parse::{self, Arrival, Packet},
    pipeline::{self, Clock, Context, Lane},
    reply::NO_FLOW,
    service::{self, Live, NOWHERE},
    tables::{Tables, load},
    tunnel,
    verdict::{self, Action, Aside, PackedOutcome, Parcel, Refusal, Sent, Verdict},
    wire::{FrontV4, FrontV6, Ports, protocol},
};

/// An IPv4 packet.
#[inline(always)]
pub(crate) fn route_v4<F: Frame, T: Tables, C: Clock>(
    frame: &mut F,
    lane: &Lane<'_, T, C>,
) -> PackedOutcome {
    if let Some(front) = frame.header::<FrontV4>(0) {
        let (packet, ports) = (parse::of_ipv4(&front.ip), front.ports);
        if is_segment(&packet) {
            return route::<F, T, C, true>(frame, lane, &packet, ports);
        }
    }
    Aside::Rest.into()
}

/// An IPv6 packet.
#[inline(always)]
pub(crate) fn route_v6<F: Frame, T: Tables, C: Clock>(
    frame: &mut F,
    lane: &Lane<'_, T, C>,
) -> PackedOutcome {
    if let Some(front) = frame.header::<FrontV6>(0) {
        let ports = front.ports;
        let Some(packet) = parse::of_ipv6(&front.ip) else {
            return PackedOutcome::PASS;
        };
        if is_segment(&packet) {
            return route::<F, T, C, false>(frame, lane, &packet, ports);
        }
    }
    Aside::Rest.into()
}

/// True for a packet whose ports can be read.
#[inline(always)]
fn is_segment(packet: &Packet) -> bool {
    packet.oddity.is_none()
        && matches!(packet.protocol, protocol::TCP | protocol::UDP)
        && packet.holds(packet.l4(), size_of::<Ports>())
}

/// The rest of a packet's way that is not the usual one. Each part is a call, so that each has its own share of BPF's 512
/// bytes of stack.
#[inline(always)]
pub(crate) fn aside<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    way: PackedOutcome,
) -> PackedOutcome {
    let outcome = match way.way_on() {
        Aside::Rest => others::<F, T, V4>(frame, cx),
        Aside::Reply => {
            let outcome = replied::<F, T, V4>(frame, cx);
            message::tell::<F, T, V4>(frame, cx, outcome)
        }
        Aside::Nat(_) => way,
        Aside::Tagged => PackedOutcome::PASS,
        Aside::Ranges | Aside::Schedule => other::route::<F, T, V4>(frame, cx),
        Aside::Refused { refusal, service } => refused::<F, T, V4>(frame, cx, refusal.0, service),
    };
    // Of all ways, so that the verifier walks this one once.
    let Some(parcel) = outcome.through_nat() else {
        return outcome;
    };
    let hash = other::hash::<F, T, V4>(frame, cx);
    let outcome = nat::send_aside::<F, T, V4, false>(frame, cx, parcel, hash);
    message::tell::<F, T, V4>(frame, cx, outcome)
}

/// ICMP, pieces of datagrams, other protocols, and what cannot be read.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn others<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let outcome = pipeline::rest::<F, T, V4>(frame, cx);
    if outcome.is_message() {
        let outcome = message::route::<F, T, V4>(frame, cx).into();
        return icmp::heard::<F, V4>(frame, outcome);
    }
    if outcome.is_other() {
        return other::route::<F, T, V4>(frame, cx);
    }
    if !outcome.is_fragment() {
        return outcome;
    }
    let outcome = fragment::route::<F, T, V4>(frame, cx);
    message::tell::<F, T, V4>(frame, cx, outcome)
}

/// A segment or datagram that no endpoint takes and that may be a backend's reply; if it is none, it may be to a service
/// with a range.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn replied<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    if cx.control.nat_ports != 0 {
        match nat::returning::<F, T, V4, false>(frame, cx) {
            nat::NONE => {}
            slot => return nat::from_backend::<F, T, V4, false>(frame, cx, slot),
        }
    }
    match pipeline::returning::<F, T, V4>(frame, cx) {
        NO_FLOW if Live::of(cx.control).has_ranges() => other::route::<F, T, V4>(frame, cx),
        NO_FLOW => PackedOutcome::PASS,
        owner => pipeline::from_backend::<F, T, V4>(frame, cx, owner),
    }
}

/// A packet that does not reach its backend, for which there is more to do than to drop it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn refused<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    word: u32,
    service: u32,
) -> PackedOutcome {
    match word {
        MID_STREAM | BACKEND_LEFT => message::mid_stream::<F, T, V4>(frame, cx, service, word),
        UNSOUND => unsound::<F, V4>(frame, service),
        0..=0xff => PackedOutcome::service_drop(word as u8, service),
        _ => message::too_big::<F, T, V4>(frame, cx, word >> 8, service),
    }
}

/// What is wrong with a packet for which [`check`] has failed.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn unsound<F: Frame, const V4: bool>(frame: &mut F, service: u32) -> PackedOutcome {
    let frame = pipeline::opaque(frame);
    let mut arrival = Arrival::MIDDLE;
    let reason = match parse::ip::<F, V4>(frame) {
        Some(packet) => check(frame, &packet, frame.len(), &mut arrival).err(),
        None => None,
    };
    let reason = reason.unwrap_or(DropReason::MapInconsistent);
    PackedOutcome::service_drop(reason as u8, service)
}

#[inline(always)]
fn route<F: Frame, T: Tables, C: Clock, const V4: bool>(
    frame: &mut F,
    lane: &Lane<'_, T, C>,
    packet: &Packet,
    ports: Ports,
) -> PackedOutcome {
    let key = EndpointKey {
        address: packet.destination,
        port: ports.destination,
        protocol: packet.protocol,
    };
    let live = Live::of(lane.control);
    let service = service::vip(lane.tables, lane.control, live, &key);
    if service == NOWHERE {
        return from_others(lane, packet, ports, live);
    }
    let kept = Kept::new(service);
    match to_backend::<F, T, C, V4>(frame, lane, packet, ports, service) {
        Ok(outcome) => outcome,
        Err(Refusal(DEAD)) if pipeline::passes_when_dead(lane.control) => PackedOutcome::PASS,
        Err(Refusal::SCHEDULE) => Aside::Schedule.into(),
        Err(refusal) => {
            let service = kept.get();
            Aside::Refused { refusal, service }.into()
        }
    }
}

/// A packet to no endpoint: perhaps a backend's reply, or to a service with a range.
#[inline(always)]
fn from_others<T: Tables, C: Clock>(
    lane: &Lane<'_, T, C>,
    packet: &Packet,
    ports: Ports,
    live: Live,
) -> PackedOutcome {
    let key = EndpointKey {
        address: packet.source,
        port: ports.source,
        protocol: packet.protocol,
    };
    if service::may_be_backend(lane.tables, lane.control, live, &key) {
        return Aside::Reply.into();
    }
    match live.has_ranges() {
        true => Aside::Ranges.into(),
        false => PackedOutcome::PASS,
    }
}

const UNSOUND: u32 = Refusal::UNSOUND.0;
const MID_STREAM: u32 = DropReason::MidStream as u32;
const BACKEND_LEFT: u32 = DropReason::BackendLeft as u32;
const DEAD: u32 = DropReason::ControlPlaneDead as u32;

/// What a packet to a service must be, and what it means for its flow. `length`: of the frame, in bytes.
#[inline(always)]
pub(crate) fn check<F: Frame>(
    frame: &F,
    packet: &Packet,
    length: usize,
    arrival: &mut Arrival,
) -> Result<(), DropReason> {
    if packet.end > length {
        return Err(DropReason::Truncated);
    }
    packet.check_sum(frame)?;
    if admission::is_martian(packet) {
        return Err(DropReason::MartianSource);
    }
    packet.read_transport(frame, arrival)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    Ok(())
}

#[inline(always)]
fn to_backend<F: Frame, T: Tables, C: Clock, const V4: bool>(
    frame: &mut F,
    lane: &Lane<'_, T, C>,
    packet: &Packet,
    ports: Ports,
    service: u32,
) -> Result<PackedOutcome, Refusal> {
    let mut arrival = Arrival::MIDDLE;
    if check(frame, packet, lane.bytes, &mut arrival).is_err() {
        return Err(Refusal::UNSOUND);
    }
    let now = lane.now();
    if now > load(&lane.control.alive_until) {
        return Err(DropReason::ControlPlaneDead.into());
    }
    let tuple = FlowTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: ports.source,
        vip_port: ports.destination,
        protocol: packet.protocol,
    };
    let hash = match V4 {
        true => tuple.hash_v4(&lane.control.multipliers),
        false => tuple.hash_v6(&lane.control.multipliers),
    };
    let came = Came {
        packet,
        hash,
        arrival,
    };
    // Twice, so that nothing of a known flow has to be kept, or asked, for what a new one needs.
    if let Some(known) = flow::young(
        lane.tables,
        lane.control,
        service,
        hash,
        arrival,
        Epoch::at(now),
    ) {
        return to_its_backend::<F, T, C, V4>(frame, lane, &came, &known);
    }
    let new = assign(lane, packet, service, hash, arrival, now)?;
    to_its_backend::<F, T, C, V4>(frame, lane, &came, &new)
}

/// A packet of a flow.
struct Came<'p> {
    packet: &'p Packet,
    hash: FlowHash,
    arrival: Arrival,
}

#[inline(always)]
fn to_its_backend<F: Frame, T: Tables, C: Clock, const V4: bool>(
    frame: &mut F,
    lane: &Lane<'_, T, C>,
    came: &Came<'_>,
    assignment: &Assignment<'_>,
) -> Result<PackedOutcome, Refusal> {
    let Came {
        packet,
        hash,
        arrival,
    } = *came;
    let sent = Sent {
        backend: assignment.backend.id,
        origin: assignment.origin,
        arrival,
        bytes: lane.bytes as u64,
    };
    let exit = forward::to_backend(frame, lane.tables, assignment.backend)?;
    match send::<F, T, C, V4>(frame, lane, packet, hash, assignment, exit) {
        Ok(()) => {}
        Err(Refusal::ASIDE) => {
            let parcel = Parcel::new(&sent, exit.verdict()).seal(hash.0);
            let sending = lane.call(frame, |frame, cx| {
                tunnel::send::<F, T, V4>(frame, cx, parcel, hash.0)
            });
            return Result::from(sending).map(PackedOutcome::counted);
        }
        Err(Refusal::NAT) => {
            return Ok(Aside::Nat(Parcel::new(&sent, exit.verdict())).into());
        }
        Err(Refusal(word)) => {
            // The flow is in the table although its packet goes nowhere: its next one will not be new.
            let line = counter::BACKEND_LINE.wrapping_add(sent.backend);
            if word >> 8 != 0
                && let Some(line) = lane.tables.counter(lane.first.wrapping_add(line))
            {
                verdict::count_origin(lane.tables, lane.global, lane.first, line, &sent);
            }
            return Err(Refusal(word));
        }
    }
    if matches!(exit.verdict().action, Action::Tx) {
        verdict::count_sent(lane.tables, lane.global, lane.first, &sent, Verdict::TX);
        return Ok(PackedOutcome::SENT);
    }
    verdict::count_sent(lane.tables, lane.global, lane.first, &sent, exit.verdict());
    Ok(PackedOutcome::counted(exit.verdict()))
}

/// The backend of a flow that [`flow::young`] does not name.
#[inline(always)]
fn assign<'t, T: Tables, C: Clock>(
    lane: &Lane<'t, T, C>,
    packet: &Packet,
    service: u32,
    hash: FlowHash,
    arrival: Arrival,
    now: Nanos,
) -> Result<Assignment<'t>, Refusal> {
    let (tables, control) = (lane.tables, lane.control);
    // Two services would answer each other for ever.
    if arrival.is_datagram() && service::is_vip(tables, packet.source) {
        return Err(DropReason::MartianSource.into());
    }
    let second = admission::second(now);
    let found = service::by_index(tables, service)?;
    let seeker = Seeker::new(control, found, hash.0, arrival, second);
    let entry = found.entry;
    if entry.pick != Pick::Flow as u8 && goes_aside(entry, arrival) {
        return Err(Refusal::SCHEDULE);
    }
    if entry.sources != 0
        && tables.source_range(entry.sources, packet.source.words()) == Access::Deny as u32
    {
        return Err(DropReason::SourceDenied.into());
    }
    if let Some(new) = flow::settle(tables, control, &seeker) {
        return Ok(new);
    }
    let assigned = tables.assign_flow(service, hash.0, arrival.0, second, hash.0);
    let assigned = Assigned(assigned).without_doubt().assignment(tables)?;
    if entry.mid_stream != MidStream::Schedule as u8 {
        // Without an entry its next segment would come in the middle of nothing.
        match assigned.origin {
            Origin::Untracked => return Err(DropReason::FlowTableFull.into()),
            Origin::NotAdmitted => return Err(DropReason::NotAdmitted.into()),
            _ => {}
        }
    }
    Ok(assigned)
}

/// A packet that may begin a flow, to a service about whose new flows there is more to say.
#[inline(always)]
fn goes_aside(entry: &ServiceEntry, arrival: Arrival) -> bool {
    entry.picks() != Pick::Flow as u8
        || arrival.is_syn()
        || arrival.is_datagram() && entry.pick & ServiceEntry::SHARES != 0
}

/// Rewrites the packet for its backend.
#[inline(always)]
fn send<F: Frame, T: Tables, C: Clock, const V4: bool>(
    frame: &mut F,
    lane: &Lane<'_, T, C>,
    packet: &Packet,
    hash: FlowHash,
    assignment: &Assignment<'_>,
    exit: Exit,
) -> Result<(), Refusal> {
    let backend = assignment.backend;
    match Forwarding::from_u8(backend.entry.forwarding) {
        Some(Forwarding::L2dsr) => {
            exit.fits(packet)?;
            forward::age::<F, V4>(frame, Some(exit.macs()))?;
        }
        // What is known of the path makes another word of it.
        Some(Forwarding::Ipip) if lane.tables.tunnel(backend) == Tunnel::USUAL => {
            let family = if V4 { Family::V4 } else { Family::V6 };
            let mtu = exit.mtu.saturating_sub(tunnel::growth(family) as u32);
            if packet.size() > mtu {
                return Err(Refusal::too_big(mtu));
            }
            forward::age::<F, V4>(frame, None)?;
            tunnel::encapsulate::<F, V4>(frame, lane.control, packet, backend, hash, exit.macs())?;
        }
        Some(Forwarding::Dnat) => {
            match assignment.origin {
                Origin::Untracked => return Err(DropReason::FlowTableFull.into()),
                Origin::NotAdmitted => return Err(DropReason::NotAdmitted.into()),
                _ => {}
            }
            exit.fits(packet)?;
            forward::not_to_itself(packet, backend)?;
            forward::learn_return_hop(frame, lane.tables, assignment.set, assignment.way)?;
            forward::to_address::<F, V4>(frame, packet, backend, exit.macs())?;
        }
        Some(Forwarding::Ipip | Forwarding::Gue) => {
            core::hint::cold_path();
            return Err(Refusal::ASIDE);
        }
        Some(Forwarding::Fullnat) => return Err(Refusal::NAT),
        // A number that this version does not know means maps of another one.
        None => return Err(DropReason::MapInconsistent.into()),
    }
    Ok(())
}
