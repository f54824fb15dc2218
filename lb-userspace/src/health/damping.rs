//! A target that goes up and down is kept down for longer: [`Damper`]. Pure.
//!
//! Each change between up and down is remembered for the window. A fall that makes them too many, and every one
//! after it, raises the level; the target is then up again only after it was good without a bad round for the hold,
//! which doubles with each level up to its bound. A target that stayed up for a whole window is forgiven.
//! Falls are never delayed. The idea is BGP's (RFC 2439), with time good in place of a decaying penalty: it is plain
//! from the outside when the target will be back.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::nanos;
use crate::model::{Damping, Health};

/// What is remembered of a target's changes. Times in nanoseconds since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Damper {
    /// Changes within the window, at most as many as are too many.
    changes: VecDeque<u64>,
    /// Falls since they were too many.
    level: u32,
    /// Since when it is up.
    up_since: Option<u64>,
    /// Since when every round was good.
    good_since: Option<u64>,
}

impl Damper {
    /// A round was good. True: it may be up.
    pub(super) fn good(&mut self, policy: &Damping, now: u64) -> bool {
        let since = *self.good_since.get_or_insert(now);
        now.saturating_sub(since) >= self.hold(policy)
    }

    /// A round was bad.
    pub(super) fn bad(&mut self) {
        self.good_since = None;
    }

    /// The verdict changed.
    pub(super) fn changed(&mut self, policy: &Damping, from: Health, to: Health, now: u64) {
        let window = nanos(policy.window);
        let fell = to == Health::Down;
        let up_since = match fell {
            true => self.up_since.take(),
            false => self.up_since.replace(now),
        };
        if from == Health::Unknown {
            return;
        }
        if fell && up_since.is_none_or(|since| now.saturating_sub(since) >= window) {
            self.level = 0;
            self.changes.clear();
        }
        self.changes.push_back(now);
        let most = usize::from(policy.changes.max(1));
        let old = |at: u64| now.saturating_sub(at) >= window;
        while self.changes.len() > most || self.changes.front().copied().is_some_and(old) {
            self.changes.pop_front();
        }
        if fell && policy.changes > 0 && (self.level > 0 || self.changes.len() >= most) {
            self.level = self.level.saturating_add(1);
        }
    }

    /// For how long it must be good, nanoseconds; 0: it is not damped.
    fn hold(&self, policy: &Damping) -> u64 {
        if policy.changes == 0 {
            return 0;
        }
        let Some(doublings) = self.level.checked_sub(1) else {
            return 0;
        };
        let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
        nanos(policy.hold)
            .saturating_mul(factor)
            .min(nanos(policy.hold_max))
    }

    /// For how long it must still be good, nanoseconds; 0: it is not damped.
    pub(super) fn left(&self, policy: &Damping, now: u64) -> u64 {
        let good = self.good_since.map_or(0, |since| now.saturating_sub(since));
        self.hold(policy).saturating_sub(good)
    }

    /// Why it is kept down and for how long, for people; `None`: it is not.
    pub(super) fn words(&self, policy: &Damping, now: u64) -> Option<String> {
        let hold = self.hold(policy);
        if hold == 0 {
            return None;
        }
        let seconds =
            |ns: u64| humantime::format_duration(Duration::from_secs(ns.div_ceil(SECOND)));
        Some(format!(
            "damped: it changed {} times within {}; it must stay good for {}, {} are left",
            policy.changes,
            humantime::format_duration(policy.window),
            seconds(hold),
            seconds(self.left(policy, now))
        ))
    }
}

const SECOND: u64 = 1_000_000_000;
