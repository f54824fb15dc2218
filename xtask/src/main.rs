//! `cargo xtask`: sets up, builds, runs, tests and tidies Fairlead. One file a subcommand.
//!
//! It depends on anyhow, clap and std only, so that a fresh clone has it compiled in seconds.

mod bench;
mod build;
mod fuzz;
mod kernel;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;
mod workspace;

use std::{env, ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use fuzz::Extent;
use kernel::KernelVersion;
use setup::{Consent, Purpose};

/// Sets up, builds, runs, tests and tidies Fairlead.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building needs and this machine lacks; every other command does this first.
    Setup {
        /// Install what the tests need, too.
        #[arg(long)]
        tests: bool,
        /// Agree to what needs consent: removing packages that conflict, or toolchains from rustup.
        #[arg(long)]
        yes: bool,
    },
    /// Builds the BPF object, then `fairlead` and `fairlead-lab` with that object inside.
    Build {
        /// Build with optimisations, as releases are.
        #[arg(long)]
        release: bool,
    },
    /// Sets up, builds, and runs the lab; with arguments after `--`, runs `fairlead` with them.
    ///
    /// `cargo xtask build-and-run --duration 20s --json` hands its options to the lab.
    /// `cargo xtask build-and-run -- run --config fairlead.toml` runs fairlead itself.
    #[command(
        override_usage = "cargo xtask build-and-run [--release] [LAB_OPTIONS]...\n       \
                          cargo xtask build-and-run [--release] -- FAIRLEAD_ARGS..."
    )]
    BuildAndRun {
        /// Build with optimisations, as releases are.
        #[arg(long)]
        release: bool,
        /// Options of the lab.
        #[arg(allow_hyphen_values = true, value_name = "LAB_OPTIONS")]
        lab: Vec<OsString>,
    },
    /// Sets up, then runs every check and every test; needs root.
    Test {
        /// Run only tests whose name contains this; the other checks are left out.
        filter: Option<String>,
        /// Run them on Debian's kernel of this version, such as 6.1, in an emulated machine; no other checks.
        #[arg(long, value_name = "VERSION")]
        kernel: Option<KernelVersion>,
    },
    /// Sets up, builds, and measures what a packet costs in the data plane; needs root.
    ///
    /// All options go to the benchmark; `cargo xtask bench --help` shows them.
    #[command(disable_help_flag = true)]
    Bench {
        /// Options of the benchmark.
        #[arg(
            allow_hyphen_values = true,
            trailing_var_arg = true,
            value_name = "BENCH_OPTIONS"
        )]
        options: Vec<OsString>,
    },
    /// Sets up, builds, and measures packets, connections and bytes per second beside others; needs root.
    ///
    /// All options go to the benchmark; `cargo xtask bench-net --help` shows them.
    #[command(disable_help_flag = true)]
    BenchNet {
        /// Options of the benchmark.
        #[arg(
            allow_hyphen_values = true,
            trailing_var_arg = true,
            value_name = "BENCH_OPTIONS"
        )]
        options: Vec<OsString>,
    },
    /// Sets up, builds, and measures the control plane with a large configuration; needs root.
    ///
    /// All options go to the benchmark; `cargo xtask bench-control --help` shows them.
    #[command(disable_help_flag = true)]
    BenchControl {
        /// Options of the benchmark.
        #[arg(
            allow_hyphen_values = true,
            trailing_var_arg = true,
            value_name = "BENCH_OPTIONS"
        )]
        options: Vec<OsString>,
    },
    /// Sets up, builds, and measures how long servers that fail still get new flows; needs root.
    ///
    /// All options go to the benchmark; `cargo xtask bench-failover --help` shows them.
    #[command(disable_help_flag = true)]
    BenchFailover {
        /// Options of the benchmark.
        #[arg(
            allow_hyphen_values = true,
            trailing_var_arg = true,
            value_name = "BENCH_OPTIONS"
        )]
        options: Vec<OsString>,
    },
    /// Sets up, builds, and sends random packets through the data plane and a slow second opinion.
    ///
    /// All options go to the program; `cargo xtask soak --help` shows them.
    #[command(disable_help_flag = true)]
    Soak {
        /// Options of the program.
        #[arg(
            allow_hyphen_values = true,
            trailing_var_arg = true,
            value_name = "SOAK_OPTIONS"
        )]
        options: Vec<OsString>,
    },
    /// Sets up, builds, and runs a coverage-guided fuzzer: of the data plane, or of what reads the answers to checks.
    Fuzz {
        /// What it feeds.
        #[arg(long, default_value = fuzz::TARGETS[0], value_parser = fuzz::TARGETS)]
        target: String,
        /// How long.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        seconds: u32,
        /// How many inputs, in place of how long.
        #[arg(long, conflicts_with = "seconds")]
        inputs: Option<u64>,
        /// Then make its corpus in fuzz/corpus/ anew: of its inputs and those found, what reaches all that they reach.
        #[arg(long)]
        merge: bool,
    },
    /// Checks the rules of the house: who may name aya, what a pure module may not do, and so on.
    Tidy,
}

