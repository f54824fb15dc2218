//! What an adopter reads first, and what the data plane reads on every packet.

use bytemuck::{Pod, Zeroable};

use crate::{hash::FlowKey, nat::IdleTable};

/// `Header::magic`: the ASCII bytes "FAIRLEAD" read as a big-endian integer.
pub const MAGIC: u64 = u64::from_be_bytes(*b"FAIRLEAD");

/// The layout of all maps. It changes whenever any type in this crate changes its
/// bytes or their meaning; pins of another layout are refused, never misread.
pub const LAYOUT_VERSION: u32 = 13;

/// Who made the maps, how large they are, and who owns them now. Map `header`, one entry.
///
/// Written by the control plane only. Geometry never changes after creation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// [`MAGIC`], host order.
    pub magic: u64,
    /// [`LAYOUT_VERSION`].
    pub layout_version: u32,
    /// Version of the program that created the maps: major << 16 | minor << 8 | patch.
    pub writer_version: u32,
    /// Sets in `flows` and in `return_hops`; a power of two.
    pub flow_sets: u32,
    /// Hash bits below the tag: log2 of the set count at creation (see `flow`).
    pub flow_base_bits: u32,
    /// Slots in `endpoints` of one generation; a power of two.
    pub endpoint_slots: u32,
    /// Entries in `services`.
    pub services: u32,
    /// Slots in `rings` (the map has half as many elements); even.
    pub ring_slots: u32,
    /// Entries that `source_ranges` may have.
    pub source_ranges: u32,
    /// Entries in `backends`.
    pub backends: u32,
    /// Entries in `next_hops`.
    pub next_hops: u32,
    /// CPUs that `counters` has room for.
    pub cpus: u32,
    /// [`crate::counter::lines_per_cpu`] of this geometry.
    pub lines_per_cpu: u32,
    /// Names the pair of secret keys in use, so that two balancers can compare without showing them.
    pub seed_id: u64,
    /// Raised by each daemon that takes the maps over; a daemon that finds a larger one than
    /// its own must not write (it was paused while another took over).
    pub owner_epoch: u64,
    /// The first eight bytes, big-endian, of the SHA-256 of the applied configuration.
    pub config_revision: u64,
    /// Set to 1 once the first image has been written completely, 0 before.
    pub complete: u64,
    /// Entries in `nat_flows`; a power of two.
    pub nat_flows: u32,
    /// Sets in `affinities`.
    pub affinity_sets: u32,
    /// Zero.
    pub reserved: [u32; 6],
}

/// What every packet needs: a cache line of its own, then the flow hash's multipliers, then what tunnels
/// and new flows need. Map `control`, one entry.
///
/// Written by the control plane; `live` is switched by one aligned 8-byte store.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Control {
    /// The live generation of `endpoints` and `rules` (0 or 1) in bit 0, and its seed's lower 63 bits above:
    /// [`Self::live`]. The highest bit, which is the seed's [`RANGES`], says whether there is more than endpoints to look for.
    pub live: u64,
    /// Seed of the endpoint hash of each generation; not secret.
    pub endpoint_seed: [u64; 2],
    /// Secret key that the flow hash's multipliers are made of.
    pub flow_key: [u64; 2],
    /// Sets in `flows` minus one.
    pub flow_mask: u32,
    /// As `Header::flow_base_bits`.
    pub flow_base_bits: u32,
    /// Slots of one endpoint generation minus one.
    pub endpoint_mask: u32,
    /// As `Header::lines_per_cpu`.
    pub lines_per_cpu: u32,
    /// Echo replies each CPU may send per second; 0: none.
    pub echo_per_second: u32,
    /// CPUs that `counters` has room for.
    pub cpus: u32,
    /// [`crate::HashKey::expand`] of `flow_key`.
    pub multipliers: FlowKey,
    /// Source of tunnels' outer headers of IPv4, network order; all zero: none.
    pub tunnel_v4: [u8; 4],
    /// Bits of `tunnel_v4`'s host part, host order: replaced by bits of the flow's hash, so that backends
    /// spread a balancer's tunnel over their receive queues. 0: the address as it is.
    pub tunnel_v4_spread: u32,
    /// The same for IPv6.
    pub tunnel_v6: [u8; 16],
    /// The same for the last 32 bits of `tunnel_v6`.
    pub tunnel_v6_spread: u32,
    /// New flows that each CPU may enter into the flow table per second.
    pub new_flows_per_second: u32,
    /// ICMP errors that each CPU may relay per second, and "packet too big" that it may send; 0: none.
    pub icmp_errors_per_second: u32,
    /// Resets that each CPU may send per second; 0: none.
    pub resets_per_second: u32,
    /// The control plane has proven until when it lives: kernel clock, in nanoseconds, but for bit 0, which is
    /// [`Self::DROP_WHEN_DEAD`]. [`Self::ALWAYS_ALIVE`]: forwarding goes on whatever becomes of it. One store.
    pub alive_until: u64,
    /// Addresses that stand for clients of `fullnat`, network order; all zero: none.
    pub nat_v4: [u8; 4],
    /// Bits of `nat_v4`'s host part, host order: flows spread over them.
    pub nat_v4_spread: u32,
    /// The same for IPv6.
    pub nat_v6: [u8; 16],
    /// The same for the last 32 bits of `nat_v6`.
    pub nat_v6_spread: u32,
    /// [`crate::nat::ports`]; 0: there is no NAT.
    pub nat_ports: u32,
    /// Entries in `nat_flows` minus one.
    pub nat_mask: u32,
    /// Over how many CPUs new flows spread: what each sees of them, times this, is about all. 0 is as 1.
    pub flow_cpus: u32,
    /// After how much silence a port that stands for a client may stand for another.
    pub nat_idle: IdleTable,
    /// Zero.
    pub reserved: [u32; 2],
}

const _: () = assert!(size_of::<Control>() == 320);

/// The bit of a generation's seed that says that the generation has rules, or services whose packets go the long way
/// ([`crate::EndpointKind::Aside`]): the highest of `Control::live`, which every packet reads, so that without them
/// nobody looks for them.
pub const RANGES: u64 = 1 << 62;

impl Control {
    /// The word that makes a generation with this seed the live one.
    #[inline(always)]
    pub const fn live(seed: u64, generation: u8) -> u64 {
        seed << 1 | (generation & 1) as u64
    }

    /// `alive_until` for who forwards in any case.
    pub const ALWAYS_ALIVE: u64 = u64::MAX;
    /// In `alive_until`: once that time has passed, packets to services are dropped. Without it they are the kernel's.
    pub const DROP_WHEN_DEAD: u64 = 1;

    /// The live generation of `endpoints` and `rules`: 0 or 1.
    #[inline(always)]
    pub const fn generation(&self) -> u8 {
        (self.live & 1) as u8
    }
}
