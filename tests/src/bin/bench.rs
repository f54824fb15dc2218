//! `fairlead-bench`: what a packet costs in the compiled data plane.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_tests::bench::{
    self, prove, report,
    rig::{Rig, driver_bytes, in_namespace},
    rounds::{self, Floors, Samples},
    world::Scale,
};

/// What a packet costs in the compiled data plane, as a multiple of one kernel hash lookup.
///
/// Needs root. Everything runs on one CPU, in a network namespace of its own.
#[derive(Parser)]
#[command(name = "fairlead-bench", version)]
struct Arguments {
    /// Rounds; each runs every path once.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of a path and round; paths of many flows run each flow at least once.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    packets: u64,
    /// Only paths whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// A compiled data plane; twice: both in the same run, side by side [default: the one that was built].
    #[arg(long)]
    object: Vec<PathBuf>,
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
    let mut objects = Vec::new();
    for path in &arguments.object {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        objects.push((path.display().to_string(), bytes, false));
    }
    if objects.is_empty() {
        objects.push(("built".to_owned(), lb_tests::kernel::object_bytes()?, true));
    }
    let driver = driver_bytes()?;
    let cases: Vec<_> = bench::cases()
        .into_iter()
        .filter(|case| {
            case.name.contains(&arguments.only)
                && (std::env::var_os("ONE").is_none() || case.flows == 1)
        })
        .collect();
    ensure!(
        !cases.is_empty(),
        "no path's name contains '{}'",
        arguments.only
    );
    let floor_case = bench::cases().into_iter().next().context("no cases")?;
    let text = in_namespace(|ends| {
        let (_, first, _) = objects.first().context("no object")?;
        let mut floor_rig = Rig::new(first, &driver, &floor_case, Scale::USUAL, ends)?;
        let mut rigs = Vec::new();
        for case in &cases {
            for (name, object, ours) in &objects {
                let mut rig = Rig::new(object, &driver, case, Scale::USUAL, ends)
                    .with_context(|| format!("'{}' with {name}", case.name))?;
                if let Some(difference) = prove::prove(&mut rig)
                    .with_context(|| format!("'{}' with {name}", case.name))?
                {
                    ensure!(
                        !ours,
                        "'{}' differs from the library: {difference}",
                        case.name
                    );
                    eprintln!(
                        "{name}: '{}' differs from this library: {difference}",
                        case.name
                    );
                }
                rigs.push((rig, Samples::default()));
            }
        }
        let mut floors = Floors::default();
        for round in 1..=arguments.rounds {
            eprint!("\rround {round} of {}", arguments.rounds);
            rounds::floors(&mut floor_rig, arguments.packets, &mut floors)?;
            for (rig, samples) in &mut rigs {
                rounds::case(rig, arguments.packets, samples)?;
            }
        }
        eprintln!();
        let mut rows = Vec::new();
        let mut samples = rigs.into_iter().map(|(_, samples)| samples);
        for case in &cases {
            rows.push((case.clone(), samples.by_ref().take(objects.len()).collect()));
        }
        let names: Vec<String> = objects.iter().map(|(name, ..)| name.clone()).collect();
        Ok(report::table(&names, &floors, &rows))
    })?;
    print!("{text}");
    Ok(())
}
