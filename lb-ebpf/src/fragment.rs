//! Pieces of datagrams (RFC 791 section 3.2, RFC 8200 section 4.5). The first has the ports: it goes the way of its flow
//! and leaves an entry, which the later ones of the same datagram follow. One that comes before the first, or long
//! after it, is dropped as [`DropReason::Fragment`]. Of a protocol without ports each piece says by itself whose it is.
//!
//! All of this is aside: nobody else pays for it.

mod back;
mod first;
mod send;

use lb_common::{
    DropReason, EndpointKey, EndpointKind, FlowHash, Protocol,
    fragment::{self, Entry},
    hash::FlowTuple,
};

use crate::{
    admission,
    flow::Origin,
    frame::Frame,
    nat,
    parse::{self, Packet, Piece},
    pipeline::{Context, opaque},
    reply::NO_FLOW,
    service::{self, Live, NOWHERE},
    tables::{PackedKey, Tables},
    tunnel,
    verdict::{Action, Outcome, PackedOutcome, Parcel},
    wire::Ports,
};

/// No entry: what [`find`] gives then.
pub const NONE: u64 = u64::MAX;
/// In a payload: the datagram is a backend's reply.
const REPLY: u64 = 1 << 52;
/// In a payload that is no reply's: the datagram is of a flow of `fullnat`, to its backend or to its client, and what is below is [`nat`]'s.
pub(crate) const NAT: u64 = 1 << 49;

/// The payload of a datagram's entry, or [`NONE`]. `hash` as of [`identity`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, hash: u64, second: u32) -> u64 {
    let hash = FlowHash(hash);
    let Some(line) = tables.fragments(fragment::set(hash)) else {
        return NONE;
    };
    let mut way: u32 = 0;
    while way < fragment::WAYS {
        let at = way.wrapping_mul(2);
        let entry = Entry {
            first: line.word(at),
            second: line.word(at | 1),
        };
        if let Some(payload) = entry.payload(hash, second) {
            return payload;
        }
        way = way.wrapping_add(1);
    }
    NONE
}

/// Makes an entry: in place of the datagram's own, or of the oldest of its set. The word that is looked for goes last.
#[inline(always)]
pub fn learn<T: Tables>(tables: &T, hash: u64, payload: u64, second: u32) -> u32 {
    let hash = FlowHash(hash);
    let Some(line) = tables.fragments(fragment::set(hash)) else {
        return 0;
    };
    let (mut chosen, mut oldest) = (0, 0);
    let mut way: u32 = 0;
    while way < fragment::WAYS {
        let there = Entry {
            first: line.word(way.wrapping_mul(2)),
            second: 0,
        };
        let age = match there.is_of(hash) {
            true => u32::MAX,
            false => there.age(second),
        };
        if age >= oldest {
            (chosen, oldest) = (way, age);
        }
        way = way.wrapping_add(1);
    }
    let entry = Entry::new(hash, payload, second);
    let at = chosen.wrapping_mul(2);
    tables.set(line, at | 1, entry.second);
    tables.set(line, at, entry.first);
    1
}

/// The hash of what the pieces of one datagram have in common.
#[inline(always)]
pub(crate) fn identity<T: Tables>(tables: &T, packet: &Packet, piece: &Piece) -> u64 {
    let [a, b, c, d] = piece.id.to_be_bytes();
    tables.hash_flow(&FlowTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: [a, b],
        vip_port: [c, d],
        protocol: piece.protocol,
    })
}

/// What comes next, in the bits of a [`PackedOutcome`] that no outcome has, with what it needs below.
mod next {
    /// It is a first piece to a service: its index.
    pub(super) const TO_SERVICE: u64 = 1 << 60;
    /// It is a first piece to no service: perhaps a backend's reply.
    pub(super) const FROM_OTHERS: u64 = 1 << 59;
    /// It is a later piece: a payload.
    pub(super) const FOLLOW: u64 = 1 << 58;
    /// It goes to a backend: a [`super::Delivery`].
    pub(super) const DELIVER: u64 = 1 << 57;
    /// It goes there by a tunnel: a `Parcel`.
    pub(super) const TUNNEL: u64 = 1 << 56;
    /// Besides: no first piece, though it is served as one.
    pub(super) const LATER: u64 = 1 << 55;
    /// It goes there from an address of ours: a `Parcel`.
    pub(super) const NAT: u64 = 1 << 54;
    /// What it needs.
    pub(super) const WORD: u64 = (1 << 53) - 1;
}

