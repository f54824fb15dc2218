//! The kernel form of a service.

use bytemuck::{Pod, Zeroable};

use crate::flow::IdleEpochs;

/// How a packet reaches the backend. Numbers are append-only: they stand in pinned maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forwarding {
    /// Destination address and port rewritten; replies return through the balancer.
    Dnat = 1,
    /// Only MAC addresses rewritten; the backend owns the VIP and replies directly.
    L2dsr = 2,
    /// The whole packet in another IP packet (RFC 2003, RFC 2473, RFC 4213); the backend takes it
    /// out, owns the VIP and replies directly.
    Ipip = 3,
    /// As `Ipip`, with UDP in between (draft-ietf-intarea-gue-09).
    Gue = 4,
    /// Both ends rewritten: the source becomes an address and a port of the balancer's own; replies return
    /// through it, wherever the backends' routes lead.
    Fullnat = 5,
}

impl Forwarding {
    /// Packets reach the backends inside of others.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Replies come back through the balancer, from the backends' own addresses.
    #[inline(always)]
    pub const fn translates(self) -> bool {
        matches!(self, Self::Dnat | Self::Fullnat)
    }

    /// From the byte in a map; `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Dnat),
            2 => Some(Self::L2dsr),
            3 => Some(Self::Ipip),
            4 => Some(Self::Gue),
            5 => Some(Self::Fullnat),
            _ => None,
        }
    }
}

/// An address family. A service, its VIP and all its backends have the same one, but where tunnels lead to the backends.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// The protocols a service can have. Numbers: IANA protocol numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Every one: those with ports by their 5-tuple, all others by their two addresses. (0 is the number of IPv6's
    /// hop-by-hop options, which no packet that is forwarded begins with.)
    Any = 0,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP (RFC 9260).
    Sctp = 132,
}

impl Protocol {
    /// From the IANA number; `None` for any other protocol.
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Any),
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// True where packets of this IANA number begin with two ports.
    #[inline(always)]
    pub const fn has_ports(number: u8) -> bool {
        matches!(number, 6 | 17 | 132)
    }
}

/// One service. Map `services`, index = service index. One cache line.
///
/// Written by the control plane. `ring` is switched by one aligned 8-byte store; the other fields
/// do not change while an endpoint leads here.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceEntry {
    /// [`Self::slice`] of `rings`, in slots; length 0: no backend may take new flows.
    pub ring: u64,
    /// The VIP, or the first one of a prefix, as [`crate::Address`].
    pub address: [u8; 16],
    /// The port of the service, network order; `[0, 0]` for a service with [`Reach`].
    pub port: [u8; 2],
    /// A [`Protocol`].
    pub protocol: u8,
    /// A [`Forwarding`].
    pub forwarding: u8,
    /// The lower 16 bits of [`Self::idle`].
    pub idle_epochs: u16,
    /// A [`Family`].
    pub family: u8,
    /// 1 while the entry is in use.
    pub used: u8,
    /// The pair of rings that `ring` is a half of, as [`Self::slice`] of its base and of the slots of one half;
    /// for the control plane only.
    pub pair: u64,
    /// Which set of `source_ranges` says who may come; 0: everybody may. Switched by one store.
    pub sources: u32,
    /// A [`MidStream`].
    pub mid_stream: u8,
    /// A [`Spread`].
    pub spread: u8,
    /// A [`crate::Pick`], how the backend of a new flow is picked, [`Self::CLAMPS`], [`Self::TIMES`] and [`Self::SHARES`].
    pub pick: u8,
    /// Bits of the client's address that count where `fields` are hashed, of 128; 0: all.
    pub client_bits: u8,
    /// First and last port of its [`Reach`], as in [`Reach::word`]; 0 without one.
    pub ports: u32,
    /// Bits of the address that count for its [`Reach`]; 0: one address and one port.
    pub length: u8,
    /// The bits of [`Self::idle`] above `idle_epochs`.
    pub idle_others: u8,
    /// The largest MSS that a SYN says, of client and backend, in bytes; it says no more than fits the way either.
    /// 0: what it likes.
    pub mss: u16,
    /// Which connection ids of QUIC name a backend. Only asked of services whose packets go the long way.
    pub quic: crate::quic::Lengths,
    /// [`crate::Fields`] that are hashed where flows are kept together.
    pub fields: u8,
    /// Zero.
    pub reserved2: u8,
    /// Seconds (2^30 ns) for which a client stays with its backend after its last new flow; 0: it does not.
    pub affinity: u16,
}

/// What is scheduled. Only asked of services whose packets go the long way.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spread {
    /// Each flow, once.
    Flow = 0,
    /// Each datagram by itself: its flow has no entry.
    Datagram = 1,
}

