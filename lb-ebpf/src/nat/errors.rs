//! ICMP errors about translated packets: both ends of the quoted packet change, and perhaps both of the message's. That is
//! done an end at a time.

use lb_common::{Address, DropReason, hash::FlowTuple, nat::word};

use super::{Flow, NONE, address, owner};
use crate::{
    admission::{self, Limited},
    forward::{self, End},
    frame::Frame,
    icmp::{self, Quote, Translation},
    message,
    parse::{self, Packet},
    pipeline::{Context, opaque},
    service,
    tables::Tables,
    verdict::{Account, Action, Outcome, PackedOutcome, Verdict},
};

/// The slot of the flow that an error to one of our addresses is about, or [`NONE`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn quoted<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NONE;
    };
    let Some(quote) = icmp::quote(frame, &packet) else {
        return NONE;
    };
    if quote.source.words() != packet.destination.words() {
        return NONE;
    }
    owner(cx.tables, cx.control, &reply(&quote))
}

/// A reply to the packet that is quoted.
#[inline(always)]
fn reply(quote: &Quote) -> FlowTuple {
    FlowTuple {
        client: quote.source,
        vip: quote.destination,
        client_port: quote.ports.source,
        vip_port: quote.ports.destination,
        protocol: quote.protocol,
    }
}

/// Relays an error about a flow of ours to its client.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn to_client<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    slot: u64,
) -> PackedOutcome {
    let packed = backends_end::<F, T, V4>(frame, cx, slot as u32);
    let outcome: Outcome = packed.into();
    match outcome.verdict.action {
        Action::Tx | Action::Redirect => match clients_end::<F, T, V4>(frame, cx, slot as u32) {
            0 => packed,
            _ => Outcome::drop(DropReason::MapInconsistent).into(),
        },
        _ => packed,
    }
}

/// The end of the quoted packet that is the backend's becomes the VIP's.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn backends_end<F: Frame, T: Tables, const V4: bool>(
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
    let flow = Flow::read(line, backend, service);
    let Some(quote) = &icmp::quote(frame, &packet) else {
        return Outcome::PASS.into();
    };
    if !flow.is_whole || !flow.has_reply(&reply(quote)) {
        return Outcome::PASS.into();
    }
    match relay(frame, cx, &packet, quote, &flow) {
        Ok(verdict) => Outcome::of(verdict, Account::ErrorReturned, flow.backend.id).into(),
        Err(reason) => Outcome::service_drop(reason, flow.service.index).into(),
    }
}

#[inline(always)]
fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    quote: &Quote,
    flow: &Flow<'_>,
) -> Result<Verdict, DropReason> {
    packet.check_ip(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let second = admission::second(cx.now);
    if !admission::admits(cx.tables, cx.control, Limited::IcmpError, second) {
        return Err(DropReason::IcmpLimited);
    }
    let exit = forward::to_hop(frame, cx.tables, flow.hop)?;
    // Nobody is told about an error that is too big (RFC 1122 section 3.2.2).
    if packet.size() > exit.mtu {
        return Err(DropReason::PacketTooBig);
    }
    let vip = Address(flow.service.entry.address);
    // A backend speaks as the VIP; a router before it speaks for itself.
    let outer_address = match packet.source.words() == quote.destination.words() {
        true => vip,
        false => packet.source,
    };
    let translation = Translation {
        quoted: End::Destination,
        old: quote.destination,
        address: vip,
        port: flow.ends.service,
        outer: End::Source,
        outer_address,
        ages: true,
    };
    icmp::translate(frame, packet, quote, &translation)?;
    forward::send(frame, exit)
}

/// Our end of the quoted packet becomes the client's, and the message goes to it. 0 if that went well.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn clients_end<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    slot: u32,
) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return 1;
    };
    let Some(line) = cx.tables.nat_flow(slot) else {
        return 1;
    };
    let Some(backend) = service::backend(cx.tables, line.word(word::BACKEND) as u32) else {
        return 1;
    };
    let Ok(service) = service::by_index(cx.tables, backend.entry.service) else {
        return 1;
    };
    let flow = Flow::read(line, backend, service);
    let Some(quote) = &icmp::quote(frame, &packet) else {
        return 1;
    };
    if !flow.is_whole || !flow.has_end(quote.source, quote.ports.source, quote.protocol) {
        return 1;
    }
    let translation = Translation {
        quoted: End::Source,
        old: quote.source,
        address: flow.client,
        port: flow.ends.client,
        outer: End::Destination,
        outer_address: flow.client,
        ages: false,
    };
    u32::from(icmp::translate(frame, &packet, quote, &translation).is_err())
}

/// Relays an error about what a VIP sent to its backend, which knows the client by an address of ours.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn error_to_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
) -> PackedOutcome {
    let hash = of_quote::<F, T, V4>(frame, cx);
    let second = admission::second(cx.now);
    let found = cx.tables.find_nat(hash, backend, second);
    if !super::is_known(found) {
        return match cx.tables.backend(backend) {
            Some(entry) => Outcome::service_drop(DropReason::IcmpNoFlow, entry.service).into(),
            None => Outcome::drop(DropReason::MapInconsistent).into(),
        };
    }
    let packed = message::error_to_backend::<F, T, V4>(frame, cx, backend);
    let outcome: Outcome = packed.into();
    if outcome.account != Account::ErrorForwarded {
        return packed;
    }
    match with_our_end::<F, T, V4>(frame, cx, found) {
        0 => packed,
        _ => Outcome::drop(DropReason::MapInconsistent).into(),
    }
}

/// The hash of the flow that an error to a VIP is about; of an error that cannot be read any will do.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn of_quote<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return 0;
    };
    let Some(quote) = icmp::quote(frame, &packet) else {
        return 0;
    };
    cx.tables.hash_flow(&FlowTuple {
        client: quote.destination,
        vip: quote.source,
        client_port: quote.ports.destination,
        vip_port: quote.ports.source,
        protocol: quote.protocol,
    })
}

/// The client's end of the quoted packet becomes ours, as its backend knows it, and so does the message's sender: the backend's
/// network may let no others in. 0 if that went well.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn with_our_end<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return 1;
    };
    let Some(line) = cx.tables.nat_flow(found as u32) else {
        return 1;
    };
    let Some(backend) = service::backend(cx.tables, line.word(word::BACKEND) as u32) else {
        return 1;
    };
    let Ok(service) = service::by_index(cx.tables, backend.entry.service) else {
        return 1;
    };
    let flow = Flow::read(line, backend, service);
    let Some(quote) = &icmp::quote(frame, &packet) else {
        return 1;
    };
    if !flow.is_whole
        || flow.client.words() != quote.destination.words()
        || flow.ends.client != quote.ports.destination
    {
        return 1;
    }
    let ours = address(cx.control, V4, flow.low());
    let translation = Translation {
        quoted: End::Destination,
        old: quote.destination,
        address: ours,
        port: flow.ends.nat,
        outer: End::Source,
        outer_address: ours,
        ages: false,
    };
    u32::from(icmp::translate(frame, &packet, quote, &translation).is_err())
}
