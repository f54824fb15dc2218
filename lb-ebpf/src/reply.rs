//! Whose reply is it? A packet from a `dnat` backend is a reply when the flow table knows a flow between
//! its destination and a VIP of the backend's service that this very backend has.

use lb_common::{
    Address, Control, EndpointKey, EndpointKind, FlowHash, FlowWord, Forwarding, Reach,
    ServiceEntry, endpoint::MAX_PROBES, hash::FlowTuple,
};

use crate::{
    flow,
    service::{self, Backend, Live, Probe},
    tables::{PackedKey, Tables},
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

/// The flow that a packet from `backend` to `client` is a reply in: [`Owner`] in one word, or [`NO_FLOW`]. The key's
/// second port is the client's.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, control: &Control, backend: PackedKey, client: [u64; 2]) -> u64 {
    let found = tables.reply_owner(backend, client);
    if found != NO_FLOW || !Live::of(control).has_ranges() {
        return found;
    }
    let backend = PackedKey {
        tail: backend.tail | ANY_PORT.to_le(),
        ..backend
    };
    tables.reply_owner(backend, client)
}

/// The same under one key.
#[inline(always)]
pub fn owner<T: Tables>(tables: &T, backend: PackedKey, client: [u64; 2]) -> u64 {
    let Some(control) = tables.control() else {
        return NO_FLOW;
    };
    let live = Live::of(control).0;
    let mut distance = 0;
    while distance < MAX_PROBES {
        match tables.find_candidate(backend, live, distance) {
            END_OF_SEARCH => return NO_FLOW,
            SOMEBODY_ELSE => {}
            id => {
                if let Some(candidate) = service::backend(tables, id)
                    && let Some(owner) = flow_of(tables, candidate, backend, client)
                {
                    return owner.pack();
                }
            }
        }
        distance = distance.wrapping_add(1);
    }
    NO_FLOW
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
        Some(slot) if slot.kind == EndpointKind::Backend as u8 && slot.matches(&key) => slot.index,
        Some(_) => SOMEBODY_ELSE,
    }
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

/// The flow between `client` and the VIP of the candidate's service. (What it is made of is taken apart here, each time:
/// kept in parts it would fill the stack of the whole search.)
#[inline(always)]
fn flow_of<T: Tables>(
    tables: &T,
    candidate: Backend<'_>,
    backend: PackedKey,
    client: [u64; 2],
) -> Option<Owner> {
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
    Some(Owner {
        backend: candidate.id,
        set: entry.set,
        way: entry.way,
    })
}

/// What an entry says now.
#[inline(always)]
pub fn word<T: Tables>(tables: &T, owner: Owner) -> Option<FlowWord> {
    Some(FlowWord(tables.flows(owner.set)?.word(owner.way)))
}
