//! A backend's packet to one of our addresses goes to the client that the address and port stand for.

use lb_common::{
    Address, DropReason, Epoch, FlowHash, ServiceEntry, flow::Step, hash::FlowTuple, nat::word,
    timing,
};

use super::{
    Flow, NONE,
    note::{ANOTHERS, SAME},
    owner, pieces, rewrite,
};
use crate::{
    flow as table, forward,
    frame::Frame,
    mss,
    parse::{self, Packet, Transport},
    pipeline::{Context, opaque},
    service,
    tables::Tables,
    verdict::{Account, Outcome, PackedOutcome, Refusal, Verdict},
    wire::Ports,
};

/// The slot of the flow that a packet to no service is a reply in, or (`PIECE`) a first piece; or [`NONE`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn returning<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NONE;
    };
    let Some(transport) = packet.transport::<F, PIECE>(frame) else {
        return NONE;
    };
    let Some(ports) = transport.ports(frame, &packet) else {
        return NONE;
    };
    owner(
        cx.tables,
        cx.control,
        &reply(&packet, transport.protocol, ports),
    )
}

/// Whose reply a packet is.
#[inline(always)]
fn reply(packet: &Packet, protocol: u8, ports: Ports) -> FlowTuple {
    FlowTuple {
        client: packet.destination,
        vip: packet.source,
        client_port: ports.destination,
        vip_port: ports.source,
        protocol,
    }
}

/// Sends a reply in the flow of this slot to its client, or (`PIECE`) the first piece of one.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn from_backend<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    slot: u64,
) -> PackedOutcome {
    if let Some(outcome) = cx.dead(|| true) {
        return outcome.into();
    }
    let outcome = to_client::<F, T, V4, PIECE>(frame, cx, slot as u32);
    if outcome.word() & NOTED != 0 {
        keep_flow(cx, slot as u32);
    }
    PackedOutcome::of(outcome.word() & !NOTED)
}

/// In what [`to_client`] gives: the entry is up to date again, and the flow's is not yet.
const NOTED: u64 = 1 << 60;

#[cfg_attr(target_arch = "bpf", inline(never))]
fn to_client<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    slot: u32,
) -> PackedOutcome {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    let Some(line) = cx.tables.nat_flow(slot) else {
        return Outcome::PASS.into();
    };
    let Some(backend) = service::backend(cx.tables, line.word(word::BACKEND) as u32) else {
        return Outcome::PASS.into();
    };
    let Ok(service) = service::by_index(cx.tables, backend.entry.service) else {
        return Outcome::PASS.into();
    };
    let Some(transport) = packet.transport::<F, PIECE>(frame) else {
        return Outcome::PASS.into();
    };
    let Some(ports) = transport.ports(frame, &packet) else {
        return Outcome::PASS.into();
    };
    let flow = Flow::read(line, backend, service);
    if !flow.is_whole || !flow.has_reply(&reply(&packet, transport.protocol, ports)) {
        return Outcome::PASS.into();
    }
    let mut noted = SAME;
    let mut says = 0;
    let whole = (&packet, transport);
    let translated = match PIECE {
        false => translate(frame, cx, whole, (slot, &flow), &mut noted, &mut says),
        true => pieces::translate(frame, cx, whole, (slot, &flow), &mut noted),
    };
    let outcome = match translated {
        Ok(verdict) => Outcome::of(verdict, Account::Returned, flow.backend.id),
        Err(refusal) => {
            return PackedOutcome::refused(refusal, flow.service.index);
        }
    };
    match noted {
        SAME => PackedOutcome::from(outcome).saying(says),
        ANOTHERS => Outcome::PASS.into(),
        _ => PackedOutcome::of(PackedOutcome::from(outcome).saying(says).word() | NOTED),
    }
}

#[inline(always)]
fn translate<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    (packet, transport): (&Packet, Transport),
    (slot, flow): (u32, &Flow<'_>),
    noted: &mut u32,
    says: &mut u32,
) -> Result<Verdict, Refusal> {
    packet.check_ip(frame)?;
    let arrival = packet.check_reply(frame, says)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let exit = forward::to_hop(frame, cx.tables, flow.hop)?;
    exit.fits(packet)?;
    *noted = flow.note(cx, slot, arrival);
    if *noted == ANOTHERS {
        return Ok(Verdict::PASS);
    }
    mss::clamp(frame, cx, packet, arrival, (flow.backend.id, exit.mtu));
    if flow.service.entry.pick & ServiceEntry::TIMES != 0 {
        let key = timing::of_nat(slot);
        cx.tables.time_handshake(key, flow.backend.id, *says);
    }
    let source = (Address(flow.service.entry.address), flow.ends.service);
    let destination = (flow.client, flow.ends.client);
    rewrite::translate_both(frame, packet, source, destination, Some(transport))?;
    Ok(forward::send(frame, exit)?)
}

/// The flow's entry in the table of flows is kept alive as well.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn keep_flow<T: Tables>(cx: &Context<'_, T>, slot: u32) {
    use lb_common::nat::{Stage, State};
    let Some(line) = cx.tables.nat_flow(slot) else {
        return;
    };
    let hash = FlowHash(line.word(word::HASH));
    let step = match State(line.word(word::STATE)).stage() {
        Stage::Closing => Step::Closes,
        _ => Step::Answers,
    };
    let backend = line.word(word::BACKEND) as u32;
    let sets = hash.sets(cx.control.flow_mask, cx.control.flow_base_bits);
    if let Some(entry) = table::find_backend(cx.tables, sets, backend) {
        let epoch = Epoch::at(cx.now);
        table::refresh_at(cx.tables, entry.set, entry.way, entry.word, epoch, step);
    }
}
