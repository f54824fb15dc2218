//! The failover benchmark: how long a server that fails still gets new flows, over many failures of several kinds.
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

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::daemon::Health;
use crate::load::LATE;
use crate::topology::Forwarding;

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
    /// SIGSTOP, of one whose queue of connections is short: its kernel soon answers no SYN.
    QueueFull,
    /// What it says from the VIP is lost.
    RepliesLost,
}

impl Fault {
    /// Those that checks find at their turns.
    pub const OF_TURNS: [Self; 5] = [
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
            Self::QueueFull => "queue full",
            Self::RepliesLost => "replies lost",
        }
    }
}

/// What finds the fault, each with a goal of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checks {
    /// Probes alone.
    Active,
    /// Packets make a suspect of the server, and a probe that is made at once confirms that.
    Passive,
}

impl Checks {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active checks",
            Self::Passive => "passive checks",
        }
    }
}

/// How packets reach the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Answers pass the balancer: a missing one is a sign.
    Dnat,
    /// Answers pass it by: that clients do not go on after their SYN is the sign, and a second later that their SYNs come again.
    L2dsr,
}

impl Way {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dnat => "dnat",
            Self::L2dsr => "l2dsr",
        }
    }

    /// The same for the lab.
    pub const fn forwarding(self) -> Forwarding {
        match self {
            Self::Dnat => Forwarding::Dnat,
            Self::L2dsr => Forwarding::L2dsr,
        }
    }
}

/// How much is measured, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// What finds the faults.
    pub checks: Checks,
    /// How packets reach the servers.
    pub way: Way,
    /// Failures of each kind.
    pub kills: u32,
    /// Of each kind that passive checks leave to the turns of the checks, which take up to `fall` intervals each.
    pub kills_by_turns: u32,
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
    /// More would have to wait for those to the failed server, which end when their client's patience does.
    pub const MOST_PER_SECOND: u32 = 500;

    /// The faults that are made, in the order in which a round makes them.
    pub const fn faults(&self) -> &'static [Fault] {
        match (self.checks, self.way) {
            (Checks::Active, _) => &Fault::OF_TURNS,
            (Checks::Passive, Way::Dnat) => &[
                Fault::PowerCut,
                Fault::Killed,
                Fault::Firewall,
                Fault::QueueFull,
                Fault::Stopped,
                Fault::WrongAnswer,
            ],
            (Checks::Passive, Way::L2dsr) => &[
                Fault::PowerCut,
                Fault::Firewall,
                Fault::QueueFull,
                Fault::RepliesLost,
                Fault::Killed,
                Fault::Stopped,
                Fault::WrongAnswer,
            ],
        }
    }

    /// True of a fault for which there is a goal. Packets show no sign of a process that is stopped, nor of a wrong answer: passive
    /// checks leave such faults to the turns of the checks.
    pub const fn has_goal(checks: Checks, fault: Fault) -> bool {
        match checks {
            Checks::Active => true,
            Checks::Passive => !matches!(fault, Fault::Stopped | Fault::WrongAnswer),
        }
    }

    /// How many failures of a kind are made.
    pub const fn kills_of(&self, fault: Fault) -> u32 {
        match Self::has_goal(self.checks, fault) {
            true => self.kills,
            false => self.kills_by_turns,
        }
    }

    /// What the service is checked by.
    pub fn health(&self) -> Health {
        let health = Health {
            interval_ms: self.interval_ms,
            timeout_ms: self.timeout_ms,
            fall: self.fall,
            jitter_ms: 0,
            ..Health::LAB
        };
        match self.checks {
            Checks::Active => Health {
                extra: "passive = false",
                ..health
            },
            Checks::Passive => Health {
                rise: 1,
                extra: "passive = true",
                ..health
            },
        }
    }

    /// The longest failover time that is as it should be: what the checks need at worst, and 50 ms for the verdict,
    /// the word in the kernel's map and the way of the last SYN; with passive ones a second.
    pub fn goal(&self) -> Duration {
        match self.checks {
            Checks::Active => Duration::from_millis(self.health().bound_ms() + 50),
            Checks::Passive => Duration::from_secs(1),
        }
    }

    /// How the goal is made up.
    pub const fn goal_in_words(&self) -> &'static str {
        match self.checks {
            Checks::Active => "fall x interval + timeout + 50 ms",
            Checks::Passive => "a second",
        }
    }

    /// How long clients wait: with passive checks until their SYNs have come again, which is a sign, too.
    pub const fn patience(&self) -> Duration {
        match self.checks {
            Checks::Active => LATE,
            Checks::Passive => Duration::from_secs(5),
        }
    }
}
