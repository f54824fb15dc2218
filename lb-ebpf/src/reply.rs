//! Whose reply is it? A packet from a `dnat` backend is a reply when the flow table knows a flow between
//! its destination and a VIP of the backend's service that this very backend has.
//!
//! One server may stand behind several VIPs, and a client may use one port to two of them. To the server these
//! are one address and port, of which it has one connection open at most. Which flow that is, is known when it accepts
//! one: the others are idle from then on, and get a reply only where there is no other flow. Until then the flow that was
//! seen in more epochs has it: who forges a client's packet to another VIP takes nothing from a connection that has
//! lasted. Of datagrams nothing is accepted: the flow that was seen in a later epoch gets the reply.

use lb_common::{
    Address, Control, EndpointKey, EndpointKind, Epoch, FlowHash, FlowRank, FlowWord, Forwarding,
    Nanos, Reach, ServiceEntry, endpoint::MAX_PROBES, hash::FlowTuple,
};

use crate::{
    flow,
    service::{self, Backend, Live, Probe},
    tables::{PackedKey, Tables},
    wire::protocol,
};

/// No flow: what [`owner`] gives then.
pub const NO_FLOW: u64 = u64::MAX;

/// Where the flow of a reply stands and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// BackendId.
    pub backend: u32,
    /// Set of its entry.
    pub set: u32,
    /// Way of its entry.
    pub way: u32,
}

impl Owner {
    /// From what [`owner`] gives.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word == NO_FLOW {
            return None;
        }
        Some(Self {
            backend: (word >> 32) as u32 & 0x1_ffff,
            set: word as u32,
            way: (word >> 49) as u32 & 7,
        })
    }

    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        self.set as u64 | (self.backend as u64) << 32 | (self.way as u64) << 49
    }
}

/// In the byte of [`PackedKey::tail`] that is else zero: look under the key of a backend that keeps the client's port.
const ANY_PORT: u64 = 1 << 24;
/// In the same byte: the reply accepts a connection.
const ACCEPTS: u64 = 1 << 25;
/// In the same byte: flows of the service whose index stands from bit [`SERVICE`] on do not count.
const OTHERS: u64 = 1 << 26;
/// Place of a service's index in [`PackedKey::tail`].
const SERVICE: u32 = 48;
/// Place of the [`Epoch`] in the same byte.
const EPOCH: u32 = 28;
/// Place of a number above an [`Owner`] that says how little its flow may be the one: the least is the one to take. It is
/// made of an age, above it what a connection has not proven, above that whether the flow is over.
const STALENESS: u32 = 52;
/// Of a connection that was seen in one epoch less.
const LESS_PROVEN: u64 = 1 << 4;
/// Of a flow that is over.
const OVER: u64 = 1 << 6;

/// When a reply came, and whether it accepts a connection: SYN and ACK.
#[derive(Clone, Copy, Debug)]
pub struct Heard(pub Nanos, pub bool);

/// The flow that a packet from `backend` to `client` is a reply in: [`Owner`] in one word, or [`NO_FLOW`]. The key's
/// second port is the client's.
#[inline(always)]
pub fn find<T: Tables>(
    tables: &T,
    (control, Heard(now, accepts)): (&Control, Heard),
    backend: PackedKey,
    client: [u64; 2],
) -> u64 {
    let epoch = (Epoch::at(now).0 as u64 & 15) << EPOCH;
    let accepts = (accepts as u64).wrapping_mul(ACCEPTS);
    let backend = PackedKey {
        tail: backend.tail | (epoch | accepts).to_le(),
        ..backend
    };
    let mut found = tables.reply_owner(backend, client);
    // Nobody can be fresher than the freshest, but who is not may have to be told.
    if found >> STALENESS | accepts != 0 && Live::of(control).has_ranges() {
        let backend = PackedKey {
            tail: backend.tail | ANY_PORT.to_le(),
            ..backend
        };
        let other = tables.reply_owner(backend, client);
        let (better, worse) = sorted(found, other);
        found = better;
        // Port 0 is the key of both.
        if accepts != 0 && worse != better {
            tables.outdate_flow(worse, backend.tail);
        }
    }
    match found {
        NO_FLOW => NO_FLOW,
        found => found & ((1 << STALENESS) - 1),
    }
}

