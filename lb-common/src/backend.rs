//! Backends and the way to them.

use bytemuck::{Pod, Zeroable};

use crate::{Load, Tunnel, vlan::Tags};

/// What a backend may do, independently. Changing it is one store, effective on the next packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Permissions(pub u8);

impl Permissions {
    /// None at all: known flows move, new ones go elsewhere.
    pub const NONE: Self = Self(0);
    /// May take new flows.
    pub const NEW: u8 = 1;
    /// May keep the flows it has. Without it a known flow is scheduled again.
    pub const KEEP: u8 = 2;
    /// Not a permission: its service has something to say about each packet (`ServiceEntry::sources`), those of known
    /// flows too.
    pub const ASK: u8 = 4;
    /// Not a permission: whoever opened a TCP connection that it may not keep gets a RST, in place of another backend.
    pub const RESET: u8 = 8;
    /// Not a permission: it is down or no way leads to it, so whoever has sent it nothing but SYNs has no answer to wait for, and begins anew elsewhere.
    pub const DOWN: u8 = 16;
    /// Every bit that has a meaning.
    pub const KNOWN: u8 = Self::NEW | Self::KEEP | Self::ASK | Self::RESET | Self::DOWN;
    /// Both.
    pub const ALL: Self = Self(Self::NEW | Self::KEEP);

    /// With [`Self::ASK`].
    #[inline(always)]
    #[must_use]
    pub const fn asking(self) -> Self {
        Self(self.0 | Self::ASK)
    }

    /// May take new flows.
    #[inline(always)]
    pub const fn may_take_new(self) -> bool {
        self.0 & Self::NEW != 0
    }

    /// Those it may not keep are reset, where they are TCP's.
    #[inline(always)]
    pub const fn resets(self) -> bool {
        self.0 & (Self::KEEP | Self::RESET) == Self::RESET
    }

    /// A SYN of a connection in its handshake goes elsewhere.
    #[inline(always)]
    pub const fn lets_handshakes_go(self) -> bool {
        self.0 & (Self::NEW | Self::DOWN) == Self::DOWN
    }

    /// May keep its flows.
    #[inline(always)]
    pub const fn may_keep(self) -> bool {
        self.0 & Self::KEEP != 0
    }
}

/// One real server. Map `backends`, index = BackendId. One cache line.
///
/// Written by the control plane, completely before a ring or endpoint leads here; afterwards only
/// the word of `next_hop` and `permissions` and that of `load` change: one aligned 8-byte store each,
/// effective on the next packet on every CPU. Part of `tunnel` is the data plane's, which changes it by compare-and-exchange.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendEntry {
    /// As [`crate::Address`].
    pub address: [u8; 16],
    /// Index into `next_hops`.
    pub next_hop: u32,
    /// What it may do; no bit set in an entry that is not in use.
    pub permissions: Permissions,
    /// 1 while the entry is in use.
    pub used: u8,
    /// As [`crate::ServiceEntry::forwarding`], so that packets of known flows need not look at the service.
    pub forwarding: u8,
    /// Zero.
    pub reserved: u8,
    /// Index into `services`: the one service that it belongs to.
    pub service: u32,
    /// Network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved2: [u8; 2],
    /// How packets are put into others, where they are.
    pub tunnel: Tunnel,
    /// Its flows, where its service is [`crate::Pick::Least`].
    pub load: Load,
    /// Zero.
    pub reserved3: [u64; 2],
}

/// How a frame reaches a neighbour. Map `next_hops`. Shared by all backends behind one router.
///
/// `destination` and `source` are each one aligned 8-byte word, so that a changed MAC
/// address is one store; a changed interface is a new entry.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NextHop {
    /// MAC address of the neighbour.
    pub destination: [u8; 6],
    /// 1: the neighbour is resolved; 0: frames to it are dropped with `NextHopUnresolved`.
    pub resolved: u16,
    /// MAC address of our interface.
    pub source: [u8; 6],
    /// Zero.
    pub reserved: u16,
    /// Interface to send from; host order.
    pub ifindex: u32,
    /// 1 while the entry is in use.
    pub used: u32,
    /// The largest IP packet that the interface sends, in bytes; checked where a packet grows.
    pub mtu: u32,
    /// Zero.
    pub reserved2: u32,
}

/// Slots in `devices` and `redirects`. An interface stands at `ifindex & (DEVICES - 1)`.
pub const DEVICES: u32 = 4096;

/// An interface the data plane may send from. Map `devices`, index = [`device_slot`]. An empty slot may have a `vlan`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Device {
    /// Host order; 0: empty slot.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// [`Self::TAGGED`] where there are `tags`, otherwise 0.
    pub tagged: u16,
    /// The interface that its frames leave by, which stands in `redirects`: itself, or what it is built on (a VLAN's lower
    /// interface, the bond of one that belongs to a bond); host order.
    pub port: u32,
    /// Says nothing about this interface: one whose port and tags lead to this slot ([`crate::vlan::home`]), or 0. Host order.
    pub vlan: u32,
    /// What its frames carry.
    pub tags: Tags,
}

/// The slot of an interface in `devices` and `redirects`.
#[inline(always)]
pub const fn device_slot(ifindex: u32) -> u32 {
    ifindex & (DEVICES - 1)
}
