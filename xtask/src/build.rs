//! `cargo xtask build`: the BPF object with its own compiler, then the programs that embed it.
//!
//! Two compilers never share a target folder, so neither rebuilds the other's work.
//!
//! Without `--release` the programs are built with the `dev` profile. The budget is a first
//! balanced packet within 5 minutes of a cold clone and 15 seconds of a warm one, on two cores,
//! and code generation for about 200 crates is most of a cold build. Only the control plane runs
//! unoptimised: packets meet the BPF object, which always has the optimised `bpf` profile.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    setup::BpfCompiler,
    shell::{self, cargo},
    workspace::Workspace,
};

/// What a build leaves behind; all paths are absolute.
pub(crate) struct Built {
    /// The compiled data plane.
    pub(crate) bpf_object: PathBuf,
    /// The benchmark's own BPF programs.
    pub(crate) bench_object: PathBuf,
    /// The program `fairlead`.
    pub(crate) fairlead: PathBuf,
    /// The program `fairlead-lab`.
    pub(crate) lab: PathBuf,
    /// The program `fairlead-bench`.
    pub(crate) bench: PathBuf,
    /// The program `fairlead-netbench`.
    pub(crate) netbench: PathBuf,
    /// The program `fairlead-controlbench`.
    pub(crate) controlbench: PathBuf,
    /// The program `fairlead-failoverbench`.
    pub(crate) failoverbench: PathBuf,
    /// The program `fairlead-soak`.
    pub(crate) soak: PathBuf,
    /// The program `fairlead-guest`.
    pub(crate) guest: PathBuf,
}

/// The data plane's file.
const DATA_PLANE: &str = "fairlead-bpf";
/// The decapsulator's file; the build script of lb-userspace looks for it beside the data plane's.
pub(crate) const DECAPSULATOR: &str = "fairlead-decap-bpf";
/// The file of the program for checks, beside it too.
pub(crate) const PROBE: &str = "fairlead-probe-bpf";
/// The file of the programs that count what is lost behind the data plane, beside it too.
pub(crate) const LOSSES: &str = "fairlead-losses-bpf";
/// The file of the benchmark's driver and floors.
const BENCH_PROGRAMS: &str = "fairlead-bench-bpf";

/// The only BPF target that is tried: little endian.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// Builds the BPF object and both programs.
pub(crate) fn run(
    workspace: &Workspace,
    compiler: &BpfCompiler,
    release: bool,
) -> anyhow::Result<Built> {
    let [bpf_object, .., bench_object] = bpf_objects(workspace, compiler)?;
    let mut command = cargo(workspace);
    command.args(["build", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]);
    if release {
        command.arg("--release");
    }
    command
        .arg("--target-dir")
        .arg(&workspace.target)
        .env("FAIRLEAD_BPF_OBJECT", &bpf_object);
    shell::run(&mut command)?;

    let folder = workspace
        .target
        .join(if release { "release" } else { "debug" });
    Ok(Built {
        bpf_object,
        bench_object,
        fairlead: folder.join("fairlead"),
        lab: folder.join("fairlead-lab"),
        bench: folder.join("fairlead-bench"),
        netbench: folder.join("fairlead-netbench"),
        controlbench: folder.join("fairlead-controlbench"),
        failoverbench: folder.join("fairlead-failoverbench"),
        soak: folder.join("fairlead-soak"),
        guest: folder.join("fairlead-guest"),
    })
}

/// Builds the data plane, the decapsulator, the program for checks and the benchmark's programs for the kernel and returns where they are.
fn bpf_objects(workspace: &Workspace, compiler: &BpfCompiler) -> anyhow::Result<[PathBuf; 5]> {
    let target = workspace.target.join("bpf");
    let flags = bpf_flags(env::consts::ARCH)?;
    let mut command = cargo(workspace);
    command
        .args([
            "build",
            "-Zbuild-std=core",
            "--target",
            BPF_TARGET,
            "-p",
            "lb-ebpf",
        ])
        .args([
            "--features",
            "bpf",
            "--bin",
            DATA_PLANE,
            "--bin",
            DECAPSULATOR,
            "--bin",
            PROBE,
            "--bin",
            LOSSES,
            "--bin",
            BENCH_PROGRAMS,
            "--profile",
            "bpf",
        ])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTC", &compiler.rustc)
        // build-std is unstable; this lets a stable compiler do it. The same compiler's own `core`
        // is used, so there is no version to drift.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("PATH", path_with(compiler.linker.parent())?);
    for misleading in [
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(misleading);
    }
    shell::run(&mut command)
        .with_context(|| format!("build the BPF object with {}", compiler.rustc.display()))?;

    let folder = target.join(BPF_TARGET).join("bpf");
    let objects =
        [DATA_PLANE, DECAPSULATOR, PROBE, LOSSES, BENCH_PROGRAMS].map(|name| folder.join(name));
    for object in &objects {
        anyhow::ensure!(
            object.is_file(),
            "cargo left no BPF object at {}",
            object.display()
        );
    }
    Ok(objects)
}

/// The compiler's flags for the BPF target; `arch` is the machine whose kernel will run it.
fn bpf_flags(arch: &str) -> anyhow::Result<Vec<String>> {
    anyhow::ensure!(
        matches!(arch, "x86_64" | "aarch64" | "riscv64"),
        "the BPF object is not built for {arch}: only x86_64, aarch64 and riscv64, all little endian"
    );
    Ok(vec![
        // Chooses the layout of the kernel's register structs.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // Type information for the map definitions and the verifier's messages.
        "-Clink-arg=--btf".into(),
        // v3 has 32-bit registers and jumps; kernels from 5.1 run it.
        "-Ctarget-cpu=v3".into(),
        // A load at an odd offset is one instruction instead of four byte loads and shifts.
        "-Ctarget-feature=+allows-misaligned-mem-access".into(),
    ])
}

/// PATH with one more folder at its end, if it is not there yet.
fn path_with(folder: Option<&Path>) -> anyhow::Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    if let Some(folder) = folder
        && !folders.iter().any(|known| known == folder)
    {
        folders.push(folder.to_path_buf());
    }
    env::join_paths(folders).context("put bpf-linker's folder on PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_built_for_the_machine_whose_kernel_runs_it() {
        for arch in ["x86_64", "aarch64", "riscv64"] {
            let flags = bpf_flags(arch).unwrap();
            assert!(
                flags.contains(&format!("--cfg=bpf_target_arch=\"{arch}\"")),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn a_big_endian_machine_is_refused_by_name() {
        let error = bpf_flags("s390x").unwrap_err().to_string();
        assert!(error.contains("s390x"), "{error}");
    }
}
