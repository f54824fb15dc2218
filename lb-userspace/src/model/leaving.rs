//! What becomes of the flows of a backend that leaves.

use serde::{Deserialize, Serialize};

/// After a drain's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainPolicy {
    /// Flows stay as long as they like.
    Keep,
    /// What is left is scheduled to other backends.
    Migrate,
    /// TCP's clients are told by a reset, and connect anew; all else is scheduled to other backends.
    Reset,
}

/// When a backend goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// Its flows stay (they may outlive a short outage).
    Keep,
    /// Its flows are scheduled to other backends with their next packet.
    Migrate,
    /// TCP's clients get a reset for their next segment, and connect anew; all else is scheduled to other backends.
    Reset,
}
