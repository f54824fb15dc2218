//! `cargo xtask setup`: what this machine lacks to build and test Fairlead, and how it gets it.
//!
//! This file decides and does nothing: [`decide`] turns findings into steps. `setup/find.rs` looks
//! at the machine, `setup/act.rs` runs the steps, `setup/unpack.rs` gets what is not to be installed. When nothing is
//! missing nothing is printed.
//!
//! The BPF target has no prebuilt `core`: the compiler that builds the object must come with the
//! source of its own `core`. Debian 12 has such a compiler (the packages `rustc-web` and
//! `rust-web-src`, which Debian keeps current to build browsers); elsewhere rustup has one.

mod act;
mod find;
mod unpack;

use std::path::PathBuf;

pub(crate) use act::run;
pub(crate) use find::is_root;
pub(crate) use unpack::{Emulator, kernel_image};

/// The compiler of the BPF object and the linker it calls.
pub(crate) struct BpfCompiler {
    /// A rustc that has the source of its own `core`.
    pub(crate) rustc: PathBuf,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

/// Whether the user agreed to steps that need consent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// `--yes` was given.
    Given,
    /// It was not.
    Withheld,
}

/// What a machine is set up for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building.
    Build,
    /// Building and testing.
    Test,
    /// Building, `cargo xtask bench-net` and `cargo xtask bench-failover`.
    BenchNet,
}

/// The oldest rustc that builds the BPF object as it is tested: (major, minor).
const OLDEST_RUSTC: (u32, u32) = (1, 96);
/// The LLVM that bpf-linker is built with. It reads no bitcode of a newer one.
const LLVM: u32 = 22;
/// The oldest bpf-linker that knows that LLVM: (major, minor).
const OLDEST_LINKER: (u32, u32) = (0, 13);
/// Installs bpf-linker. `--force` replaces one that is too old or does not run.
const INSTALL_LINKER: [&str; 9] = [
    "install",
    "bpf-linker",
    "--version",
    "0.13.0",
    "--locked",
    "--force",
    "--no-default-features",
    "--features",
    "llvm-22",
];
/// Installs a compiler with the source of its `core` where Debian's packages do not help.
const RUSTUP_TOOLCHAIN: [&str; 8] = [
    "toolchain",
    "install",
    "1.96.0",
    "--profile",
    "minimal",
    "--component",
    "rust-src",
    "--no-self-update",
];

/// A Debian package, the file or program that shows it is there, and why it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    name: &'static str,
    shown_by: ShownBy,
    why: &'static str,
}

/// How to see without the package manager that something is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShownBy {
    /// A program on PATH.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A compiler that runs, fits and has the source of its `core`, wherever it comes from.
    FittingCompiler,
}

const fn package(name: &'static str, shown_by: ShownBy, why: &'static str) -> Package {
    Package {
        name,
        shown_by,
        why,
    }
}

/// The compiler of the BPF object; see [`find::bpf_rustc`] for how it is recognised.
const COMPILER_PACKAGES: [Package; 2] = [
    package(
        "rustc-web",
        ShownBy::FittingCompiler,
        "the compiler that builds the BPF object",
    ),
    package(
        "rust-web-src",
        ShownBy::FittingCompiler,
        "the source of that compiler's `core`",
    ),
];

/// What bpf-linker is compiled against; wanted only while bpf-linker is missing.
const LINKER_PACKAGES: [Package; 5] = [
    package(
        "llvm-22-dev",
        ShownBy::Program("llvm-config-22"),
        "LLVM, which bpf-linker is built on",
    ),
    package(
        "libpolly-22-dev",
        ShownBy::File("/usr/lib/llvm-22/lib/libPolly.a"),
        "a part of LLVM that bpf-linker links",
    ),
    package(
        "zlib1g-dev",
        ShownBy::File("/usr/include/zlib.h"),
        "bpf-linker links it",
    ),
    package(
        "libzstd-dev",
        ShownBy::File("/usr/include/zstd.h"),
        "bpf-linker links it",
    ),
    package(
        "g++",
        ShownBy::Program("g++"),
        "LLVM is C++, and bpf-linker links its library",
    ),
];

/// What `cargo xtask bench-net` measures beside Fairlead, and `bench-failover` makes faults with; small versions of both are tests.
const PEER_PACKAGES: [Package; 2] = [
    package(
        "nftables",
        ShownBy::Program("nft"),
        "tests lose and refuse packets with it, and it is measured as a balancer",
    ),
    package(
        "haproxy",
        ShownBy::Program("haproxy"),
        "it is measured as a balancer",
    ),
];

/// What the tests run beside Fairlead, besides these.
const TEST_PACKAGES: [Package; 11] = [
    package(
        "iproute2",
        ShownBy::Program("ip"),
        "tests look at namespaces and links with it",
    ),
    package(
        "ethtool",
        ShownBy::Program("ethtool"),
        "tests switch off checksum offload on veth",
    ),
    package(
        "nginx-light",
        ShownBy::Program("nginx"),
        "tests use a server that is not ours",
    ),
    package(
        "dnsmasq-base",
        ShownBy::Program("dnsmasq"),
        "tests check a name server that is not ours",
    ),
    package(
        "python3-grpcio",
        ShownBy::File("/usr/lib/python3/dist-packages/grpc/__init__.py"),
        "tests check a gRPC server that is not ours",
    ),
    package(
        "curl",
        ShownBy::Program("curl"),
        "tests use a client that is not ours",
    ),
    package(
        "iperf3",
        ShownBy::Program("iperf3"),
        "tests use a client and a server that are not ours",
    ),
    package(
        "prometheus",
        ShownBy::Program("promtool"),
        "tests check the metrics with promtool",
    ),
    package(
        "tcpdump",
        ShownBy::Program("tcpdump"),
        "tests capture packets with it",
    ),
    package(
        "strace",
        ShownBy::Program("strace"),
        "tests watch system calls with it",
    ),
    package(
        "e2fsprogs",
        ShownBy::Program("mkfs.ext4"),
        "tests have the daemon's disk hang and run full",
    ),
];

