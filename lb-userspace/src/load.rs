//! What the scheduler `least-connections` knows of flows: how many each backend has, for its weight, and over how many CPUs new
//! ones spread. Pure.

use std::collections::BTreeMap;

use lb_common::Load;

/// What a CPU had of new flows counts for this part less after each count.
const MEMORY: u64 = 8;

/// New flows are noted in this many parts, so that few of them are not forgotten at once.
const PARTS: u64 = 1024;

/// The words for these backends: weights by BackendId, none of them 0, and their flows.
pub fn loads(weights: &BTreeMap<u32, u32>, flows: &BTreeMap<u32, u64>) -> BTreeMap<u32, Load> {
    let load = |(&id, &weight): (&u32, &u32)| {
        let flows = flows.get(&id).copied().unwrap_or(0);
        let flows = u32::try_from(flows).unwrap_or(u32::MAX);
        (id, Load::new(flows, weight))
    };
    weights.iter().map(load).collect()
}

/// Which CPUs the new flows of late were handled on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCpus {
    /// By CPU, in parts of a flow.
    recent: Vec<u64>,
}

impl FlowCpus {
    /// So many more on each CPU.
    pub fn note(&mut self, new: &[u64]) {
        if new.iter().all(|count| *count == 0) {
            return;
        }
        self.recent.resize(new.len().max(self.recent.len()), 0);
        for (recent, new) in self.recent.iter_mut().zip(new) {
            let kept = recent.saturating_sub(recent.div_ceil(MEMORY));
            // More than this in a moment is no different from this many.
            let new = u64::from(u32::try_from(*new).unwrap_or(u32::MAX));
            *recent = kept.saturating_add(new.saturating_mul(PARTS));
        }
    }

    /// How many CPUs that is as if each had as many: the square of the sum by the sum of the squares; at most as
    /// many as were noted. `None`: nothing was noted yet.
    pub fn effective(&self) -> Option<u32> {
        let all: u128 = self.recent.iter().copied().map(u128::from).sum();
        let squares = self
            .recent
            .iter()
            .map(|&count| u128::from(count).saturating_mul(u128::from(count)))
            .fold(0, u128::saturating_add);
        let half = squares / 2;
        let number = all
            .saturating_mul(all)
            .saturating_add(half)
            .checked_div(squares);
        number.map(|n| u32::try_from(n).unwrap_or(u32::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_the_flows_of_a_backend_for_its_weight() {
        let weights = BTreeMap::from([(1, 1000), (2, 3000), (5, 1000)]);
        let flows = BTreeMap::from([(1, 10), (2, 30), (3, 9), (5, u64::MAX)]);
        let loads = loads(&weights, &flows);
        assert_eq!(loads.keys().copied().collect::<Vec<_>>(), [1, 2, 5]);
        // Three times as much weight bears three times as many flows, up to one flow of each.
        let bears = |id: u32, since| loads[&id].with(since);
        assert!(bears(1, 0) > bears(2, 0) && bears(1, 0) < bears(2, 3));
        // Too many to be told.
        assert_eq!((bears(5, 0), loads[&5].0 as u32), (0, u32::MAX));
    }

    #[test]
    fn cpus_count_by_what_they_do() {
        let check = |new: &[u64], expected| {
            let mut cpus = FlowCpus::default();
            cpus.note(new);
            assert_eq!(cpus.effective(), expected, "{new:?}");
        };
        // An earlier daemon knew more.
        check(&[], None);
        check(&[0, 0], None);
        check(&[7], Some(1));
        check(&[0, 5, 0, 0], Some(1));
        check(&[5, 5, 5, 5], Some(4));
        check(&[90, 10], Some(1));
        check(&[50, 30, 20], Some(3));
        check(&[u64::MAX; 64], Some(64));
    }

    #[test]
    fn cpus_that_do_nothing_any_more_are_forgotten_and_a_pause_forgets_nobody() {
        let mut cpus = FlowCpus::default();
        cpus.note(&[1000, 1000]);
        for _ in 0..1000 {
            cpus.note(&[0, 0]);
        }
        assert_eq!(cpus.effective(), Some(2));
        for n in 0..100 {
            cpus.note(&[1000, 0]);
            assert!(cpus.effective() == Some(1) || n < 30, "after {n}");
        }
        assert_eq!(cpus.recent[1], 0);
    }
}
