//! `fullnat`: a client's packet goes to its backend from an address and port of the balancer's own, and the reply
//! comes back to them, wherever the backend's routes lead. All of it is a call aside, a call a step, so that their stacks do not
//! lie in one another.
//!
//! Which port a flow gets: [`lb_common::nat`]. An entry is claimed by one compare-and-exchange of its first word. Two CPUs
//! that see the first packets of one flow at once agree on one entry, but for a slot that becomes free between
//! their looks; then the flow has two, of which the one that is not found again runs out.

mod entry;
mod errors;
mod note;
mod option;
mod pieces;
mod replies;
mod rewrite;

use lb_common::{
    Address, Control, DropReason, FlowHash, Forwarding,
    hash::FlowTuple,
    nat::{Candidate, Ends, PROBES, Stage, State, second, word},
    timing,
};

use crate::{
    flow::Origin,
    forward,
    frame::Frame,
    parse::{self, Packet},
    pipeline::{self, Context, opaque},
    service::{self, Backend},
    tables::Tables,
    timing::{OPENS, OPENS_AGAIN},
    verdict::{Outcome, PackedOutcome, PackedSending, Parcel, Refusal},
};

use entry::{Flow, claim, owner, refresh};
pub(crate) use errors::{error_to_backend, quoted, to_client as error_to_client};
pub use note::note;
pub use option::read as read_options;
pub(crate) use pieces::{follow, learn};
pub(crate) use replies::{from_backend, returning};

/// In what [`find`] gives: the flow has the entry. Without it the entry is free for the flow.
pub(crate) const KNOWN: u64 = 1 << 62;
/// In what [`find`] gives: an unproven flow has the entry, and this one may take its place.
const EVICTS: u64 = 1 << 61;
/// In what [`find`] gives with [`EVICTS`], from this bit on: whose it was.
const WHOSE: u32 = 40;
/// What [`find`] gives where every entry is somebody's who keeps it.
pub(crate) const NONE: u64 = u64::MAX;
/// The flow has the entry.
#[inline(always)]
pub(crate) const fn is_known(found: u64) -> bool {
    found >> 62 == 1
}

/// What [`find`] gives while another CPU is entering this very flow.
const BUSY: u64 = u64::MAX - 1;

/// Looks for an entry before a packet is given up. Each costs more than another CPU needs to write one.
const ROUNDS: u32 = 2;

/// The address that a candidate stands for.
#[inline(always)]
fn address(control: &Control, v4: bool, low: u32) -> Address {
    match v4 {
        true => Address::v4(low.to_be_bytes()),
        false => {
            let [high, last] = Address(control.nat_v6).words();
            let last = u64::from_be(last) >> 32 << 32 | u64::from(low);
            Address::from_words([high, last.to_be()])
        }
    }
}

/// The last four bytes of an address, host order.
#[inline(always)]
fn low(address: Address) -> u32 {
    let [_, last] = address.words();
    u64::from_be(last) as u32
}

#[inline(always)]
fn candidate(control: &Control, v4: bool, hash: u64, number: u32) -> Candidate {
    let (base, spread) = match v4 {
        true => (u32::from_be_bytes(control.nat_v4), control.nat_v4_spread),
        false => (low(Address(control.nat_v6)), control.nat_v6_spread),
    };
    let (hash, key) = (FlowHash(hash), &control.multipliers);
    Candidate::of(hash, key, base, spread, control.nat_ports, number)
}

/// The one slot of a reply's 5-tuple; `client` is the NAT address, `vip` the backend's.
#[inline(always)]
fn slot<T: Tables>(tables: &T, control: &Control, reply: &FlowTuple) -> u32 {
    tables.hash_flow(reply) as u32 & control.nat_mask
}

/// There are addresses of a family to stand for clients.
#[inline(always)]
fn has_source(control: &Control, v4: bool) -> bool {
    match v4 {
        true => control.nat_v4 != [0; 4],
        false => control.nat_v6 != [0; 16],
    }
}

