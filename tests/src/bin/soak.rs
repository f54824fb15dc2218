//! `fairlead-soak`: as many random packets as asked, through everything that has an opinion about them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use lb_tests::soak::{self, Soak};

/// Random maps, changes of them and packets, through the library and a separately written oracle: equal verdicts,
/// bytes, counters and flow tables, or it fails with the smallest case that it finds.
///
/// A case is the same in every run; which are run is said by `--first` and `--packets`.
#[derive(Parser)]
#[command(name = "cargo xtask soak", version)]
struct Arguments {
    /// Packets.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    packets: u64,
    /// Through the compiled program in the kernel, too; needs root.
    #[arg(long)]
    kernel: bool,
    /// Number of the first case.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads [default: one a CPU; with --kernel there is one].
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let soak = Soak {
        packets: arguments.packets,
        first: arguments.first,
        kernel: arguments.kernel,
        threads: arguments.threads.unwrap_or(cpus),
        progress: Duration::from_secs(10),
    };
    let report = soak::run(soak, &mut std::io::stdout())?;
    print!("{}", report.text());
    Ok(match report.failure {
        None => {
            println!("all agree");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    })
}
