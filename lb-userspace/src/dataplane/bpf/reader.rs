//! Counters and the flow table, read through shared memory without system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lb_common::counter::{
    BACKEND_LINE, DROP_LINE, DROP_LINES, GLOBAL_LINE, Global, MORE_LINE, PATH_LINE, PerBackend,
    REST_LINE, TURN, Totals, begun, handshake_line, lines_per_cpu, service_line,
};
use lb_common::flow::{IDLE_AFTER, WAYS};
use lb_common::{BackendEntry, CounterLine, Epoch, FlowRank, FlowWord, Nanos, Tunnel, timing};

use super::apply;
use super::geometry::Geometry;
use super::maps::Maps;
use crate::passive::Counts;
use crate::status::Counters;

/// Reads counters and flows. Cheap to clone; usable from any thread.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) maps: Arc<Maps>,
    owner_epoch: u64,
}

impl Reader {
    pub(crate) fn new(maps: Arc<Maps>, owner_epoch: u64) -> Self {
        Self { maps, owner_epoch }
    }

    /// No other daemon has taken the maps over.
    pub fn is_owner(&self) -> bool {
        super::apply::owner_epoch(&self.maps) == self.owner_epoch
    }

    /// Sizes of the live maps.
    pub fn geometry(&self) -> Geometry {
        self.maps.geometry
    }

    /// A line summed over all CPUs. Zero for a line that is not there.
    fn sum(&self, line: u32) -> CounterLine {
        let geometry = &self.maps.geometry;
        let per_cpu = lines_per_cpu(geometry.backends, geometry.services);
        let mut sum = CounterLine::default();
        for cpu in 0..geometry.cpus {
            let index = cpu.saturating_mul(per_cpu).saturating_add(line);
            let one: CounterLine = self.maps.counters.read(index).unwrap_or_default();
            for (total, value) in sum.iter_mut().zip(one) {
                *total = total.wrapping_add(value);
            }
        }
        sum
    }

    fn drop_lines(&self, first: u32) -> [u64; 32] {
        let mut drops = [0; 32];
        let lines = (0..DROP_LINES).map(|n| self.sum(first.saturating_add(n)));
        for (place, line) in drops.chunks_mut(8).zip(lines) {
            place.copy_from_slice(&line);
        }
        drops
    }

    /// What the conservation law is about.
    pub fn totals(&self) -> Totals {
        Totals {
            global: Global::counters(self.sum(GLOBAL_LINE)),
            drops: self.drop_lines(DROP_LINE),
        }
    }

    /// A backend's line, by `counter::PerBackend`.
    pub fn backend(&self, id: u32) -> CounterLine {
        if id >= self.maps.geometry.backends {
            return CounterLine::default();
        }
        let mut line = self.sum(BACKEND_LINE.saturating_add(id));
        // Not a counter.
        if let Some(counted) = line.get_mut(PerBackend::Counted as usize) {
            *counted = 0;
        }
        line
    }

    /// A backend's line of handshakes, by `counter::Handshake`.
    pub fn handshakes(&self, id: u32) -> CounterLine {
        let geometry = &self.maps.geometry;
        if id >= geometry.backends {
            return CounterLine::default();
        }
        let per_cpu = lines_per_cpu(geometry.backends, geometry.services);
        self.sum(handshake_line(per_cpu, id))
    }

    /// What became of the handshakes of many backends of services of TCP, in their order, over the CPUs that packets come to. Those that there is no line for are left out.
    pub fn all_handshakes(&self, ids: &[u32]) -> Vec<(u32, Counts)> {
        let cpus = self.busy_cpus();
        let geometry = self.geometry();
        let per_cpu = lines_per_cpu(geometry.backends, geometry.services);
        let of = |id: &u32| {
            let mut sum = Counts::default();
            for cpu in &cpus {
                // Those that began before their answers, or some would have none.
                let flows = self.line(*cpu, BACKEND_LINE.saturating_add(*id));
                let line = self.line(*cpu, handshake_line(per_cpu, *id));
                let [_, others @ ..] = line;
                let values = std::iter::once(begun(&flows, &line)).chain(others);
                for (total, value) in sum.iter_mut().zip(values) {
                    *total = total.wrapping_add(value);
                }
            }
            (*id, sum)
        };
        let here = ids.iter().filter(|id| **id < geometry.backends);
        here.map(of).collect()
    }

