//! `cargo xtask bench`: becomes the benchmark.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::Context;

use crate::{build::Built, shell};

/// Replaces this process by `fairlead-bench`. Returns only if that fails.
pub(crate) fn replace_process(built: &Built, options: &[OsString]) -> anyhow::Result<ExitCode> {
    let mut command = shell::command(&built.bench);
    command
        .args(options)
        .env("FAIRLEAD_BPF_OBJECT", &built.bpf_object)
        .env("FAIRLEAD_BENCH_OBJECT", &built.bench_object);
    Err(command.exec()).with_context(|| format!("run {}", built.bench.display()))
}
