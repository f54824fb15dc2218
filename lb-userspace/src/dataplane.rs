//! The seam to the kernel: what the maps should hold, what a change of them is, and who makes it.
//!
//! [`Image`] is the logical content: it does not say which generation of the endpoint table or
//! which half of a ring pair is live. That is the physical part, [`Actual`], which only `plan`
//! looks at. Only `plan` makes a [`MapOp`]; only a [`Dataplane`] runs one.

pub mod bpf;
pub mod consistent;
mod entry;
pub mod mem;
pub mod ranges;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::{
    Address, BackendEntry, Control, Device, EndpointKey, EndpointKind, EndpointSlot, Family,
    Forwarding, Header, NextHop, Permissions, Rule, Scheduling,
    nat::IdleTable,
    quic::Lengths,
    sources::{self, Access},
};

pub use ranges::Ranges;

/// An endpoint and what it leads to. `VipAddress` has index 0.
pub type EndpointTarget = (EndpointKind, u32);

/// The complete intended content of all maps that the control plane writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Who is ours. Several targets under one key only for `EndpointKind::Backend`; sorted.
    pub endpoints: BTreeMap<EndpointKey, Vec<EndpointTarget>>,
    /// Who is ours beyond these: rules by first address and length of 128 bits, the most specific first.
    pub ranges: Ranges,
    /// By service index.
    pub services: BTreeMap<u32, ServiceImage>,
    /// By BackendId.
    pub backends: BTreeMap<u32, BackendEntry>,
    /// By next-hop index.
    pub next_hops: BTreeMap<u32, NextHop>,
    /// By slot.
    pub devices: BTreeMap<u32, Device>,
    /// What the operator sets for all packets.
    pub controls: Controls,
    /// As `Header::config_revision`.
    pub config_revision: u64,
}

/// What the operator sets in `lb_common::Control`; the fields are as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// Echo replies per CPU and second.
    pub echo_per_second: u32,
    /// New flows per CPU and second.
    pub new_flows_per_second: u32,
    /// ICMP errors per CPU and second.
    pub icmp_errors_per_second: u32,
    /// Resets per CPU and second.
    pub resets_per_second: u32,
    /// Source of IPv4 tunnels; all zero: none.
    pub tunnel_v4: [u8; 4],
    /// Its host bits, host order.
    pub tunnel_v4_spread: u32,
    /// Source of IPv6 tunnels; all zero: none.
    pub tunnel_v6: [u8; 16],
    /// The host bits among its last 32, host order.
    pub tunnel_v6_spread: u32,
    /// Addresses that stand for clients over IPv4; all zero: none.
    pub nat_v4: [u8; 4],
    /// Their host bits, host order.
    pub nat_v4_spread: u32,
    /// Addresses that stand for clients over IPv6; all zero: none.
    pub nat_v6: [u8; 16],
    /// The host bits among their last 32, host order.
    pub nat_v6_spread: u32,
    /// As `lb_common::nat::ports`; 0: no address stands for clients.
    pub nat_ports: u32,
    /// For how long these are kept.
    pub nat_idle: IdleTable,
}

impl Controls {
    /// As they stand in the map.
    pub fn of(control: &Control) -> Self {
        Self {
            echo_per_second: control.echo_per_second,
            new_flows_per_second: control.new_flows_per_second,
            icmp_errors_per_second: control.icmp_errors_per_second,
            resets_per_second: control.resets_per_second,
            tunnel_v4: control.tunnel_v4,
            tunnel_v4_spread: control.tunnel_v4_spread,
            tunnel_v6: control.tunnel_v6,
            tunnel_v6_spread: control.tunnel_v6_spread,
            nat_v4: control.nat_v4,
            nat_v4_spread: control.nat_v4_spread,
            nat_v6: control.nat_v6,
            nat_v6_spread: control.nat_v6_spread,
            nat_ports: control.nat_ports,
            nat_idle: control.nat_idle,
        }
    }

    /// Puts them into the map's value; the rest of it stays.
    pub fn put(&self, control: &mut Control) {
        control.echo_per_second = self.echo_per_second;
        control.new_flows_per_second = self.new_flows_per_second;
        control.icmp_errors_per_second = self.icmp_errors_per_second;
        control.resets_per_second = self.resets_per_second;
        control.tunnel_v4 = self.tunnel_v4;
        control.tunnel_v4_spread = self.tunnel_v4_spread;
        control.tunnel_v6 = self.tunnel_v6;
        control.tunnel_v6_spread = self.tunnel_v6_spread;
        control.nat_v4 = self.nat_v4;
        control.nat_v4_spread = self.nat_v4_spread;
        control.nat_v6 = self.nat_v6;
        control.nat_v6_spread = self.nat_v6_spread;
        control.nat_ports = self.nat_ports;
        control.nat_idle = self.nat_idle;
    }

