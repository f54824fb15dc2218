//! For how long what is silent is known.

use std::time::Duration;

/// After how much silence a connection is as good as none for whoever opens one with its addresses and ports; `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpIdle {
    /// While all of its packets have come within one epoch (17 s).
    pub handshake: Option<Duration>,
    /// Later.
    pub established: Option<Duration>,
    /// After a FIN or RST.
    pub closing: Option<Duration>,
}

/// For how long a port of `fullnat` is kept without a packet of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatIdle {
    /// TCP whose client has sent nothing yet after an answer.
    pub handshake: Duration,
    /// TCP later.
    pub established: Duration,
    /// TCP that has ended.
    pub closing: Duration,
    /// UDP that has been answered and gone on.
    pub datagrams: Duration,
    /// UDP before.
    pub unanswered: Duration,
}

impl NatIdle {
    /// What holds without a word (`lb_common::nat::Idle::USUAL`, in whole seconds).
    pub const USUAL: Self = Self {
        handshake: Duration::from_secs(32),
        established: Duration::from_secs(7988),
        closing: Duration::from_secs(128),
        datagrams: Duration::from_secs(322),
        unanswered: Duration::from_secs(32),
    };
}
