//! When packets make a suspect of a backend.

use std::time::Duration;

/// What makes a suspect of a backend: see [`crate::passive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Fewer handshakes say nothing.
    pub least: u16,
    /// Hundredths of them that must be bad, 1 to 100.
    pub percent: u8,
    /// The time that is looked back on.
    pub window: Duration,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            least: 3,
            percent: 50,
            window: Duration::from_millis(500),
        }
    }
}
