//! What packets say of backends between two checks: handshakes that get no answer, are refused, or come again. Pure;
//! `daemon/passive.rs` reads the counters.
//!
//! It makes a suspect of a backend and no more: everything that is counted here can be forged, and a check that is
//! made at once decides ([`suspicion`]). Who fails while others do not is one ([`judgement`]). What all of a pool do alike says
//! something about its clients, or the network before it, and of no backend.

mod judgement;
pub mod rarity;
pub mod suspicion;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lb_common::counter::Handshake;

use self::judgement::Looks;
use crate::model::{Name, Passive};

/// Between two looks, nanoseconds.
pub const EVERY: u64 = 100_000_000;

/// Counts of a backend since ever, by [`Handshake`].
pub type Counts = [u64; Handshake::ALL.len()];

/// What is held against a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Its handshakes have no answer, or none that their clients go on after.
    Unanswered,
    /// It refuses them.
    Refused,
    /// It cannot be reached, says ICMP.
    Unreachable,
    /// Its clients send their SYNs again.
    Resent,
}

/// So many handshakes of all that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What they show.
    pub sign: Sign,
    /// Those that show it.
    pub bad: u64,
    /// All.
    pub of: u64,
    /// The time that is looked back on, nanoseconds.
    pub over: u64,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bad, of, .. } = self;
        let what = match self.sign {
            Sign::Unanswered => "unanswered",
            Sign::Refused => "refused",
            Sign::Unreachable => "unreachable",
            Sign::Resent => "begun again",
        };
        let tenths = self.over.div_ceil(100_000_000);
        let (seconds, tenths) = (tenths / 10, tenths % 10);
        write!(
            f,
            "{bad} of {of} handshakes {what} in the last {seconds}.{tenths} s"
        )
    }
}

/// The backends of a service, and how they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What makes a suspect.
    pub policy: Passive,
    /// The answers of its backends pass here (`dnat`, `fullnat`).
    pub sees_answers: bool,
    /// BackendIds.
    pub members: Vec<u32>,
}

/// What was counted of all pools, and when.
#[derive(Debug, Default)]
pub struct Watch {
    pools: BTreeMap<Name, (Pool, Looks)>,
    /// Of all pools, sorted.
    members: Vec<u32>,
    /// Those that are down, drained or disabled: neither suspects nor a measure for others.
    away: BTreeSet<u32>,
}

impl Watch {
    /// The complete list of pools, and of members that do not serve. What is known of members that stay is kept.
    pub fn set_pools(&mut self, pools: BTreeMap<Name, Pool>, away: BTreeSet<u32>) {
        let mut before = std::mem::take(&mut self.pools);
        let kept = |(name, pool): (Name, Pool)| {
            let looks = before
                .remove(&name)
                .map(|(old, looks)| looks.of(&old.members, &pool.members));
            let looks = looks.unwrap_or_else(|| Looks::new(pool.members.len()));
            (name, (pool, looks))
        };
        self.pools = pools.into_iter().map(kept).collect();
        let pools = self.pools.values();
        self.members = pools
            .flat_map(|(pool, _)| pool.members.iter().copied())
            .collect();
        self.members.sort_unstable();
        self.away = away;
    }

    /// A member serves, or does so no more.
    pub fn set_serving(&mut self, id: u32, serves: bool) {
        match serves {
            true => self.away.remove(&id),
            false => self.away.insert(id),
        };
    }

    /// All members, sorted.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// The shortest time that is looked back on, nanoseconds; `None`: nobody is watched.
    pub fn shortest_window(&self) -> Option<u64> {
        let pools = self.pools.values();
        pools
            .map(|(pool, _)| crate::health::nanos(pool.policy.window))
            .min()
    }

    /// Takes a look at all members in: counts since ever by BackendId, sorted. Gives the suspects, with their services.
    pub fn look(&mut self, now: u64, counts: &[(u32, Counts)]) -> Vec<(Name, u32, Evidence)> {
        let away = &self.away;
        let mut suspects = Vec::new();
        for (service, (pool, looks)) in &mut self.pools {
            let counted = pool.members.iter().map(|id| {
                let place = counts.binary_search_by_key(id, |(id, _)| *id).ok()?;
                let (_, counts) = counts.get(place).filter(|_| !away.contains(id))?;
                Some(*counts)
            });
            looks.add(now, counted, pool);
            let found = looks.suspects(now, pool);
            suspects.extend(
                found
                    .into_iter()
                    .map(|(id, why)| (service.clone(), id, why)),
            );
        }
        suspects
    }
}
