//! Entries of `nat_flows`: how a flow takes one and keeps it, and whose one is.

use lb_common::{
    Address, Control, DropReason, FlowHash, ReturnHop,
    hash::FlowTuple,
    nat::{Ends, Stage, State, word},
};

use super::{DONE, LOST, NONE, address, candidate, done, rewrite, sealed, slot};
use crate::{
    forward,
    frame::Frame,
    parse::{self, Arrival, Packet},
    pipeline::{Context, opaque},
    service::{self, Backend},
    tables::{CacheLine, Tables},
    verdict::Refusal,
    wire::{Tcp, protocol},
};

/// Takes an entry for a packet's flow; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn claim<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
    hash: u64,
    backend: u32,
) -> u32 {
    sealed(take::<F, T, V4>(frame, cx, found, hash, backend), hash)
}

#[inline(always)]
fn take<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
    hash: u64,
    backend: u32,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Some(line)) = (parse::ip::<F, V4>(frame), cx.tables.nat_flow(found as u32))
    else {
        return DropReason::MapInconsistent as u32;
    };
    let Some(ports) = packet.ports(frame) else {
        return DropReason::Truncated as u32;
    };
    let hop = match rewrite::hop_of(frame, cx.tables) {
        Ok(hop) => hop,
        Err(reason) => return reason as u32,
    };
    // What does not fit takes no port.
    let Some(to) = service::backend(cx.tables, backend) else {
        return DropReason::NoBackend as u32;
    };
    match forward::line_to_backend(cx.tables, to) {
        Ok(exit) if packet.size() > exit.mtu => return Refusal::too_big(exit.mtu).0,
        Ok(_) => {}
        Err(reason) => return reason as u32,
    }
    let second = crate::admission::second(cx.now);
    let current = State(line.word(word::STATE));
    let hash = FlowHash(hash);
    let writing = State::new(hash, Stage::Writing, second);
    if !current.is_over(second) || !cx.tables.exchange(line, word::STATE, current.0, writing.0) {
        return LOST;
    }
    let of = candidate(cx.control, V4, hash.0, (found >> 32) as u32 & 0xff);
    let ends = Ends {
        client: ports.source,
        service: ports.destination,
        nat: of.port,
        protocol: packet.protocol,
        reserved: 0,
    };
    let [a, b] = packet.source.words();
    let tables = cx.tables;
    tables.set(line, word::CLIENT, a);
    tables.set(line, word::CLIENT.wrapping_add(1), b);
    tables.set(line, word::HASH, hash.0);
    tables.set(line, word::ENDS, bytemuck::cast(ends));
    let whose = u64::from(backend) | u64::from(of.low) << 32;
    tables.set(line, word::BACKEND, whose);
    tables.set(line, word::HOP, hop);
    let stage = match arrival(frame, &packet) {
        arrival if arrival.is_datagram() => Stage::Datagrams,
        arrival if arrival.is_closing() => Stage::Closing,
        arrival if arrival.is_opening() => Stage::Opening,
        // In the middle of a connection that began elsewhere.
        _ => Stage::Established,
    };
    // Whoever sees this sees what was written before.
    let state = State::new(hash, stage, second);
    tables.exchange(line, word::STATE, writing.0, state.0);
    DONE
}

/// Notes a packet of a known flow in its entry; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn refresh<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
    hash: u64,
) -> u32 {
    sealed(keep::<F, T, V4>(frame, cx, found), hash)
}

#[inline(always)]
fn keep<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Some(line)) = (parse::ip::<F, V4>(frame), cx.tables.nat_flow(found as u32))
    else {
        return DropReason::MapInconsistent as u32;
    };
    let Some(ports) = packet.ports(frame) else {
        return DropReason::Truncated as u32;
    };
    let ends: Ends = bytemuck::cast(line.word(word::ENDS));
    let [a, b] = packet.source.words();
    let client = [
        line.word(word::CLIENT),
        line.word(word::CLIENT.wrapping_add(1)),
    ];
    // Two flows with one hash of 64 bits; or the entry has just become another's.
    if client != [a, b] || ends.client != ports.source || ends.service != ports.destination {
        return LOST;
    }
    let arrival = arrival(frame, &packet);
    note(cx, line, arrival.is_opening(), arrival.is_closing());
    done(forward::learn_hop(frame, cx.tables, line, word::HOP).map_err(Refusal::from))
}