/// The entry of a flow with this hash to this backend, or the first free one that it may have, or else the one of the unproven
/// flow that has been silent longest: slot, and candidate number from bit 32 on, and [`KNOWN`] or [`EVICTS`]; or [`NONE`] or [`BUSY`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, hash: u64, backend: u32, second: u32) -> u64 {
    let (Some(control), Some(backend)) = (tables.control(), service::backend(tables, backend))
    else {
        return NONE;
    };
    let Ok(service) = service::by_index(tables, backend.entry.service) else {
        return NONE;
    };
    let to = Address(backend.entry.address);
    let v4 = to.is_v4();
    if control.nat_ports == 0 || !has_source(control, v4) {
        return NONE;
    }
    // Zero, but the verifier takes it for any number. It would follow each choice among the candidates so far through all that come
    // ("BPF program is too large", Linux 6.18).
    let blur = hash ^ core::hint::black_box(hash);
    let mut best = NONE ^ blur;
    let mut most = blur as u32;
    let mut number = 0;
    while number < PROBES {
        let candidate = candidate(control, v4, hash, number);
        let reply = FlowTuple {
            client: address(control, v4, candidate.low),
            vip: to,
            client_port: candidate.port,
            vip_port: backend.entry.port,
            protocol: service.entry.protocol,
        };
        let slot = slot(tables, control, &reply);
        let found = (u64::from(slot) | u64::from(number) << 32) ^ blur;
        let Some(line) = tables.nat_flow(slot) else {
            return NONE;
        };
        let state = State(line.word(word::STATE));
        if state.is_of(FlowHash(hash)) {
            if matches!(state.stage(), Stage::Writing) {
                return BUSY;
            }
            let whose = u64::from(backend.id) | u64::from(candidate.low) << 32;
            let ends: Ends = bytemuck::cast(line.word(word::ENDS));
            if line.word(word::HASH) == hash
                && line.word(word::BACKEND) == whose
                && ends.nat == candidate.port
            {
                return found | KNOWN;
            }
        }
        let worth = worth(control, state, number, second) ^ blur as u32;
        if worth > most {
            most = worth;
            best = match state.is_over(second, &control.nat_idle) {
                true => found,
                false => found | EVICTS | whose(state) << WHOSE,
            };
        }
        number = number.wrapping_add(1);
    }
    best
}

/// Twenty bits that tell the flow of an entry from another's.
#[inline(always)]
const fn whose(state: State) -> u64 {
    state.0 >> 40 & 0xf_ffff
}

/// How good it is for a new flow to have an entry; 0: it may not.
#[inline(always)]
const fn worth(control: &Control, state: State, number: u32, second: u32) -> u32 {
    match state.is_over(second, &control.nat_idle) {
        true => u32::MAX.wrapping_sub(number),
        false if state.stage().is_unproven() => state.silent(second).wrapping_add(1),
        false => 0,
    }
}

/// Sends a [`Parcel`] of the flow with this hash to its backend, whole or (`PIECE`) the first piece, and counts it: its outcome, or [`PackedOutcome::too_big`].
#[inline(always)]
pub(crate) fn send_aside<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    parcel: Parcel,
    hash: u64,
) -> PackedOutcome {
    let sending = send::<F, T, V4, PIECE>(frame, cx, parcel.seal(hash), hash);
    let service = match cx.tables.backend(parcel.backend()) {
        Some(entry) => entry.service,
        None => return Outcome::drop(DropReason::MapInconsistent).into(),
    };
    match Result::from(sending) {
        Ok(verdict) => PackedOutcome::counted(verdict),
        Err(refusal) => PackedOutcome::refused(refusal, service),
    }
}

