//! Pieces of replies, back to the client.

use lb_common::{Address, DropReason, Epoch, ServiceEntry, flow::Step};
use network_types::udp::UdpHdr;

use super::{REPLY, identity};
use crate::{
    admission, flow,
    forward::{self, End},
    frame::Frame,
    parse::{self, Packet},
    pipeline::{self, Context, opaque},
    reply::{self, NO_FLOW, Owner},
    tables::Tables,
    verdict::{Account, Outcome, PackedOutcome, Refusal, Verdict},
    wire::{Ports, Tcp, protocol},
};

/// The flow that a first piece is a reply in: an [`Owner`] in one word.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn owner<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NO_FLOW;
    };
    // Its ports have been seen to be there.
    let Some(piece) = parse::piece(frame, &packet) else {
        return NO_FLOW;
    };
    match frame.header::<Ports>(packet.l4().wrapping_add(piece.header)) {
        Some(&ports) => pipeline::owner_at(cx, &packet, piece.protocol, (ports, false)),
        None => NO_FLOW,
    }
}

/// The first piece of a backend's reply.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn first_to_client<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    owner: u64,
) -> PackedOutcome {
    let frame = opaque(frame);
    if let Some(outcome) = cx.dead(|| true) {
        return outcome.into();
    }
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return PackedOutcome::PASS;
    };
    let Some(piece) = parse::piece(frame, &packet) else {
        return PackedOutcome::PASS;
    };
    let at = Some((packet.l4().wrapping_add(piece.header), piece.protocol));
    if piece.more {
        let identity = identity(cx.tables, &packet, &piece);
        let second = admission::second(cx.now);
        cx.tables.learn_fragment(identity, owner | REPLY, second);
    }
    return_to_client(frame, cx, &packet, at, owner)
}

/// A backend's piece to its client.
#[inline(always)]
fn return_to_client<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    at: Option<(usize, u8)>,
    owner: u64,
) -> PackedOutcome {
    let Some((owner, service)) = pipeline::owner_of(cx, packet, owner) else {
        return PackedOutcome::PASS;
    };
    match to_client(frame, cx, packet, at, owner, service.entry) {
        Ok(verdict) => Outcome::of(verdict, Account::Returned, owner.backend).into(),
        Err(refusal) => PackedOutcome::refused(refusal, service.index),
    }
}

#[inline(always)]
fn to_client<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    at: Option<(usize, u8)>,
    owner: Owner,
    service: &ServiceEntry,
) -> Result<Verdict, Refusal> {
    packet.check_ip(frame)?;
    if let Some((l4, transport)) = at {
        let header = match transport {
            protocol::TCP => size_of::<Tcp>(),
            _ => UdpHdr::LEN,
        };
        if transport == protocol::SCTP {
            packet.read_sctp(frame, l4)?;
        } else if !packet.holds(l4, header) {
            return Err(DropReason::Truncated.into());
        }
    }
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    // Since the first piece another flow may have got the entry.
    let word = reply::word(cx.tables, owner).ok_or(DropReason::Fragment)?;
    if word.backend_id() != owner.backend {
        return Err(DropReason::Fragment.into());
    }
    let exit = forward::to_client(frame, cx.tables, owner.set, owner.way)?;
    exit.fits(packet)?;
    let epoch = Epoch::at(cx.now);
    flow::refresh_at(cx.tables, owner.set, owner.way, word, epoch, Step::Answers);
    let (vip, port) = (Address(service.address), service.port);
    forward::translate(frame, packet, at, End::Source, vip, port)?;
    Ok(forward::send(frame, exit)?)
}

/// A piece that follows the first one to its client.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn later_to_client<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    owner: u64,
) -> PackedOutcome {
    let frame = opaque(frame);
    match parse::ip::<F, V4>(frame) {
        Some(packet) => return_to_client(frame, cx, &packet, None, owner),
        None => PackedOutcome::PASS,
    }
}
