//! Parts of weights by measured response times, for the scheduler `least-response-time`: [`Pace`] of each backend, and
//! [`compared`] and [`median`] for all of a service. Pure.
//!
//! A backend's time is a moving mean of how long its good checks took, and another one, where the data plane sees that, of how long it took
//! to answer clients' SYNs: the two added up (no answer yet: with the median of the others' answers). Who is slower than the median of its service is to
//! get less of its weight, who is faster more: by the square root of the proportion, since times follow the load; who takes more than four times
//! as long is not only loaded, and gets less than that. The parts move towards
//! that by small steps, on a grid of the clock. So of several balancers that see the same backends none chases the others: when
//! the load moved, and the times with it, each has gone a little of the way and looks again.

use crate::tiers::{MOST, WHOLE};

/// Each new time counts for one part in so many of the mean.
const MEMORY: u64 = 4;

/// Added to all times, so that what differs by fractions of a millisecond is alike.
const FLOOR: u64 = 1_000_000;

/// The least part.
const LEAST: u32 = WHOLE / 5;

/// The largest change of a part at a time: to more, ...
const STEP_UP: u32 = WHOLE / 40;
/// ... to less, ...
const STEP: u32 = WHOLE / 20;
/// ... and to less where the part is further from what is right than this. Who comes back slowly does not swing.
const FAR: u32 = WHOLE / 4;
const FAR_STEP: u32 = WHOLE / 10;

/// A difference below this moves nothing, nor one below a tenth of what is right.
const DEAD_BAND: u32 = WHOLE / 20;

/// How long a backend's checks take, and the part of its weight that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The mean of checks, nanoseconds; 0: nothing was measured yet.
    checks: u64,
    /// The same of answers to SYNs.
    answers: u64,
    /// The part of [`WHOLE`] of its weight that it gets.
    part: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            checks: 0,
            answers: 0,
            part: WHOLE,
        }
    }
}

impl Pace {
    /// A good check took this long, nanoseconds.
    pub fn took(&mut self, nanos: u64) {
        self.checks = mean(self.checks, nanos);
    }

    /// Answers to SYNs took this long, nanoseconds: the mean since the last call.
    pub fn answered(&mut self, nanos: u64) {
        self.answers = mean(self.answers, nanos);
    }

    /// What is known of checks and of answers, nanoseconds; 0: nothing.
    pub fn times(&self) -> (u64, u64) {
        (self.checks, self.answers)
    }

    /// Both means together, nanoseconds; `None`: nothing was measured yet.
    pub fn mean(&self) -> Option<u64> {
        let sum = self.checks.saturating_add(self.answers);
        (sum > 0).then_some(sum)
    }

    /// What it is compared by: as [`Self::mean`], with these answers in place of its own as long as it has none.
    fn compared(&self, answers: u64) -> Option<u64> {
        let missing = if self.answers == 0 { answers } else { 0 };
        Some(self.mean()?.saturating_add(missing))
    }

    /// The part of [`WHOLE`] of its weight that it gets: never 0.
    pub fn part(&self) -> u32 {
        self.part
    }

    /// Takes a step towards what is right for this time (see [`compared`]) where the median is that; true if the part changed.
    pub fn step(&mut self, time: Option<u64>, median: u64) -> bool {
        let wanted = match time {
            None => WHOLE,
            Some(mean) => wanted(mean, median),
        };
        let distance = self.part.abs_diff(wanted);
        if distance < DEAD_BAND.min(wanted / 10) {
            return false;
        }
        let down = if distance > FAR { FAR_STEP } else { STEP };
        let low = self.part.saturating_sub(down);
        self.part = wanted.clamp(low, self.part.saturating_add(STEP_UP));
        true
    }
}

/// The moving mean with one more time.
fn mean(mean: u64, nanos: u64) -> u64 {
    let nanos = nanos.max(1);
    match mean {
        0 => nanos,
        mean => {
            let old = mean.saturating_mul(MEMORY - 1);
            (old.saturating_add(nanos) / MEMORY).max(1)
        }
    }
}

/// The square root of the proportion, in parts of [`WHOLE`], within bounds; of less than a quarter twice the proportion, which is less than its
/// root.
fn wanted(mean: u64, median: u64) -> u32 {
    let (mean, median) = (mean.saturating_add(FLOOR), median.saturating_add(FLOOR));
    let whole = u128::from(WHOLE);
    let times = |factor: u128| {
        let product = u128::from(median).saturating_mul(factor);
        product.checked_div(mean.into()).unwrap_or(0)
    };
    let root = times(whole.saturating_mul(whole)).isqrt();
    let twice = times(whole.saturating_mul(2));
    u32::try_from(root.min(twice))
        .unwrap_or(MOST)
        .clamp(LEAST, MOST)
}

/// The times of backends by which they are compared with each other, nanoseconds; `None`: nothing was measured yet. Who has
/// answered no SYN gets the median of the others' answers, so that it is neither faster nor slower by that.
pub fn compared(paces: &[Pace]) -> Vec<Option<u64>> {
    let answers = paces.iter().map(|pace| pace.answers);
    let usual = median(answers.filter(|answers| *answers > 0)).unwrap_or(0);
    paces.iter().map(|pace| pace.compared(usual)).collect()
}

/// The median of what was measured; `None`: nothing was.
pub fn median(paces: impl Iterator<Item = u64>) -> Option<u64> {
    let mut means: Vec<u64> = paces.collect();
    means.sort_unstable();
    means.get(means.len() / 2).copied()
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
