//! The path of a packet, from its first byte to its verdict.
//!
//! A segment or datagram to a VIP takes [`segment::route`], one piece without a call. Everything else is a call aside: a
//! backend's reply (find its flow, forward to the client), ICMP (answer or relay), other protocols, what cannot be read.
//! Packets that are not ours pass unchanged, however odd. Both families run the same code, specialised
//! by the compiler.

mod counts;

use lb_common::{
    Address, Control, DropReason, EndpointKey, Epoch, Nanos, ServiceEntry,
    counter::{GLOBAL_LINE, Global},
    timing,
};

use crate::{
    flow,
    forward::{self, End},
    frame::Frame,
    mss,
    parse::{self, Arrival, Packet},
    reply::{self, Heard, NO_FLOW, Owner},
    segment,
    service::{self, Live, Service},
    tables::{CacheLine, PackedKey, Tables, load},
    verdict::{self, Account, Aside, Outcome, PackedOutcome, Refusal, Sent, Verdict},
    vlan::{self, Came},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ports, protocol},
};

pub(crate) use counts::count;
pub use counts::{count_outcome, count_parcel};

/// Where the time comes from: read only by those who need it. A number is its own clock.
pub trait Clock: Copy {
    /// The time. `notes`: this CPU's line of [`Global`], where a clock may note something.
    fn now<T: Tables>(self, tables: &T, notes: &CacheLine) -> Nanos;
}

impl Clock for Nanos {
    fn now<T: Tables>(self, _: &T, _: &CacheLine) -> Nanos {
        self
    }
}

/// Handles one packet: rewrites it if it is ours, counts it once, and says where it goes.
///
/// [`usual`], or [`untagged`], and [`aside`] in turn. In BPF they are three programs, so that each has a stack of its own.
#[inline(always)]
pub fn process<F: Frame, T: Tables, C: Clock>(frame: &mut F, tables: &T, clock: C) -> Verdict {
    let mut came = Came::plainly(frame.ingress_ifindex());
    let mut step = usual(frame, tables, clock);
    if matches!(step, Step::Aside(way) if way.is_tagged()) {
        step = match vlan::enter(frame, tables) {
            Some(entered) => {
                came = entered;
                untagged(frame, tables, clock)
            }
            None => Step::Done(passed(tables)),
        };
    }
    let verdict = match step {
        Step::Done(verdict) => verdict,
        Step::Aside(way) => aside(frame, tables, clock, way),
    };
    match vlan::leaves_otherwise(&came, verdict) {
        true => vlan::leave(frame, tables, &came, verdict)
            .unwrap_or(Verdict::drop(DropReason::MapInconsistent)),
        false => verdict,
    }
}

/// What [`usual`] has come to.
pub enum Step {
    /// This becomes of the packet.
    Done(Verdict),
    /// Its way goes on [`aside`].
    Aside(PackedOutcome),
}

/// The usual packet's way, and where another's leaves it.
#[inline(always)]
pub fn usual<F: Frame, T: Tables, C: Clock>(frame: &mut F, tables: &T, clock: C) -> Step {
    let Some(lane) = Lane::begin(frame, tables, clock) else {
        return Step::Done(Verdict::drop(DropReason::MapInconsistent));
    };
    tables.add(lane.global, Global::Rx as u32, 1);
    lane.step(route(frame, &lane))
}

/// The same of a frame that [`usual`] left as [`Aside::Tagged`], once [`vlan::enter`] has taken its tags off.
#[inline(always)]
pub fn untagged<F: Frame, T: Tables, C: Clock>(frame: &mut F, tables: &T, clock: C) -> Step {
    let Some(lane) = Lane::begin(frame, tables, clock) else {
        return Step::Done(Verdict::drop(DropReason::MapInconsistent));
    };
    lane.step(route(frame, &lane))
}

/// What becomes of a packet that has got its way aside for nothing: it passes, and is counted.
#[inline(always)]
pub fn passed<T: Tables>(tables: &T) -> Verdict {
    ended(tables, &Outcome::PASS)
}

/// Goes on where [`usual`] or [`untagged`] left the way of the same packet.
#[inline(always)]
pub fn aside<F: Frame, T: Tables, C: Clock>(
    frame: &mut F,
    tables: &T,
    clock: C,
    way: PackedOutcome,
) -> Verdict {
    let Some(lane) = Lane::begin(frame, tables, clock) else {
        return Verdict::drop(DropReason::MapInconsistent);
    };
    let cx = Context {
        tables,
        control: lane.control,
        now: lane.now(),
    };
    let ethernet = frame.header::<Ethernet>(0);
    let outcome = match ethernet.is_some_and(|ethernet| ethernet.ether_type == ETHERTYPE_IPV4) {
        true => segment::aside::<F, T, true>(frame, &cx, way),
        false => segment::aside::<F, T, false>(frame, &cx, way),
    };
    lane.end(outcome)
}

