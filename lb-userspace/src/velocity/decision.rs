//! What the gate is told of a pool, and what it says: pure data of [`super::Velocity`].

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::nanos;
use crate::model::{BackendKey, Health};

/// How much may be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Percent of a pool's enabled backends.
    pub percent: u8,
    /// Nanoseconds.
    pub window_ns: u64,
}

impl Limit {
    /// As configured.
    pub fn new(percent: u8, window: Duration) -> Self {
        Self {
            percent,
            window_ns: nanos(window),
        }
    }

    /// How many of `size` backends may leave within a window.
    pub fn allowance(&self, size: usize) -> usize {
        let share = size.saturating_mul(self.percent.into()) / 100;
        share.max(1)
    }
}

/// A backend as the pool sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it is probed; targets at one address count as one witness.
    pub address: IpAddr,
    /// It may take new flows as far as people are concerned. What is draining or disabled is no
    /// capacity: it is neither counted nor held.
    pub enabled: bool,
    /// It is probed. What is not, is up, and no witness.
    pub probed: bool,
    /// It serves although nothing is known of its health yet.
    #[serde(default)]
    pub trusted: bool,
}

/// Why a change to down does not take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Hold {
    /// The pool has lost its share within the window. Another may go at `until`, or sooner if one
    /// comes back.
    Velocity {
        /// Nanoseconds since boot.
        until: u64,
    },
    /// No probe at all succeeds: perhaps the checker's fault. Believed at `until`.
    CheckerSuspect {
        /// Nanoseconds since boot.
        until: u64,
    },
    /// The checker was suspect and works again; the backend's next probe decides.
    Recheck,
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Velocity { .. } => "velocity: the pool lost its share within the window",
            Self::CheckerSuspect { .. } => "checker-suspect: no probe of any target succeeds",
            Self::Recheck => "checker-suspect: over, the next probe decides",
        })
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The health that counts changed.
    Apply {
        /// Of this backend.
        backend: BackendKey,
        /// Before.
        from: Health,
        /// After.
        to: Health,
    },
    /// A change to down is held, or is held for another reason than before.
    Hold {
        /// Of this backend.
        backend: BackendKey,
        /// Why.
        why: Hold,
    },
    /// The probes withdrew what was held.
    Release {
        /// Of this backend.
        backend: BackendKey,
    },
    /// Suspicion begins.
    Suspect {
        /// Targets that fail.
        failing: usize,
        /// Targets that are probed.
        probed: usize,
    },
    /// Suspicion ends: a probe succeeded.
    Trust,
}
