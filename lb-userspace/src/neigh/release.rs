//! Lets the kernel forget neighbours that it was told to keep resolved.
//!
//! The mark (`NTF_EXT_MANAGED`) belongs to the entry and outlives whoever set it. A use of the entry by
//! name without the mark takes it away (net/core/neighbour.c: `neigh_add`, `neigh_update_flags`); the entry
//! itself stays and ages as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::netlink::NetlinkError;
use super::requests::{BATCH, Requests};
use super::{Answer, Hop, Neighbour, Solicit};

/// Takes the mark from the next hops to these addresses, in the network namespace of the calling
/// thread. How many had it.
pub fn release(addresses: &[IpAddr]) -> Result<usize, NetlinkError> {
    let mut requests = Requests::open()?;
    let entries: BTreeMap<Hop, Neighbour> = requests.neighbours()?.into_iter().collect();
    let managed = |hop: &Hop| entries.get(hop).is_some_and(|entry| entry.managed);
    let mut hops = BTreeSet::new();
    for batch in addresses.chunks(BATCH) {
        let answers = requests.ways(batch)?.into_iter();
        hops.extend(answers.filter_map(|answer| match answer {
            Answer::Via(hop) => Some(hop).filter(managed),
            Answer::None(_) => None,
        }));
    }
    let releases: Vec<Solicit> = hops.into_iter().map(Solicit::release).collect();
    for batch in releases.chunks(BATCH) {
        // One that vanished meanwhile is released.
        requests.solicit(batch)?;
    }
    Ok(releases.len())
}
