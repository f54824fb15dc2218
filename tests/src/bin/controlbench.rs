//! `fairlead-controlbench`: the control plane with a large configuration.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lb_tests::bench::machine::Machine;
use lb_tests::controlbench::{self, Effort, table};

/// How long a large configuration takes from the file to forwarding, its memory, how soon an order is effective, and what
/// many health checks cost.
///
/// Needs root. Everything happens in network namespaces of its own. An otherwise idle machine gives the figures that
/// can be compared.
#[derive(Parser)]
#[command(name = "cargo xtask bench-control", version)]
struct Arguments {
    /// Services.
    #[arg(long, default_value_t = 10_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    services: usize,
    /// Backends of each service.
    #[arg(long, default_value_t = 10, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..=10))]
    backends: usize,
    /// Times that the daemon is started.
    #[arg(long, default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100))]
    starts: usize,
    /// Orders that are timed.
    #[arg(long, default_value_t = 50, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    orders: usize,
    /// Targets that are checked once a second.
    #[arg(long, default_value_t = 10_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(10..=100_000))]
    targets: usize,
    /// Seconds of these checks that are measured.
    #[arg(long, default_value_t = 15, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=3600))]
    seconds: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead-controlbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let effort = Effort {
        services: arguments.services,
        backends: arguments.backends,
        starts: arguments.starts,
        orders: arguments.orders,
        targets: arguments.targets,
        seconds: arguments.seconds,
    };
    let rows = controlbench::run(&effort, |what| eprintln!("{what}"))?;
    print!("{}", table::render(&Machine::this()?, &rows));
    Ok(())
}
