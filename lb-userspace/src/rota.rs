//! When each target is probed next: [`Rota`]. Pure; `health::runner` acts on it.
//!
//! A new target is probed at once, and `Target::opening` times in quick succession, so that a fresh start
//! is quick. The probe after those falls anywhere in the second half of the interval, which spreads
//! targets that began together; after that each
//! start is one interval after the one before, moved by up to the jitter; while results begin to differ from the
//! verdict, the fast interval. A target has one probe
//! at a time, and beside it one extra probe if it is hurried ([`Rota::hurry`]): at once and apart from its turns, as who is in doubt
//! cannot wait for the timeout of a turn. Only commands, which may not bear to run twice at a time, wait for each other. Rounds that were missed (the
//! prober was stopped) are not made up for: the target is spread anew.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::health::{Streak, Thresholds, nanos};
use crate::model::{BackendKey, Check, ProbeResult, Target};

/// Between the starts of a new target's first probes, in nanoseconds.
const OPENING: u64 = 20_000_000;

/// Names a target for as long as nothing about it changes.
pub type TargetId = u64;

/// A probe that is to start now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Of this target; hand it back to [`Rota::ended`].
    pub id: TargetId,
    /// When it should have started, nanoseconds since boot.
    pub scheduled: u64,
    /// It is apart from its turns: [`Rota::hurry`].
    pub extra: bool,
    /// What to probe.
    pub target: Target,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// What its results say, to see when they begin to differ.
    streak: Streak,
    /// Probes that ended, up to `Target::opening`.
    made: u16,
    /// When the next turn is due: what the queue says else is over.
    due: u64,
    /// When the turn that is under way should have started.
    probing: Option<u64>,
    /// An extra probe is wanted.
    hurried: bool,
    /// One is under way.
    extra: bool,
}

impl Entry {
    /// The probe that is under way must end before another one starts.
    fn is_busy(&self) -> bool {
        let any = self.probing.is_some() || self.extra;
        any && matches!(self.target.check, Check::Exec(_))
    }

    fn start(&self, id: TargetId, scheduled: u64, extra: bool) -> Due {
        let target = self.target.clone();
        Due {
            id,
            scheduled,
            extra,
            target,
        }
    }
}

/// The rota of all targets.
#[derive(Debug)]
pub struct Rota {
    entries: BTreeMap<TargetId, Entry>,
    ids: BTreeMap<BackendKey, TargetId>,
    /// By time. What `entries` lacks is gone and skipped.
    queue: BinaryHeap<Reverse<(u64, TargetId)>>,
    /// Extra probes that can start, and since when.
    hurried: VecDeque<(u64, TargetId)>,
    next_id: TargetId,
    random: u64,
}

