//! Which health changes may take effect now: [`Velocity`]. Pure. It stands between the trackers
//! ([`crate::health`]), which say what the probes say, and the state, which acts on it. Made for
//! the day on which the checker is ill and its targets are not (AWS, 2025-10-20; RELIABILITY.md
//! B10, B11).
//!
//! Only what takes capacity away can be held: a serving backend that is to become down. Everything
//! else takes effect at once, recoveries first of all.
//!
//! **Velocity limit.** Of a pool's enabled backends, at most `percent` (rounded down, but at least
//! one) may be out that were taken out within the last `window`. A backend that came back makes
//! room for the next: a rolling restart is not held up, and the loss of capacity stays bounded.
//!
//! **Checker suspect.** A down verdict is believed at once when some probe, of any target, has
//! succeeded since the first bad one of its row: then the prober works. When none has, and targets
//! at two addresses began to fail in that silence, or every target fails, the fault may be ours,
//! and the change is held. A pool with a backend that is alive hears a good probe within an
//! interval, so this costs only pools that have nobody left to send to. The first good probe of
//! any target ends it; what is held then needs one more bad probe, begun after that, because the
//! earlier ones were blind. (A fault that is over after one interval can look like deaths among
//! live targets; then the velocity limit bounds the harm.)
//!
//! **Everything is really down.** Probes cannot tell a lasting total failure from a lasting
//! checker fault. When no probe has succeeded for a whole `window`, what the velocity limit allows
//! is taken out, window by window; for what is out the service's all-down policy decides. Nothing
//! is lost by that wait: there was nobody to send to.

mod decision;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::health::Evidence;
use crate::model::{BackendKey, Health, Name};
use crate::pool::{Entry, Pool, Row, Rules, Settled, Witness};

pub use decision::{Decision, Hold, Limit, Member};

/// The gate for all pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Velocity {
    limit: Limit,
    pools: BTreeMap<Name, Pool>,
    /// Pools that were set since the last tick.
    dirty: BTreeSet<Name>,
    /// Pools with something in their queue. In no other is there anything to settle, and with
    /// thousands of pools looking at all of them takes a millisecond.
    queued: BTreeSet<Name>,
    /// Failing targets by address, none with 0.
    failing: BTreeMap<IpAddr, usize>,
    /// Their sum.
    failing_targets: usize,
    /// Targets that are probed.
    probed: usize,
    /// Targets by address that have begun to fail since the last good probe of any, none with 0.
    fresh: BTreeMap<IpAddr, usize>,
    witness: Witness,
    suspect: bool,
}