/// A piece of a datagram. Each step is a call by itself, so that their stacks do not lie in one another.
#[inline(always)]
pub(crate) fn route<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> PackedOutcome {
    let mut step = classify::<F, T, V4>(frame, cx);
    let later = step & (next::FOLLOW | next::LATER) != 0;
    if step & next::FROM_OTHERS != 0 {
        if cx.control.nat_ports != 0 {
            match nat::returning::<F, T, V4, true>(frame, cx) {
                nat::NONE => {}
                slot => {
                    nat::learn::<F, T, V4>(frame, cx, slot);
                    return nat::from_backend::<F, T, V4, true>(frame, cx, slot);
                }
            }
        }
        match back::owner::<F, T, V4>(frame, cx) {
            NO_FLOW => {}
            owner => return back::first_to_client::<F, T, V4>(frame, cx, owner),
        }
        match first::range::<F, T, V4>(frame, cx) {
            NOWHERE => return PackedOutcome::PASS,
            service => step = next::TO_SERVICE | u64::from(service),
        }
        // The piece is a service's, as has been found: nobody has to look again.
        if let Some(outcome) = cx.dead(|| true) {
            return outcome.into();
        }
    }
    let word = step & next::WORD;
    if step & next::FOLLOW != 0 && word & REPLY != 0 {
        let outcome = back::later_to_client::<F, T, V4>(frame, cx, word & !REPLY);
        return untold::<V4>(outcome);
    }
    if step & next::FOLLOW != 0 && word & NAT != 0 {
        return untold::<V4>(nat::follow::<F, T, V4>(frame, cx, word));
    }
    if step & next::FOLLOW != 0 {
        step = send::following::<F, T, V4>(frame, cx, word);
    } else if step & next::TO_SERVICE != 0 {
        let service = word as u32;
        let arrival = first::admit::<F, T, V4>(frame, cx, service);
        if arrival & first::REFUSED != 0 {
            return PackedOutcome::service_drop(arrival as u8, service);
        }
        let hash = first::flow_hash::<F, T, V4>(frame, cx);
        let second = admission::second(cx.now);
        let group = first::group::<F, T, V4>(frame, cx, service, hash);
        let assigned = cx.tables.assign_flow(service, hash, arrival, second, group);
        let assigned = cx.tables.keep_apart(assigned, hash);
        if assigned >> 52 == 0 {
            return PackedOutcome::service_drop(assigned as u8, service);
        }
        step = first::first_to_backend::<F, T, V4>(frame, cx, assigned, arrival);
        if step & next::NAT != 0 {
            let parcel = Parcel::open(step & next::WORD, 0);
            return nat::send_aside::<F, T, V4, true>(frame, cx, parcel, hash);
        }
    }
    if step & next::DELIVER != 0 {
        step = send::deliver::<F, T, V4>(frame, cx, step);
    }
    let outcome = match step & next::TUNNEL {
        0 => PackedOutcome::of(step),
        _ => {
            let hash = send::datagram::<F, T, V4>(frame, cx);
            let parcel = Parcel::open(step & next::WORD, 0);
            tunnel::send_aside::<F, T, V4>(frame, cx, parcel, hash)
        }
    };
    match later {
        true => untold::<V4>(outcome),
        false => outcome,
    }
}

/// What becomes of a later piece: over IPv4 nobody is told that it is too big (RFC 1122 section 3.2.2).
#[inline(always)]
fn untold<const V4: bool>(outcome: PackedOutcome) -> PackedOutcome {
    match outcome.what_fits() {
        Some((_, service)) if V4 => {
            PackedOutcome::service_drop(DropReason::PacketTooBig as u8, service)
        }
        _ => outcome,
    }
}

/// A piece and its backend, in one word that travels between the steps. Bits 0 to 31: BackendId; 32 to 34: origin;
/// 35: the piece opens a connection or has none; 36: it is a first piece.
#[derive(Clone, Copy)]
struct Delivery(u64);

impl Delivery {
    const OPENS: u64 = 1 << 35;
    const FIRST: u64 = 1 << 36;

    #[inline(always)]
    const fn new(backend: u32, origin: Origin) -> Self {
        Self(backend as u64 | (origin as u64) << 32)
    }

