//! Entries of `nat_flows`: how a flow takes one and keeps it, and whose one is.

use lb_common::{
    Address, Control, DropReason, FlowHash, ReturnHop,
    hash::FlowTuple,
    nat::{Ends, Stage, State, word},
};

use super::{
    DONE, EVICTS, LOST, NONE, WHOSE, address, candidate, done, low,
    note::{ANOTHERS, Event},
    rewrite, sealed, slot,
};
use crate::{
    forward,
    frame::Frame,
    parse::{self, Arrival, Transport},
    pipeline::{Context, opaque},
    service::{self, Backend},
    tables::{CacheLine, Tables},
    verdict::Refusal,
    wire::{Tcp, protocol},
};

/// Takes an entry for a packet's flow, or (`PIECE`) a first piece's; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn claim<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
    hash: u64,
    backend: u32,
) -> u32 {
    sealed(
        take::<F, T, V4, PIECE>(frame, cx, found, hash, backend),
        hash,
    )
}

#[inline(always)]
fn take<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
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
    let Some(transport) = packet.transport::<F, PIECE>(frame) else {
        return DropReason::Truncated as u32;
    };
    let Some(ports) = transport.ports(frame, &packet) else {
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
    // Whoever has taken it meanwhile has just sent its packet from there.
    let is_same = super::whose(current) == found >> WHOSE & 0xf_ffff;
    let may_evict = found & EVICTS != 0 && is_same && current.stage().is_unproven();
    if !current.is_over(second, &cx.control.nat_idle) && !may_evict {
        return LOST;
    }
    if !cx.tables.exchange(line, word::STATE, current.0, writing.0) {
        return LOST;
    }
    let of = candidate(cx.control, V4, hash.0, (found >> 32) as u32 & 0xff);
    let ends = Ends {
        client: ports.source,
        service: ports.destination,
        nat: of.port,
        protocol: transport.protocol,
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
    // Whatever it says: also in the middle of a connection that began elsewhere.
    let arrival = arrival(frame, transport);
    let stage = match arrival.is_datagram() {
        true => Stage::Asking,
        false => Stage::Opening,
    };
    // Whoever sees this sees what was written before.
    let state = State::new(hash, stage, second).begun(arrival.is_ending());
    tables.exchange(line, word::STATE, writing.0, state.0);
    DONE
}

/// Notes a packet of a known flow in its entry, or (`PIECE`) a first piece; [`sealed`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn refresh<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
    hash: u64,
) -> u32 {
    sealed(keep::<F, T, V4, PIECE>(frame, cx, found, hash), hash)
}

#[inline(always)]
fn keep<F: Frame, T: Tables, const V4: bool, const PIECE: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
    found: u64,
    hash: u64,
) -> u32 {
    let frame = opaque(frame);
    let (Some(packet), Some(line)) = (parse::ip::<F, V4>(frame), cx.tables.nat_flow(found as u32))
    else {
        return DropReason::MapInconsistent as u32;
    };
    let Some(transport) = packet.transport::<F, PIECE>(frame) else {
        return DropReason::Truncated as u32;
    };
    let Some(ports) = transport.ports(frame, &packet) else {
        return DropReason::Truncated as u32;
    };
    let state = State(line.word(word::STATE));
    let ends: Ends = bytemuck::cast(line.word(word::ENDS));
    let [a, b] = packet.source.words();
    let client = [
        line.word(word::CLIENT),
        line.word(word::CLIENT.wrapping_add(1)),
    ];
    // Two flows with one hash of 64 bits; or the entry has just become another's.
    if client != [a, b]
        || ends.client != ports.source
        || ends.service != ports.destination
        || line.word(word::HASH) != hash
    {
        return LOST;
    }
    let event = Event::of(arrival(frame, transport), Event::CLIENT);
    let second = crate::admission::second(cx.now);
    if cx.tables.note_nat(found as u32, state.0, event.0, second) == ANOTHERS {
        return LOST;
    }
    done(forward::learn_hop(frame, cx.tables, line, word::HOP).map_err(Refusal::from))
}

#[inline(always)]
pub(super) fn arrival<F: Frame>(frame: &F, transport: Transport) -> Arrival {
    match transport.protocol {
        protocol::TCP => match frame.header::<Tcp>(transport.at) {
            Some(tcp) => Arrival::segment(tcp.flags),
            None => Arrival::MIDDLE,
        },
        _ => Arrival::DATAGRAM,
    }
}

/// Who is behind an entry. No part of it lies in an `Option` or a `Result`: where the compiler joins their paths, the
/// verifier finds registers that nothing was written to ("R8 !read_ok", Linux 6.18).
pub(super) struct Flow<'t> {
    state: State,
    /// [`word::BACKEND`].
    whose: u64,
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
        let whose = line.word(word::BACKEND);
        let now = State(line.word(word::STATE));
        Self {
            state: now,
            whose,
            client: Address::from_words(client),
            ends,
            hop,
            backend,
            service,
            // Its stage may have changed, which leaves the rest as it is.
            is_whole: whose as u32 == backend.id && now.is_still(state),
        }
    }

    /// The last four bytes of our address, host order.
    #[inline(always)]
    pub(super) const fn low(&self) -> u32 {
        (self.whose >> 32) as u32
    }

    /// A packet from `tuple.vip` to `tuple.client` is a reply in the flow: it may be another since [`owner`] looked.
    #[inline(always)]
    pub(super) fn has_reply(&self, tuple: &FlowTuple) -> bool {
        self.has_end(tuple.client, tuple.client_port, tuple.protocol) && is_at(self.backend, tuple)
    }

    /// Our end of the flow.
    #[inline(always)]
    pub(super) fn has_end(&self, address: Address, port: [u8; 2], protocol: u8) -> bool {
        self.low() == low(address) && self.ends.nat == port && self.ends.protocol == protocol
    }

    /// Notes a reply in the flow's entry, which has this slot: [`SAME`], [`NOTED`] or [`ANOTHERS`].
    #[inline(always)]
    pub(super) fn note<T: Tables>(&self, cx: &Context<'_, T>, slot: u32, arrival: Arrival) -> u32 {
        let event = Event::of(arrival, Event::BACKEND);
        let second = crate::admission::second(cx.now);
        cx.tables.note_nat(slot, self.state.0, event.0, second)
    }
}

/// A reply comes from this backend.
#[inline(always)]
fn is_at(backend: Backend<'_>, tuple: &FlowTuple) -> bool {
    backend.entry.port == tuple.vip_port
        && Address(backend.entry.address).words() == tuple.vip.words()
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
    if !State(line.word(word::STATE)).stage().is_written() {
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
        Some(backend) if is_at(backend, tuple) => u64::from(slot),
        _ => NONE,
    }
}