impl Rota {
    /// Empty. The seed decides about spread and jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            ids: BTreeMap::new(),
            queue: BinaryHeap::new(),
            hurried: VecDeque::new(),
            next_id: 0,
            // Xorshift stays at 0 for ever.
            random: seed.max(1),
        }
    }

    /// The complete list of targets; the last of several with one name counts. Unchanged ones keep
    /// their place. Gives the ids that are no more: their probes are to be abandoned.
    pub fn set_targets(&mut self, targets: Vec<Target>, now_ns: u64) -> Vec<TargetId> {
        let wanted: BTreeMap<BackendKey, Target> = targets
            .into_iter()
            .filter(|target| target.check != Check::None)
            .map(|target| (target.backend.clone(), target))
            .collect();
        let mut gone = Vec::new();
        self.entries.retain(|id, entry| {
            let stays = wanted.get(&entry.target.backend) == Some(&entry.target);
            if !stays {
                gone.push(*id);
                self.ids.remove(&entry.target.backend);
            }
            stays
        });
        for (backend, target) in wanted {
            if self.ids.contains_key(&backend) {
                continue;
            }
            let id = self.next_id;
            self.next_id = id.wrapping_add(1);
            self.ids.insert(backend, id);
            let entry = Entry {
                streak: Streak::new(Thresholds::from(&target)),
                target,
                made: 0,
                due: now_ns,
                probing: None,
                hurried: false,
                extra: false,
            };
            self.entries.insert(id, entry);
            self.queue.push(Reverse((now_ns, id)));
        }
        gone
    }

    /// The next probe that is due, if one is.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Due> {
        while let Some((scheduled, id)) = self.hurried.pop_front() {
            if let Some(entry) = self.entries.get_mut(&id)
                && !entry.is_busy()
                && !entry.extra
                && std::mem::take(&mut entry.hurried)
            {
                entry.extra = true;
                return Some(entry.start(id, scheduled, true));
            }
        }
        loop {
            let Reverse((scheduled, _)) = *self.queue.peek()?;
            if scheduled > now_ns {
                return None;
            }
            let Reverse((scheduled, id)) = self.queue.pop()?;
            if let Some(entry) = self.entries.get_mut(&id)
                && entry.due == scheduled
                && entry.probing.is_none()
                && !entry.is_busy()
            {
                entry.probing = Some(scheduled);
                return Some(entry.start(id, scheduled, false));
            }
        }
    }

    /// An extra probe of a target is to be made at once, or as soon as the extra one that is under way has ended, which began too
    /// early. The turns stay as they are.
    pub fn hurry(&mut self, backend: &BackendKey, now_ns: u64) {
        let Some(id) = self.ids.get(backend) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(id) {
            entry.hurried = true;
            self.hurried.push_back((now_ns, *id));
        }
    }

    /// A probe ended and has been reported: the target's next one is planned.
    pub fn ended(&mut self, id: TargetId, result: &ProbeResult, now_ns: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let evidence = entry.streak.weigh(result);
        if let Some(verdict) = entry.streak.add(&evidence, result.extra) {
            entry.streak.settle(verdict);
        }
        if entry.hurried {
            self.hurried.push_back((now_ns, id));
        }
        if result.extra {
            entry.extra = false;
            let waits = matches!(entry.target.check, Check::Exec(_)) && entry.due <= now_ns;
            if entry.probing.is_none() && waits {
                // A turn of a command has had to wait.
                entry.due = now_ns;
                self.queue.push(Reverse((entry.due, id)));
            }
            return;
        }
        let Some(scheduled) = entry.probing.take() else {
            return;
        };
        let interval = nanos(entry.target.interval);
        let jitter = nanos(entry.target.jitter);
        let fast = nanos(entry.target.fast_interval);
        let hurries = fast < interval && entry.streak.is_changing();
        let opening = entry.target.opening.max(1);
        let made = entry.made.saturating_add(1);
        entry.made = made.min(opening.saturating_add(1));
        let planned = match made.cmp(&opening) {
            Ordering::Less => scheduled.saturating_add(OPENING.min(interval)),
            _ if hurries => scheduled.saturating_add(fast),
            Ordering::Equal => self.spread(scheduled, interval),
            Ordering::Greater => {
                let shift = self.below(jitter.saturating_mul(2).saturating_add(1));
                let earliest = scheduled.saturating_add(interval).saturating_sub(jitter);
                earliest.saturating_add(shift)
            }
        };
        // A hurried probe that took its timeout is no missed round.
        let expected = match hurries {
            true => scheduled.saturating_add(interval),
            false => planned,
        };
        let missed = now_ns.saturating_sub(expected) > interval / 2;
        let due = match missed {
            true => self.spread(now_ns, interval),
            // A probe that took the whole interval is followed at once.
            false => planned.max(now_ns),
        };
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.due = due;
            self.queue.push(Reverse((due, id)));
        }
    }

    /// When the next probe is due; `None`: nothing is planned.
    pub fn next_due(&self) -> Option<u64> {
        let hurried = self.hurried.front().map(|(since, _)| *since);
        hurried.or_else(|| self.queue.peek().map(|Reverse((due, _))| *due))
    }

    /// Between half an interval and an interval after `base`.
    fn spread(&mut self, base: u64, interval: u64) -> u64 {
        let half = interval / 2;
        let shift = self.below(half.saturating_add(1));
        base.saturating_add(half).saturating_add(shift)
    }

    /// A number below `bound`, which is not 0. Xorshift64 (Marsaglia, 2003): spread, not secrecy.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
