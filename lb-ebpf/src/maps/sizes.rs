//! How many entries the maps have by default.

use lb_common::{counter::lines_per_cpu, limits, rule};

pub(super) const BACKENDS: usize = limits::BACKENDS.default as usize;
pub(super) const SERVICES: usize = limits::SERVICES.default as usize;
pub(super) const RINGS: usize = limits::RING_SLOTS.default as usize / 2;
pub(super) const NEXT_HOPS: usize = limits::NEXT_HOPS.default as usize;
pub(super) const SOURCES: usize = limits::SOURCE_RANGES.default as usize;
pub(super) const AFFINITY_SETS: usize = limits::AFFINITIES.default as usize / 8;
pub(super) const FLOW_SETS: usize = limits::FLOWS.default as usize / 8;
pub(super) const NAT_FLOWS: usize = limits::NAT_FLOWS.default as usize;
pub(super) const ENDPOINTS: usize = 2 * 65_536;
pub(super) const RULES: usize = rule::elements(SERVICES as u32) as usize;
pub(super) const COUNTERS: usize = lines_per_cpu(BACKENDS as u32, SERVICES as u32) as usize;