impl Spread {
    /// From the byte in a map; `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Flow),
            1 => Some(Self::Datagram),
            _ => None,
        }
    }
}

/// What becomes of a TCP segment that opens no connection and belongs to no known flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MidStream {
    /// It is scheduled as a new flow.
    Schedule = 0,
    /// It is dropped.
    Drop = 1,
    /// Its sender gets a RST (RFC 9293 section 3.10.7.1).
    Reset = 2,
}

impl MidStream {
    /// From the byte in a map; `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Schedule),
            1 => Some(Self::Drop),
            2 => Some(Self::Reset),
            _ => None,
        }
    }
}

impl ServiceEntry {
    /// In `pick`: `mss` is not 0, so that whoever schedules its new flows by their hash alone need not look there.
    pub const CLAMPS: u8 = 0x80;
    /// In `pick`: how long its backends take to answer a SYN is measured, see [`crate::timing`].
    pub const TIMES: u8 = 0x40;
    /// In `pick`: one of its servers stands behind another service as well, at the same address and port, and knows clients by their own
    /// addresses there too (`dnat`): its new flows are kept apart from that one's.
    pub const SHARES: u8 = 0x20;

    /// The same with a [`Reach::word`].
    #[must_use]
    pub const fn reaching(self, reach: u64) -> Self {
        Self {
            ports: reach as u32,
            length: (reach >> 32) as u8,
            ..self
        }
    }

    /// After how much silence flows are scheduled anew.
    #[inline(always)]
    pub const fn idle(&self) -> IdleEpochs {
        IdleEpochs(self.idle_epochs as u32 | (self.idle_others as u32) << 16)
    }

    /// The same with another [`Self::idle`].
    #[must_use]
    pub const fn idling(self, idle: IdleEpochs) -> Self {
        Self {
            idle_epochs: idle.0 as u16,
            idle_others: (idle.0 >> 16) as u8,
            ..self
        }
    }

    /// [`Reach::word`]; 0: one address and one port.
    #[inline(always)]
    pub const fn reach(&self) -> u64 {
        self.ports as u64 | (self.length as u64) << 32
    }

    /// The same with another `mss`.
    #[must_use]
    pub const fn clamping(self, mss: u16) -> Self {
        let flag = if mss == 0 { 0 } else { Self::CLAMPS };
        Self {
            pick: self.pick & !Self::CLAMPS | flag,
            mss,
            ..self
        }
    }

    /// `pick` alone.
    #[inline(always)]
    pub const fn picks(&self) -> u8 {
        self.pick & !(Self::CLAMPS | Self::TIMES | Self::SHARES)
    }

    /// The same with [`Self::TIMES`], or without.
    #[must_use]
    pub const fn timing(self, times: bool) -> Self {
        let flag = if times { Self::TIMES } else { 0 };
        Self {
            pick: self.pick & !Self::TIMES | flag,
            ..self
        }
    }

    /// The same with [`Self::SHARES`], or without.
    #[must_use]
    pub const fn sharing(self, shares: bool) -> Self {
        let flag = if shares { Self::SHARES } else { 0 };
        Self {
            pick: self.pick & !Self::SHARES | flag,
            ..self
        }
    }

    /// A slice of another map in one word: base in the low half, length in the high half.
    #[inline(always)]
    pub const fn slice(base: u32, length: u32) -> u64 {
        base as u64 | (length as u64) << 32
    }

    /// Base and length of a [`Self::slice`].
    #[inline(always)]
    pub const fn unslice(word: u64) -> (u32, u32) {
        (word as u32, (word >> 32) as u32)
    }
}

/// What a service takes that is more than one address and one port, or any protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    /// Bits of the address that count, of 128: an IPv4 prefix's length and 96. 1 to 128.
    pub length: u8,
    /// First port, host order; 0 with [`Self::high`] 65535: any, and packets without ports too.
    pub low: u16,
    /// Last port, host order.
    pub high: u16,
}

impl Reach {
    /// In one word: the ports in the lower half, the length above.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.low as u64 | (self.high as u64) << 16 | (self.length as u64) << 32
    }

    /// From that word; `None`: one address and one port.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word {
            0 => None,
            _ => Some(Self {
                length: (word >> 32) as u8,
                low: word as u16,
                high: (word >> 16) as u16,
            }),
        }
    }

    /// The port is one of them. Network order.
    #[inline(always)]
    pub const fn has_port(self, port: [u8; 2]) -> bool {
        let port = u16::from_be_bytes(port);
        self.low <= port && port <= self.high
    }
}
