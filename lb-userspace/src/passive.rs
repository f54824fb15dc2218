//! What packets say of backends between two checks: handshakes that get no answer, are refused, or come again. Pure;
//! `daemon/passive.rs` reads the counters.
//!
//! It makes a suspect of a backend and no more: everything that is counted here can be forged, and a check that is
//! made at once decides ([`suspicion`]). Who fails alone is one. What all of a pool do alike says something about its
//! clients, or the network before it, and of no backend.

pub mod suspicion;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use lb_common::counter::Handshake;

use crate::health::nanos;
use crate::model::{Name, Passive};

/// Between two looks, nanoseconds.
pub const EVERY: u64 = 100_000_000;

/// How long an answer may take, nanoseconds.
const GRACE: u64 = 100_000_000;

/// After so long the first SYN without an answer comes again, nanoseconds (RFC 6298 section 2.1).
const AGAIN: u64 = 1_000_000_000;

/// A backend is no suspect unless its share of bad signs is so many times that of the others.
const TIMES: u64 = 2;

/// Counts of a backend since ever, by [`Handshake`].
pub type Counts = [u64; Handshake::ALL.len()];

/// What is held against a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Its handshakes have no answer.
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
    pools: BTreeMap<Name, Pool>,
    /// Looks at each member, oldest first. Those of a pool have the last looks in common.
    seen: BTreeMap<u32, VecDeque<(u64, Counts)>>,
}

impl Watch {
    /// The complete list of pools. What is known of members that stay is kept.
    pub fn set_pools(&mut self, pools: BTreeMap<Name, Pool>) {
        self.pools = pools;
        let members = self.members();
        self.seen.retain(|id, _| members.binary_search(id).is_ok());
    }

    /// All members, sorted.
    pub fn members(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .pools
            .values()
            .flat_map(|p| p.members.clone())
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Takes a look at all members in: counts since ever by BackendId. Gives the suspects, with their services.
    pub fn look(&mut self, now: u64, counts: &BTreeMap<u32, Counts>) -> Vec<(Name, u32, Evidence)> {
        let mut suspects = Vec::new();
        for (service, pool) in &self.pools {
            let memory = pool.memory();
            for id in &pool.members {
                let Some(counts) = counts.get(id) else {
                    // A look that one lacks would not be the same of all.
                    self.seen.remove(id);
                    continue;
                };
                let seen = self.seen.entry(*id).or_default();
                // One more than fits in, to look back on all of it.
                while seen
                    .get(1)
                    .is_some_and(|(at, _)| at.saturating_add(memory) < now)
                {
                    seen.pop_front();
                }
                seen.push_back((now, *counts));
            }
            let found = pool.suspects(now, &self.seen);
            suspects.extend(
                found
                    .into_iter()
                    .map(|(id, why)| (service.clone(), id, why)),
            );
        }
        suspects
    }
}

/// Signs, as a pair of bad ones and all handshakes that could have shown them.
type Shares = [(Sign, u64, u64); 3];

impl Pool {
    /// How long a look is remembered, nanoseconds.
    fn memory(&self) -> u64 {
        let window = nanos(self.policy.window);
        match self.sees_answers {
            true => window,
            false => window.saturating_add(AGAIN),
        }
    }

