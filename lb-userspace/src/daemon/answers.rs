//! Reads how long backends took to answer SYNs, for the scheduler `least-response-time`. The owner reads, and rests for at least nineteen
//! times as long as a look took.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::owner::Owner;
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::{BackendKey, Config};

/// Between two looks, nanoseconds.
const EVERY: u64 = 1_000_000_000;

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Answers {
    due: u64,
    /// Of this configuration.
    of: Option<Arc<Config>>,
    /// Whose answers are measured, by BackendId.
    names: BTreeMap<u32, BackendKey>,
    /// Nanoseconds of all answers, and how many they were, by BackendId.
    last: BTreeMap<u32, (u64, u64)>,
}

impl Answers {
    /// The mean time of each backend's answers since the last look; of those that had some, and were looked at before.
    fn read(&mut self, now: BTreeMap<u32, (u64, u64)>) -> BTreeMap<u32, u64> {
        let since = |(id, (sum, count)): (&u32, &(u64, u64))| {
            let (old_sum, old_count) = self.last.get(id)?;
            let sum = sum.wrapping_sub(*old_sum);
            let mean = sum.checked_div(count.wrapping_sub(*old_count))?;
            Some((*id, mean))
        };
        let means = now.iter().filter_map(since).collect();
        self.last = now;
        means
    }
}

/// When the next look is due.
fn next(began: u64, ended: u64) -> u64 {
    let rest = ended.saturating_sub(began).saturating_mul(19);
    began.saturating_add(EVERY).max(ended.saturating_add(rest))
}

impl Owner<'_> {
    /// What the data plane has measured since the last look, if it is time for one.
    pub(super) fn time_answers(&mut self, now: u64) -> Option<Event> {
        if now < self.answers.due {
            return None;
        }
        let began = now_ns();
        let config = self.config();
        let answers = &mut self.answers;
        let known = answers.of.as_ref();
        if !known.is_some_and(|of| Arc::ptr_eq(of, &config)) {
            answers.names = self.parts.reconciler.state().timed();
            answers.of = Some(config);
        }
        let read = self.reader.answer_times(answers.names.keys().copied());
        let means = answers.read(read).into_iter();
        let means = means.filter_map(|(id, mean)| Some((answers.names.get(&id)?.clone(), mean)));
        let means: BTreeMap<BackendKey, u64> = means.collect();
        answers.due = next(began, now_ns());
        (!means.is_empty()).then_some(Event::Answered { means })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_took_long_is_followed_by_a_longer_rest() {
        assert_eq!(next(7, 8), 7 + EVERY);
        assert_eq!(next(7, 7 + EVERY / 20), 7 + EVERY);
        assert_eq!(next(7, 7 + EVERY), 7 + 20 * EVERY);
    }

    #[test]
    fn a_mean_is_of_what_was_answered_since_the_last_look() {
        let mut answers = Answers::default();
        let read = |all: &[(u32, u64, u64)]| all.iter().map(|(id, a, b)| (*id, (*a, *b))).collect();
        // Of what an earlier daemon has seen nobody knows when it was.
        assert!(answers.read(read(&[(1, 900, 9), (2, 0, 0)])).is_empty());
        let means = answers.read(read(&[(1, 1000, 11), (2, 0, 0), (3, 70, 7)]));
        assert_eq!(means, BTreeMap::from([(1, 50)]));
        let means = answers.read(read(&[(1, 1000, 11), (2, 30, 1), (3, 78, 9)]));
        assert_eq!(means, BTreeMap::from([(2, 30), (3, 4)]));
        // One that was away is looked at anew.
        assert!(answers.read(read(&[(1, 1000, 11)])).is_empty());
        assert!(answers.read(read(&[(1, 1000, 11), (2, 90, 2)])).is_empty());
    }
}
