//! Pieces of datagrams, both ways. The first goes the way of a whole packet, and leaves in `fragments` which slot its flow has;
//! the others find there who both ends are, and change addresses alone.
//!
//! The identification stays. Two clients with one of our addresses between them may use one number to one backend within 30 s: then
//! what the backend puts together fails its checksum but for one time in 65,536, as with any NAT without memory (RFC 4963). Who wants that
//! to happen may choose the sum of his own pieces, but not the rest of the other's.

use lb_common::{
    Address, DropReason, Family,
    nat::{State, word},
};
use network_types::udp::UdpHdr;

use super::{
    DONE, Flow, address, entry::arrival, has_source, low, note::ANOTHERS, rewrite, sealed,
};
use crate::{
    admission,
    flow::Origin,
    forward,
    fragment::{self, NAT},
    frame::Frame,
    parse::{self, Arrival, Packet, Transport},
    pipeline::{self, Context, opaque},
    service,
    tables::Tables,
    verdict::{Account, Outcome, PackedOutcome, Refusal, Sent, Verdict},
    wire::{Tcp, protocol},
};

/// Bits of a flow's hash in the payload of an entry, above the slot, so that the pieces of a flow that has lost its slot do not
/// follow the next one there.
const CHECK: u32 = 32;
/// How far down they come.
const TOP: u32 = 47;

/// What an entry has of a flow's hash.
#[inline(always)]
const fn check_of(hash: u64) -> u64 {
    hash >> TOP
}

const _: () = assert!(check_of(u64::MAX) << CHECK < NAT);

/// A first piece that goes nowhere: a SYN, if its service says who its client is, as the option has to be looked for in all of it, and
/// would move what comes later; a datagram without a checksum, which nobody could tell from one that is put together of two clients'
/// pieces; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn check<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
    hash: u64,
) -> u32 {
    let frame = opaque(frame);
    let tells = match cx.tables.backend(backend) {
        Some(entry) => entry.tunnel.option_kind() != 0,
        None => false,
    };
    let transport = parse::ip::<F, V4>(frame).and_then(|packet| packet.transport::<F, true>(frame));
    let is_bad = transport.is_some_and(|transport| match transport.protocol {
        protocol::TCP => tells && arrival(frame, transport).is_opening(),
        _ => {
            let udp = frame.header::<UdpHdr>(transport.at);
            udp.is_none_or(|udp| udp.check == [0; 2])
        }
    });
    let reason = match is_bad {
        true => DropReason::Fragment as u32,
        false => DONE,
    };
    sealed(reason, hash)
}

/// Notes for the later pieces of a first one which slot its flow has.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn learn<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    slot: u64,
) {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return;
    };
    let (Some(piece), Some(line)) = (
        parse::piece(frame, &packet),
        cx.tables.nat_flow(slot as u32),
    ) else {
        return;
    };
    if piece.more {
        let check = check_of(line.word(word::HASH));
        let payload = NAT | check << CHECK | u64::from(slot as u32);
        let identity = fragment::identity(cx.tables, &packet, &piece);
        let second = admission::second(cx.now);
        cx.tables.learn_fragment(identity, payload, second);
    }
}

/// What [`Packet::check_reply`] is for a whole packet: how long the whole will be is not known yet.
#[inline(always)]
pub(super) fn translate<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    (packet, transport): (&Packet, Transport),
    (slot, flow): (u32, &Flow<'_>),
    noted: &mut u32,
) -> Result<Verdict, Refusal> {
    packet.check_ip(frame)?;
    let header = match transport.protocol {
        protocol::TCP => size_of::<Tcp>(),
        _ => UdpHdr::LEN,
    };
    if !packet.holds(transport.at, header) {
        return Err(DropReason::Truncated.into());
    }
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let exit = forward::to_hop(frame, cx.tables, flow.hop)?;
    exit.fits(packet)?;
    *noted = flow.note(cx, slot, arrival(frame, transport));
    if *noted == ANOTHERS {
        return Err(DropReason::Fragment.into());
    }
    let source = (Address(flow.service.entry.address), flow.ends.service);
    let destination = (flow.client, flow.ends.client);
    rewrite::translate_both(frame, packet, source, destination, Some(transport))?;
    Ok(forward::send(frame, exit)?)
}

/// A later piece, to the backend or to the client of the flow that `found`, an entry's payload, names.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn follow<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
) -> PackedOutcome {
    let frame = opaque(frame);
    let lost = PackedOutcome::from(Outcome::drop(DropReason::Fragment));
    let slot = found as u32;
    let (Some(packet), Some(line)) = (parse::ip::<F, V4>(frame), cx.tables.nat_flow(slot)) else {
        return lost;
    };
    let Some(backend) = service::backend(cx.tables, line.word(word::BACKEND) as u32) else {
        return lost;
    };
    let Ok(service) = service::by_index(cx.tables, backend.entry.service) else {
        return lost;
    };
    let flow = Flow::read(line, backend, service);
    let is_same = check_of(line.word(word::HASH)) == (found & (NAT - 1)) >> CHECK;
    let is_written = State(line.word(word::STATE)).stage().is_written();
    let has_nat = cx.control.nat_ports != 0 && has_source(cx.control, V4);
    if !flow.is_whole || !is_same || !is_written || !has_nat {
        return lost;
    }
    let vip = Address(service.entry.address);
    let is_asking =
        packet.source.words() == flow.client.words() && packet.destination.words() == vip.words();
    let sent = match is_asking {
        true => onward(frame, cx, &packet, &flow),
        false => back(frame, cx, &packet, &flow),
    };
    match sent {
        Ok(outcome) => outcome,
        Err(refusal) => PackedOutcome::refused(refusal, flow.service.index),
    }
}

/// A client's piece to its backend, whatever the backend may do by now, from the address that its first one came from.
#[inline(always)]
fn onward<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    flow: &Flow<'_>,
) -> Result<PackedOutcome, Refusal> {
    packet.check_ip(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let sent = Sent {
        backend: flow.backend.id,
        origin: Origin::Known,
        arrival: Arrival::MIDDLE,
        bytes: frame.len() as u64,
    };
    let exit = forward::to_backend(frame, cx.tables, flow.backend)?;
    if let Err(refusal) = exit.fits(packet) {
        pipeline::count(cx, &sent, Err(refusal));
        return Err(refusal);
    }
    let v4 = matches!(packet.family, Family::V4);
    let source = (address(cx.control, v4, flow.low()), flow.ends.nat);
    let destination = (Address(flow.backend.entry.address), flow.backend.entry.port);
    rewrite::translate_both(frame, packet, source, destination, None)?;
    let verdict = forward::send(frame, exit)?;
    pipeline::count(cx, &sent, Ok(verdict));
    Ok(PackedOutcome::counted(verdict))
}

/// A backend's piece to the client that our address stands for.
#[inline(always)]
fn back<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    flow: &Flow<'_>,
) -> Result<PackedOutcome, Refusal> {
    let server = Address(flow.backend.entry.address);
    if packet.source.words() != server.words() || low(packet.destination) != flow.low() {
        return Err(DropReason::Fragment.into());
    }
    packet.check_ip(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let exit = forward::to_hop(frame, cx.tables, flow.hop)?;
    exit.fits(packet)?;
    let source = (Address(flow.service.entry.address), flow.ends.service);
    let destination = (flow.client, flow.ends.client);
    rewrite::translate_both(frame, packet, source, destination, None)?;
    let verdict = forward::send(frame, exit)?;
    Ok(Outcome::of(verdict, Account::Returned, flow.backend.id).into())
}