/// Brings an entry's state up to date; true if it was not. A lost race is the winner's.
#[inline(always)]
pub(super) fn note<T: Tables>(
    cx: &Context<'_, T>,
    line: &CacheLine,
    opening: bool,
    closing: bool,
) -> bool {
    let second = crate::admission::second(cx.now);
    let state = State(line.word(word::STATE));
    let stage = state.stage();
    if matches!(stage, Stage::Free | Stage::Writing) {
        return false;
    }
    let silent = state.silent(second);
    let new = state.at(
        stage.after(opening, closing, silent),
        state.second().wrapping_add(silent),
    );
    new != state && cx.tables.exchange(line, word::STATE, state.0, new.0)
}

#[inline(always)]
fn arrival<F: Frame>(frame: &F, packet: &Packet) -> Arrival {
    match packet.protocol {
        protocol::TCP => match frame.header::<Tcp>(packet.l4()) {
            Some(tcp) => Arrival::segment(tcp.flags),
            None => Arrival::MIDDLE,
        },
        _ => Arrival::DATAGRAM,
    }
}

/// Who is behind an entry. No part of it lies in an `Option` or a `Result`: where the compiler joins their paths, the
/// verifier finds registers that nothing was written to ("R8 !read_ok", Linux 6.18).
pub(super) struct Flow<'t> {
    pub(super) line: &'t CacheLine,
    pub(super) client: Address,
    pub(super) ends: Ends,
    pub(super) hop: ReturnHop,
    pub(super) backend: Backend<'t>,
    pub(super) service: service::Service<'t>,
    /// False when the entry is nobody's, or another's since it was looked at.
    pub(super) is_whole: bool,
}

impl<'t> Flow<'t> {
    #[inline(always)]
    pub(super) fn read(
        line: &'t CacheLine,
        backend: Backend<'t>,
        service: service::Service<'t>,
    ) -> Self {
        let state = State(line.word(word::STATE));
        let client = [
            line.word(word::CLIENT),
            line.word(word::CLIENT.wrapping_add(1)),
        ];
        let ends = bytemuck::cast(line.word(word::ENDS));
        let hop = bytemuck::cast(line.word(word::HOP));
        let same = line.word(word::BACKEND) as u32 == backend.id;
        let now = State(line.word(word::STATE));
        let known = !matches!(now.stage(), Stage::Free | Stage::Writing);
        Self {
            line,
            client: Address::from_words(client),
            ends,
            hop,
            backend,
            service,
            is_whole: same && known && now.0 >> 40 == state.0 >> 40,
        }
    }
}

/// The slot of the flow that a packet from `tuple.vip`, a backend, to `tuple.client`, one of our addresses, is a
/// reply in; or [`NONE`].
#[inline(always)]
pub(super) fn owner<T: Tables>(tables: &T, control: &Control, tuple: &FlowTuple) -> u64 {
    if control.nat_ports == 0 {
        return NONE;
    }
    let slot = slot(tables, control, tuple);
    let Some(line) = tables.nat_flow(slot) else {
        return NONE;
    };
    if matches!(
        State(line.word(word::STATE)).stage(),
        Stage::Free | Stage::Writing
    ) {
        return NONE;
    }
    let ends: Ends = bytemuck::cast(line.word(word::ENDS));
    let whose = line.word(word::BACKEND);
    let ours = address(control, tuple.client.is_v4(), (whose >> 32) as u32);
    if ends.nat != tuple.client_port
        || ends.protocol != tuple.protocol
        || ours.words() != tuple.client.words()
    {
        return NONE;
    }
    match service::backend(tables, whose as u32) {
        Some(backend)
            if backend.entry.port == tuple.vip_port
                && Address(backend.entry.address).words() == tuple.vip.words() =>
        {
            u64::from(slot)
        }
        _ => NONE,
    }
}
