//! `cargo xtask test`: every check and every test, in one command that needs nothing but root.
//!
//! Its last line is `N passed, M failed`. N counts tests that ran and passed; M counts tests that
//! failed and checks (tidy, format, lints, a build) that did. Nothing may be skipped in silence:
//! an ignored test, or a test binary that runs no test, is a failure.
//!
//! A test of real traffic in real time may fail because the machine was busy elsewhere. A few of those are run once more,
//! each alone; one that passes then counts as passed, and is named before the last line, with what it first said above.

mod again;
mod output;
mod totals;

use std::{
    io,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Context;

use crate::{
    build::{self, Built},
    fuzz::{self, Extent},
    kernel::{self, KernelVersion},
    setup::{self, Consent, Purpose},
    shell::{self, cargo},
    tidy,
    workspace::Workspace,
};
pub(crate) use output::show;
pub(crate) use totals::{Tally, Totals};

/// The test binaries that must run at least one test each when no filter is given, by crate name.
/// `all` is that of lb-tests: everything that needs root, namespaces and the BPF object.
const MUST_RUN: [&str; 6] = [
    "lb_common",
    "lb_ebpf",
    "lb_oracle",
    "lb_userspace",
    "xtask",
    "all",
];

/// Inputs that the data plane's fuzzer makes: its corpus is what matters here, and to see that it works.
const FUZZED: u64 = 20_000;

/// Tests that need devices of a kernel that this machine's may not have.
const DEVICES: &str = "lb-tests/devices";

/// The module of the tests that are built with `--cfg loom`.
const INTERLEAVINGS: &str = "interleavings";

/// Runs everything, or with a filter only the tests whose name contains it; on this machine's kernel or on another.
pub(crate) fn run(
    workspace: &Workspace,
    filter: Option<&str>,
    kernel: Option<KernelVersion>,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let ran = match kernel {
        None => run_all(workspace, filter),
        Some(version) => run_on(workspace, filter, version),
    };
    let tally = match ran {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            Tally {
                passed: 0,
                failed: 1,
            }
        }
    };
    println!("total time {} s", started.elapsed().as_secs());
    println!("{tally}");
    Ok(if tally.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_on(
    workspace: &Workspace,
    filter: Option<&str>,
    version: KernelVersion,
) -> anyhow::Result<Tally> {
    let compiler = setup::run(workspace, Purpose::Test, Consent::Withheld)?;
    let built = build::run(workspace, &compiler, false)?;
    kernel::run(workspace, &built, version, filter)
}

/// Builds the test binary that needs the kernel, with the tests that this machine's may not have the devices for, and returns
/// where it is.
pub(crate) fn binary(workspace: &Workspace, built: &Built) -> anyhow::Result<PathBuf> {
    let mut command = with_products(cargo(workspace), workspace, built, "test");
    command.args(["--workspace", "--no-run", "--features", DEVICES]);
    let mut path = None;
    let status = show(&mut command, &mut io::stdout(), |line| {
        if let Some(("all", found)) = totals::binary(line, "Executable ") {
            path = Some(workspace.root.join(found));
        }
    })?;
    anyhow::ensure!(status.success(), "build the tests: cargo failed: {status}");
    path.context("cargo did not name the test binary `all`")
}

fn run_all(workspace: &Workspace, filter: Option<&str>) -> anyhow::Result<Tally> {
    anyhow::ensure!(
        setup::is_root(),
        "the tests make network namespaces and load BPF programs, so they need root: \
         run `cargo xtask test` as root (plain `cargo test` does without)"
    );
    let compiler = setup::run(workspace, Purpose::Test, Consent::Withheld)?;
    let mut tally = Tally::default();
    if filter.is_none() {
        tally.count_check("tidy", tidy::check(workspace));
        tally.count_check(
            "format",
            shell::run(cargo(workspace).args(["fmt", "--all", "--check"])),
        );
    }
    let built = match build::run(workspace, &compiler, false) {
        Ok(built) => built,
        // Without the object and the programs every later step would fail for that one reason.
        Err(error) => {
            tally.count_check("build", Err(error));
            return Ok(tally);
        }
    };
    if filter.is_none() {
        let mut clippy = with_products(cargo(workspace), workspace, &built, "clippy");
        clippy.args(["--workspace", "--all-targets"]).args([
            "--features",
            DEVICES,
            "--",
            "-D",
            "warnings",
        ]);
        tally.count_check("clippy", shell::run(&mut clippy));
    }
    if filter.is_none() {
        tally.count_check(
            "fuzz",
            fuzz::run(workspace, fuzz::PIPELINE, Extent::Inputs(FUZZED)),
        );
    }
    // One call for all packages: they share one set of features, so nothing is compiled twice.
    let mut tests = with_products(cargo(workspace), workspace, &built, "test");
    tests.args(["--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        tests.arg("--").arg(filter);
    }
    let expected: &[&str] = if filter.is_none() { &MUST_RUN } else { &[] };
    let (mut ran, failed) = run_tests(tests, expected)?;
    let mut late = Vec::new();
    for name in again::worth_it(&failed) {
        println!("FAILED, and runs once more, alone: {name}");
        let mut test = with_products(cargo(workspace), workspace, &built, "test");
        test.args(["--workspace", "--test", "all", "--", "--exact", name]);
        if run_tests(test, &["all"])?.0.is_success() {
            ran.passed_at_last();
            late.push(name);
        }
    }
    tally.add(ran);
    if filter.is_none_or(|filter| filter.contains(INTERLEAVINGS)) {
        tally.add(run_tests(interleavings(workspace), &["lb_ebpf"])?.0);
    }
    if filter.is_none() {
        println!(
            "not run here, for want of devices: VLANs, bonds and the kernel's tunnels (`cargo xtask test --kernel 6.1 devices`)"
        );
    }
    for name in late {
        println!("failed at first, passed alone: {name}");
    }
    Ok(tally)
}

/// The flow table's tests whose atomics are loom's: every order of what two CPUs do. A build of its own, optimised, as
/// one order takes a thousand steps.
fn interleavings(workspace: &Workspace) -> Command {
    let mut tests = cargo(workspace);
    tests
        .args(["test", "-p", "lb-ebpf", "--lib", "--target-dir"])
        .arg(workspace.target.join("loom"))
        .env("RUSTFLAGS", "--cfg loom -C opt-level=2")
        .args(["--", INTERLEAVINGS]);
    tests
}

/// The same environment for every cargo call, so that none makes the next build anything again.
fn with_products(mut cargo: Command, workspace: &Workspace, built: &Built, verb: &str) -> Command {
    cargo
        .arg(verb)
        .arg("--target-dir")
        .arg(&workspace.target)
        .env("FAIRLEAD_BPF_OBJECT", &built.bpf_object)
        .env("FAIRLEAD_BENCH_OBJECT", &built.bench_object)
        .env("FAIRLEAD_BIN", &built.fairlead)
        .env("FAIRLEAD_LAB_BIN", &built.lab);
    cargo
}

/// Runs `cargo test`, shows its output as it comes, counts what the test binaries say, and names the tests that failed.
fn run_tests(mut command: Command, expected: &[&str]) -> anyhow::Result<(Tally, Vec<String>)> {
    let mut totals = Totals::default();
    let status = show(&mut command, &mut io::stdout(), |line| totals.line(line))?;
    let failed = totals.failed().to_vec();
    let (tally, complaints) = totals.finish(status.success(), expected);
    for complaint in complaints {
        eprintln!("FAILED: {complaint}");
    }
    Ok((tally, failed))
}