/// The server has a flow with this client that goes on, by another service than the one with this index. The key's second port is the client's.
#[inline(always)]
pub fn is_taken<T: Tables>(
    tables: &T,
    backend: PackedKey,
    client: [u64; 2],
    (epoch, service): (Epoch, u32),
) -> bool {
    let Some(control) = tables.control() else {
        return false;
    };
    let epoch = (epoch.0 as u64 & 15) << EPOCH;
    let others = OTHERS | (service as u64) << SERVICE;
    let backend = PackedKey {
        tail: backend.tail | (epoch | others).to_le(),
        ..backend
    };
    if goes_on(tables.reply_owner(backend, client)) {
        return true;
    }
    let backend = PackedKey {
        tail: backend.tail | ANY_PORT.to_le(),
        ..backend
    };
    Live::of(control).has_ranges() && goes_on(tables.reply_owner(backend, client))
}

/// There is a flow, and it is not over.
#[inline(always)]
const fn goes_on(found: u64) -> bool {
    found >> STALENESS < OVER
}

/// The flow to take first; of equals the one that was found first.
#[inline(always)]
const fn sorted(found: u64, other: u64) -> (u64, u64) {
    match other >> STALENESS < found >> STALENESS {
        true => (other, found),
        false => (found, other),
    }
}

/// The same under one key, with its [`STALENESS`].
#[inline(always)]
pub fn owner<T: Tables>(tables: &T, backend: PackedKey, client: [u64; 2]) -> u64 {
    let Some(control) = tables.control() else {
        return NO_FLOW;
    };
    let live = Live::of(control).0;
    let accepts = u64::from_le(backend.tail) & ACCEPTS != 0;
    let mut best = NO_FLOW;
    let mut distance = 0;
    while distance < MAX_PROBES {
        match tables.find_candidate(backend, live, distance) {
            END_OF_SEARCH => break,
            SOMEBODY_ELSE => {}
            id => {
                if let Some(candidate) = service::backend(tables, id)
                    && let Some(found) = flow_of(tables, candidate, backend, client)
                {
                    let (better, worse) = sorted(best, found);
                    best = better;
                    if accepts {
                        tables.outdate_flow(worse, backend.tail);
                    } else if best >> STALENESS == 0 {
                        // The usual case: nobody can be fresher.
                        break;
                    }
                }
            }
        }
        distance = distance.wrapping_add(1);
    }
    best
}

/// What [`candidate`] gives where no further slot can hold the key.
pub const END_OF_SEARCH: u32 = u32::MAX;
/// What [`candidate`] gives where another key stands.
pub const SOMEBODY_ELSE: u32 = u32::MAX - 1;

/// The backend that a reply may come from whose endpoint stands `distance` slots from home: its BackendId,
/// [`END_OF_SEARCH`] or [`SOMEBODY_ELSE`]. `live`: a [`Live`].
#[inline(always)]
pub fn candidate<T: Tables>(tables: &T, backend: PackedKey, live: u64, distance: u32) -> u32 {
    let Some(control) = tables.control() else {
        return END_OF_SEARCH;
    };
    let key = looked_for(backend);
    let probe = Probe::new(control, Live(live), &key);
    match tables.endpoint(probe.index(distance)) {
        None => END_OF_SEARCH,
        Some(slot) if slot.kind == 0 => END_OF_SEARCH,
        Some(slot) if slot.kind == EndpointKind::Backend as u8 && slot.matches(&key) => {
            match is_left_out(tables, backend.tail, slot.index) {
                false => slot.index,
                true => SOMEBODY_ELSE,
            }
        }
        Some(_) => SOMEBODY_ELSE,
    }
}

/// The backend belongs to the service whose flows do not count.
#[inline(always)]
fn is_left_out<T: Tables>(tables: &T, tail: u64, backend: u32) -> bool {
    let tail = u64::from_le(tail);
    tail & OTHERS != 0
        && tables
            .backend(backend)
            .is_some_and(|entry| entry.service == (tail >> SERVICE) as u32)
}