    fn suspects(
        &self,
        now: u64,
        seen: &BTreeMap<u32, VecDeque<(u64, Counts)>>,
    ) -> Vec<(u32, Evidence)> {
        let window = nanos(self.policy.window);
        let mut found: BTreeMap<u32, Evidence> = BTreeMap::new();
        // From the youngest time on that may say something: who failed just now has not been bad before.
        for back in 1.. {
            let mut shares: Vec<(u32, u64, Shares)> = Vec::new();
            for id in &self.members {
                if let Some(looks) = seen.get(id)
                    && let Some((at, shares_of)) = self.shares(now, looks, back)
                    && at.saturating_add(window) >= now
                {
                    shares.push((*id, at, shares_of));
                }
            }
            if shares.is_empty() {
                break;
            }
            let mut sums = [(0_u64, 0_u64); 3];
            for (.., each) in &shares {
                for ((all_bad, all), (_, bad, of)) in sums.iter_mut().zip(each) {
                    *all_bad = all_bad.saturating_add(*bad);
                    *all = all.saturating_add(*of);
                }
            }
            for (id, at, each) in shares {
                for ((sign, bad, of), (all_bad, all)) in each.into_iter().zip(sums) {
                    let others = (all_bad.saturating_sub(bad), all.saturating_sub(of));
                    if self.stands_out((bad, of), others) {
                        let over = now.saturating_sub(at);
                        let evidence = Evidence {
                            sign,
                            bad,
                            of,
                            over,
                        };
                        found.entry(id).or_insert(evidence);
                    }
                }
            }
        }
        found.into_iter().collect()
    }

    /// A share of bad signs is large, and much larger than that of all others.
    fn stands_out(&self, (bad, of): (u64, u64), (others_bad, others): (u64, u64)) -> bool {
        let least = u64::from(self.policy.least);
        let is_large = of >= least
            && bad.saturating_mul(100) >= of.saturating_mul(u64::from(self.policy.percent));
        // Of others with fewer handshakes nothing is known.
        let is_common = others >= least
            && bad.saturating_mul(others) < others_bad.saturating_mul(of).saturating_mul(TIMES);
        bad > 0 && is_large && !is_common
    }

    /// What a member shows since so many looks ago, and when that was; `None`: it was not looked at so long ago.
    fn shares(
        &self,
        now: u64,
        looks: &VecDeque<(u64, Counts)>,
        back: usize,
    ) -> Option<(u64, Shares)> {
        let first = looks.len().checked_sub(back.checked_add(1)?)?;
        let (at, then) = looks.get(first)?;
        let (_, last) = looks.back()?;
        let since = |which: Handshake| of(last, which).wrapping_sub(of(then, which));
        let none = |sign| (sign, 0, 0);
        let shares = match self.sees_answers {
            true => {
                let begun = since(Handshake::Begun);
                // What began just now may still be answered.
                let old = match until(looks, now.saturating_sub(GRACE)) {
                    Some((later, old)) if *later > *at => {
                        of(old, Handshake::Begun).wrapping_sub(of(then, Handshake::Begun))
                    }
                    _ => 0,
                };
                let heard = since(Handshake::Answered);
                [
                    (Sign::Unanswered, old.saturating_sub(heard), old),
                    (Sign::Refused, since(Handshake::Refused).min(begun), begun),
                    (
                        Sign::Unreachable,
                        since(Handshake::Unreachable).min(begun),
                        begun,
                    ),
                ]
            }
            // Those that began a while ago come again now.
            false => {
                let begun = since(Handshake::Begun);
                let unreachable = since(Handshake::Unreachable).min(begun);
                let unreachable = (Sign::Unreachable, unreachable, begun);
                let began = |at: u64| {
                    let (_, counts) = until(looks, at.checked_sub(AGAIN)?)?;
                    Some(of(counts, Handshake::Begun))
                };
                match (began(*at), began(now)) {
                    (Some(a), Some(b)) => {
                        let begun = b.wrapping_sub(a);
                        let again = since(Handshake::Resent).min(begun);
                        [
                            (Sign::Resent, again, begun),
                            none(Sign::Refused),
                            unreachable,
                        ]
                    }
                    _ => [none(Sign::Resent), none(Sign::Refused), unreachable],
                }
            }
        };
        Some((*at, shares))
    }
}

/// The last look by a time.
fn until(looks: &VecDeque<(u64, Counts)>, time: u64) -> Option<&(u64, Counts)> {
    looks.iter().rev().find(|(at, _)| *at <= time)
}

fn of(counts: &Counts, which: Handshake) -> u64 {
    counts.get(which as usize).copied().unwrap_or(0)
}
