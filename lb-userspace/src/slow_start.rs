//! How much of its weight a backend gets after its return: [`warmth`], a function of time. Pure.
//!
//! The share grows in [`STEPS`] steps, which lie on a grid of the clock that all backends with the same duration
//! share: however many return, and whenever each does, the ring of their service is filled anew at most so many
//! times in the duration, besides once for each return. A step is never early: at no time is a backend above the curve, or above
//! the least share if that is more.

use crate::model::{Curve, SlowStart};
use crate::tiers::WHOLE;

/// Steps from the least share to the whole.
pub const STEPS: u64 = 10;

/// What a backend gets at first, in parts of [`WHOLE`]: without any flows nobody gets warm.
pub const LEAST: u32 = WHOLE / 10;

/// The part of [`WHOLE`] of its weight that a backend gets at `now`, which may take flows again since `since`
/// (nanoseconds of one clock).
pub fn warmth(policy: SlowStart, since: u64, now: u64) -> u32 {
    let Some(step) = step(policy) else {
        return WHOLE;
    };
    let passed = now.checked_div(step).unwrap_or(0);
    let level = passed.saturating_sub(since.div_ceil(step));
    let Ok(level) = u32::try_from(level.min(STEPS)) else {
        return WHOLE;
    };
    let part = match policy.curve {
        Curve::Linear => level.saturating_mul(LEAST),
        Curve::Quadratic => level.saturating_mul(level).saturating_mul(LEAST / 10),
    };
    part.clamp(LEAST, WHOLE)
}

/// When [`warmth`] changes next at the earliest; `None`: it does not.
pub fn next_step(policy: SlowStart, since: u64, now: u64) -> Option<u64> {
    let step = step(policy)?;
    if warmth(policy, since, now) == WHOLE {
        return None;
    }
    let passed = now.checked_div(step)?;
    passed.checked_add(1)?.checked_mul(step)
}

/// The grid, in nanoseconds; `None`: no slow start.
fn step(policy: SlowStart) -> Option<u64> {
    let step = policy.duration.as_nanos().checked_div(STEPS.into())?;
    u64::try_from(step).ok().filter(|step| *step > 0)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn policy(seconds: u64, curve: Curve) -> SlowStart {
        SlowStart {
            duration: Duration::from_secs(seconds),
            curve,
        }
    }

    #[test]
    fn the_share_grows_to_the_whole_along_its_curve() {
        let at =
            |curve, second: u64| warmth(policy(20, curve), 100 * SECOND, (100 + second) * SECOND);
        let linear: Vec<u32> = (0..=20).step_by(2).map(|s| at(Curve::Linear, s)).collect();
        assert_eq!(
            linear,
            [100, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
        );
        let quadratic: Vec<u32> = (0..=20)
            .step_by(2)
            .map(|s| at(Curve::Quadratic, s))
            .collect();
        assert_eq!(
            quadratic,
            [100, 100, 100, 100, 160, 250, 360, 490, 640, 810, 1000]
        );
        assert_eq!(warmth(SlowStart::default(), 5, 5), WHOLE);
        assert_eq!(next_step(SlowStart::default(), 5, 5), None);
    }

    #[test]
    fn five_hundred_returns_are_at_most_ten_changes_more() {
        let policy = policy(30, Curve::Linear);
        let returns: Vec<u64> = (0..500).map(|n| 1000 * SECOND + n * 7_919_777).collect();
        let mut changes = BTreeSet::new();
        for since in &returns {
            let mut now = *since;
            while let Some(next) = next_step(policy, *since, now) {
                changes.insert(next);
                now = next;
            }
        }
        let last = returns.last().unwrap() - returns[0];
        assert!(
            changes.len() as u64 <= STEPS + 1 + last / (3 * SECOND) + 1,
            "{changes:?}"
        );
    }

    proptest! {
        #[test]
        fn it_grows_never_leaves_the_curve_and_ends_a_step_late_at_most(
            ms in 1_u64..100_000,
            since in 0..u64::MAX / 4,
            quadratic in any::<bool>(),
            times in proptest::collection::vec(0_u64..2000, 1..50),
        ) {
            let curve = if quadratic { Curve::Quadratic } else { Curve::Linear };
            let policy = SlowStart { duration: Duration::from_millis(ms), curve };
            let nanos = ms * 1_000_000;
            let mut times = times;
            times.sort_unstable();
            let mut before = 0;
            let mut seen = BTreeSet::new();
            for permille in times {
                let passed = nanos / 1000 * permille;
                let warm = warmth(policy, since, since + passed);
                let part = passed as f64 / nanos as f64;
                let curve = if quadratic { part * part } else { part };
                prop_assert!(f64::from(warm) <= (curve * 1000.0).max(f64::from(LEAST)) + 1e-6);
                prop_assert!(warm >= before);
                prop_assert!(passed < nanos / 10 * 11 || warm == WHOLE);
                before = warm;
                seen.insert(warm);
                match next_step(policy, since, since + passed) {
                    None => prop_assert_eq!(warm, WHOLE),
                    Some(next) => {
                        prop_assert!(next > since + passed);
                        prop_assert_eq!(warmth(policy, since, next - 1), warm);
                    }
                }
            }
            prop_assert!(seen.len() as u64 <= STEPS);
        }
    }
}
