//! Pieces rewritten for their backend and sent there.

use lb_common::{
    Address, DropReason, Family, FlowHash, Forwarding,
    counter::{self, GLOBAL_LINE},
};

use super::{Delivery, identity, next, translate};
use crate::{
    flow::Origin,
    forward::{self, End},
    frame::Frame,
    parse::{self, Packet},
    pipeline::{Context, opaque},
    reply::Owner,
    service::{self, Backend},
    tables::Tables,
    tunnel,
    verdict::{self, Outcome, PackedOutcome, Sent, Verdict},
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

/// Rewrites a piece for its backend, counts it and sends it there.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn deliver<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    delivery: u64,
) -> PackedOutcome {
    let frame = opaque(frame);
    let delivery = Delivery(delivery & next::WORD);
    let (Some(packet), Some(backend)) = (
        parse::ip::<F, V4>(frame),
        service::backend(cx.tables, delivery.backend()),
    ) else {
        return Outcome::drop(DropReason::MapInconsistent).into();
    };
    let sent = Sent {
        backend: backend.id,
        origin: delivery.origin(),
        opens: delivery.has(Delivery::OPENS),
        bytes: frame.len() as u64,
    };
    match send::<F, T, V4>(frame, cx, &packet, delivery, backend) {
        Ok(Gone::Sent(verdict)) => {
            count(cx, &sent, Some(verdict));
            PackedOutcome::counted(verdict)
        }
        Ok(Gone::TooBig(mtu)) => {
            // Its flow may be new all the same.
            count(cx, &sent, None);
            PackedOutcome::too_big(mtu, backend.entry.service)
        }
        Err(reason) => PackedOutcome::service_drop(reason as u8, backend.entry.service),
    }
}

/// What has become of a piece.
enum Gone {
    Sent(Verdict),
    /// So many bytes would fit.
    TooBig(u32),
}

#[inline(always)]
fn send<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    delivery: Delivery,
    backend: Backend<'_>,
) -> Result<Gone, DropReason> {
    let exit = forward::to_backend(frame, cx.tables, backend)?;
    let piece = parse::piece(frame, packet).ok_or(DropReason::Truncated)?;
    match Forwarding::from_u8(backend.entry.forwarding) {
        Some(Forwarding::L2dsr) => forward::age_and_patch(frame, packet, Default::default())?,
        Some(Forwarding::Dnat) => {
            let (address, port) = (Address(backend.entry.address), backend.entry.port);
            let l4 = packet.l4().wrapping_add(piece.header);
            let at = delivery
                .has(Delivery::FIRST)
                .then_some((l4, piece.protocol));
            translate(frame, packet, at, End::Destination, address, port)?;
        }
        Some(Forwarding::Ipip) => {
            let family = if V4 { Family::V4 } else { Family::V6 };
            let mtu = exit.mtu.saturating_sub(tunnel::growth(family) as u32);
            if packet.size() > mtu {
                return Ok(Gone::TooBig(mtu));
            }
            // Tunnels spread by datagram: of most pieces the flow is not known.
            let datagram = FlowHash(identity(cx.tables, packet, &piece));
            forward::age_and_patch(frame, packet, Default::default())?;
            let macs = exit.macs();
            tunnel::encapsulate::<F, V4>(frame, cx.control, packet, backend, datagram, macs)?;
        }
        None => return Err(DropReason::MapInconsistent),
    }
    Ok(Gone::Sent(forward::send(frame, exit)?))
}

/// Counts a piece that was sent, or, without a verdict, only how its flow came to its backend.
#[inline(always)]
fn count<T: Tables>(cx: &Context<'_, T>, sent: &Sent, verdict: Option<Verdict>) {
    let first = cx.tables.first_counter(cx.control.lines_per_cpu);
    let Some(global) = cx.tables.counter(first.wrapping_add(GLOBAL_LINE)) else {
        return;
    };
    if let Some(verdict) = verdict {
        verdict::count_sent(cx.tables, global, first, sent, verdict);
        return;
    }
    let line = counter::BACKEND_LINE.wrapping_add(sent.backend);
    if let Some(line) = cx.tables.counter(first.wrapping_add(line)) {
        verdict::count_origin(cx.tables, global, first, line, sent);
    }
}