fn main() -> ExitCode {
    let (own, fairlead) = split(env::args_os());
    match run_command(Cli::parse_from(own).command, fairlead.as_deref()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Splits a command line at the first `--`: what follows is the command line of `fairlead`.
fn split(args: impl Iterator<Item = OsString>) -> (Vec<OsString>, Option<Vec<OsString>>) {
    let mut own: Vec<OsString> = args.collect();
    let Some(at) = own.iter().position(|arg| arg == "--") else {
        return (own, None);
    };
    let fairlead = own.split_off(at).into_iter().skip(1).collect();
    (own, Some(fairlead))
}

fn run_command(command: Command, fairlead: Option<&[OsString]>) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        fairlead.is_none() || matches!(command, Command::BuildAndRun { .. }),
        "only build-and-run takes arguments after `--`"
    );
    let workspace = workspace::Workspace::find()?;
    match command {
        Command::Setup { tests, yes } => {
            let consent = if yes {
                Consent::Given
            } else {
                Consent::Withheld
            };
            let purpose = if tests { Purpose::Test } else { Purpose::Build };
            setup::run(&workspace, purpose, consent)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Build { release } => {
            let compiler = setup::run(&workspace, Purpose::Build, Consent::Withheld)?;
            build::run(&workspace, &compiler, release)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::BuildAndRun { release, lab } => {
            let program = run::choose(&lab, fairlead)?;
            let compiler = setup::run(&workspace, Purpose::Build, Consent::Withheld)?;
            let built = build::run(&workspace, &compiler, release)?;
            run::replace_process(&built, program)
        }
        Command::Bench { options } => {
            let compiler = setup::run(&workspace, Purpose::Build, Consent::Withheld)?;
            let built = build::run(&workspace, &compiler, false)?;
            bench::replace_process(&built, &built.bench, &options)
        }
        Command::BenchNet { options } => {
            let compiler = setup::run(&workspace, Purpose::BenchNet, Consent::Withheld)?;
            let built = build::run(&workspace, &compiler, true)?;
            bench::replace_process(&built, &built.netbench, &options)
        }
        Command::BenchControl { options } => {
            let compiler = setup::run(&workspace, Purpose::Build, Consent::Withheld)?;
            let built = build::run(&workspace, &compiler, true)?;
            bench::replace_process(&built, &built.controlbench, &options)
        }
        Command::BenchFailover { options } => {
            let compiler = setup::run(&workspace, Purpose::BenchNet, Consent::Withheld)?;
            let built = build::run(&workspace, &compiler, true)?;
            bench::replace_process(&built, &built.failoverbench, &options)
        }
        Command::Soak { options } => {
            let compiler = setup::run(&workspace, Purpose::Build, Consent::Withheld)?;
            let built = build::run(&workspace, &compiler, false)?;
            bench::replace_process(&built, &built.soak, &options)
        }
        Command::Fuzz {
            target,
            seconds,
            inputs,
            merge,
        } => {
            setup::run(&workspace, Purpose::Build, Consent::Withheld)?;
            let extent = inputs.map_or(Extent::Seconds(seconds), Extent::Inputs);
            fuzz::run(&workspace, &target, extent)?;
            if merge {
                fuzz::merge(&workspace, &target)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Test { filter, kernel } => test::run(&workspace, filter.as_deref(), kernel),
        Command::Tidy => tidy::run(&workspace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &[&str], lab_args: &[&str], fairlead_args: Option<&[&str]>) {
        let line = ["xtask", "build-and-run"].iter().chain(line);
        let (own, fairlead) = split(line.map(OsString::from));
        let cli = Cli::try_parse_from(&own).unwrap_or_else(|error| panic!("{error}"));
        let Command::BuildAndRun { lab, .. } = cli.command else {
            panic!("{own:?} is another command");
        };
        assert_eq!(lab, lab_args);
        assert_eq!(fairlead.is_some(), fairlead_args.is_some());
        assert_eq!(
            fairlead.unwrap_or_default(),
            fairlead_args.unwrap_or_default()
        );
    }

    #[test]
    fn options_go_to_the_lab_and_all_after_two_dashes_goes_to_fairlead() {
        check(&[], &[], None);
        check(
            &["--duration", "20s", "--json"],
            &["--duration", "20s", "--json"],
            None,
        );
        check(&["--release", "--duration=20s"], &["--duration=20s"], None);
        check(
            &["--", "run", "--config", "fairlead.toml"],
            &[],
            Some(&["run", "--config", "fairlead.toml"]),
        );
        check(&["--", "--help"], &[], Some(&["--help"]));
        check(
            &["--release", "--", "exec", "--", "x"],
            &[],
            Some(&["exec", "--", "x"]),
        );
        check(
            &["--json", "x", "--", "--help"],
            &["--json", "x"],
            Some(&["--help"]),
        );
        check(&["--"], &[], Some(&[]));
    }
}
