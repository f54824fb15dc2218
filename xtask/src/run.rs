//! `cargo xtask build-and-run`: becomes the lab, or becomes `fairlead`.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::Context;

use crate::{build::Built, shell};

/// Replaces this process, so that signals and the exit status are those of the program that runs.
/// Returns only if that fails.
pub(crate) fn replace_process(
    built: &Built,
    lab_args: &[OsString],
    fairlead_args: Option<&[OsString]>,
) -> anyhow::Result<ExitCode> {
    let (program, args) = match fairlead_args {
        None => (&built.lab, lab_args),
        Some(args) => {
            anyhow::ensure!(
                lab_args.is_empty(),
                "{lab_args:?} stand before `--` and would go to the lab, \
                 but what stands after it runs fairlead: put all of them after `--`"
            );
            (&built.fairlead, args)
        }
    };
    let mut command = shell::command(program);
    command.args(args).env("FAIRLEAD_BIN", &built.fairlead);
    Err(command.exec()).with_context(|| format!("run {}", program.display()))
}