/// The key of a backend that a reply may come from: its own, or, with [`ANY_PORT`], that of one that keeps the client's
/// port.
#[inline(always)]
fn looked_for(backend: PackedKey) -> EndpointKey {
    let (own, _) = backend.unpack();
    match u64::from_le(backend.tail) & ANY_PORT {
        0 => own,
        _ => service::any_port(&own),
    }
}

/// The port that a client sent to, if its backend's reply has this port.
#[inline(always)]
fn vip_port(service: &ServiceEntry, port: [u8; 2]) -> Option<[u8; 2]> {
    match Reach::from_word(service.reach()) {
        None => Some(service.port),
        Some(reach) => reach.has_port(port).then_some(port),
    }
}

/// The flow between `client` and the VIP of the candidate's service, as [`Owner`] with its [`STALENESS`]. (What it is made of is taken apart here, each time:
/// kept in parts it would fill the stack of the whole search.)
#[inline(always)]
fn flow_of<T: Tables>(
    tables: &T,
    candidate: Backend<'_>,
    backend: PackedKey,
    client: [u64; 2],
) -> Option<u64> {
    let (own, client_port) = core::hint::black_box(backend).unpack();
    let service = service::by_index(tables, candidate.entry.service)
        .ok()?
        .entry;
    if service.protocol != own.protocol || service.forwarding != Forwarding::Dnat as u8 {
        return None;
    }
    let tuple = FlowTuple {
        client: Address::from_words(client),
        vip: Address(service.address),
        client_port,
        vip_port: vip_port(service, own.port)?,
        protocol: own.protocol,
    };
    let hash = FlowHash(tables.hash_flow(&tuple));
    let control = tables.control()?;
    let sets = hash.sets(control.flow_mask, control.flow_base_bits);
    let entry = flow::find_backend(tables, sets, candidate.id)?;
    let owner = Owner {
        backend: candidate.id,
        set: entry.set,
        way: entry.way,
    };
    let rank = entry.word.rank();
    let idle = matches!(rank, FlowRank::Idle) as u64;
    let ended_counts = u64::from_le(backend.tail) & (ACCEPTS | OTHERS) != 0;
    let (over, unproven) = match (ended_counts, own.protocol == protocol::TCP) {
        (true, _) => (idle.wrapping_add(rank.is_over() as u64), 0),
        // What was accepted goes on after its FIN.
        (false, true) => (idle, unproven(rank)),
        (false, false) => (idle, 0),
    };
    let age = entry.word.age(epoch(backend.tail)) as u64;
    let staleness = over.wrapping_mul(OVER) | unproven.wrapping_mul(LESS_PROVEN) | age;
    Some(owner.pack() | staleness << STALENESS)
}

/// In how many epochs less than three a connection was seen.
#[inline(always)]
const fn unproven(rank: FlowRank) -> u64 {
    match rank {
        FlowRank::Proven | FlowRank::ClosingProven => 0,
        FlowRank::Probation2 => 1,
        _ => 2,
    }
}

/// The time in the tail of a key.
#[inline(always)]
const fn epoch(tail: u64) -> Epoch {
    Epoch((u64::from_le(tail) >> EPOCH) as u8 & 15)
}

/// Its server has accepted another: a flow, as [`Owner`], that it had before. `tail`: of the key that was looked for.
#[inline(always)]
pub fn outdate<T: Tables>(tables: &T, flow: u64, tail: u64) {
    let Some(owner) = Owner::unpack(flow) else {
        return;
    };
    let Some(line) = tables.flows(owner.set) else {
        return;
    };
    let word = FlowWord(line.word(owner.way));
    if word.is_live() && word.backend_id() == owner.backend {
        let idle = FlowWord::new(word.tag(), owner.backend, FlowRank::Idle, epoch(tail));
        // Whoever was faster has seen something newer.
        let _ = tables.exchange_flow(line, owner.way, word, idle);
    }
}

/// What an entry says now.
#[inline(always)]
pub fn word<T: Tables>(tables: &T, owner: Owner) -> Option<FlowWord> {
    Some(FlowWord(tables.flows(owner.set)?.word(owner.way)))
}
