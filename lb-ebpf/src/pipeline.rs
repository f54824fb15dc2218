//! The path of a packet, from its first byte to its verdict.
//!
//! parse, then by what the packet is: to a VIP (flow, schedule, forward), from a backend (find its
//! flow, forward to the client), ICMP (answer or relay), anything else (pass). Packets that are
//! not ours pass unchanged, however odd. Both families run the same code, specialised by the
//! compiler.

use lb_common::{
    Address, Control, DropReason, EndpointKey, Epoch, Family, Forwarding, Nanos, ServiceEntry,
    counter::{GLOBAL_LINE, Global},
    hash::FlowTuple,
};

use crate::{
    admission,
    flow::{self, Assigned, Origin},
    forward::{self, End},
    frame::Frame,
    message,
    parse::{self, Arrival, Packet},
    reply::{self, NO_FLOW, Owner},
    service::{self, Backend, Service},
    tables::{PackedKey, Tables},
    verdict::{self, Account, Outcome, PackedOutcome, Verdict},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ports, protocol},
};

/// Handles one packet: rewrites it if it is ours, counts it once, and says where it goes.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T, now: Nanos) -> Verdict {
    let Some(control) = tables.control() else {
        return Verdict::drop(DropReason::MapInconsistent);
    };
    let Some(global) = tables.counters(control.lines_per_cpu, GLOBAL_LINE) else {
        return Verdict::drop(DropReason::MapInconsistent);
    };
    tables.add(global, Global::Rx as u32, 1);
    let bytes = frame.len() as u64;
    let outcome = route(
        frame,
        &Context {
            tables,
            control,
            now,
        },
    );
    verdict::count(tables, control, global, &outcome, bytes);
    outcome.verdict
}

/// What every stage needs.
pub(crate) struct Context<'t, T> {
    pub(crate) tables: &'t T,
    pub(crate) control: &'t Control,
    pub(crate) now: Nanos,
}

#[inline(always)]
fn route<F: Frame, T: Tables>(frame: &mut F, cx: &Context<'_, T>) -> Outcome {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return Outcome::PASS;
    };
    let [first, ..] = ethernet.destination;
    if first & 1 != 0 {
        // Broadcast and multicast frames are the kernel's (RFC 1122 section 3.3.6).
        return Outcome::PASS;
    }
    match ethernet.ether_type {
        ETHERTYPE_IPV4 => match parse::ipv4(frame) {
            Some(packet) if packet.is_icmp() => message::route::<F, T, true>(frame, cx),
            Some(_) => route_ip::<F, T, true>(frame, cx),
            None => Outcome::PASS,
        },
        ETHERTYPE_IPV6 => match parse::ipv6(frame) {
            Some(packet) if packet.is_icmp() => message::route::<F, T, false>(frame, cx),
            Some(_) => route_ip::<F, T, false>(frame, cx),
            None => Outcome::PASS,
        },
        _ => Outcome::PASS,
    }
}

/// A packet to a VIP, else perhaps a backend's reply. Each step is a call, so that each has its own share
/// of BPF's 512 bytes of stack; the compiler specialises what it inlines for its family.
#[inline(always)]
fn route_ip<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> Outcome {
    let outcome: Outcome = to_service::<F, T, V4>(frame, cx).into();
    match outcome.account {
        Account::Nobody => {}
        Account::Forwarded if !V4 => return deliver_v6(frame, cx, outcome.into()).into(),
        _ => return outcome,
    }
    match returning::<F, T, V4>(frame, cx) {
        NO_FLOW => Outcome::PASS,
        owner => from_backend::<F, T, V4>(frame, cx, owner).into(),
    }
}

/// A packet to a service, if it is one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn to_service<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    let outcome = match packet.oddity {
        Some(reason) => drop_if_vip(cx, &packet, reason),
        None => match packet.protocol {
            protocol::TCP | protocol::UDP => route_segment(frame, cx, &packet),
            _ => Outcome::PASS,
        },
    };
    outcome.into()
}

#[inline(always)]
fn route_segment<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
) -> Outcome {
    let Some(ports) = packet.ports(frame) else {
        return drop_if_vip(cx, packet, DropReason::Truncated);
    };
    let key = EndpointKey {
        address: packet.destination,
        port: ports.destination,
        protocol: packet.protocol,
    };
    match service::at(cx.tables, &key) {
        Some(Ok(service)) => match to_backend(frame, cx, packet, ports, &service) {
            Ok(outcome) => outcome,
            Err(reason) => Outcome::service_drop(reason, service.index),
        },
        Some(Err(reason)) => Outcome::drop(reason),
        None => Outcome::of(Verdict::PASS, Account::Nobody, 0),
    }
}

/// A packet whose inside cannot be read: ours only by its address.
#[inline(always)]
pub(crate) fn drop_if_vip<T: Tables>(
    cx: &Context<'_, T>,
    packet: &Packet,
    reason: DropReason,
) -> Outcome {
    match service::is_vip(cx.tables, packet.destination) {
        true => Outcome::drop(reason),
        false => Outcome::PASS,
    }
}

