//! The control plane's benchmark: how long a large configuration takes from the file to forwarding, what memory it
//! needs, how soon an order or a ring is effective, and what many health checks cost.
//!
//! This file says what is measured; `controlbench/` measures it, with the real program in namespaces of its own.

pub mod checks;
pub mod daemon;
pub mod orders;
pub mod ring;
pub mod table;

use std::time::Duration;

use anyhow::Result;

/// Megabyte, as a multiple of bytes.
pub const MB: u64 = 1_000_000;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Services of the large configuration.
    pub services: usize,
    /// Backends of each.
    pub backends: usize,
    /// Times that the file is checked, and that the daemon is started.
    pub starts: usize,
    /// Orders that are timed.
    pub orders: usize,
    /// Targets that are checked once a second.
    pub targets: usize,
    /// Seconds of it that are measured.
    pub seconds: usize,
}

/// What a figure is to stay below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// This time.
    Time(Duration),
    /// So many bytes.
    Bytes(u64),
    /// No goal.
    None,
}

/// What was measured, several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// Times.
    Times(Vec<Duration>),
    /// Bytes.
    Bytes(Vec<u64>),
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What.
    pub what: String,
    /// At least one.
    pub values: Values,
    /// What for.
    pub goal: Goal,
}

impl Row {
    fn times(what: impl Into<String>, values: Vec<Duration>, goal: Goal) -> Self {
        Self {
            what: what.into(),
            values: Values::Times(values),
            goal,
        }
    }

    fn bytes(what: impl Into<String>, values: Vec<u64>, goal: Goal) -> Self {
        Self {
            what: what.into(),
            values: Values::Bytes(values),
            goal,
        }
    }
}

/// Measures all of it, and tells what it is at.
pub fn run(effort: &Effort, tell: impl Fn(&str)) -> Result<Vec<Row>> {
    tell("rings");
    let mut rows = vec![ring::fill()];
    rows.extend(daemon::run(effort, &tell)?);
    rows.extend(checks::run(effort, &tell)?);
    Ok(rows)
}
