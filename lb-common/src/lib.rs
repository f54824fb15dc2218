//! The bytes that Fairlead's data plane and control plane share, and nothing else.
//!
//! Every map value is defined here, with no padding (each type is `bytemuck::Pod`).
//! Each field says its byte order, unit, range and who writes it. Integers are in
//! host order; wire values are byte arrays in network order.
//!
//! | map | value | index | written by |
//! |---|---|---|---|
//! | `header` | [`Header`] | 0 | control plane; read first by whoever adopts the maps |
//! | `control` | [`Control`] | 0 | control plane |
//! | `endpoints` | [`EndpointSlot`] | generation * per-generation slots + slot | control plane |
//! | `services` | [`ServiceEntry`] | service index | control plane |
//! | `rules` | [`Rule`], [`rule::Lengths`] | 2 * index + generation | control plane |
//! | `rings` | `[u32; 2]`: two BackendIds | (ring base + slot) / 2 | control plane |
//! | `backends` | [`BackendEntry`] | BackendId | control plane |
//! | `next_hops` | [`NextHop`] | next-hop index | control plane |
//! | `devices` | [`Device`] | ifindex & 4095 | control plane |
//! | `redirects` | devmap: ifindex | ifindex & 4095 | control plane |
//! | `flows` | `[FlowWord; 8]`: one set | set | data plane (control plane ages, sweeps) |
//! | `return_hops` | `[ReturnHop; 8]`: parallel to `flows` | set | data plane |
//! | `source_ranges` | LPM trie of [`sources::Access`] | [`sources::Key`] | control plane |
//! | `nat_flows` | one flow of `fullnat`: [`nat::word`] | slot | data plane |
//! | `fragments` | four [`fragment::Entry`]: one set | set | data plane |
//! | `handshakes` | eight [`timing::Start`] | [`timing::place`] | data plane |
//! | `affinities` | eight [`affinity::Entry`]: one set | set | data plane |
//! | `counters` | [`CounterLine`] | cpu * lines per cpu + line | data plane (control plane: [`counter::PerBackend::Counted`]) |
#![no_std]

pub mod affinity;
pub mod backend;
pub mod counter;
pub mod decap;
pub mod endpoint;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod header;
pub mod limits;
pub mod losses;
pub mod nat;
pub mod probe;
pub mod quic;
pub mod rule;
pub mod scheduling;
pub mod service;
pub mod sources;
pub mod timing;
pub mod tunnel;
pub mod vlan;

pub use backend::{BackendEntry, Device, NextHop, Permissions};
pub use counter::{CounterLine, DropReason};
pub use endpoint::{Address, EndpointKey, EndpointKind, EndpointSlot};
pub use flow::{Epoch, FlowRank, FlowWord, ReturnHop};
pub use hash::{FlowHash, FlowKey, HashKey};
pub use header::{Control, Header};
pub use rule::Rule;
pub use scheduling::{Fields, Load, Pick, Scheduling};
pub use service::{Family, Forwarding, MidStream, Protocol, Reach, ServiceEntry, Spread};
pub use tunnel::{GueVariant, OuterTtl, Tunnel};
pub use vlan::Tags;

#[cfg(test)]
mod tests;

/// Nanoseconds of the kernel's monotonic clock (`CLOCK_MONOTONIC`, as `bpf_ktime_get_ns`).
pub type Nanos = u64;
