//! What one pool may lose now: the half of [`crate::velocity`] that knows a single pool. Pure.
//!
//! A change that takes no capacity away is carried over by [`Pool::turn`]; one that does is queued
//! there, and leaves the queue by [`Pool::settle`], in the order in which the trackers spoke.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{BackendKey, Health, Name};
use crate::velocity::{Decision, Hold, Limit, Member};

/// What the probes of all targets say about the prober.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Witness {
    /// When a good probe was last heard of.
    pub(crate) last_good: Option<u64>,
    /// When the first bad one after that was.
    pub(crate) silent_since: Option<u64>,
    /// Addresses at which a target has begun to fail since then.
    pub(crate) fresh: usize,
    /// Every probed target fails, at two addresses or more.
    pub(crate) total: bool,
    /// Probes that began before are not believed: the checker was suspect.
    pub(crate) believed_from: u64,
}

impl Witness {
    /// Why a row of bad probes is not believed yet.
    fn doubt(&self, row: Option<Row>, window_ns: u64, now_ns: u64) -> Option<Hold> {
        let Some(row) = row.filter(|row| row.last_started >= self.believed_from) else {
            return Some(Hold::Recheck);
        };
        if self.heard_since(row) {
            return None;
        }
        let until = self.silent_since?.saturating_add(window_ns);
        let doubtful = (self.total || self.fresh >= 2) && now_ns < until;
        doubtful.then_some(Hold::CheckerSuspect { until })
    }

    /// True when some probe has succeeded since the row began.
    pub(crate) fn heard_since(&self, row: Row) -> bool {
        self.last_good.is_some_and(|good| good >= row.first_heard)
    }
}

/// Bad probes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// When the first was heard of.
    pub(crate) first_heard: u64,
    /// When the last began.
    pub(crate) last_started: u64,
}

/// A backend and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) member: Member,
    /// What the tracker says.
    pub(crate) raw: Health,
    /// What counts.
    pub(crate) applied: Health,
    /// Bad probes since the last good one.
    pub(crate) bad: Option<Row>,
    /// When it was taken out, if it is out.
    pub(crate) taken: Option<u64>,
    /// When the tracker first said down, and why that is held, once it has been looked at.
    pub(crate) pending: Option<(u64, Option<Hold>)>,
}

impl Entry {
    pub(crate) fn new(member: Member) -> Self {
        Self {
            member,
            raw: Health::Unknown,
            applied: Health::Unknown,
            bad: None,
            taken: None,
            pending: None,
        }
    }
}

/// The backends of a service, and what of them is out or held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub(crate) entries: BTreeMap<Name, Entry>,
    /// `unknown` serves, so that down takes capacity away.
    pub(crate) trust_at_start: bool,
    /// Held changes, in the order in which the trackers made them.
    pub(crate) queue: BTreeSet<(u64, Name)>,
    /// Those of `queue` that only wait for room.
    pub(crate) limited: BTreeSet<(u64, Name)>,
    /// What was taken out within the window and is still out, by time.
    pub(crate) taken: BTreeSet<(u64, Name)>,
    /// Enabled backends.
    pub(crate) size: usize,
}

impl Pool {
    /// Carries over what the tracker says, or queues it if it takes capacity away.
    pub(crate) fn turn(&mut self, key: &BackendKey, now_ns: u64, decisions: &mut Vec<Decision>) {
        let Some(entry) = self.entries.get_mut(&key.backend) else {
            return;
        };
        let serves = match entry.applied {
            Health::Up => true,
            Health::Unknown => self.trust_at_start || entry.member.trusted,
            Health::Down => false,
        };
        let (from, to) = (entry.applied, entry.raw);
        let changes = to != Health::Unknown && to != from;
        let takes = changes && to == Health::Down && serves && entry.member.enabled;
        if takes {
            if entry.pending.is_none() {
                entry.pending = Some((now_ns, None));
                self.queue.insert((now_ns, key.backend.clone()));
            }
            return;
        }
        if let Some((since, _)) = entry.pending.take() {
            let place = (since, key.backend.clone());
            self.queue.remove(&place);
            self.limited.remove(&place);
            if !changes {
                let backend = key.clone();
                decisions.push(Decision::Release { backend });
            }
        }
        if changes {
            entry.applied = to;
            if let Some(at) = entry.taken.take() {
                self.taken.remove(&(at, key.backend.clone()));
            }
            let backend = key.clone();
            decisions.push(Decision::Apply { backend, from, to });
        }
    }

