//! The path of a packet, from its first byte to its verdict.
//!
//! parse, then by what the packet is: to a VIP (flow, schedule, forward), from a backend (find its
//! flow, forward to the client), ICMP (answer or relay), anything else (pass). Packets that are
//! not ours pass unchanged, however odd. Both families run the same code, specialised by the
//! compiler.

use lb_common::{
    Address, Control, DropReason, EndpointKey, Epoch, Forwarding, Nanos, ServiceEntry,
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
    service::{self, NOWHERE, Service},
    tables::{PackedKey, Tables},
    tunnel,
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
        ETHERTYPE_IPV4 => route_ip::<F, T, true>(frame, cx),
        ETHERTYPE_IPV6 => route_ip::<F, T, false>(frame, cx),
        _ => Outcome::PASS,
    }
}

/// A packet to a service, else perhaps a backend's reply. The way of a segment to its backend is one piece without
/// a call; the rest is calls, so that each has its own share of BPF's 512 bytes of stack.
#[inline(always)]
fn route_ip<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> Outcome {
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS;
    };
    if packet.is_icmp() {
        return message::route::<F, T, V4>(frame, cx);
    }
    if packet.oddity.is_some() {
        return unreadable::<F, T, V4>(frame, cx).into();
    }
    if !matches!(packet.protocol, protocol::TCP | protocol::UDP) {
        return Outcome::PASS;
    }
    let Some(ports) = packet.ports(frame) else {
        return unreadable::<F, T, V4>(frame, cx).into();
    };
    let service = service::vip(
        cx.tables,
        cx.control,
        packet.destination,
        ports.destination,
        packet.protocol,
    );
    if service != NOWHERE {
        return match to_backend::<F, T, V4>(frame, cx, &packet, ports, service) {
            Ok(outcome) => outcome,
            Err(Refusal { mtu: 0, reason }) => Outcome::service_drop(reason, service),
            Err(Refusal { mtu, .. }) => {
                message::too_big::<F, T, V4>(frame, cx, mtu, service).into()
            }
        };
    }
    if !service::may_be_backend(
        cx.tables,
        cx.control,
        packet.source,
        ports.source,
        packet.protocol,
    ) {
        return Outcome::PASS;
    }
    match returning::<F, T, V4>(frame, cx) {
        NO_FLOW => Outcome::PASS,
        owner => from_backend::<F, T, V4>(frame, cx, owner).into(),
    }
}

/// A packet whose inside cannot be read: ours only by its address.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn unreadable<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    let reason = packet.oddity.unwrap_or(DropReason::Truncated);
    match service::is_vip(cx.tables, packet.destination) {
        true => Outcome::drop(reason).into(),
        false => Outcome::PASS.into(),
    }
}

/// Why a client's packet does not reach a backend.
struct Refusal {
    reason: DropReason,
    /// What would fit, in bytes of IP packet, where that is the reason; otherwise 0.
    mtu: u32,
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self { reason, mtu: 0 }
    }
}

/// A client's packet to a service.
#[inline(always)]
fn to_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    ports: Ports,
    service: u32,
) -> Result<Outcome, Refusal> {
    packet.check_ip(frame)?;
    if admission::is_martian(packet) {
        return Err(DropReason::MartianSource.into());
    }
    let arrival = packet.check_transport(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let tuple = FlowTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: ports.source,
        vip_port: ports.destination,
        protocol: packet.protocol,
    };
    let hash = match V4 {
        true => tuple.hash_v4(&cx.control.multipliers),
        false => tuple.hash_v6(&cx.control.multipliers),
    };
    let epoch = Epoch::at(cx.now);
    let second = admission::second(cx.now);
    let assignment = match flow::young(cx.tables, cx.control, service, hash, arrival, epoch) {
        Some(assignment) => assignment,
        None => {
            let assigned = cx
                .tables
                .assign_flow(service, hash.0, arrival as u32, second);
            Assigned(assigned).assignment(cx.tables)?
        }
    };
    let backend = assignment.backend;
    let exit = forward::to_backend(frame, cx.tables, backend)?;
    match Forwarding::from_u8(backend.entry.forwarding) {
        Some(Forwarding::L2dsr) => forward::age_and_patch(frame, packet, Default::default())?,
        Some(Forwarding::Ipip) => {
            let mtu = exit
                .mtu
                .saturating_sub(tunnel::growth(packet.family) as u32);
            if packet.size() > mtu {
                return Err(Refusal {
                    reason: DropReason::PacketTooBig,
                    mtu,
                });
            }
            forward::age_and_patch(frame, packet, Default::default())?;
            tunnel::encapsulate::<F, V4>(frame, cx.control, packet, backend, hash)?;
        }
        Some(Forwarding::Dnat) => {
            match assignment.origin {
                Origin::Untracked => return Err(DropReason::FlowTableFull.into()),
                Origin::NotAdmitted => return Err(DropReason::NotAdmitted.into()),
                _ => {}
            }
            forward::learn_return_hop(frame, cx.tables, assignment.set, assignment.way)?;
            let address = Address(backend.entry.address);
            forward::translate(frame, packet, End::Destination, address, backend.entry.port)?;
        }
        // A number that this version does not know means maps of another one.
        None => return Err(DropReason::MapInconsistent.into()),
    }
    Ok(Outcome {
        verdict: forward::send(frame, exit)?,
        account: Account::Forwarded,
        subject: backend.id,
        origin: assignment.origin,
        opens: matches!(arrival, Arrival::Opening | Arrival::Datagram),
    })
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
