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

/// The flows that backends have got since ever, at one moment: by BackendId, new ones and those moved in, of each CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got(BTreeMap<u32, Vec<u64>>);

impl Got {
    /// Half-way from this to a later moment: what a walk that takes so long has counted, half of what came meanwhile.
    #[must_use]
    pub fn half_way(&self, later: &Self) -> Self {
        let between = |(id, line): (&u32, &Vec<u64>)| {
            let then = self.0.get(id)?;
            let half = |(a, b): (&u64, &u64)| a.saturating_add(b.saturating_sub(*a) / 2);
            Some((*id, then.iter().zip(line).map(half).collect()))
        };
        Self(later.0.iter().filter_map(between).collect())
    }

    /// What came on each CPU from this to a later moment.
    pub fn until(&self, later: &Self) -> Vec<u64> {
        let mut all = Vec::new();
        for (id, line) in &later.0 {
            let Some(then) = self.0.get(id) else {
                continue;
            };
            all.resize(line.len().max(all.len()), 0_u64);
            for (sum, (a, b)) in all.iter_mut().zip(then.iter().zip(line)) {
                *sum = sum.saturating_add(b.saturating_sub(*a));
            }
        }
        all
    }
}

impl Reader {
    fn line_of(&self, cpu: u32, line: u32) -> u32 {
        let geometry = self.geometry();
        let per_cpu = lines_per_cpu(geometry.backends, geometry.services);
        cpu.saturating_mul(per_cpu).saturating_add(line)
    }

    fn line(&self, cpu: u32, line: u32) -> CounterLine {
        let line = self.maps.counters.read(self.line_of(cpu, line));
        line.unwrap_or_default()
    }

    /// What these backends have got until now.
    pub fn got(&self, ids: impl IntoIterator<Item = u32>) -> Got {
        // Most machines have more CPUs than packets come to.
        let busy: Vec<bool> = (0..self.geometry().cpus)
            .map(|cpu| {
                let [rx, ..] = self.line(cpu, GLOBAL_LINE);
                const { assert!(Global::Rx as u8 == 0) };
                rx != 0
            })
            .collect();
        let of = |id: u32| {
            let line = |(cpu, busy): (u32, &bool)| match busy {
                false => 0,
                true => {
                    let line = self.line(cpu, BACKEND_LINE.saturating_add(id));
                    let word = |which| line.get(which as usize).copied().unwrap_or(0);
                    word(PerBackend::NewFlows as u8).wrapping_add(word(PerBackend::MovedIn as u8))
                }
            };
            ((0..).zip(&busy)).map(line).collect()
        };
        let here = ids.into_iter().filter(|id| *id < self.geometry().backends);
        Got(here.map(|id| (id, of(id))).collect())
    }
}

impl Bpf {
    /// Writes what backends bear, as counted when they had got `got`. One of which that is not known is left alone.
    pub fn write_loads(
        &self,
        loads: &BTreeMap<u32, Load>,
        got: &Got,
        flow_cpus: u32,
    ) -> Result<(), DataplaneError> {
        self.check_owner()?;
        let reader = self.reader();
        let maps = &self.maps;
        for (id, load) in loads {
            let Some(counted) = got.0.get(id) else {
                continue;
            };
            let line = BACKEND_LINE.saturating_add(*id);
            for (cpu, counted) in (0..).zip(counted) {
                let place = maps
                    .counters
                    .word(reader.line_of(cpu, line), PerBackend::Counted as usize);
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
        super::apply::write_flow_cpus(maps, flow_cpus)
    }

    /// Of all other backends it is not known any more: nobody counts their flows.
    pub fn forget_loads(&self, but: &BTreeMap<u32, Load>) -> Result<(), DataplaneError> {
        self.check_owner()?;
        for id in 0..self.maps.backends.entries() {
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

    fn got(lines: &[(u32, [u64; 2])]) -> Got {
        Got(lines
            .iter()
            .map(|(id, line)| (*id, line.to_vec()))
            .collect())
    }

    #[test]
    fn a_walk_has_seen_half_of_what_came_meanwhile() {
        let before = got(&[(1, [10, 0]), (2, [7, 7])]);
        let after = got(&[(1, [20, 1]), (2, [7, 9]), (3, [5, 5])]);
        let half = before.half_way(&after);
        assert_eq!(half, got(&[(1, [15, 0]), (2, [7, 8])]));
        assert_eq!(before.until(&after), [10, 3]);
        assert_eq!(Got::default().until(&after), [0_u64; 0]);
    }
}
