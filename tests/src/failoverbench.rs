//! The failover benchmark: how long a server that fails still gets new flows, over many failures of five kinds.
//!
//! This file says what is measured; `failoverbench/` measures it, with the real program and real connections in a
//! network of namespaces.
//!
//! The **failover time** is from the moment before the fault is made to the arrival, at the switch port that faces the
//! balancer, of the last SYN of a client that the balancer sent to the failed server. No new flow is lost from then on.
//! It is counted outside the balancer, and as finely as new flows come to a server.

pub mod bed;
pub mod histogram;
pub mod results;
pub mod run;
pub mod table;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::daemon::Health;

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Its switch port goes down: nothing comes back, and nobody is told.
    PowerCut,
    /// SIGKILL: its kernel refuses connections.
    Killed,
    /// SIGSTOP: its kernel accepts connections, which nobody answers.
    Stopped,
    /// Its own firewall drops what comes to its port.
    Firewall,
    /// It answers its health check with 503, and everything else as before.
    WrongAnswer,
}

impl Fault {
    /// All, in the order in which a round makes them.
    pub const ALL: [Self; 5] = [
        Self::PowerCut,
        Self::Killed,
        Self::Stopped,
        Self::Firewall,
        Self::WrongAnswer,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power cut",
            Self::Killed => "process killed",
            Self::Stopped => "process stopped",
            Self::Firewall => "firewall drops",
            Self::WrongAnswer => "wrong answer",
        }
    }
}

/// What finds the fault: a column of the results, each with a goal of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checks {
    /// Probes alone.
    Active,
    /// Packets make a suspect of the server, and a probe confirms that; else it is probed every ten seconds.
    Passive,
}

impl Checks {
    /// All, in the order in which they are measured and shown.
    pub const ALL: [Self; 2] = [Self::Active, Self::Passive];

    /// The faults that it finds in time: of the others packets show no sign.
    pub const fn faults(self) -> &'static [Fault] {
        match self {
            Self::Active => &Fault::ALL,
            Self::Passive => &[Fault::PowerCut, Fault::Killed, Fault::Firewall],
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active checks",
            Self::Passive => "with passive checks, interval 10 s",
        }
    }

    /// What the service is checked by.
    pub fn health(self, effort: &Effort) -> Health {
        match self {
            Self::Active => Health {
                interval_ms: effort.interval_ms,
                timeout_ms: effort.timeout_ms,
                fall: effort.fall,
                jitter_ms: 0,
                ..Health::LAB
            },
            Self::Passive => Health {
                interval_ms: 10_000,
                timeout_ms: 500,
                rise: 1,
                fall: effort.fall,
                jitter_ms: 0,
                extra: "passive = true",
                ..Health::LAB
            },
        }
    }

    /// The longest failover time that is as it should be: what the checks need at worst, and 50 ms for the verdict,
    /// the word in the kernel's map and the way of the last SYN.
    pub fn goal(self, effort: &Effort) -> Duration {
        match self {
            Self::Active => Duration::from_millis(self.health(effort).bound_ms() + 50),
            Self::Passive => Duration::from_secs(1),
        }
    }

    /// How the goal is made up.
    pub const fn goal_in_words(self) -> &'static str {
        match self {
            Self::Active => "fall x interval + timeout + 50 ms",
            Self::Passive => "a second",
        }
    }
}

/// How much is measured, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Failures of each kind.
    pub kills: u32,
    /// Between two probes, in milliseconds.
    pub interval_ms: u64,
    /// Of a probe, in milliseconds.
    pub timeout_ms: u64,
    /// Bad probes in a row until a server is down.
    pub fall: u32,
    /// New connections per second, over all servers; at most [`Effort::MOST_PER_SECOND`].
    pub per_second: u32,
}

impl Effort {
    /// More would have to wait for those to the failed server, which end after [`crate::load::LATE`].
    pub const MOST_PER_SECOND: u32 = 500;
}
