//! Looks at the machine. Files and programs count, not what a package database says: a compiler
//! may have come from anywhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    BpfCompiler, COMPILER_PACKAGES, Findings, LINKER_PACKAGES, PEER_PACKAGES, Package, ShownBy,
    TEST_PACKAGES, compiler_fits, linker_fits,
};
use crate::shell::{output, which};

/// Debian packages that `rustc-web` declares a conflict with.
const CONFLICTS: [&str; 3] = ["rustc", "rustc-mozilla", "rustup"];

/// Everything that the decision needs.
pub(super) fn findings(compiler: Option<&PathBuf>, linker: Option<&PathBuf>) -> Findings {
    let debian = which("apt-get").is_some() && which("dpkg-query").is_some();
    let missing = COMPILER_PACKAGES
        .iter()
        .chain(&LINKER_PACKAGES)
        .chain(&PEER_PACKAGES)
        .chain(&TEST_PACKAGES)
        .copied()
        .filter(|package| !is_there(package, compiler.is_some()))
        .collect();
    Findings {
        debian,
        root: is_root(),
        bpf_linker: linker.is_some(),
        conflicts: if debian {
            installed(&CONFLICTS)
        } else {
            Vec::new()
        },
        missing,
    }
}

/// The compiler and the linker, if both are there.
pub(super) fn bpf_compiler() -> Result<BpfCompiler, (Option<PathBuf>, Option<PathBuf>)> {
    match (bpf_rustc(), bpf_linker()) {
        (Some(rustc), Some(linker)) => Ok(BpfCompiler { rustc, linker }),
        found => Err(found),
    }
}

/// A rustc that fits and has the source of its `core`: Debian's, which is the one that the tests
/// run with, or else that of a rustup toolchain.
fn bpf_rustc() -> Option<PathBuf> {
    let mut candidates = vec![PathBuf::from("/usr/bin/rustc")];
    for toolchain in output("rustup", &["toolchain", "list"])
        .unwrap_or_default()
        .lines()
    {
        // "1.96.0-x86_64-unknown-linux-gnu (active, default)"
        let name = toolchain.split_whitespace().next().unwrap_or_default();
        candidates.extend(
            output("rustup", &["which", "--toolchain", name, "rustc"])
                .map(|path| PathBuf::from(path.trim())),
        );
    }
    candidates
        .into_iter()
        .find(|rustc| has_core(rustc) && runs_and_fits(rustc))
}

fn runs_and_fits(rustc: &Path) -> bool {
    output(rustc, &["-vV"]).is_some_and(|printed| compiler_fits(&printed))
}

/// Whether the compiler has the source of its own `core`.
fn has_core(rustc: &Path) -> bool {
    rustc.is_file()
        && output(rustc, &["--print", "sysroot"]).is_some_and(|sysroot| {
            Path::new(sysroot.trim())
                .join("lib/rustlib/src/rust/library/core")
                .is_dir()
        })
}

/// A bpf-linker that runs and is new enough.
fn bpf_linker() -> Option<PathBuf> {
    which("bpf-linker")
        .filter(|file| output(file, &["--version"]).is_some_and(|printed| linker_fits(&printed)))
}

fn is_there(package: &Package, compiler: bool) -> bool {
    match package.shown_by {
        ShownBy::Program(name) => which(name).is_some(),
        ShownBy::File(path) => Path::new(path).exists(),
        ShownBy::FittingCompiler => compiler,
    }
}

/// Whether this process may act as root: its effective user id is 0.
pub(crate) fn is_root() -> bool {
    // "Uid:", then the real, effective, saved and file system id.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0")
}

/// Of these packages, those that are installed.
fn installed(packages: &[&str]) -> Vec<String> {
    packages
        .iter()
        .filter(|package| {
            output("dpkg-query", &["-W", "-f", "${db:Status-Abbrev}", package])
                .is_some_and(|status| status.starts_with("ii"))
        })
        .map(ToString::to_string)
        .collect()
}
