//! `fairlead-failoverbench`: how long servers that fail still get new flows.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::failoverbench::{Effort, run, table};

/// How long a server that fails still gets new flows: power cut, process killed, process stopped, firewall, wrong answer.
///
/// Needs root. Everything happens in network namespaces of its own. An otherwise idle machine gives the figures that can
/// be compared.
#[derive(Parser)]
#[command(name = "cargo xtask bench-failover", version)]
struct Arguments {
    /// Failures of each of the five kinds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Milliseconds between two probes.
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    interval: u64,
    /// Milliseconds that a probe may take; at most the interval.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    timeout: u64,
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
    ensure!(
        arguments.timeout <= arguments.interval,
        "--timeout {} is longer than --interval {}: give a shorter one",
        arguments.timeout,
        arguments.interval
    );
    let effort = Effort {
        kills: arguments.kills,
        interval_ms: arguments.interval,
        timeout_ms: arguments.timeout,
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
