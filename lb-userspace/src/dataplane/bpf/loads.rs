//! What packets of services with [`lb_common::Pick::Least`] look at: written by whoever counts flows, as no plan knows it.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use lb_common::counter::{BACKEND_LINE, GLOBAL_LINE, Global, PerBackend, lines_per_cpu};
use lb_common::{BackendEntry, CounterLine, Load};

use super::{Bpf, Reader};
use crate::dataplane::DataplaneError;

/// The word of a backend's line.
const LOAD: usize = offset_of!(BackendEntry, load) / 8;

/// The flows that backends have got since ever, at one moment: new ones and those moved in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// The CPUs that ever had a packet, in order; others have nothing.
    cpus: Vec<u32>,
    /// By BackendId, of each of these.
    lines: BTreeMap<u32, Vec<u64>>,
}

impl Got {
    /// Half-way from this to a later moment: what a walk that takes so long has counted, half of what came meanwhile.
    #[must_use]
    pub fn half_way(&self, later: &Self) -> Self {
        let places = self.places_of(later);
        let between = |(id, line): (&u32, &Vec<u64>)| {
            let then = self.lines.get(id)?;
            let half = |(place, b): (&Option<usize>, &u64)| {
                let a = at(then, *place);
                a.saturating_add(b.saturating_sub(a) / 2)
            };
            Some((*id, places.iter().zip(line).map(half).collect()))
        };
        Self {
            cpus: later.cpus.clone(),
            lines: later.lines.iter().filter_map(between).collect(),
        }
    }

    /// Where this has the CPUs of another.
    fn places_of(&self, other: &Self) -> Vec<Option<usize>> {
        let place = |cpu| self.cpus.binary_search(cpu).ok();
        other.cpus.iter().map(place).collect()
    }

    /// What came from this to a later moment, by CPU.
    pub fn until(&self, later: &Self) -> Vec<u64> {
        let places = self.places_of(later);
        let mut sums = vec![0_u64; places.len()];
        for (id, line) in &later.lines {
            let Some(then) = self.lines.get(id) else {
                continue;
            };
            for ((sum, place), b) in sums.iter_mut().zip(&places).zip(line) {
                *sum = sum.saturating_add(b.saturating_sub(at(then, *place)));
            }
        }
        let mut all = Vec::new();
        for (cpu, sum) in later.cpus.iter().zip(sums) {
            all.resize(usize::try_from(*cpu).unwrap_or(0), 0);
            all.push(sum);
        }
        all
    }
}

/// What a line has of a CPU; 0 of one that had no packet then.
fn at(line: &[u64], place: Option<usize>) -> u64 {
    let found = place.and_then(|place| line.get(place));
    found.copied().unwrap_or(0)
}

impl Reader {
    fn line_of(&self, cpu: u32, line: u32) -> u32 {
        let geometry = self.geometry();
        let per_cpu = lines_per_cpu(geometry.backends, geometry.services);
        cpu.saturating_mul(per_cpu).saturating_add(line)
    }

    pub(super) fn line(&self, cpu: u32, line: u32) -> CounterLine {
        let line = self.maps.counters.read(self.line_of(cpu, line));
        line.unwrap_or_default()
    }

    /// The CPUs that ever had a packet: most machines have more.
    pub(super) fn busy_cpus(&self) -> Vec<u32> {
        let busy = |cpu: &u32| {
            let [rx, ..] = self.line(*cpu, GLOBAL_LINE);
            const { assert!(Global::Rx as u8 == 0) };
            rx != 0
        };
        (0..self.geometry().cpus).filter(busy).collect()
    }

