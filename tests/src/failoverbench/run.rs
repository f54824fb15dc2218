//! The rounds: each makes a fault of every kind once, so that what drifts, drifts for all; of those kinds of which fewer are wanted only
//! some rounds, evenly spread.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Effort;
use super::bed::Bed;
use super::results::Results;
use crate::bench::machine::Machine;

/// Measures all of it; `say` hears what is being done.
pub fn run(effort: &Effort, mut say: impl FnMut(&str)) -> Result<Results> {
    let load_before = load_average()?;
    let cpus = std::thread::available_parallelism()?.get();
    let mut results = Results::empty(effort, Machine::this()?, cpus, load_before);
    say(&format!("{}: setting up", effort.checks.name()));
    let mut bed = Bed::build(effort)?;
    let interval = Duration::from_millis(effort.interval_ms);
    let rounds = effort.kills.max(effort.kills_by_turns);
    for round in 0..rounds {
        say(&format!("round {} of {rounds}", round + 1));
        // The golden ratio spreads any number of points evenly over the time between two probes.
        let phase = interval.mul_f64(f64::from(round) * 0.618_033_988_75 % 1.0);
        for row in &mut results.rows {
            if !is_due(effort.kills_of(row.fault), round, rounds) {
                continue;
            }
            let kill = bed.kill(row.fault, phase);
            let name = row.fault.name();
            row.kills.push(kill.with_context(|| name.to_owned())?);
        }
    }
    bed.check()?;
    Ok(results)
}

/// A round is one of so many that are spread over all.
fn is_due(wanted: u32, round: u32, rounds: u32) -> bool {
    let until = |round: u32| u64::from(round) * u64::from(wanted) / u64::from(rounds);
    until(round + 1) > until(round)
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