/// What was found on this machine.
#[derive(Clone, Debug)]
struct Findings {
    /// It has apt-get and dpkg.
    debian: bool,
    /// This process runs as root.
    root: bool,
    /// There is a bpf-linker that runs and is new enough.
    bpf_linker: bool,
    /// Debian packages are installed that `rustc-web` cannot stand beside.
    conflicts: Vec<String>,
    /// Of the packages above, those whose file or program is not there.
    missing: Vec<Package>,
}

/// One thing to do, in the order of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// `apt-get install`, after `apt-get update`.
    Apt {
        packages: Vec<Package>,
        may_remove: bool,
    },
    /// `rustup` with these arguments.
    Rustup(&'static [&'static str]),
    /// `cargo` with [`INSTALL_LINKER`].
    Linker,
}

/// Why nothing is done, and what the user can do.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(String);

/// From findings to steps.
fn decide(found: &Findings, purpose: Purpose, consent: Consent) -> Result<Vec<Step>, Refusal> {
    let missing = |package: &&Package| found.missing.contains(package);
    let mut packages: Vec<Package> = COMPILER_PACKAGES.iter().filter(missing).copied().collect();
    if !found.bpf_linker {
        packages.extend(LINKER_PACKAGES.iter().filter(missing).copied());
    }
    if purpose != Purpose::Build {
        packages.extend(PEER_PACKAGES.iter().filter(missing).copied());
    }
    if purpose == Purpose::Test {
        packages.extend(TEST_PACKAGES.iter().filter(missing).copied());
    }
    let mut steps = if found.debian {
        debian_steps(found, packages, consent)?
    } else {
        other_steps(found, &packages, consent)?
    };
    if !found.bpf_linker {
        steps.push(Step::Linker);
    }
    Ok(steps)
}

fn debian_steps(
    found: &Findings,
    packages: Vec<Package>,
    consent: Consent,
) -> Result<Vec<Step>, Refusal> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let names = names(&packages);
    if !found.root {
        return Err(Refusal(format!(
            "packages are missing and only root may install them: {names}; \
             run `sudo apt-get install --no-install-recommends {names}`, or this command as root"
        )));
    }
    let removes = lacks_compiler(&packages) && !found.conflicts.is_empty();
    if removes && consent == Consent::Withheld {
        return Err(Refusal(format!(
            "the compiler of the BPF object (package rustc-web) cannot stand beside {conflicts}, \
             and nothing is removed without your consent: run `cargo xtask setup --yes` to replace \
             {conflicts} with it, or `rustup {rustup}` to get a compiler that conflicts with nothing",
            conflicts = found.conflicts.join(", "),
            rustup = RUSTUP_TOOLCHAIN.join(" "),
        )));
    }
    Ok(vec![Step::Apt {
        packages,
        may_remove: removes,
    }])
}

fn other_steps(
    found: &Findings,
    packages: &[Package],
    consent: Consent,
) -> Result<Vec<Step>, Refusal> {
    let tools: Vec<Package> = packages
        .iter()
        .copied()
        .filter(|package| !COMPILER_PACKAGES.contains(package))
        .collect();
    if !tools.is_empty() {
        let list: Vec<String> = tools
            .iter()
            .map(|tool| format!("{} ({})", tool.name, tool.why))
            .collect();
        return Err(Refusal(format!(
            "this is no Debian, so install with your own package manager what Debian calls {}",
            list.join(", ")
        )));
    }
    let mut commands = Vec::new();
    if lacks_compiler(packages) {
        commands.push(format!("rustup {}", RUSTUP_TOOLCHAIN.join(" ")));
    }
    if !found.bpf_linker {
        commands.push(format!("cargo {}", INSTALL_LINKER.join(" ")));
    }
    if !commands.is_empty() && consent == Consent::Withheld {
        return Err(Refusal(format!(
            "the BPF object needs a compiler with its `core` and bpf-linker: run `{}`, \
             or `cargo xtask setup --yes` to have it run for you",
            commands.join(" && ")
        )));
    }
    Ok(if lacks_compiler(packages) {
        vec![Step::Rustup(&RUSTUP_TOOLCHAIN)]
    } else {
        Vec::new()
    })
}

fn lacks_compiler(missing: &[Package]) -> bool {
    missing
        .iter()
        .any(|package| package.shown_by == ShownBy::FittingCompiler)
}

fn names(packages: &[Package]) -> String {
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    names.join(" ")
}

/// Whether `rustc -vV` printed that of a compiler that can build the object.
fn compiler_fits(verbose_version: &str) -> bool {
    let field = |name: &str| {
        verbose_version
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(version)
    };
    field("release: ").is_some_and(|release| release >= OLDEST_RUSTC)
        && field("LLVM version: ").is_some_and(|(major, _)| major == LLVM)
}

/// Whether `bpf-linker --version` printed that of one that fits.
fn linker_fits(printed: &str) -> bool {
    printed
        .split_whitespace()
        .find_map(version)
        .is_some_and(|version| version >= OLDEST_LINKER)
}

/// The first two numbers of a version such as `1.96.0-nightly`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