    /// How long backends took to answer SYNs, in nanoseconds, and how many answers that were, over the CPUs that packets come to.
    pub fn answer_times(&self, ids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, (u64, u64)> {
        let cpus = self.busy_cpus();
        let geometry = self.geometry();
        let per_cpu = lines_per_cpu(geometry.backends, geometry.services);
        let of = |id: u32| {
            let mut sum = (0_u64, 0_u64);
            for cpu in &cpus {
                let line = self.line(*cpu, handshake_line(per_cpu, id));
                let at = |position: u32| line.get(position as usize).copied().unwrap_or(0);
                sum.0 = sum.0.wrapping_add(at(timing::SUM));
                sum.1 = sum.1.wrapping_add(at(timing::COUNT));
            }
            (id, sum)
        };
        let here = ids.into_iter().filter(|id| *id < geometry.backends);
        here.map(of).collect()
    }

    /// A service's drops, by `DropReason`.
    pub fn service_drops(&self, service: u32) -> [u64; 32] {
        let geometry = &self.maps.geometry;
        if service >= geometry.services {
            return [0; 32];
        }
        let mut drops = self.drop_lines(service_line(geometry.backends, service));
        // Not a counter.
        if let Some(turn) = drops.get_mut(TURN as usize) {
            *turn = 0;
        }
        drops
    }

    /// What the data plane knows of the path to a backend that goes by a tunnel, at the time `now` of the kernel's clock: the largest packet
    /// that fits, outer header included, in bytes.
    pub fn path(&self, id: u32, now: Nanos) -> Option<u32> {
        let entry: BackendEntry = self.maps.backends.read(id)?;
        let known = entry.used == 1 && entry.tunnel.learned() != Tunnel::USUAL;
        let path = entry.tunnel.path(now);
        (known && path != 0).then_some(path)
    }

    /// The same of many, by BackendId.
    pub fn paths(&self, ids: &[u32], now: Nanos) -> BTreeMap<u32, u32> {
        let path = |id: &u32| Some((*id, self.path(*id, now)?));
        ids.iter().filter_map(path).collect()
    }

    /// All of these at once, at the time `now` of the kernel's clock: the lines of the backends and services that are named.
    pub fn counters(
        &self,
        now: Nanos,
        backends: impl IntoIterator<Item = u32>,
        services: impl IntoIterator<Item = u32>,
    ) -> Counters {
        let ids: Vec<u32> = backends.into_iter().collect();
        Counters {
            totals: self.totals(),
            more: self.sum(MORE_LINE),
            rest: self.sum(REST_LINE),
            path_errors: self.sum(PATH_LINE),
            paths: self.paths(&ids, now),
            backends: ids.iter().map(|id| (*id, self.backend(*id))).collect(),
            handshakes: ids.iter().map(|id| (*id, self.handshakes(*id))).collect(),
            service_drops: services
                .into_iter()
                .map(|index| (index, self.service_drops(index)))
                .collect(),
        }
    }

    /// Begins a walk through the flow table. Entries of the backends in `forget` are freed on the
    /// way, so that their ids can be used again; the caller has cleared those backends before.
    pub fn sweep(&self, forget: BTreeSet<u32>) -> Sweep {
        let backends = usize::try_from(self.maps.geometry.backends).unwrap_or(0);
        Sweep {
            maps: Arc::clone(&self.maps),
            owner_epoch: self.owner_epoch,
            next: 0,
            forget,
            live: vec![0; backends],
            closing: vec![0; backends],
            idle: vec![0; backends],
            freed: 0,
        }
    }
}

/// What a sweep has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Flows in use, by BackendId; ids without any are absent.
    pub live: BTreeMap<u32, u64>,
    /// Those of them that a FIN or RST has not closed, by BackendId; ids without any are absent.
    pub open: BTreeMap<u32, u64>,
    /// Entries that only still stand there, by BackendId; ids without any are absent.
    pub idle: BTreeMap<u32, u64>,
    /// Entries freed.
    pub freed: u64,
}