/// What becomes of a packet whose way aside is not there: it is dropped, and counted.
#[inline(always)]
pub fn lost<T: Tables>(tables: &T) -> Verdict {
    ended(tables, &Outcome::drop(DropReason::MapInconsistent))
}

#[inline(always)]
fn ended<T: Tables>(tables: &T, outcome: &Outcome) -> Verdict {
    if let Some(control) = tables.control()
        && let Some(global) = tables.counters(control.lines_per_cpu, GLOBAL_LINE)
    {
        verdict::count(tables, control, global, outcome, 0, 0);
    }
    outcome.verdict
}

/// What the usual packet needs.
pub(crate) struct Lane<'t, T, C> {
    pub(crate) tables: &'t T,
    pub(crate) control: &'t Control,
    /// This CPU's line of [`Global`] counters.
    pub(crate) global: &'t CacheLine,
    /// Index of this CPU's first line of counters.
    pub(crate) first: u32,
    pub(crate) clock: C,
    /// Length of the frame as it came.
    pub(crate) bytes: usize,
}

/// What every stage aside needs.
pub(crate) struct Context<'t, T> {
    pub(crate) tables: &'t T,
    pub(crate) control: &'t Control,
    pub(crate) now: Nanos,
}

impl<'t, T: Tables, C: Clock> Lane<'t, T, C> {
    /// `None`: the maps are not what they have to be.
    #[inline(always)]
    fn begin<F: Frame>(frame: &F, tables: &'t T, clock: C) -> Option<Self> {
        let control = tables.control()?;
        let first = tables.first_counter(control.lines_per_cpu);
        Some(Self {
            tables,
            control,
            global: tables.counter(first.wrapping_add(GLOBAL_LINE))?,
            first,
            clock,
            bytes: frame.len(),
        })
    }

    /// The time.
    #[inline(always)]
    pub(crate) fn now(&self) -> Nanos {
        self.clock.now(self.tables, self.global)
    }

    /// Goes on with a call that has a frame and a context of its own.
    #[inline(always)]
    pub(crate) fn call<F: Frame, R>(
        &self,
        frame: &mut F,
        call: impl FnOnce(&mut F, &Context<'t, T>) -> R,
    ) -> R {
        let cx = Context {
            tables: self.tables,
            control: self.control,
            now: self.now(),
        };
        frame.aside(|frame| call(frame, &cx))
    }

    /// What [`usual`] has come to, counted: it passes, or has been counted where it was sent.
    #[inline(always)]
    fn step(&self, way: PackedOutcome) -> Step {
        if way.word() == PackedOutcome::SENT.word() {
            return Step::Done(Verdict::TX);
        }
        if way.is_aside() {
            return Step::Aside(way);
        }
        if way.word() == PackedOutcome::PASS.word() {
            self.tables.add(self.global, Global::Pass as u32, 1);
            return Step::Done(Verdict::PASS);
        }
        Step::Done(Outcome::from(way).verdict)
    }

    /// Counts what is not counted yet.
    #[inline(always)]
    fn end(&self, packed: PackedOutcome) -> Verdict {
        let outcome: Outcome = packed.into();
        if !matches!(outcome.account, Account::Counted) {
            self.tables.count_outcome(packed.word(), self.bytes as u64);
        }
        outcome.verdict
    }
}

#[inline(always)]
fn route<F: Frame, T: Tables, C: Clock>(frame: &mut F, lane: &Lane<'_, T, C>) -> PackedOutcome {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return PackedOutcome::PASS;
    };
    let [first, ..] = ethernet.destination;
    if first & 1 != 0 {
        // Broadcast and multicast frames are the kernel's (RFC 1122 section 3.3.6).
        return PackedOutcome::PASS;
    }
    match ethernet.ether_type {
        ETHERTYPE_IPV4 => segment::route_v4(frame, lane),
        ETHERTYPE_IPV6 => segment::route_v6(frame, lane),
        // Of which there are none left where some have been taken off.
        tag if vlan::is_tag(tag) => Aside::Tagged.into(),
        _ => PackedOutcome::PASS,
    }
}

/// What becomes of packets to services when the control plane has been silent for too long.
#[inline(always)]
pub(crate) fn passes_when_dead(control: &Control) -> bool {
    load(&control.alive_until) & Control::DROP_WHEN_DEAD == 0
}

impl<T: Tables> Context<'_, T> {
    /// What becomes of a packet because the control plane is dead; `None`: it lives. `ours`: a packet to a service, or
    /// of one.
    #[inline(always)]
    pub(crate) fn dead(&self, ours: impl FnOnce() -> bool) -> Option<Outcome> {
        if self.now <= load(&self.control.alive_until) {
            return None;
        }
        Some(match passes_when_dead(self.control) || !ours() {
            true => Outcome::PASS,
            false => Outcome::drop(DropReason::ControlPlaneDead),
        })
    }
}

