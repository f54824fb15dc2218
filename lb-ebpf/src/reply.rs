//! Whose reply is it? A packet from a `dnat` backend is a reply when the flow table knows a flow between
//! its destination and a VIP of the backend's service that this very backend has.

use lb_common::{Address, FlowHash, FlowWord, Forwarding, endpoint::MAX_PROBES, hash::FlowTuple};

use crate::{
    flow,
    service::{self, Backend, EndOfSearch, Probe},
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

/// Looks for the flow in each service that the backend's endpoint stands in: [`Owner`] in one word, or
/// [`NO_FLOW`]. The key's second port is the client's.
#[inline(always)]
pub fn owner<T: Tables>(tables: &T, backend: PackedKey, client: [u64; 2]) -> u64 {
    let Some(control) = tables.control() else {
        return NO_FLOW;
    };
    let (key, client_port) = backend.unpack();
    let client = Address::from_words(client);
    let probe = Probe::new(control, &key);
    let mut distance = 0;
    while distance < MAX_PROBES {
        match service::candidate(tables, probe, &key, distance) {
            Err(EndOfSearch) => return NO_FLOW,
            Ok(Some(backend)) => {
                let flow = flow_of(tables, backend, key.protocol, client, client_port);
                if let Some(owner) = flow {
                    return owner.pack();
                }
            }
            Ok(None) => {}
        }
        distance = distance.wrapping_add(1);
    }
    NO_FLOW
}

#[inline(always)]
fn flow_of<T: Tables>(
    tables: &T,
    backend: Backend<'_>,
    protocol: u8,
    client: Address,
    client_port: [u8; 2],
) -> Option<Owner> {
    let control = tables.control()?;
    let service = service::by_index(tables, backend.entry.service).ok()?;
    if service.entry.protocol != protocol || service.entry.forwarding != Forwarding::Dnat as u8 {
        return None;
    }
    let tuple = FlowTuple {
        client,
        vip: Address(service.entry.address),
        client_port,
        vip_port: service.entry.port,
        protocol,
    };
    let hash = FlowHash(tables.hash_flow(&tuple));
    let sets = hash.sets(control.flow_mask, control.flow_base_bits);
    let entry = flow::find_backend(tables, sets, backend.id)?;
    Some(Owner {
        backend: backend.id,
        set: entry.set,
        way: entry.way,
    })
}

/// What an entry says now.
#[inline(always)]
pub fn word<T: Tables>(tables: &T, owner: Owner) -> Option<FlowWord> {
    Some(FlowWord(tables.flows(owner.set)?.word(owner.way)))
}