/// A walk through the flow table in slices, so that it never stalls its caller. It also writes down
/// which entries are idle before the wrapping clock could make them look young again, so a whole
/// walk must end within 137 seconds.
#[derive(Debug)]
pub struct Sweep {
    maps: Arc<Maps>,
    owner_epoch: u64,
    next: u32,
    forget: BTreeSet<u32>,
    live: Vec<u64>,
    closing: Vec<u64>,
    idle: Vec<u64>,
    freed: u64,
}

impl Sweep {
    /// Walks at most `sets` sets (64 bytes each) at the time `now` of the kernel's clock. `Some`
    /// at the end of the table.
    pub fn slice(&mut self, now: Epoch, sets: u32) -> Option<FlowCounts> {
        let end = self
            .next
            .saturating_add(sets)
            .min(self.maps.geometry.flow_sets);
        let maps = Arc::clone(&self.maps);
        // A daemon that was replaced still counts, but what it would free may be in use again.
        let owner = apply::owner_epoch(&maps) == self.owner_epoch;
        for set in self.next..end {
            for way in 0..WAYS {
                let Some(place) = maps.flows.word(set, way) else {
                    continue;
                };
                let word = FlowWord(place.load(Ordering::Relaxed));
                if let Some(new) = self.look(word, now)
                    && owner
                {
                    // If a packet was faster, its word is newer than ours.
                    let written = place
                        .compare_exchange(word.0, new.0, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok();
                    if written && new == FlowWord::FREE {
                        self.freed = self.freed.saturating_add(1);
                    }
                }
            }
        }
        self.next = end;
        (end == maps.geometry.flow_sets).then(|| self.counts())
    }

    /// Counts an entry; `Some`: it is to be replaced by this.
    fn look(&mut self, word: FlowWord, now: Epoch) -> Option<FlowWord> {
        if !word.is_live() {
            return None;
        }
        let id = word.backend_id();
        if self.forget.contains(&id) {
            return Some(FlowWord::FREE);
        }
        let add = |counts: &mut Vec<u64>| {
            if let Some(count) = counts.get_mut(usize::try_from(id).unwrap_or(usize::MAX)) {
                *count = count.saturating_add(1);
            }
        };
        match in_use(word, now) {
            true => add(&mut self.live),
            false => add(&mut self.idle),
        }
        if in_use(word, now) && word.rank().is_closing() {
            add(&mut self.closing);
        }
        word.settled(now)
    }

    fn counts(&self) -> FlowCounts {
        let present = |counts: &[u64]| {
            (0..)
                .zip(counts)
                .filter(|(_, count)| **count > 0)
                .map(|(id, count)| (id, *count))
                .collect()
        };
        let open = self.live.iter().zip(&self.closing);
        let open: Vec<u64> = open
            .map(|(live, closing)| live.saturating_sub(*closing))
            .collect();
        FlowCounts {
            live: present(&self.live),
            open: present(&open),
            idle: present(&self.idle),
            freed: self.freed,
        }
    }
}

/// Whether an entry is a flow that a drain waits for. One that was closed counts until the epoch of
/// its FIN or RST is over (17 s at most): by then, packets would have made it an open one again if
/// the flags were forged or only one side had ended. Others count while they are not idle.
const fn in_use(word: FlowWord, now: Epoch) -> bool {
    let age = word.age(now);
    let idle = matches!(word.rank(), FlowRank::Idle) || age > IDLE_AFTER;
    let closed = word.rank().is_closing() && age > 0;
    !idle && !closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_flows_count_for_an_epoch_and_silent_ones_until_they_are_idle() {
        for (rank, age, expected) in [
            (FlowRank::Proven, 0, true),
            (FlowRank::Proven, IDLE_AFTER, true),
            (FlowRank::Proven, IDLE_AFTER + 1, false),
            (FlowRank::Probation, 1, true),
            (FlowRank::Idle, 0, false),
            (FlowRank::ClosingProven, 0, true),
            (FlowRank::ClosingProven, 1, false),
            (FlowRank::ClosingProbation, 0, true),
            (FlowRank::Opening, 2, true),
        ] {
            let word = FlowWord::new(1, 1, rank, Epoch(3));
            let now = Epoch(3 + age);
            assert_eq!(in_use(word, now), expected, "{rank:?} at age {age}");
        }
    }
}