    /// Packets of this family can be tunnelled.
    pub fn has_tunnel(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.tunnel_v4 != [0; 4],
            Family::V6 => self.tunnel_v6 != [0; 16],
        }
    }

    /// Clients of this family can be stood for.
    pub fn has_nat(&self, family: Family) -> bool {
        self.nat_ports != 0
            && match family {
                Family::V4 => self.nat_v4 != [0; 4],
                Family::V6 => self.nat_v6 != [0; 16],
            }
    }

    /// The tunnel sources of `other`, and its addresses that stand for clients, in place of those that this has not.
    #[must_use]
    pub fn or_tunnels_of(mut self, other: &Self) -> Self {
        if !self.has_tunnel(Family::V4) {
            (self.tunnel_v4, self.tunnel_v4_spread) = (other.tunnel_v4, other.tunnel_v4_spread);
        }
        if !self.has_tunnel(Family::V6) {
            (self.tunnel_v6, self.tunnel_v6_spread) = (other.tunnel_v6, other.tunnel_v6_spread);
        }
        if !self.has_nat(Family::V4) {
            (self.nat_v4, self.nat_v4_spread) = (other.nat_v4, other.nat_v4_spread);
        }
        if !self.has_nat(Family::V6) {
            (self.nat_v6, self.nat_v6_spread) = (other.nat_v6, other.nat_v6_spread);
        }
        if self.nat_ports == 0 {
            self.nat_ports = other.nat_ports;
        }
        self
    }
}

/// A service's part of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImage {
    /// As `ServiceEntry::address`.
    pub address: [u8; 16],
    /// Host order; 0 with `reach`.
    pub port: u16,
    /// As `lb_common::Reach::word`; 0: none.
    pub reach: u64,
    /// IANA number.
    pub protocol: u8,
    /// `lb_common::Forwarding`.
    pub forwarding: u8,
    /// `lb_common::Family`.
    pub family: u8,
    /// As `ServiceEntry::idle`.
    pub idle_epochs: u32,
    /// `lb_common::MidStream`.
    pub mid_stream: u8,
    /// As `ServiceEntry::mss`.
    pub mss: u16,
    /// As `ServiceEntry::TIMES`.
    pub times: bool,
    /// As `ServiceEntry::SHARES`.
    pub shares: bool,
    /// `lb_common::Spread`.
    pub spread: u8,
    /// How its new flows are scheduled.
    pub scheduling: Scheduling,
    /// As `ServiceEntry::quic`.
    pub quic: Lengths,
    /// Who may come, sorted; empty: everybody.
    pub sources: Arc<[SourceRange]>,
    /// First of the service's `2 * ring_capacity` slots in `rings`; even.
    pub ring_base: u32,
    /// Slots of one half of its pair; even.
    pub ring_capacity: u32,
    /// The filled lookup table, one BackendId a slot; empty: no backend may take new flows.
    pub ring: Arc<[u32]>,
}

/// One prefix of sources and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRange {
    /// The prefix's first address.
    pub address: Address,
    /// Bits of it that count, of 128.
    pub bits: u32,
    /// What becomes of who lies in it.
    pub access: Access,
}

impl SourceRange {
    /// Its key in a set.
    pub const fn key(&self, set: u32) -> sources::Key {
        sources::Key::new(set, self.address, self.bits)
    }
}

impl ServiceImage {
    /// Number of the set of `source_ranges` that its packets are to be held against, in one of its halves; 0: none.
    pub fn source_set(&self, service: u32, half: u8) -> u32 {
        match self.sources.is_empty() {
            true => 0,
            false => sources::set(service, half),
        }
    }

    /// Base and length of the live ring when half `half` of the pair is live.
    pub fn live_slice(&self, half: u8) -> (u32, u32) {
        let offset = self.ring_capacity.saturating_mul(u32::from(half & 1));
        let length = u32::try_from(self.ring.len()).unwrap_or(u32::MAX);
        (self.ring_base.saturating_add(offset), length)
    }
}

/// The family whose tunnels a backend's packets need, if they need one.
pub fn outer_family(backend: &BackendEntry) -> Option<Family> {
    let tunnel = Forwarding::from_u8(backend.forwarding).is_some_and(Forwarding::is_tunnel);
    tunnel.then(|| Address(backend.address).family())
}

/// What the maps hold now: the logical content and the physical switches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// Read back through the live generation and the live halves.
    pub image: Image,
    /// Live generation of the endpoint table.
    pub generation: u8,
    /// Per service index, which half of its ring pair is live (0 or 1).
    pub live_half: BTreeMap<u32, u8>,
    /// Per service index with sources, which of its two sets is in use (0 or 1).
    pub source_half: BTreeMap<u32, u8>,
    /// Sets with entries that no service names: what an interrupted plan left.
    pub stray_sources: BTreeSet<u32>,
    /// The header as it stands.
    pub header: Header,
}

