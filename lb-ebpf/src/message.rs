//! The path of an ICMP message: echo requests to a VIP are answered, errors are relayed to the backend or
//! client whose packet they quote, and everything else is the kernel's. Part of `pipeline`.

mod answer;

use lb_common::{
    Address, BackendEntry, DropReason, EndpointKey, Forwarding, ServiceEntry, hash::FlowTuple,
};

use crate::{
    admission::{self, Limited},
    forward::{self, End},
    frame::Frame,
    icmp::{self, Kind, Translation},
    nat,
    parse::{self, Packet},
    pipeline::{self, Context, opaque},
    reply::{self, Heard, NO_FLOW, Owner},
    schedule,
    service::{self, Backend},
    tables::{PackedKey, Tables},
    tunnel,
    verdict::{Account, Action, Outcome, PackedOutcome, Parcel, Refusal, Verdict},
};

pub(crate) use answer::{mid_stream, tell, too_big};

/// Handles a message of one family. Each way on is a call, so that each has its own share of BPF's 512
/// bytes of stack.
#[inline(always)]
pub(crate) fn route<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> Outcome {
    match classify::<F, T, V4>(frame, cx) {
        ECHO => echo::<F, T, V4>(frame, cx).into(),
        ERROR_TO_VIP => {
            let found: Outcome = quoted_holder::<F, T, V4>(frame, cx).into();
            match found.account {
                Account::ErrorForwarded => to_backend::<F, T, V4>(frame, cx, found.subject),
                _ => found,
            }
        }
        ERROR_TO_OTHERS if crate::path::hear::<F, T, V4>(frame, cx) => Outcome::PASS,
        ERROR_TO_OTHERS => match quoted_owner::<F, T, V4>(frame, cx) {
            NO_FLOW if cx.control.nat_ports == 0 => Outcome::PASS,
            NO_FLOW => match nat::quoted::<F, T, V4>(frame, cx) {
                nat::NONE => Outcome::PASS,
                slot => nat::error_to_client::<F, T, V4>(frame, cx, slot).into(),
            },
            owner => error_from_backend::<F, T, V4>(frame, cx, owner).into(),
        },
        OTHER => Outcome::PASS,
        reason => Outcome::drop(match reason {
            FRAGMENT => DropReason::Fragment,
            OPTIONS => DropReason::IpOptions,
            EXTENSION => DropReason::ExtensionHeader,
            MALFORMED => DropReason::Malformed,
            DEAD => DropReason::ControlPlaneDead,
            _ => DropReason::Truncated,
        }),
    }
}

const OTHER: u32 = 0;
const ECHO: u32 = 1;
const ERROR_TO_VIP: u32 = 2;
const ERROR_TO_OTHERS: u32 = 3;
/// From here on: a message to a VIP that cannot be read, and why.
const TRUNCATED: u32 = 4;
const FRAGMENT: u32 = 5;
const OPTIONS: u32 = 6;
const EXTENSION: u32 = 7;
const MALFORMED: u32 = 8;
/// A message to a VIP, and the control plane is dead.
const DEAD: u32 = 9;

/// What a message is, in one word.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn classify<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u32 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return OTHER;
    };
    let odd = match packet.oddity {
        Some(DropReason::Fragment) => FRAGMENT,
        Some(DropReason::IpOptions) => OPTIONS,
        Some(DropReason::ExtensionHeader) => EXTENSION,
        Some(DropReason::Malformed) => MALFORMED,
        Some(_) => TRUNCATED,
        None => OTHER,
    };
    let kind = match odd {
        OTHER => icmp::kind(frame, &packet),
        _ => None,
    };
    if matches!(kind, Some(Kind::Other)) {
        return OTHER;
    }
    let to_vip = service::is_vip(cx.tables, packet.destination);
    if let Some(outcome) = cx.dead(|| to_vip) {
        return match outcome.verdict.action {
            Action::Pass => OTHER,
            _ => DEAD,
        };
    }
    match (kind, to_vip) {
        (Some(Kind::EchoRequest), true) => ECHO,
        (Some(Kind::Error), true) => ERROR_TO_VIP,
        (Some(Kind::Error), false) => ERROR_TO_OTHERS,
        (None, true) if odd == OTHER => TRUNCATED,
        (None, true) => odd,
        _ => OTHER,
    }
}

