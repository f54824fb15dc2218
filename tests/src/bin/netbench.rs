//! `fairlead-netbench`: packets, connections and bytes through Fairlead and others.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use lb_tests::netbench::{
    run::{self, Effort},
    start, table,
    wire::{CHUNK, LARGEST},
};

/// Packets, connections and bytes per second through Fairlead, nftables DNAT and HAProxy, on one topology in one run.
///
/// Needs root. Everything happens in network namespaces of its own. An otherwise idle machine gives the figures that can
/// be compared.
#[derive(Parser)]
#[command(name = "cargo xtask bench-net", version)]
struct Arguments {
    /// Rounds; each runs every candidate once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets sent to a candidate in a round.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(CHUNK..=LARGEST))]
    packets: u64,
    /// Flows of these packets, in turn.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    flows: u64,
    /// Seconds of connections, and of bulk data, for a candidate in a round.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Threads that make connections as fast as they are answered.
    #[arg(long, default_value_t = 16, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    clients: usize,
    /// Measure something else: so many starts of fairlead, each from nothing to the first forwarded connection.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: Option<u32>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead-netbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(starts) = arguments.starts {
        let moments = start::run(starts, |what| eprintln!("{what}"))?;
        if arguments.json {
            println!("{}", serde_json::to_string(&moments)?);
        } else {
            print!("{}", start::render(&moments));
        }
        return Ok(());
    }
    let effort = Effort {
        rounds: arguments.rounds,
        packets: arguments.packets,
        flows: arguments.flows,
        time: Duration::from_secs(arguments.seconds),
        clients: arguments.clients,
        light_per_second: 200,
    };
    let results = run::run(&effort, |what| eprintln!("{what}"))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        print!("{}", table::render(&results));
    }
    Ok(())
}
