//! What a run measured, in numbers: what `--json` prints, and what the table is made from.

use serde::{Deserialize, Serialize};

use super::{Checks, Effort, Fault, Way};
use crate::bench::machine::Machine;

/// One failure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// The failover time, in milliseconds.
    pub failover_ms: f64,
    /// New flows that went to the failed server in that time.
    pub flows: u64,
    /// Connections that failed although they were begun after that time.
    pub failed_later: u64,
    /// The longest that a thread of this machine which was due had to wait meanwhile, in milliseconds.
    pub late_ms: f64,
    /// What packets showed has found it, and not the turns of the checks.
    pub by_packets: bool,
}

/// All failures of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The kind.
    pub fault: Fault,
    /// In the order in which they were made.
    pub kills: Vec<Kill>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What it ran on.
    pub machine: Machine,
    /// CPUs that it might use.
    pub cpus: usize,
    /// Threads that ran or waited for a CPU, over the minute before the run (`/proc/loadavg`).
    pub load_before: f64,
    /// Between two probes, in milliseconds.
    pub interval_ms: u64,
    /// Of a probe, in milliseconds.
    pub timeout_ms: u64,
    /// Bad probes in a row until a server is down.
    pub fall: u32,
    /// New connections per second, over all servers.
    pub per_second: u32,
    /// What finds the faults.
    pub checks: Checks,
    /// How packets reach the servers.
    pub way: Way,
    /// The longest failover time that is as it should be, in milliseconds.
    pub goal_ms: f64,
    /// How that is made up.
    pub goal_in_words: String,
    /// By kind.
    pub rows: Vec<Row>,
}

/// Of some failover times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Half of them are at most this.
    pub median: f64,
    /// 99 of 100 are at most this; of fewer than 100, it is the worst.
    pub p99: f64,
    /// The longest.
    pub worst: f64,
}

impl Figures {
    /// By nearest rank; `None` without any time.
    pub fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.checked_sub(1)?).copied()
        };
        Some(Self {
            median: at(50)?,
            p99: at(99)?,
            worst: at(100)?,
        })
    }
}

impl Row {
    /// The failover times, in milliseconds.
    pub fn times(&self) -> Vec<f64> {
        self.kills.iter().map(|kill| kill.failover_ms).collect()
    }
}

impl Results {
    /// Nothing measured yet.
    pub fn empty(effort: &Effort, machine: Machine, cpus: usize, load_before: f64) -> Self {
        Self {
            machine,
            cpus,
            load_before,
            interval_ms: effort.interval_ms,
            timeout_ms: effort.timeout_ms,
            fall: effort.fall,
            per_second: effort.per_second,
            checks: effort.checks,
            way: effort.way,
            goal_ms: effort.goal().as_secs_f64() * 1e3,
            goal_in_words: effort.goal_in_words().to_owned(),
            rows: Vec::from_iter(effort.faults().iter().map(|fault| Row {
                fault: *fault,
                kills: vec![],
            })),
        }
    }

    /// All failures, of all kinds.
    pub fn kills(&self) -> impl Iterator<Item = &Kill> {
        self.rows.iter().flat_map(|row| &row.kills)
    }
}