/// The same of one that is sealed with its flow's hash.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn send<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    parcel: u64,
    hash: u64,
) -> PackedSending {
    let parcel = Parcel::open(parcel, hash);
    let backend = parcel.backend();
    // As it came.
    let bytes = frame.len() as u64;
    let second = second(cx.now);
    // Without an entry in the table of flows its next packet might go elsewhere.
    let mut reason = match parcel.origin() {
        Origin::Untracked => DropReason::FlowTableFull as u32,
        Origin::NotAdmitted => DropReason::NotAdmitted as u32,
        _ => LOST,
    };
    // Before it takes a port.
    if reason == LOST {
        let checked = match PIECE {
            false => option::check::<F, T, V4>(frame, cx, backend, hash),
            true => pieces::check::<F, T, V4>(frame, cx, backend, hash),
        };
        let checked = sealed(checked, hash);
        if checked != DONE {
            reason = checked;
        }
    }
    let mut round: u32 = 0;
    while reason == LOST && round < ROUNDS {
        let found = cx.tables.find_nat(hash, backend, second);
        if found == NONE {
            break;
        }
        if found != BUSY {
            reason = match found & KNOWN {
                0 => sealed(
                    claim::<F, T, V4, PIECE>(frame, cx, found, hash, backend),
                    hash,
                ),
                _ => sealed(refresh::<F, T, V4, PIECE>(frame, cx, found, hash), hash),
            };
            if reason == DONE {
                let number = (found >> 32) as u32 & 0xff;
                match PIECE {
                    false => {
                        if parcel.arrival().is_opening() {
                            let event = match found & KNOWN {
                                0 => OPENS,
                                _ => OPENS_AGAIN,
                            };
                            let key = timing::of_nat(found as u32);
                            cx.tables.time_handshake(key, backend, event);
                        }
                        reason = sealed(option::tell::<F, T, V4>(frame, cx, backend, hash), hash);
                    }
                    true => learn::<F, T, V4>(frame, cx, found),
                }
                if reason == DONE {
                    let sent = to_backend::<F, T, V4, PIECE>(frame, cx, hash, backend, number);
                    reason = sealed(sent, hash);
                }
            }
        }
        round = round.wrapping_add(1);
    }
    if reason == LOST {
        reason = DropReason::NatPortsExhausted as u32;
    }
    count(cx, parcel, reason, bytes);
    match reason {
        DONE => PackedSending::sent(parcel),
        reason => Refusal(reason).into(),
    }
}

const _: () = assert!(second(u64::MAX / 3) == crate::admission::second(u64::MAX / 3));

/// What a step gives that goes well ...
const DONE: u32 = u32::MAX;
/// ... or when another CPU was faster; else a [`Refusal`].
const LOST: u32 = u32::MAX - 1;

/// What a step gives is mixed with its flow's hash, as a [`Parcel`] is and for the same reason: and back again.
#[inline(always)]
const fn sealed(reason: u32, hash: u64) -> u32 {
    reason ^ hash as u32
}

#[inline(always)]
fn done(result: Result<(), Refusal>) -> u32 {
    match result {
        Ok(()) => DONE,
        Err(Refusal(word)) => word,
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn count<T: Tables>(cx: &Context<'_, T>, parcel: Parcel, reason: u32, bytes: u64) {
    let Some(sent) = parcel.sent(bytes) else {
        return;
    };
    let sending = match reason {
        DONE => Ok(parcel.verdict()),
        // The flow is in the table of flows although its packet goes nowhere: its next one will not be new.
        _ => Err(Refusal(reason | u32::MAX << 8)),
    };
    pipeline::count(cx, &sent, sending);
}

/// Rewrites a packet for its backend; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
fn to_backend<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    hash: u64,
    backend: u32,
    number: u32,
) -> u32 {
    sealed(
        rewrite::<F, T, V4, PIECE>(frame, cx, hash, backend, number),
        hash,
    )
}

#[inline(always)]
fn rewrite<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    hash: u64,
    backend: u32,
    number: u32,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Some(backend)) = (
        parse::ip::<F, V4>(frame),
        service::backend(cx.tables, backend),
    ) else {
        return DropReason::MapInconsistent as u32;
    };
    done(forwards::<F, T, V4, PIECE>(
        frame, cx, &packet, backend, hash, number,
    ))
}

#[inline(always)]
fn forwards<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    packet: &Packet,
    backend: Backend<'_>,
    hash: u64,
    number: u32,
) -> Result<(), Refusal> {
    let exit = forward::line_to_backend(cx.tables, backend)?;
    exit.fits(packet)?;
    let of = candidate(cx.control, V4, hash, number);
    let source = (address(cx.control, V4, of.low), of.port);
    let destination = (Address(backend.entry.address), backend.entry.port);
    let transport = packet
        .transport::<F, PIECE>(frame)
        .ok_or(DropReason::Truncated)?;
    rewrite::translate_both(frame, packet, source, destination, Some(transport))?;
    forward::send(frame, exit)?;
    Ok(())
}

/// The backend's packets come from an address of ours.
#[inline(always)]
pub(crate) fn is_for<T: Tables>(tables: &T, backend: u32) -> bool {
    let entry = tables.backend(backend);
    entry.is_some_and(|entry| entry.forwarding == Forwarding::Fullnat as u8)
}