/// A packet that is no whole segment or datagram: [`PackedOutcome::MESSAGE`] for one of ICMP,
/// [`PackedOutcome::FRAGMENT`] for a piece of another, and [`PackedOutcome::OTHER`] for one of another protocol that there
/// may be a service for.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn rest<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return PackedOutcome::PASS;
    };
    if packet.is_icmp() {
        return PackedOutcome::MESSAGE;
    }
    if matches!(packet.oddity, Some(DropReason::Fragment)) {
        return PackedOutcome::FRAGMENT;
    }
    if packet.oddity.is_none() {
        match packet.protocol {
            protocol::TCP | protocol::UDP => {}
            protocol::SCTP => return PackedOutcome::OTHER,
            _ if Live::of(cx.control).has_ranges() => return PackedOutcome::OTHER,
            _ => return PackedOutcome::PASS,
        }
    }
    if let Some(outcome) = cx.dead(|| service::is_vip(cx.tables, packet.destination)) {
        return outcome.into();
    }
    match packet.oddity {
        Some(reason) => drop_if_vip(cx, &packet, reason).into(),
        None => truncated(frame, cx, &packet).into(),
    }
}

/// A segment or datagram without a whole header.
#[inline(always)]
fn truncated<F: Frame, T: Tables>(frame: &F, cx: &Context<'_, T>, packet: &Packet) -> Outcome {
    let Some(ports) = packet.ports(frame) else {
        return drop_if_vip(cx, packet, DropReason::Truncated);
    };
    let key = EndpointKey {
        address: packet.destination,
        port: ports.destination,
        protocol: packet.protocol,
    };
    let service = service::find(cx.tables, cx.control, &key);
    if service == service::NOWHERE {
        return Outcome::PASS;
    }
    let mut arrival = Arrival::MIDDLE;
    let reason = match segment::check(frame, packet, frame.len(), &mut arrival) {
        Err(reason) => reason,
        Ok(_) => DropReason::Truncated,
    };
    Outcome::service_drop(reason, service)
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

/// The flow that a packet to no service is a reply in: an [`Owner`] in one word.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn returning<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return NO_FLOW;
    };
    match packet.ports(frame) {
        Some(ports) => {
            let accepts = packet.accepts(frame);
            owner_at(cx, &packet, packet.protocol, (ports, accepts))
        }
        None => NO_FLOW,
    }
}

/// The flow that a packet with these ports is a reply in, which accepts a connection or not: an [`Owner`] in one word.
#[inline(always)]
pub(crate) fn owner_at<T: Tables>(
    cx: &Context<'_, T>,
    packet: &Packet,
    protocol: u8,
    (ports, accepts): (Ports, bool),
) -> u64 {
    let key = EndpointKey {
        address: packet.source,
        port: ports.source,
        protocol,
    };
    let key = PackedKey::new(&key, ports.destination);
    let heard = Heard(cx.now, accepts);
    reply::find(
        cx.tables,
        (cx.control, heard),
        key,
        packet.destination.words(),
    )
}

/// A backend's reply to a client.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn from_backend<F: Frame, T: Tables, const V4: bool>(
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
    if let Some(outcome) = cx.dead(|| true) {
        return outcome.into();
    }
    let mut says = 0;
    match to_client(frame, cx, &packet, owner, service.entry, &mut says) {
        Ok(verdict) => {
            let outcome = Outcome::of(verdict, Account::Returned, owner.backend);
            PackedOutcome::from(outcome).saying(says)
        }
        Err(refusal) => PackedOutcome::refused(refusal, service.index),
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
    says: &mut u32,
) -> Result<Verdict, Refusal> {
    packet.check_ip(frame)?;
    let arrival = packet.check_reply(frame, says)?;
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired.into());
    }
    let exit = forward::to_client(frame, cx.tables, owner.set, owner.way)?;
    exit.fits(packet)?;
    mss::clamp(frame, cx, packet, arrival, (owner.backend, exit.mtu));
    if service.pick & ServiceEntry::TIMES != 0 {
        let key = timing::of_flow(owner.set, owner.way);
        cx.tables.time_handshake(key, owner.backend, *says);
    }
    if let Some(word) = reply::word(cx.tables, owner) {
        flow::refresh_at(
            cx.tables,
            owner.set,
            owner.way,
            word,
            Epoch::at(cx.now),
            arrival.answer(),
        );
    }
    let transport = Some((packet.l4(), packet.protocol));
    let (vip, port) = (Address(service.address), service.port);
    forward::translate(frame, packet, transport, End::Source, vip, port)?;
    Ok(forward::send(frame, exit)?)
}

/// What becomes of a packet that does not fit on the way to its backend, where `room` bytes would; counted.
#[inline(always)]
pub(crate) fn too_big<T: Tables>(
    cx: &Context<'_, T>,
    sent: &Sent,
    room: u32,
    service: u32,
) -> PackedOutcome {
    let refusal = Refusal::too_big(room);
    count(cx, sent, Err(refusal));
    PackedOutcome::refused(refusal, service)
}