    #[inline(always)]
    const fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    #[inline(always)]
    const fn backend(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    #[inline(always)]
    const fn origin(self) -> Origin {
        Origin::of(self.0 >> 32 & 7)
    }
}

/// What a piece is: an outcome, or what comes next.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn classify<F: Frame, T: Tables, const V4: bool>(frame: &mut F, cx: &Context<'_, T>) -> u64 {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return PackedOutcome::PASS.word();
    };
    let key = match begins(frame, &packet) {
        Ok(Some(key)) if !Protocol::has_ports(key.protocol) => {
            return alone(frame, cx, &packet, &key);
        }
        Ok(Some(key)) => key,
        Ok(None) => return follow(frame, cx, &packet),
        Err(reason) => return refuse(cx, &packet, reason),
    };
    let service = cx.tables.find_endpoint(
        PackedKey::new(&key, [0, 0]),
        EndpointKind::Vip as u32,
        Live::of(cx.control).0,
    );
    if service == NOWHERE {
        return next::FROM_OTHERS;
    }
    match cx.dead(|| true) {
        Some(outcome) => PackedOutcome::from(outcome).word(),
        None => next::TO_SERVICE | u64::from(service),
    }
}

/// Where a first piece goes, or any of a protocol without ports; `None`: it is a later one.
#[inline(always)]
fn begins<F: Frame>(frame: &F, packet: &Packet) -> Result<Option<EndpointKey>, DropReason> {
    let piece = parse::piece(frame, packet).ok_or(DropReason::Truncated)?;
    if parse::is_served_whole(packet.family, piece.protocol) {
        return Err(DropReason::Fragment);
    }
    let mut key = EndpointKey {
        address: packet.destination,
        port: [0, 0],
        protocol: piece.protocol,
    };
    if !Protocol::has_ports(piece.protocol) {
        return Ok(Some(key));
    }
    if piece.offset != 0 {
        return Ok(None);
    }
    let l4 = packet.l4().wrapping_add(piece.header);
    if !packet.holds(l4, size_of::<Ports>()) {
        return Err(DropReason::Truncated);
    }
    let ports = frame.header::<Ports>(l4).ok_or(DropReason::Truncated)?;
    key.port = ports.destination;
    Ok(Some(key))
}

/// A piece of a protocol without ports, whose flow is a pair of addresses: the way of whole packets of that protocol.
#[inline(always)]
fn alone<F: Frame, T: Tables>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
    key: &EndpointKey,
) -> u64 {
    let live = Live::of(cx.control);
    let service = match live.has_ranges() {
        true => cx.tables.find_range(PackedKey::new(key, [0, 0]), live.0),
        false => NOWHERE,
    };
    if service == NOWHERE {
        return PackedOutcome::PASS.word();
    }
    if let Some(outcome) = cx.dead(|| true) {
        return match outcome.verdict.action {
            Action::Drop => {
                PackedOutcome::service_drop(DropReason::ControlPlaneDead as u8, service).word()
            }
            _ => PackedOutcome::from(outcome).word(),
        };
    }
    let later = match parse::piece(frame, packet) {
        Some(piece) if piece.offset == 0 => 0,
        _ => next::LATER,
    };
    next::TO_SERVICE | later | u64::from(service)
}

/// A later piece: what its first one has left.
#[inline(always)]
fn follow<F: Frame, T: Tables>(frame: &F, cx: &Context<'_, T>, packet: &Packet) -> u64 {
    let Some(piece) = parse::piece(frame, packet) else {
        return PackedOutcome::PASS.word();
    };
    let identity = identity(cx.tables, packet, &piece);
    match cx.tables.find_fragment(identity, admission::second(cx.now)) {
        NONE => refuse(cx, packet, DropReason::Fragment),
        payload => match cx.dead(|| true) {
            Some(outcome) => PackedOutcome::from(outcome).word(),
            None => next::FOLLOW | payload,
        },
    }
}

/// Dropped if it is to a VIP; not ours otherwise.
#[inline(always)]
fn refuse<T: Tables>(cx: &Context<'_, T>, packet: &Packet, reason: DropReason) -> u64 {
    let to_vip = service::is_vip(cx.tables, packet.destination);
    let outcome = match (cx.dead(|| to_vip), to_vip) {
        (Some(outcome), _) => outcome,
        (None, true) => Outcome::drop(reason),
        (None, false) => Outcome::PASS,
    };
    PackedOutcome::from(outcome).word()
}
