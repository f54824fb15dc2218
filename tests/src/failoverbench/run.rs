//! The rounds: each makes a fault of every kind once, so that what drifts, drifts for all.

use std::time::Duration;

use anyhow::{Context, Result};

use super::bed::Bed;
use super::results::{Column, Results};
use super::{Checks, Effort};
use crate::bench::machine::Machine;

/// Measures all of it; `say` hears what is being done.
pub fn run(effort: &Effort, mut say: impl FnMut(&str)) -> Result<Results> {
    let load_before = load_average()?;
    let mut columns = vec![];
    for checks in Checks::ALL {
        say(&format!("{}: setting up", checks.name()));
        columns.push(column(checks, effort, &mut say)?);
    }
    Ok(Results {
        machine: Machine::this()?,
        cpus: std::thread::available_parallelism()?.get(),
        load_before,
        interval_ms: effort.interval_ms,
        timeout_ms: effort.timeout_ms,
        fall: effort.fall,
        per_second: effort.per_second,
        columns,
    })
}

fn column(checks: Checks, effort: &Effort, say: &mut impl FnMut(&str)) -> Result<Column> {
    let mut bed = Bed::build(checks, effort)?;
    let mut column = Column::empty(checks, effort);
    let interval = Duration::from_millis(checks.health(effort).interval_ms);
    for round in 0..effort.kills {
        say(&format!("round {} of {}", round + 1, effort.kills));
        // The golden ratio spreads any number of points evenly over the time between two probes.
        let phase = interval.mul_f64(f64::from(round) * 0.618_033_988_75 % 1.0);
        for row in &mut column.rows {
            let kill = bed.kill(row.fault, phase, checks.goal(effort));
            let name = row.fault.name();
            row.kills.push(kill.with_context(|| name.to_owned())?);
        }
    }
    bed.check()?;
    Ok(column)
}

/// The first figure of `/proc/loadavg` (proc(5)).
fn load_average() -> Result<f64> {
    let path = "/proc/loadavg";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let first = text.split(' ').next().unwrap_or_default();
    first
        .parse()
        .with_context(|| format!("{path} begins with {first:?}, which is no number"))
}
