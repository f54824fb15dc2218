//! What a sender is told about its packet: that it is too big, or that its flow is not known. Part of `message`.

use lb_common::{DropReason, MidStream};

use super::{admits, admits_from};
use crate::{
    admission::Limited,
    frame::Frame,
    icmp, parse,
    pipeline::{Context, opaque},
    reset, service,
    tables::Tables,
    verdict::{Account, Outcome, PackedOutcome},
};

/// Tells a packet's sender if the outcome is [`PackedOutcome::too_big`].
#[inline(always)]
pub(crate) fn tell<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    outcome: PackedOutcome,
) -> PackedOutcome {
    match outcome.what_fits() {
        Some((mtu, service)) => too_big::<F, T, V4>(frame, cx, mtu, service),
        None => outcome,
    }
}

/// Tells the sender of a packet that it does not fit on the way to its backend or client (RFC 1191, RFC 8201); `mtu`
/// is what would. Forged or not, an answer is shorter than what it answers.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn too_big<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    mtu: u32,
    service: u32,
) -> PackedOutcome {
    let frame = opaque(frame);
    // Backends, whose packets go to others than VIPs, do not share with one another.
    let admitted = parse::ip::<F, V4>(frame).is_some_and(|packet| {
        match service::is_vip(cx.tables, packet.destination) {
            true => admits_from(cx, Limited::TooBig, &packet),
            false => admits(cx, Limited::TooBig),
        }
    });
    let told = match admitted {
        true => icmp::too_big::<F, V4>(frame, mtu),
        false => Err(DropReason::PacketTooBig),
    };
    match told {
        Ok(verdict) => Outcome::of(verdict, Account::TooBig, service).into(),
        Err(reason) => Outcome::service_drop(reason, service).into(),
    }
}

/// A segment of no known flow to a service where only a SYN begins one, or of a flow whose backend has left and resets
/// its flows: dropped, or answered with a reset. `reason`: which of the two.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn mid_stream<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    service: u32,
    reason: u32,
) -> PackedOutcome {
    let frame = opaque(frame);
    let left = reason == DropReason::BackendLeft as u32;
    let resets = left
        || service::by_index(cx.tables, service)
            .is_ok_and(|service| service.entry.mid_stream == MidStream::Reset as u8);
    let asked = match resets {
        true => parse::ip::<F, V4>(frame).and_then(|packet| reset::to_segment(frame, &packet)),
        false => None,
    };
    // What is not answered uses up nothing of what may be.
    let told = match asked {
        Some(asked) if admits(cx, Limited::Reset) => reset::answer::<F, V4>(frame, &asked),
        _ if left => Err(DropReason::BackendLeft),
        _ => Err(DropReason::MidStream),
    };
    match told {
        Ok(verdict) => Outcome::of(verdict, Account::Reset, service).into(),
        Err(reason) => Outcome::service_drop(reason, service).into(),
    }
}