    /// Lets through what may pass, in the order of the queue.
    pub(crate) fn settle(
        &mut self,
        service: &Name,
        rules: &Rules,
        now_ns: u64,
        decisions: &mut Vec<Decision>,
    ) -> Settled {
        let names: Vec<Name> = self.queue.iter().map(|(_, name)| name.clone()).collect();
        let mut settled = Settled::Sure;
        for backend in names {
            let service = service.clone();
            let key = BackendKey { service, backend };
            match self.hold(&key.backend, rules, now_ns) {
                Some(why) => settled = settled.max(self.keep(&key, why, decisions)),
                None => self.take_out(key, now_ns, decisions),
            }
        }
        settled
    }

    /// Looks at one queued change, after those that only waited for room.
    pub(crate) fn settle_one(
        &mut self,
        key: &BackendKey,
        rules: &Rules,
        now_ns: u64,
        decisions: &mut Vec<Decision>,
    ) -> Settled {
        let settled = self.fill(&key.service, rules, now_ns, decisions);
        let queued = |e: &Entry| e.pending.is_some();
        if !self.entries.get(&key.backend).is_some_and(queued) {
            return settled;
        }
        match self.hold(&key.backend, rules, now_ns) {
            Some(why) => settled.max(self.keep(key, why, decisions)),
            None => {
                self.take_out(key.clone(), now_ns, decisions);
                settled
            }
        }
    }

    /// Room was made: lets the next ones in, as far as it reaches.
    pub(crate) fn fill(
        &mut self,
        service: &Name,
        rules: &Rules,
        now_ns: u64,
        decisions: &mut Vec<Decision>,
    ) -> Settled {
        let mut settled = Settled::Sure;
        while let Some((_, backend)) = self.limited.first().cloned() {
            let service = service.clone();
            let key = BackendKey { service, backend };
            match self.hold(&key.backend, rules, now_ns) {
                Some(Hold::Velocity { .. }) => break,
                Some(why) => settled = settled.max(self.keep(&key, why, decisions)),
                None => self.take_out(key, now_ns, decisions),
            }
        }
        settled
    }

    /// Why a queued change may not pass now.
    fn hold(&mut self, name: &Name, rules: &Rules, now_ns: u64) -> Option<Hold> {
        let bad = self.entries.get(name)?.bad;
        rules
            .witness
            .doubt(bad, rules.limit.window_ns, now_ns)
            .or_else(|| self.full(rules.limit, now_ns))
    }

    /// `None`: one more may be taken out.
    fn full(&mut self, limit: Limit, now_ns: u64) -> Option<Hold> {
        let end = |at: u64| at.saturating_add(limit.window_ns);
        while self.taken.first().is_some_and(|(at, _)| end(*at) <= now_ns) {
            self.taken.pop_first();
        }
        // With a limit that became smaller, several windows must end first.
        let place = self.taken.len().checked_sub(limit.allowance(self.size))?;
        let (at, _) = self.taken.iter().nth(place)?;
        Some(Hold::Velocity { until: end(*at) })
    }

    fn keep(&mut self, key: &BackendKey, why: Hold, decisions: &mut Vec<Decision>) -> Settled {
        let pending = self.entries.get_mut(&key.backend).map(|e| &mut e.pending);
        if let Some(Some((since, hold))) = pending {
            let place = (*since, key.backend.clone());
            match why {
                Hold::Velocity { .. } => self.limited.insert(place),
                Hold::CheckerSuspect { .. } | Hold::Recheck => self.limited.remove(&place),
            };
            let kind = |hold: &Hold| std::mem::discriminant(hold);
            if hold.replace(why).as_ref().map(kind) != Some(kind(&why)) {
                let backend = key.clone();
                decisions.push(Decision::Hold { backend, why });
            }
        }
        match why {
            Hold::CheckerSuspect { .. } => Settled::InDoubt,
            Hold::Velocity { .. } | Hold::Recheck => Settled::Sure,
        }
    }

    fn take_out(&mut self, backend: BackendKey, now_ns: u64, decisions: &mut Vec<Decision>) {
        let Some(entry) = self.entries.get_mut(&backend.backend) else {
            return;
        };
        let to = Health::Down;
        let from = std::mem::replace(&mut entry.applied, to);
        entry.taken = Some(now_ns);
        if let Some((since, _)) = entry.pending.take() {
            let place = (since, backend.backend.clone());
            self.queue.remove(&place);
            self.limited.remove(&place);
        }
        self.taken.insert((now_ns, backend.backend.clone()));
        decisions.push(Decision::Apply { backend, from, to });
    }
}

/// What a change is held against.
pub(crate) struct Rules {
    pub(crate) limit: Limit,
    pub(crate) witness: Witness,
}

/// How a pool was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Settled {
    /// Nothing is held for suspicion.
    Sure,
    /// Something is.
    InDoubt,
}