/// One write. Each is atomic for the packets in flight, or touches only what no packet reads yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// One store into a live backend's line: effective on the next packet on every CPU.
    SetBackendWord {
        /// BackendId.
        id: u32,
        /// What it may do.
        permissions: Permissions,
        /// Index into `next_hops`.
        next_hop: u32,
    },
    /// Writes BackendIds into `rings` where no live slice is.
    WriteRing {
        /// First slot, even.
        base: u32,
        /// The ids.
        ids: Arc<[u32]>,
    },
    /// Switches a service to another ring slice: one store.
    SwitchRing {
        /// Service index.
        service: u32,
        /// New slice.
        base: u32,
        /// Its length; 0: no new flows.
        length: u32,
    },
    /// Writes a service that no live endpoint leads to yet, or rewrites what packets do not mind
    /// (`idle_epochs`, `mid_stream`, `mss`, `times`, `spread`, how its flows are scheduled, `quic`, the set of sources, the ring when its pair moves). The ring slice, one store, included.
    WriteService {
        /// Service index.
        service: u32,
        /// Content.
        image: Box<ServiceImage>,
        /// Live half of its ring pair.
        half: u8,
        /// Which of its two sets of sources is in use.
        source_half: u8,
    },
    /// Writes a set of sources that no service names and that holds nothing.
    WriteSources {
        /// Number of the set.
        set: u32,
        /// All of it.
        ranges: Arc<[SourceRange]>,
    },
    /// Removes a set of sources, after no service names it any more.
    ClearSources {
        /// Number of the set.
        set: u32,
    },
    /// Marks a service unused, after no endpoint leads to it any more.
    ClearService {
        /// Service index.
        service: u32,
    },
    /// Writes a backend that nothing leads to yet.
    WriteBackend {
        /// BackendId.
        id: u32,
        /// Content.
        entry: BackendEntry,
    },
    /// Marks a backend unused, after nothing leads to it any more.
    ClearBackend {
        /// BackendId.
        id: u32,
    },
    /// Writes a next hop: MAC addresses are one store each.
    WriteNextHop {
        /// Index.
        index: u32,
        /// Content.
        hop: NextHop,
    },
    /// Marks a next hop unused.
    ClearNextHop {
        /// Index.
        index: u32,
    },
    /// Writes `devices` and `redirects`.
    WriteDevice {
        /// Slot.
        slot: u32,
        /// Content.
        device: Device,
    },
    /// Empties a slot of `devices` and `redirects`.
    ClearDevice {
        /// Slot.
        slot: u32,
    },
    /// Fills the generation of endpoints and rules that is not live.
    WriteEndpoints {
        /// 0 or 1.
        generation: u8,
        /// Seed under which `slots` are placed.
        seed: u64,
        /// All slots of the generation.
        slots: Arc<[EndpointSlot]>,
        /// Its rules, from index 0 on, which are the lengths; none: it has no ranges.
        rules: Arc<[Rule]>,
    },
    /// Makes a generation live: one store.
    SwitchEndpoints {
        /// 0 or 1.
        generation: u8,
    },
    /// Sets what the operator sets in `control`. A source of IPv4 tunnels is one store; one of IPv6 is three,
    /// between which packets may leave with a mixture of both, which backends drop if they filter.
    SetControls {
        /// All of it.
        controls: Controls,
    },
    /// Records the revision in the header and marks the maps complete.
    SetRevision {
        /// As `Header::config_revision`.
        revision: u64,
    },
}

/// Why an operation could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A newer daemon owns the maps.
    #[error(
        "write to the maps: owner epoch {ours} was replaced by {theirs}: another daemon took over; this one must stop"
    )]
    Fenced {
        /// Our owner epoch.
        ours: u64,
        /// The one in the header.
        theirs: u64,
    },
    /// An index beyond a map's size.
    #[error(
        "write {map}[{index}]: the map has {size} entries (raise [limits] and recreate the maps with 'fairlead unload')"
    )]
    OutOfRange {
        /// Map.
        map: &'static str,
        /// Index.
        index: u32,
        /// Entries.
        size: u32,
    },
    /// A map holds, or was to be given, what this version never writes.
    #[error(
        "{map}[{index}]: {why} (written by something else, or a bug: 'fairlead unload' and start again)"
    )]
    Invalid {
        /// Map.
        map: &'static str,
        /// Index.
        index: u32,
        /// What is wrong.
        why: String,
    },
    /// The kernel refused.
    #[error("{call}: {source}")]
    Kernel {
        /// What was asked of it.
        call: String,
        /// What it said.
        source: std::io::Error,
    },
}

/// Who holds the maps. `bpf` is the kernel; `mem` is plain memory and, in tests, checks after each
/// operation that a packet would still find consistent tables.
pub trait Dataplane {
    /// Reads everything back.
    fn actual(&mut self) -> Result<Actual, DataplaneError>;
    /// Runs operations in order; stops at the first error, which names the operation.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DataplaneError>;
}
