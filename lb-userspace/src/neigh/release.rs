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

/// What became of the marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many next hops had the mark and have it no more.
    pub released: usize,
    /// Next hops that keep it, with the kernel's reason.
    pub refused: Vec<String>,
}

/// Takes the mark from the next hops to these addresses, in the network namespace of the calling
/// thread.
pub fn release(addresses: &[IpAddr]) -> Result<Released, NetlinkError> {
    let mut requests = Requests::open()?;
    let entries = entries(&mut requests)?;
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
    let mut refusals = Vec::new();
    for batch in releases.chunks(BATCH) {
        let answers = batch.iter().zip(requests.solicit(batch)?);
        refusals.extend(answers.filter_map(|(release, refused)| Some((release.hop, refused?))));
    }
    if refusals.is_empty() {
        return Ok(Released {
            released: releases.len(),
            refused: Vec::new(),
        });
    }
    Ok(outcome(
        releases.len(),
        refusals,
        &self::entries(&mut requests)?,
    ))
}

fn entries(requests: &mut Requests) -> Result<BTreeMap<Hop, Neighbour>, NetlinkError> {
    Ok(requests.neighbours()?.into_iter().collect())
}

/// One that was refused because it had vanished is released.
fn outcome(
    asked: usize,
    refusals: Vec<(Hop, String)>,
    after: &BTreeMap<Hop, Neighbour>,
) -> Released {
    let marked = |hop: &Hop| after.get(hop).is_some_and(|entry| entry.managed);
    let refused = refusals.into_iter().filter(|(hop, _)| marked(hop));
    let refused: Vec<String> = refused
        .map(|(hop, reason)| format!("{} at interface {}: {reason}", hop.1, hop.0))
        .collect();
    Released {
        released: asked.saturating_sub(refused.len()),
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neigh::NeighbourState;

    #[test]
    fn refused_release_counts_only_if_the_mark_is_gone() {
        let hop = |n: u8| (7, IpAddr::from([192, 0, 2, n]));
        let entry = |managed| Neighbour {
            state: NeighbourState::Usable,
            mac: Some([2, 0, 0, 0, 0, 1]),
            managed,
        };
        let after = BTreeMap::from([(hop(1), entry(true)), (hop(2), entry(false))]);
        let refusals = (1..=3).map(|n| (hop(n), "no".to_owned())).collect();
        let expected = Released {
            released: 4,
            refused: vec!["192.0.2.1 at interface 7: no".to_owned()],
        };
        assert_eq!(outcome(5, refusals, &after), expected);
    }
}
