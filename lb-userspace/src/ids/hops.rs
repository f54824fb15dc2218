//! Indexes of next hops, by the address they lead to and the interface they leave from. Pure.
//!
//! A changed MAC address keeps the index and is one store; a changed interface is a new index,
//! since the entry cannot be replaced in one store. Index 0 is the way to nowhere:
//! it is never resolved, and backends whose way is unknown point there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Exhausted, Freed, INDEX_GRACE};

/// The index that is never resolved.
pub const NOWHERE: u32 = 0;

/// What is at the end of a hop: (address of the backend, interface).
pub type HopKey = (IpAddr, u32);

/// All next-hop indexes in use or at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    used: BTreeMap<HopKey, u32>,
    freed: BTreeMap<u32, Freed>,
    /// Below `beyond` and neither used nor freed.
    vacant: BTreeSet<u32>,
    /// This index and all after it were never used. Index 0 never is.
    beyond: u32,
}

impl Hops {
    /// Takes over what the maps say; `others` are indexes in use that lead to nobody we know.
    pub fn adopt(used: BTreeMap<HopKey, u32>, others: impl IntoIterator<Item = u32>) -> Self {
        let mine: BTreeSet<u32> = used.values().copied().collect();
        let freed: BTreeMap<u32, Freed> = others
            .into_iter()
            .filter(|index| *index != NOWHERE && !mine.contains(index))
            .map(|index| (index, Freed::PENDING))
            .collect();
        let last = mine.iter().chain(freed.keys()).max().copied();
        let beyond = last.unwrap_or(NOWHERE).saturating_add(1);
        let taken = |index: &u32| mine.contains(index) || freed.contains_key(index);
        let vacant = (1..beyond).filter(|index| !taken(index)).collect();
        Self {
            used,
            freed,
            vacant,
            beyond,
        }
    }

    /// The index of a hop.
    pub fn get(&self, key: &HopKey) -> Option<u32> {
        self.used.get(key).copied()
    }

    /// All hops in use.
    pub fn iter(&self) -> impl Iterator<Item = (&HopKey, u32)> {
        self.used.iter().map(|(key, &index)| (key, index))
    }

    /// The hops to an address.
    pub fn range(&self, address: IpAddr) -> impl Iterator<Item = (HopKey, u32)> {
        let range = (address, 0)..=(address, u32::MAX);
        self.used.range(range).map(|(key, &index)| (*key, index))
    }

    /// The index of a hop, a new one if need be.
    pub fn assign(&mut self, key: HopKey, size: u32, now: u64) -> Result<u32, Exhausted> {
        if let Some(&index) = self.used.get(&key) {
            return Ok(index);
        }
        let vacant = &mut self.vacant;
        self.freed.retain(|index, freed| {
            let rested = freed.rested(now, INDEX_GRACE);
            if rested {
                vacant.insert(*index);
            }
            !rested
        });
        // The smallest that is free, without a look at all that are not.
        let next = self.beyond.max(1);
        let index = self.vacant.first().copied().unwrap_or(next);
        if index >= size {
            return Err(Exhausted {
                what: format!("the next hop to {} on interface {}", key.0, key.1),
                limit: lb_common::limits::NEXT_HOPS.name,
                size,
                resting: self.freed.len(),
            });
        }
        if !self.vacant.remove(&index) {
            self.beyond = index.saturating_add(1);
        }
        self.used.insert(key, index);
        Ok(index)
    }

    /// Frees the hops to an address by other interfaces than this. True when there were any.
    pub fn only(&mut self, address: IpAddr, ifindex: u32) -> bool {
        let others: Vec<(HopKey, u32)> = self
            .range(address)
            .filter(|((_, by), _)| *by != ifindex)
            .collect();
        for (key, index) in &others {
            self.used.remove(key);
            self.freed.insert(*index, Freed::PENDING);
        }
        !others.is_empty()
    }

    /// Frees all hops but those that `keep` answers true for. True when there were any.
    pub fn retain(&mut self, keep: impl Fn(&HopKey) -> bool) -> bool {
        let before = self.used.len();
        let freed = &mut self.freed;
        self.used.retain(|key, index| {
            let kept = keep(key);
            if !kept {
                freed.insert(*index, Freed::PENDING);
            }
            kept
        });
        before != self.used.len()
    }

    /// The maps do not lead to freed hops any more.
    pub fn written(&mut self, now: u64) {
        for freed in self.freed.values_mut() {
            freed.cleared.get_or_insert(now);
        }
    }
}