#[inline(always)]
fn admits<T: Tables>(cx: &Context<'_, T>, what: Limited) -> bool {
    admission::admits(cx.tables, cx.control, what, admission::second(cx.now))
}

#[inline(always)]
fn admits_from<T: Tables>(cx: &Context<'_, T>, what: Limited, packet: &Packet) -> bool {
    let second = admission::second(cx.now);
    admission::admits_from(cx.tables, cx.control, what, second, packet.source)
}

/// What a message to a VIP must be before anything is done about it.
#[inline(always)]
fn check_to_vip<F: Frame>(frame: &F, packet: &Packet) -> Result<(), DropReason> {
    packet.check_ip(frame)?;
    if admission::is_martian(packet) {
        return Err(DropReason::MartianSource);
    }
    Ok(())
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn echo<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> PackedOutcome {
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    let outcome = answer(frame, cx, &packet);
    outcome.unwrap_or_else(Outcome::drop).into()
}

#[inline(always)]
fn answer<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
) -> Result<Outcome, DropReason> {
    check_to_vip(frame, packet)?;
    if !admits(cx, Limited::Echo) {
        return Err(DropReason::EchoLimited);
    }
    Ok(Outcome::of(
        icmp::answer_echo(frame, packet)?,
        Account::Echo,
        0,
    ))
}

/// An error about what a VIP sent, which goes to the backend that sent it: the backend as the subject of a
/// verdict that is yet to come, or the drop. (Finding it and relaying are two calls, because their
/// stacks do not fit in one another.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn quoted_holder<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    match find_holder(frame, cx, &packet) {
        Ok(backend) => Outcome::of(Verdict::PASS, Account::ErrorForwarded, backend).into(),
        Err(outcome) => outcome.into(),
    }
}

/// The BackendId; `Err` is the drop.
#[inline(always)]
fn find_holder<F: Frame, T: Tables>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
) -> Result<u32, Outcome> {
    check_to_vip(frame, packet).map_err(Outcome::drop)?;
    let no_flow = Outcome::drop(DropReason::IcmpNoFlow);
    let quote = icmp::quote(frame, packet).ok_or(no_flow)?;
    if quote.source.words() != packet.destination.words() {
        return Err(no_flow);
    }
    let key = EndpointKey {
        address: quote.source,
        port: quote.ports.source,
        protocol: quote.protocol,
    };
    let service = service::at(cx.tables, &key)
        .ok_or(no_flow)?
        .map_err(Outcome::drop)?;
    if packet.ttl <= 1 {
        return Err(Outcome::service_drop(DropReason::TtlExpired, service.index));
    }
    let tuple = FlowTuple {
        client: quote.destination,
        vip: quote.source,
        client_port: quote.ports.destination,
        vip_port: quote.ports.source,
        protocol: quote.protocol,
    };
    let hash = cx.tables.hash_flow(&tuple);
    let group = schedule::group(cx.tables, service.index, &tuple, hash);
    let holder = cx.tables.flow_holder(service.index, hash, group);
    match service::backend(cx.tables, holder) {
        Some(backend) => Ok(backend.id),
        None => Err(Outcome::service_drop(DropReason::IcmpNoFlow, service.index)),
    }
}

/// Relays the error to the backend, in a second call where that is by a tunnel: its stack does not fit in the other's.
#[inline(always)]
fn to_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
) -> Outcome {
    if nat::is_for(cx.tables, backend) {
        return nat::error_to_backend::<F, T, V4>(frame, cx, backend).into();
    }
    let outcome: Outcome = error_to_backend::<F, T, V4>(frame, cx, backend).into();
    let tunnelled = |entry: &&BackendEntry| {
        Forwarding::from_u8(entry.forwarding).is_some_and(Forwarding::is_tunnel)
    };
    let Some(entry) = cx.tables.backend(backend).filter(tunnelled) else {
        return outcome;
    };
    if outcome.account != Account::ErrorForwarded {
        return outcome;
    }
    // Of an error no flow is known.
    let parcel = Parcel::uncounted(backend).seal(0);
    match tunnel::send::<F, T, V4>(frame, cx, parcel, 0).into() {
        Ok(_) => outcome,
        // Nobody is told about an error that is too big (RFC 1122 section 3.2.2).
        Err(refusal) => PackedOutcome::service_drop(Refusal::reason(refusal), entry.service).into(),
    }
}