/// A client's packet to a service.
#[inline(always)]
fn to_backend<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    ports: Ports,
    service: &Service<'_>,
) -> Result<Outcome, DropReason> {
    packet.check_ip(frame)?;
    if admission::is_martian(packet) {
        return Err(DropReason::MartianSource);
    }
    let arrival = packet.check_transport(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let forwarding = forwarding(service.entry)?;
    let tuple = FlowTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: ports.source,
        vip_port: ports.destination,
        protocol: packet.protocol,
    };
    let epoch = u32::from(Epoch::at(cx.now).0);
    let assigned = cx
        .tables
        .assign_flow(service.index, hash(cx, &tuple), arrival as u32, epoch);
    let assignment = Assigned(assigned).assignment(cx.tables)?;
    let backend = assignment.backend;
    if matches!(forwarding, Forwarding::Dnat) {
        if matches!(assignment.origin, Origin::Untracked) {
            return Err(DropReason::FlowTableFull);
        }
        forward::learn_return_hop(frame, cx.tables, assignment.set, assignment.way)?;
    }
    let verdict = match packet.family {
        Family::V4 => deliver(frame, cx, packet, backend, forwarding)?,
        // Yet to come, by `deliver_v6`.
        Family::V6 => Verdict::PASS,
    };
    Ok(Outcome {
        verdict,
        account: Account::Forwarded,
        subject: backend.id,
        origin: assignment.origin,
        opens: matches!(arrival, Arrival::Opening | Arrival::Datagram),
    })
}

/// Rewrites a packet for its backend and sends it there.
#[inline(always)]
fn deliver<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    backend: Backend<'_>,
    forwarding: Forwarding,
) -> Result<Verdict, DropReason> {
    let exit = forward::to_backend(frame, cx.tables, backend)?;
    match forwarding {
        Forwarding::L2dsr => forward::age_and_patch(frame, packet, Default::default())?,
        Forwarding::Dnat => {
            let address = Address(backend.entry.address);
            forward::translate(frame, packet, End::Destination, address, backend.entry.port)?;
        }
    }
    forward::send(frame, exit)
}

/// The second half of the way of an IPv6 packet to its backend: with the first it would not fit on the
/// stack. `outcome` says which backend; its verdict is still to come.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn deliver_v6<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    outcome: PackedOutcome,
) -> PackedOutcome {
    let mut outcome: Outcome = outcome.into();
    let inconsistent = Outcome::drop(DropReason::MapInconsistent);
    let Some(packet) = parse::ip::<F, false>(frame) else {
        return inconsistent.into();
    };
    let Some(backend) = service::backend(cx.tables, outcome.subject) else {
        return inconsistent.into();
    };
    let service = backend.entry.service;
    let delivered = service::by_index(cx.tables, service)
        .and_then(|service| forwarding(service.entry))
        .and_then(|forwarding| deliver(frame, cx, &packet, backend, forwarding));
    match delivered {
        Ok(verdict) => {
            outcome.verdict = verdict;
            outcome.into()
        }
        Err(reason) => Outcome::service_drop(reason, service).into(),
    }
}

/// The flow that a packet to no service is a reply in: an [`Owner`] in one word.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn returning<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NO_FLOW;
    };
    let Some(ports) = packet.ports(frame) else {
        return NO_FLOW;
    };
    let key = EndpointKey {
        address: packet.source,
        port: ports.source,
        protocol: packet.protocol,
    };
    let key = PackedKey::new(&key, ports.destination);
    cx.tables.reply_owner(key, packet.destination.words())
}

/// A backend's reply to a client.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn from_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    owner: u64,
) -> PackedOutcome {
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    let Some((owner, service)) = owner_of(cx, &packet, owner) else {
        return Outcome::PASS.into();
    };
    match to_client(frame, cx, &packet, owner, service.entry) {
        Ok(verdict) => Outcome::of(verdict, Account::Returned, owner.backend).into(),
        Err(reason) => Outcome::service_drop(reason, service.index).into(),
    }
}

/// The same frame, of which the compiler knows nothing. A call that only reads would get the packet's pointer
/// itself as its argument, through 32 bits, and the verifier takes the rest for a number ("R5 invalid mem
/// access 'scalar'", Linux 6.18).
#[inline(always)]
pub(crate) fn opaque<F>(frame: &mut F) -> &mut F {
    core::hint::black_box(frame)
}

/// The flow and its service, from an [`Owner`] in one word.
#[inline(always)]
pub(crate) fn owner_of<'t, T: Tables>(
    cx: &Context<'t, T>,
    packet: &Packet,
    owner: u64,
) -> Option<(Owner, Service<'t>)> {
    let owner = Owner::unpack(owner)?;
    let backend = service::backend(cx.tables, owner.backend)?;
    let service = service::by_index(cx.tables, backend.entry.service).ok()?;
    (service.entry.family == packet.family as u8).then_some((owner, service))
}

#[inline(always)]
fn to_client<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    owner: Owner,
    service: &ServiceEntry,
) -> Result<Verdict, DropReason> {
    packet.check_ip(frame)?;
    let arrival = packet.check_transport(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let exit = forward::to_client(frame, cx.tables, owner.set, owner.way)?;
    let closing = matches!(arrival, Arrival::Closing);
    if let Some(word) = reply::word(cx.tables, owner) {
        flow::refresh_at(
            cx.tables,
            owner.set,
            owner.way,
            word,
            Epoch::at(cx.now),
            closing,
        );
    }
    forward::translate(
        frame,
        packet,
        End::Source,
        Address(service.address),
        service.port,
    )?;
    forward::send(frame, exit)
}

/// A number that this version does not know means maps of another one.
#[inline(always)]
pub(crate) fn forwarding(service: &ServiceEntry) -> Result<Forwarding, DropReason> {
    Forwarding::from_u8(service.forwarding).ok_or(DropReason::MapInconsistent)
}

#[inline(always)]
pub(crate) fn hash<T: Tables>(cx: &Context<'_, T>, tuple: &FlowTuple) -> u64 {
    cx.tables.hash_flow(tuple)
}