impl Velocity {
    /// Knows no pools yet.
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            pools: BTreeMap::new(),
            dirty: BTreeSet::new(),
            queued: BTreeSet::new(),
            failing: BTreeMap::new(),
            failing_targets: 0,
            probed: 0,
            fresh: BTreeMap::new(),
            witness: Witness::default(),
            suspect: false,
        }
    }

    /// A new limit after a reload; takes effect with the next [`Velocity::tick`].
    pub fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// The complete list of a pool's backends; those that stay keep what is known. A new one is
    /// unknown, or up if it is not probed. Call [`Velocity::tick`] when all pools are set.
    pub fn set_pool(
        &mut self,
        service: &Name,
        trust_at_start: bool,
        members: &BTreeMap<Name, Member>,
    ) {
        let mut old = self.take_pool(service);
        let mut pool = Pool {
            trust_at_start,
            ..Pool::default()
        };
        for (name, member) in members {
            let mut entry = old.entries.remove(name).unwrap_or(Entry::new(*member));
            if entry.member.address != member.address || !member.probed {
                entry.bad = None;
            }
            if !member.probed {
                entry.raw = Health::Up;
            }
            entry.member = *member;
            if let Some((since, why)) = entry.pending {
                pool.queue.insert((since, name.clone()));
                if let Some(Hold::Velocity { .. }) = why {
                    pool.limited.insert((since, name.clone()));
                }
            }
            // What is not enabled is no loss, whoever took it out.
            entry.taken = entry.taken.filter(|_| member.enabled);
            pool.taken.extend(entry.taken.map(|at| (at, name.clone())));
            pool.size = pool.size.saturating_add(member.enabled.into());
            self.probed = self.probed.saturating_add(member.probed.into());
            self.count(member.address, entry.bad, usize::saturating_add);
            pool.entries.insert(name.clone(), entry);
        }
        self.pools.insert(service.clone(), pool);
        self.note_queue(service);
        self.dirty.insert(service.clone());
    }

    /// A service is gone. Call [`Velocity::tick`] afterwards.
    pub fn remove_pool(&mut self, service: &Name) {
        self.take_pool(service);
        self.dirty.insert(service.clone());
    }

    /// What counted before a restart, from the maps that were adopted: it stays until the probes
    /// say otherwise, and is no loss of this run's.
    pub fn restore(&mut self, backend: &BackendKey, applied: Health) {
        if let Some(entry) = self.entry_mut(backend) {
            entry.applied = applied;
        }
    }

    /// A round ended: what it is worth and when it began (as the tracker's `Observation` and the
    /// `ProbeResult` say), and what the tracker says now. An unknown backend is ignored.
    pub fn observe(
        &mut self,
        backend: &BackendKey,
        evidence: &Evidence,
        started_ns: u64,
        raw: Health,
        now_ns: u64,
    ) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let Some(entry) = self.entry_mut(backend).filter(|e| e.member.probed) else {
            return decisions;
        };
        entry.raw = raw;
        let (address, was_bad, was_out) = (
            entry.member.address,
            entry.bad.is_some(),
            entry.taken.is_some(),
        );
        match evidence {
            Evidence::Void(_) => {}
            Evidence::Good => {
                let row = entry.bad.take();
                self.count(address, row, usize::saturating_sub);
                self.heard_good(now_ns, &mut decisions);
            }
            Evidence::Bad(_) => {
                let row = entry.bad.get_or_insert(Row {
                    first_heard: now_ns,
                    last_started: started_ns,
                });
                row.last_started = row.last_started.max(started_ns);
                let begun = Some(*row).filter(|_| !was_bad);
                self.count(address, begun, usize::saturating_add);
                self.heard_bad(now_ns, &mut decisions);
            }
        }
        let Some(pool) = self.pools.get_mut(&backend.service) else {
            return decisions;
        };
        pool.turn(backend, now_ns, &mut decisions);
        let entry = pool.entries.get(&backend.backend);
        let came_back = was_out && entry.is_some_and(|e| e.taken.is_none());
        let pending = entry.is_some_and(|e| e.pending.is_some());
        let rules = self.rules();
        let settled = match self.pools.get_mut(&backend.service) {
            Some(pool) if came_back => pool.fill(&backend.service, &rules, now_ns, &mut decisions),
            Some(pool) if pending => pool.settle_one(backend, &rules, now_ns, &mut decisions),
            _ => Settled::Sure,
        };
        self.note_queue(&backend.service);
        self.conclude(settled, &mut decisions);
        decisions
    }

    /// A good round of another target that began at `since` has been heard of, and the bad one of this target began at the same time: so
    /// it was not the checker that failed.
    pub fn vouch(&mut self, backend: &BackendKey, since: u64) {
        let Some(entry) = self.entry_mut(backend) else {
            return;
        };
        let (address, Some(old)) = (entry.member.address, entry.bad) else {
            return;
        };
        let row = Row {
            first_heard: old.first_heard.min(since),
            ..old
        };
        entry.bad = Some(row);
        self.count(address, Some(old), usize::saturating_sub);
        self.count(address, Some(row), usize::saturating_add);
    }

    /// Time passed, or pools were set: what is held is looked at again.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Decision> {
        let mut decisions = Vec::new();
        // Whoever failed is gone: nobody is left to end the suspicion by a good probe.
        if !self.dirty.is_empty() && self.failing.is_empty() && std::mem::take(&mut self.suspect) {
            decisions.push(Decision::Trust);
        }
        for service in std::mem::take(&mut self.dirty) {
            let Some(pool) = self.pools.get_mut(&service) else {
                continue;
            };
            let names: Vec<Name> = pool.entries.keys().cloned().collect();
            for backend in names {
                let service = service.clone();
                pool.turn(&BackendKey { service, backend }, now_ns, &mut decisions);
            }
            self.note_queue(&service);
        }
        self.settle_all(now_ns, &mut decisions);
        decisions
    }

    /// When [`Velocity::tick`] may let something through; `None`: only a probe can.
    pub fn next_deadline(&self) -> Option<u64> {
        let ends = self.held().filter_map(|(_, why)| match why {
            Hold::Velocity { until } | Hold::CheckerSuspect { until } => Some(until),
            Hold::Recheck => None,
        });
        ends.min()
    }

    /// The health that counts; `None`: no such backend.
    pub fn applied(&self, backend: &BackendKey) -> Option<Health> {
        let pool = self.pools.get(&backend.service)?;
        Some(pool.entries.get(&backend.backend)?.applied)
    }

    /// The health that counts of every backend, by service and name, in their order.
    pub fn all_applied(&self) -> impl Iterator<Item = ((&Name, &Name), Health)> {
        self.pools.iter().flat_map(|(service, pool)| {
            let entries = pool.entries.iter();
            entries.map(move |(name, entry)| ((service, name), entry.applied))
        })
    }

    /// What is held, and why.
    pub fn held(&self) -> impl Iterator<Item = (BackendKey, Hold)> {
        let queued = |service| self.pools.get_key_value(service);
        let pools = self.queued.iter().filter_map(queued);
        pools.flat_map(|(service, pool)| {
            pool.queue.iter().filter_map(|(_, name)| {
                let why = pool.entries.get(name)?.pending?.1?;
                let (service, backend) = (service.clone(), name.clone());
                Some((BackendKey { service, backend }, why))
            })
        })
    }

    /// Why a backend's change is held; `None`: it is not.
    pub fn hold(&self, backend: &BackendKey) -> Option<Hold> {
        let pool = self.pools.get(&backend.service)?;
        pool.entries.get(&backend.backend)?.pending?.1
    }

    /// True while no probe succeeds and that may be the checker's fault.
    pub fn checker_suspect(&self) -> bool {
        self.suspect
    }

    fn entry_mut(&mut self, backend: &BackendKey) -> Option<&mut Entry> {
        let pool = self.pools.get_mut(&backend.service)?;
        pool.entries.get_mut(&backend.backend)
    }

    /// Takes a pool out of the figures.
    fn take_pool(&mut self, service: &Name) -> Pool {
        let pool = self.pools.remove(service).unwrap_or_default();
        for entry in pool.entries.values() {
            self.probed = self.probed.saturating_sub(entry.member.probed.into());
            self.count(entry.member.address, entry.bad, usize::saturating_sub);
        }
        self.queued.remove(service);
        pool
    }

    /// A pool's queue may have become empty, or have got its first.
    fn note_queue(&mut self, service: &Name) {
        let pool = self.pools.get(service);
        if pool.is_none_or(|pool| pool.queue.is_empty()) {
            self.queued.remove(service);
        } else if !self.queued.contains(service) {
            self.queued.insert(service.clone());
        }
    }

    /// One target at `address` with this row more or less, if there is one.
    fn count(&mut self, address: IpAddr, row: Option<Row>, step: fn(usize, usize) -> usize) {
        let Some(row) = row else {
            return;
        };
        let change = |targets: &mut BTreeMap<IpAddr, usize>| {
            let sum = step(targets.get(&address).copied().unwrap_or(0), 1);
            match sum {
                0 => targets.remove(&address),
                _ => targets.insert(address, sum),
            };
        };
        self.failing_targets = step(self.failing_targets, 1);
        change(&mut self.failing);
        if !self.witness.heard_since(row) {
            change(&mut self.fresh);
        }
    }

    fn heard_good(&mut self, now_ns: u64, decisions: &mut Vec<Decision>) {
        self.witness.last_good = Some(now_ns);
        self.witness.silent_since = None;
        self.fresh.clear();
        if std::mem::take(&mut self.suspect) {
            self.witness.believed_from = now_ns;
            decisions.push(Decision::Trust);
            self.settle_all(now_ns, decisions);
        }
    }

    fn heard_bad(&mut self, now_ns: u64, decisions: &mut Vec<Decision>) {
        self.witness.silent_since.get_or_insert(now_ns);
        if self.total() {
            self.conclude(Settled::InDoubt, decisions);
        }
    }

    fn settle_all(&mut self, now_ns: u64, decisions: &mut Vec<Decision>) {
        let rules = self.rules();
        let mut settled = Settled::Sure;
        let pools = &mut self.pools;
        self.queued.retain(|service| {
            let Some(pool) = pools.get_mut(service) else {
                return false;
            };
            settled = settled.max(pool.settle(service, &rules, now_ns, decisions));
            !pool.queue.is_empty()
        });
        self.conclude(settled, decisions);
    }

    fn conclude(&mut self, settled: Settled, decisions: &mut Vec<Decision>) {
        if settled == Settled::InDoubt && !std::mem::replace(&mut self.suspect, true) {
            decisions.push(Decision::Suspect {
                failing: self.failing_targets,
                probed: self.probed,
            });
        }
    }

    /// Every probed target fails, and they are more than one machine.
    fn total(&self) -> bool {
        self.failing_targets == self.probed && self.failing.len() >= 2
    }

    fn rules(&self) -> Rules {
        Rules {
            limit: self.limit,
            witness: Witness {
                fresh: self.fresh.len(),
                total: self.total(),
                ..self.witness
            },
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
