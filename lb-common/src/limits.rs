//! Limits as data: `fairlead check`, the docs, the memory formula and the tests all read this table.

/// A hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in configuration and messages.
    pub name: &'static str,
    /// The smallest value.
    pub min: u64,
    /// The value without configuration.
    pub default: u64,
    /// The largest value.
    pub max: u64,
    /// Bytes that one unit costs in the maps (counters: per CPU apart).
    pub bytes_per_unit: u64,
    /// Why it is what it is.
    pub why: &'static str,
}

/// Flow entries.
pub const FLOWS: Limit = Limit {
    name: "flows",
    min: 1 << 10,
    default: 1 << 20,
    max: 1 << 27,
    bytes_per_unit: 16,
    why: "a power of two; 8 bytes an entry and 8 for its return hop; rated for half as many live flows",
};
/// Services.
pub const SERVICES: Limit = Limit {
    name: "services",
    min: 1,
    default: 1024,
    max: 1 << 16,
    bytes_per_unit: 64,
    why: "one cache line each, and four lines of drop counters a CPU",
};
/// Backends over all services.
pub const BACKENDS: Limit = Limit {
    name: "backends",
    min: 1,
    default: 4096,
    max: 1 << 17,
    bytes_per_unit: 64,
    why: "a flow entry has 17 bits for the BackendId; one cache line each, and one line of counters a CPU",
};
/// Slots in rings, both halves of all services.
pub const RING_SLOTS: Limit = Limit {
    name: "ring-slots",
    min: 1 << 10,
    default: 5 << 20,
    max: 1 << 30,
    bytes_per_unit: 4,
    why: "four bytes a slot; each service has two rings, so that one can be filled while the other serves; the default is enough for the default services and backends, however they are distributed",
};
/// Next hops.
pub const NEXT_HOPS: Limit = Limit {
    name: "next-hops",
    min: 1,
    default: 4096,
    max: 1 << 20,
    bytes_per_unit: 32,
    why: "one for each neighbour that backends are reached through",
};
/// Ranges of sources over all services.
pub const SOURCE_RANGES: Limit = Limit {
    name: "source-ranges",
    min: 2,
    default: 16_384,
    max: 1 << 24,
    bytes_per_unit: 0,
    why: "prefixes in `allow` and `deny`; a changed list stands twice for a moment; the kernel takes memory for those that are there, some 70 bytes each",
};
/// Flows of `fullnat`.
pub const NAT_FLOWS: Limit = Limit {
    name: "nat-flows",
    min: 1 << 4,
    default: 1 << 18,
    max: 1 << 26,
    bytes_per_unit: 64,
    why: "a power of two; one cache line a flow of fullnat, which it keeps for two minutes after its end; rated for half as many; made in full, so that `fullnat` can be added by a reload",
};
/// Clients that stay with their backend for a time, over all services.
pub const AFFINITIES: Limit = Limit {
    name: "affinities",
    min: 8,
    default: 32_768,
    max: 1 << 27,
    bytes_per_unit: 8,
    why: "clients of services with `affinity-timeout`, 8 bytes each, in sets of eight; a client for whom there is no room takes the place of who came last the longest time ago",
};
/// Weight of a backend.
pub const WEIGHT: Limit = Limit {
    name: "weight",
    min: 0,
    default: 1,
    max: 1000,
    bytes_per_unit: 0,
    why: "relative share of new flows; 0 takes none",
};

/// All limits, for docs and tests.
pub const ALL: &[Limit] = &[
    FLOWS,
    SERVICES,
    BACKENDS,
    RING_SLOTS,
    NEXT_HOPS,
    SOURCE_RANGES,
    NAT_FLOWS,
    AFFINITIES,
    WEIGHT,
];
