//! `fairlead-failoverbench`: how long servers that fail still get new flows.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::failoverbench::{Checks, Effort, Way, run, table};

/// How long a server that fails still gets new flows: power cut, process killed, process stopped, firewall, wrong answer, queue full, replies lost.
///
/// Needs root. Everything happens in network namespaces of its own. An otherwise idle machine gives the figures that can
/// be compared.
#[derive(Parser)]
#[command(name = "cargo xtask bench-failover", version)]
struct Arguments {
    /// Have passive checks find the faults of which packets show a sign: power cut, firewall and a queue of connections that is full,
    /// process killed, in l2dsr replies that are lost. The others are left to the turns of the checks, without a goal: process
    /// stopped and wrong answer.
    #[arg(long)]
    passive: bool,
    /// How packets reach the servers.
    #[arg(long, value_enum, default_value_t = Way::Dnat)]
    forwarding: Way,
    /// Failures of each kind.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Failures of each kind that --passive leaves to the turns of the checks: each takes up to fall x interval [default: an eighth of
    /// --kills, at least one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    kills_by_turns: Option<u32>,
    /// Milliseconds between two probes [default: 200, with --passive 10000].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    interval: Option<u64>,
    /// Milliseconds that a probe may take; at most the interval [default: 100, with --passive 300].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    timeout: Option<u64>,
    /// Bad probes in a row until a server is down.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    fall: u32,
    /// New connections per second, over three servers: the more, the finer the times.
    #[arg(long, value_name = "N", default_value_t = Effort::MOST_PER_SECOND, value_parser = clap::value_parser!(u32).range(30..=i64::from(Effort::MOST_PER_SECOND)))]
    per_second: u32,
    /// Print one JSON object, with every single time, instead of the table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead-failoverbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let (checks, interval_ms, timeout_ms) = match arguments.passive {
        false => (Checks::Active, 200, 100),
        true => (Checks::Passive, 10_000, 300),
    };
    let interval_ms = arguments.interval.unwrap_or(interval_ms);
    let timeout_ms = arguments.timeout.unwrap_or(timeout_ms);
    ensure!(
        timeout_ms <= interval_ms,
        "--timeout {timeout_ms} is longer than --interval {interval_ms}: give a shorter one"
    );
    let effort = Effort {
        checks,
        way: arguments.forwarding,
        kills: arguments.kills,
        kills_by_turns: arguments
            .kills_by_turns
            .unwrap_or_else(|| arguments.kills.div_ceil(8)),
        interval_ms,
        timeout_ms,
        fall: arguments.fall,
        per_second: arguments.per_second,
    };
    let results = run::run(&effort, |what| eprintln!("{what}"))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        print!("{}", table::render(&results));
    }
    Ok(())
}
