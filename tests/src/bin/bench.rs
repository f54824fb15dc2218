//! `fairlead-bench`: what a packet costs in the compiled data plane.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_tests::bench::{
    self,
    baseline::Baseline,
    floods, plot,
    rig::{driver_bytes, in_namespace},
    run::{Effort, Runner, Subject},
    table,
};
use lb_tests::kernel;

/// What a packet costs in the compiled data plane, as a multiple of one kernel hash lookup.
///
/// Needs root. Runs on one CPU, in a network namespace of its own. An otherwise idle machine gives the figures
/// that can be compared.
#[derive(Parser)]
#[command(name = "cargo xtask bench", version)]
struct Arguments {
    /// Rounds; each runs every path once.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of a path and round; paths of many flows run each flow at least once.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    packets: u64,
    /// Only paths whose name contains this.
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    only: String,
    /// Only paths of at most this many flows.
    #[arg(long, value_name = "FLOWS", default_value_t = u64::MAX)]
    at_most: u64,
    /// A compiled data plane; twice: both in one run, side by side [default: the one just built].
    #[arg(long, value_name = "FILE")]
    object: Vec<PathBuf>,
    /// Measure, too, how the cost grows with flows, services and backends.
    #[arg(long)]
    scale: bool,
    /// Rounds of that.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale_rounds: u32,
    /// Draw that into an SVG file; implies --scale.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure, instead of the table, what floods cost established flows.
    #[arg(long)]
    floods: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// The figures to compare with.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/baseline.json"))]
    baseline: PathBuf,
    /// Make this run's figures the ones to compare with.
    #[arg(long)]
    save_baseline: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let subjects = subjects(&arguments.object)?;
    let driver = driver_bytes()?;
    if arguments.floods {
        for subject in &subjects {
            let cost = |ends| floods::cost(&subject.bytes, &driver, ends, arguments.rounds);
            println!("{}\n{}", subject.name, in_namespace(cost)?);
        }
        return Ok(());
    }
    let baseline = Baseline::read(&arguments.baseline)?;
    let mut cases = bench::cases();
    cases.retain(|case| case.name.contains(&arguments.only) && case.flows <= arguments.at_most);
    ensure!(
        !cases.is_empty(),
        "no path's name contains '{}'; run without --only to see them",
        arguments.only
    );
    let effort = Effort {
        rounds: arguments.rounds,
        scale_rounds: arguments.scale_rounds,
    };
    let with_scale = arguments.scale || arguments.plot.is_some();
    let results = in_namespace(|ends| {
        let runner = Runner {
            subjects: &subjects,
            driver: &driver,
            ends,
            packets: arguments.packets,
        };
        runner.run(&cases, effort, with_scale)
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        print!("{}", table::render(&results, baseline.as_ref()));
    }
    if let Some(path) = &arguments.plot {
        plot::write(&results, path)?;
    }
    if arguments.save_baseline {
        let older = baseline.filter(|_| !arguments.only.is_empty());
        Baseline::of(&results, older).write(&arguments.baseline)?;
    }
    Ok(())
}

fn subjects(paths: &[PathBuf]) -> Result<Vec<Subject>> {
    if paths.is_empty() {
        return Ok(vec![Subject {
            name: "built".to_owned(),
            bytes: kernel::object_bytes()?,
            is_ours: true,
        }]);
    }
    ensure!(paths.len() <= 2, "at most two objects are compared");
    let subject = |path: &PathBuf| {
        Ok(Subject {
            name: path.display().to_string(),
            bytes: read(path)?,
            is_ours: false,
        })
    };
    paths.iter().map(subject).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read the compiled data plane {}", path.display()))
}