    /// What these backends have got until now.
    pub fn got(&self, ids: impl IntoIterator<Item = u32>) -> Got {
        let cpus = self.busy_cpus();
        let of = |id: u32| {
            let line = |cpu: &u32| {
                let line = self.line(*cpu, BACKEND_LINE.saturating_add(id));
                let word = |which| line.get(which as usize).copied().unwrap_or(0);
                word(PerBackend::NewFlows as u8).wrapping_add(word(PerBackend::MovedIn as u8))
            };
            cpus.iter().map(line).collect()
        };
        let here = ids.into_iter().filter(|id| *id < self.geometry().backends);
        let lines = here.map(|id| (id, of(id))).collect();
        Got { cpus, lines }
    }
}

impl Bpf {
    /// Writes what backends bear, as counted when they had got `got`, and over how many CPUs new flows spread, if that is known. Of a
    /// backend of which it is not known what it had got nothing is known any more: what was told of it may be of another weight.
    pub fn write_loads(
        &self,
        loads: &BTreeMap<u32, Load>,
        got: &Got,
        flow_cpus: Option<u32>,
    ) -> Result<(), DataplaneError> {
        let reader = self.reader();
        let maps = &self.maps;
        for (id, load) in loads {
            self.check_owner()?;
            let (load, counted) = match got.lines.get(id) {
                Some(counted) => (*load, counted.as_slice()),
                None => (Load::UNKNOWN, [].as_slice()),
            };
            let line = BACKEND_LINE.saturating_add(*id);
            for (cpu, counted) in got.cpus.iter().zip(counted) {
                let place = maps
                    .counters
                    .word(reader.line_of(*cpu, line), PerBackend::Counted as usize);
                if let Some(place) = place
                    && place.load(Ordering::Relaxed) != *counted
                {
                    place.store(*counted, Ordering::Relaxed);
                }
            }
            if let Some(place) = maps.backends.word(*id, LOAD)
                && place.load(Ordering::Relaxed) != load.0
            {
                place.store(load.0, Ordering::Release);
            }
        }
        self.check_owner()?;
        flow_cpus.map_or(Ok(()), |cpus| super::apply::write_flow_cpus(maps, cpus))
    }

    /// Of all other backends it is not known any more: nobody counts their flows.
    pub fn forget_loads(&self, but: &BTreeMap<u32, Load>) -> Result<(), DataplaneError> {
        for id in 0..self.maps.backends.entries() {
            self.check_owner()?;
            if let Some(place) = self.maps.backends.word(id, LOAD)
                && !but.contains_key(&id)
                && place.load(Ordering::Relaxed) != Load::UNKNOWN.0
            {
                place.store(Load::UNKNOWN.0, Ordering::Release);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got<const N: usize>(cpus: [u32; N], lines: &[(u32, [u64; N])]) -> Got {
        let lines = lines.iter().map(|(id, line)| (*id, line.to_vec()));
        Got {
            cpus: cpus.to_vec(),
            lines: lines.collect(),
        }
    }

    #[test]
    fn a_walk_has_seen_half_of_what_came_meanwhile() {
        let before = got([0, 1], &[(1, [10, 0]), (2, [7, 7])]);
        let after = got([0, 1], &[(1, [20, 1]), (2, [7, 9]), (3, [5, 5])]);
        let half = before.half_way(&after);
        assert_eq!(half, got([0, 1], &[(1, [15, 0]), (2, [7, 8])]));
        assert_eq!(before.until(&after), [10, 3]);
        assert_eq!(Got::default().until(&after), [0, 0]);
    }

    #[test]
    fn a_cpu_that_gets_its_first_packet_had_nothing_before() {
        let before = got([1, 4], &[(1, [10, 5]), (2, [7, 7])]);
        let after = got([1, 3, 4], &[(1, [20, 6, 5]), (2, [7, 0, 9])]);
        let half = before.half_way(&after);
        assert_eq!(half, got([1, 3, 4], &[(1, [15, 3, 5]), (2, [7, 0, 8])]));
        assert_eq!(before.until(&after), [0, 10, 0, 6, 2]);
        assert_eq!(before.until(&before), [0_u64; 5]);
    }
}