/// Relays the error to the backend, but for what tunnels do to it.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn error_to_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    backend: u32,
) -> PackedOutcome {
    let (Some(packet), Some(backend)) = (
        parse::ip::<F, V4>(frame),
        service::backend(cx.tables, backend),
    ) else {
        return Outcome::drop(DropReason::MapInconsistent).into();
    };
    let outcome = relay_to_backend(frame, cx, &packet, backend);
    outcome
        .unwrap_or_else(|reason| Outcome::service_drop(reason, backend.entry.service))
        .into()
}

#[inline(always)]
fn relay_to_backend<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    backend: Backend<'_>,
) -> Result<Outcome, DropReason> {
    let quote = &icmp::quote(frame, packet).ok_or(DropReason::Truncated)?;
    if !admits_from(cx, Limited::IcmpError, packet) {
        return Err(DropReason::IcmpLimited);
    }
    let exit = forward::to_backend(frame, cx.tables, backend)?;
    // Nobody is told about an error that is too big (RFC 1122 section 3.2.2).
    if exit.too_small(packet, backend.entry).is_some() {
        return Err(DropReason::PacketTooBig);
    }
    match Forwarding::from_u8(backend.entry.forwarding) {
        Some(Forwarding::L2dsr) => forward::age_and_patch(frame, packet, Default::default())?,
        Some(Forwarding::Ipip | Forwarding::Gue) => {
            return Ok(Outcome::of(
                exit.verdict(),
                Account::ErrorForwarded,
                backend.id,
            ));
        }
        None => return Err(DropReason::MapInconsistent),
        Some(Forwarding::Dnat | Forwarding::Fullnat) => {
            let address = Address(backend.entry.address);
            let translation = Translation {
                quoted: End::Source,
                old: quote.source,
                address,
                port: backend.entry.port,
                outer: End::Destination,
                outer_address: address,
                ages: true,
            };
            icmp::translate(frame, packet, quote, &translation)?;
        }
    }
    let verdict = forward::send(frame, exit)?;
    Ok(Outcome::of(verdict, Account::ErrorForwarded, backend.id))
}

/// An error to someone who is not a VIP: perhaps a backend, or a router before it, tells a client
/// about a translated packet. The flow's [`Owner`] in one word. (Finding it and relaying are two calls, because
/// their stacks do not fit in one another.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn quoted_owner<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NO_FLOW;
    };
    let Some(quote) = icmp::quote(frame, &packet) else {
        return NO_FLOW;
    };
    if quote.source.words() != packet.destination.words() {
        return NO_FLOW;
    }
    let key = EndpointKey {
        address: quote.destination,
        port: quote.ports.destination,
        protocol: quote.protocol,
    };
    let key = PackedKey::new(&key, quote.ports.source);
    let heard = Heard(cx.now, false);
    reply::find(cx.tables, (cx.control, heard), key, quote.source.words())
}

/// Relays the error to the client of the flow.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn error_from_backend<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    owner: u64,
) -> PackedOutcome {
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return Outcome::PASS.into();
    };
    let Some((owner, service)) = pipeline::owner_of(cx, &packet, owner) else {
        return Outcome::PASS.into();
    };
    match relay_to_client(frame, cx, &packet, owner, service.entry) {
        Ok(verdict) => Outcome::of(verdict, Account::ErrorReturned, owner.backend).into(),
        Err(reason) => Outcome::service_drop(reason, service.index).into(),
    }
}

#[inline(always)]
fn relay_to_client<F: Frame, T: Tables>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    owner: Owner,
    service: &ServiceEntry,
) -> Result<Verdict, DropReason> {
    let quote = &icmp::quote(frame, packet).ok_or(DropReason::Truncated)?;
    packet.check_ip(frame)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    if !admits(cx, Limited::IcmpError) {
        return Err(DropReason::IcmpLimited);
    }
    let exit = forward::to_client(frame, cx.tables, owner.set, owner.way)?;
    if packet.size() > exit.mtu {
        return Err(DropReason::PacketTooBig);
    }
    let vip = Address(service.address);
    // A backend speaks as the VIP; a router before it speaks for itself.
    let outer_address = match packet.source.words() == quote.destination.words() {
        true => vip,
        false => packet.source,
    };
    let translation = Translation {
        quoted: End::Destination,
        old: quote.destination,
        address: vip,
        port: service.port,
        outer: End::Source,
        outer_address,
        ages: true,
    };
    icmp::translate(frame, packet, quote, &translation)?;
    forward::send(frame, exit)
}
