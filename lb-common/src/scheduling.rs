//! How the backend of a new flow is picked, and which of a flow's fields are hashed for it.

use bytemuck::{Pod, Zeroable};

use crate::{Address, ServiceEntry, hash::FlowTuple, rule};

/// How the backend of a new flow is picked from its service's ring. Numbers are append-only: they stand in pinned maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pick {
    /// By the hash of the whole flow.
    Flow = 0,
    /// By the hash of some of its fields: [`Fields`].
    Fields = 1,
    /// By the flow's hash and the number of packets that its CPU has seen: anybody.
    Random = 2,
    /// By turns: each CPU walks through the slots of the ring, one for each new flow.
    Turn = 3,
    /// Of the backends of two slots that chance names, the one with less [`Load`].
    Least = 4,
}

impl Pick {
    /// From the byte in a map; `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Flow),
            1 => Some(Self::Fields),
            2 => Some(Self::Random),
            3 => Some(Self::Turn),
            4 => Some(Self::Least),
            _ => None,
        }
    }

    /// A flow's packets name the same backend for as long as the ring stays, whether the flow table knows the flow or not.
    #[inline(always)]
    pub const fn is_hash(self) -> bool {
        matches!(self, Self::Flow | Self::Fields)
    }
}

/// The fields of a flow that are hashed where its service keeps flows together: [`FlowTuple::only`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fields {
    /// All five.
    All = 0,
    /// The client's address.
    Client = 1,
    /// And the VIP.
    Vip = 2,
    /// And the VIP's port, with the protocol.
    Service = 3,
}

impl Fields {
    /// From the byte in a map; `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::All),
            1 => Some(Self::Client),
            2 => Some(Self::Vip),
            3 => Some(Self::Service),
            _ => None,
        }
    }
}

/// How a service's new flows are scheduled: these fields of `ServiceEntry`, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// How a backend is picked.
    pub pick: Pick,
    /// What is hashed where flows are kept together. With [`Fields::All`], `pick` is not [`Pick::Fields`]; without, it is that, or clients
    /// stay with their backend for a time.
    pub fields: Fields,
    /// Bits of the client's address that count there, of 128; 0: all.
    pub client_bits: u8,
    /// As `ServiceEntry::affinity`; only where flows are kept together.
    pub affinity: u16,
}

impl Scheduling {
    /// By the flow's hash.
    pub const USUAL: Self = Self {
        pick: Pick::Flow,
        fields: Fields::All,
        client_bits: 0,
        affinity: 0,
    };

    /// By the hash of these fields.
    pub const fn by(fields: Fields, client_bits: u8) -> Self {
        Self {
            pick: Pick::Fields,
            fields,
            client_bits,
            affinity: 0,
        }
    }

    /// What is kept together stays with its backend for so many seconds.
    #[must_use]
    pub const fn staying(self, affinity: u16) -> Self {
        Self { affinity, ..self }
    }

    /// As this says.
    pub const fn picking(pick: Pick) -> Self {
        Self {
            pick,
            ..Self::USUAL
        }
    }
}

/// How many flows a backend had when they were counted last, and what each weighs: one word, and so one store. Zero:
/// they have not been counted yet.
///
/// Bits 0 to 31: flows; 32 to 63: [`Self::UNIT`] divided by the backend's weight.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Load(pub u64);

impl Load {
    /// Nobody has counted.
    pub const UNKNOWN: Self = Self(0);
    /// What a flow weighs at a backend of weight 1.
    pub const UNIT: u32 = u32::MAX;

    /// So many flows at a backend of a weight that is not 0.
    pub const fn new(flows: u32, weight: u32) -> Self {
        let cost = match Self::UNIT.checked_div(weight) {
            Some(0) => 1,
            Some(cost) => cost,
            None => Self::UNIT,
        };
        Self(flows as u64 | (cost as u64) << 32)
    }

    /// What the backend will bear with the next flow, if it got so many since; 0: that is not known, nor is it of more
    /// flows than 32 bits hold. Never `u64::MAX`.
    #[inline(always)]
    pub const fn with(self, since: u64) -> u64 {
        // Counters wrap and the product must not. With one number for all that are more, the heaviest would bear least.
        const MOST: u64 = u32::MAX as u64;
        let since = if since > MOST { MOST } else { since };
        let flows = (self.0 & MOST).wrapping_add(since).wrapping_add(1);
        let flows = if flows > MOST { 0 } else { flows };
        flows.wrapping_mul(self.0 >> 32)
    }
}

impl ServiceEntry {
    /// How its new flows are scheduled; `None` for what this version does not know.
    pub fn scheduling(&self) -> Option<Scheduling> {
        let found = Scheduling {
            pick: Pick::from_u8(self.picks())?,
            fields: Fields::from_u8(self.fields)?,
            client_bits: self.client_bits,
            affinity: self.affinity,
        };
        let known = match (found.pick, found.fields) {
            (Pick::Fields, Fields::All) => false,
            (_, Fields::All) => found.client_bits == 0 && found.affinity == 0,
            (Pick::Flow, _) => false,
            (Pick::Fields, _) => found.client_bits <= 128,
            (Pick::Random | Pick::Turn | Pick::Least, _) => {
                found.client_bits <= 128 && found.affinity != 0
            }
        };
        known.then_some(found)
    }
}

impl FlowTuple {
    /// The flow with only some of its fields ([`Fields`], by number), and of the client only the first bits: 1 to 128 of the
    /// sixteen bytes, 0 for all of them. What does not count is zero, but the family stays.
    #[inline(always)]
    #[must_use]
    pub fn only(self, fields: u8, client_bits: u8) -> Self {
        if fields == Fields::All as u8 {
            return self;
        }
        let bits = match client_bits {
            0 => 128,
            bits => bits as u32,
        };
        let ([a, b], [high, low]) = (self.client.words(), rule::mask(bits));
        let client = Address::from_words([a & high.to_be(), b & low.to_be()]);
        let nobody = match self.vip.is_v4() {
            true => Address::v4([0; 4]),
            false => Address::v6([0; 16]),
        };
        let without_port = fields < Fields::Service as u8;
        Self {
            client,
            vip: match fields == Fields::Client as u8 {
                true => nobody,
                false => self.vip,
            },
            client_port: [0, 0],
            vip_port: match without_port {
                true => [0, 0],
                false => self.vip_port,
            },
            protocol: match without_port {
                true => 0,
                false => self.protocol,
            },
        }
    }
}
