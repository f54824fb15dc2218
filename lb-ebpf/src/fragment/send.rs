//! Pieces rewritten for their backend and sent there.

use lb_common::{Address, DropReason, Forwarding};

use super::{Delivery, identity, next};
use crate::{
    flow::Origin,
    forward::{self, End},
    frame::Frame,
    parse::{self, Arrival, Packet},
    pipeline::{self, Context, opaque},
    reply::Owner,
    service::{self, Backend},
    tables::Tables,
    verdict::{Outcome, PackedOutcome, Parcel, Sent},
};

/// A piece that follows the first one to its backend, whatever the backend may do by now: half a datagram helps
/// nobody.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn following<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return PackedOutcome::PASS.word();
    };
    let backend = Owner::unpack(found).and_then(|owner| service::backend(cx.tables, owner.backend));
    let Some(backend) = backend else {
        // It is gone since.
        return PackedOutcome::from(Outcome::drop(DropReason::Fragment)).word();
    };
    let checked = match packet.ttl <= 1 {
        true => Err(DropReason::TtlExpired),
        false => Ok(()),
    };
    let checked = packet.check_ip(frame).and(checked);
    match checked {
        Ok(()) => next::DELIVER | Delivery::new(backend.id, Origin::Known).0,
        Err(reason) => PackedOutcome::service_drop(reason as u8, backend.entry.service).word(),
    }
}

/// Rewrites a piece for its backend, counts it and sends it there; or says by which tunnel it is to go.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn deliver<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    delivery: u64,
) -> u64 {
    let frame = opaque(frame);
    let delivery = Delivery(delivery & next::WORD);
    let (Some(packet), Some(backend)) = (
        parse::ip::<F, V4>(frame),
        service::backend(cx.tables, delivery.backend()),
    ) else {
        return PackedOutcome::from(Outcome::drop(DropReason::MapInconsistent)).word();
    };
    match send(frame, cx, &packet, delivery, backend) {
        Ok(step) => step,
        Err(reason) => PackedOutcome::service_drop(reason as u8, backend.entry.service).word(),
    }
}

#[inline(always)]
fn send<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    delivery: Delivery,
    backend: Backend<'_>,
) -> Result<u64, DropReason> {
    let sent = Sent {
        backend: backend.id,
        origin: delivery.origin(),
        arrival: match delivery.has(Delivery::OPENS) {
            true => Arrival::DATAGRAM,
            false => Arrival::MIDDLE,
        },
        bytes: frame.len() as u64,
    };
    let exit = forward::to_backend(frame, cx.tables, backend)?;
    if let Some(room) = exit.too_small(packet, backend.entry) {
        return Ok(pipeline::too_big(cx, &sent, room, backend.entry.service).word());
    }
    match Forwarding::from_u8(backend.entry.forwarding) {
        Some(Forwarding::L2dsr) => forward::age_and_patch(frame, packet, Default::default())?,
        Some(Forwarding::Dnat) => {
            forward::not_to_itself(packet, backend)?;
            let piece = parse::piece(frame, packet).ok_or(DropReason::Truncated)?;
            let (address, port) = (Address(backend.entry.address), backend.entry.port);
            let l4 = packet.l4().wrapping_add(piece.header);
            let at = delivery
                .has(Delivery::FIRST)
                .then_some((l4, piece.protocol));
            forward::translate(frame, packet, at, End::Destination, address, port)?;
        }
        Some(Forwarding::Ipip | Forwarding::Gue) => {
            return Ok(next::TUNNEL | Parcel::new(&sent, exit.verdict()).word());
        }
        // Has its own way.
        Some(Forwarding::Fullnat) | None => return Err(DropReason::MapInconsistent),
    }
    let verdict = forward::send(frame, exit)?;
    pipeline::count(cx, &sent, Ok(verdict));
    Ok(PackedOutcome::counted(verdict).word())
}

/// The hash of a piece's datagram, by which tunnels spread: of most pieces the flow is not known.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn datagram<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return 0;
    };
    match parse::piece(frame, &packet) {
        Some(piece) => identity(cx.tables, &packet, &piece),
        None => 0,
    }
}
