//! The signals that the daemon answers. They are taken over before anything else is done: one that
//! comes while it starts is kept until the start is over, rather than kill it half way.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Streams of signals.
#[derive(Debug)]
pub(super) struct Signals {
    /// Apply the configuration file.
    pub(super) hangup: Signal,
    /// Stop.
    pub(super) terminate: Signal,
    /// Stop.
    pub(super) interrupt: Signal,
}

impl Signals {
    /// Takes them over.
    pub(super) fn take() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}
