//! Places endpoints in a generation of the table so that a lookup is four slots at most. Pure.
//!
//! Linear probing in the order of the homes ("Robin Hood hashing", Celis 1986) has the smallest largest
//! distance of all orders, and leaves no free slot between a key and its home, which is what ends a lookup.
//! When even that is too far for one key, the next seed is tried.

use std::collections::BTreeMap;

use lb_common::endpoint::MAX_PROBES;
use lb_common::header::RANGES;
use lb_common::{EndpointKey, EndpointKind, EndpointSlot, Rule};

use crate::dataplane::ranges::{self, RangesError};
use crate::dataplane::{EndpointTarget, Ranges};

/// Seeds that are tried.
pub const TRIES: u64 = 64;

/// Slots for each endpoint that [`slots_for`] makes: at a load of an eighth the first seeds do.
const SLOTS_PER_ENDPOINT: u64 = 8;

/// A filled generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Seed of `EndpointKey::home`; with [`RANGES`] when there are rules, or services whose packets go the long way.
    pub seed: u64,
    /// All slots of the generation.
    pub slots: Vec<EndpointSlot>,
    /// Its rules, from index 0 on; none: nobody looks there.
    pub rules: Vec<Rule>,
}

/// Why endpoints have no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// More than half of the slots.
    #[error(
        "place {endpoints} endpoints: the table has {slots} slots and holds half as many (raise [limits] services and backends and recreate the maps with 'fairlead unload')"
    )]
    Full {
        /// Wanted.
        endpoints: usize,
        /// Slots of a generation.
        slots: u32,
    },
    /// A server in too many services.
    #[error(
        "place endpoint {address} port {port}: it stands in {times} services, and {MAX_PROBES} is the limit for 'dnat' (give it more ports or addresses)"
    )]
    TooMany {
        /// Whose.
        address: std::net::IpAddr,
        /// Whose.
        port: u16,
        /// How often.
        times: usize,
    },
    /// Rules.
    #[error(transparent)]
    Ranges(#[from] RangesError),
    /// No seed did.
    #[error(
        "place {endpoints} endpoints: none of {TRIES} seeds keeps all within {MAX_PROBES} slots of home among {slots} (raise [limits] services and backends and recreate the maps with 'fairlead unload')"
    )]
    Unlucky {
        /// Wanted.
        endpoints: usize,
        /// Slots of a generation.
        slots: u32,
    },
}

/// Slots of a generation for these limits: a service has two endpoints at most (one with a range has one), a backend one.
/// Server ids of QUIC are more, for which the table has room as long as they are few to each backend.
pub fn slots_for(services: u32, backends: u32) -> u32 {
    let endpoints = u64::from(services)
        .saturating_mul(2)
        .saturating_add(u64::from(backends));
    let slots = endpoints
        .saturating_mul(SLOTS_PER_ENDPOINT)
        .max(64)
        .next_power_of_two();
    u32::try_from(slots).unwrap_or(1 << 31)
}

/// Places all endpoints in `slots` slots, a power of two, and rules behind one another.
pub fn place(
    endpoints: &BTreeMap<EndpointKey, Vec<EndpointTarget>>,
    ranges: &Ranges,
    slots: u32,
) -> Result<Placement, PlacementError> {
    let (mut rules, firsts) = ranges::encode(ranges)?;
    if firsts.is_empty() {
        let aside = |(kind, _): &EndpointTarget| *kind == EndpointKind::Aside;
        if !endpoints.values().flatten().any(aside) {
            return place_slots(endpoints, slots, 0);
        }
        // No lengths: who looks for such an endpoint looks there too.
        rules.push(bytemuck::Zeroable::zeroed());
    }
    let mut endpoints = endpoints.clone();
    for (key, first) in firsts {
        let targets = endpoints.entry(key).or_default();
        targets.push((EndpointKind::Prefix, first));
    }
    let placed = place_slots(&endpoints, slots, RANGES)?;
    Ok(Placement { rules, ..placed })
}

fn place_slots(
    endpoints: &BTreeMap<EndpointKey, Vec<EndpointTarget>>,
    slots: u32,
    flag: u64,
) -> Result<Placement, PlacementError> {
    let mut count: usize = 0;
    for (key, targets) in endpoints {
        count = count.saturating_add(targets.len());
        if targets.len() > MAX_PROBES as usize {
            return Err(PlacementError::TooMany {
                address: crate::desired::ip(key.address),
                port: u16::from_be_bytes(key.port),
                times: targets.len(),
            });
        }
    }
    if count > (slots / 2) as usize {
        return Err(PlacementError::Full {
            endpoints: count,
            slots,
        });
    }
    (1..=TRIES)
        .find_map(|attempt| {
            try_seed(
                endpoints,
                slots,
                attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !RANGES | flag,
            )
        })
        .ok_or(PlacementError::Unlucky {
            endpoints: count,
            slots,
        })
}

fn try_seed(
    endpoints: &BTreeMap<EndpointKey, Vec<EndpointTarget>>,
    slots: u32,
    seed: u64,
) -> Option<Placement> {
    let mask = slots.wrapping_sub(1);
    let mut homes: Vec<(u32, &EndpointKey, EndpointTarget)> = endpoints
        .iter()
        .flat_map(|(key, targets)| {
            let home = key.home(seed, mask);
            targets.iter().map(move |target| (home, key, *target))
        })
        .collect();
    homes.sort_unstable();
    let free: EndpointSlot = bytemuck::Zeroable::zeroed();
    let mut table = vec![free; slots as usize];
    for (home, key, (kind, index)) in homes {
        let slot = (0..MAX_PROBES)
            .map(|distance| home.wrapping_add(distance) & mask)
            .find(|&slot| table.get(slot as usize).is_some_and(|s| s.kind == 0))?;
        *table.get_mut(slot as usize)? = EndpointSlot {
            address: key.address.0,
            port: key.port,
            protocol: key.protocol,
            kind: kind as u8,
            index,
            reserved: 0,
        };
    }
    Some(Placement {
        seed,
        slots: table,
        rules: Vec::new(),
    })
}
