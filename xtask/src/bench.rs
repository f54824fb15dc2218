//! `cargo xtask bench`, `bench-net`, `bench-control` and `bench-failover`: become one of the benchmarks.

use std::{ffi::OsString, os::unix::process::CommandExt, path::Path, process::ExitCode};

use anyhow::Context;

use crate::{build::Built, shell};

/// Replaces this process by a benchmark. Returns only if that fails.
pub(crate) fn replace_process(
    built: &Built,
    program: &Path,
    options: &[OsString],
) -> anyhow::Result<ExitCode> {
    let mut command = shell::command(program);
    command
        .args(options)
        .env("FAIRLEAD_BPF_OBJECT", &built.bpf_object)
        .env("FAIRLEAD_BENCH_OBJECT", &built.bench_object)
        .env("FAIRLEAD_BIN", &built.fairlead);
    Err(command.exec()).with_context(|| format!("run {}", program.display()))
}
