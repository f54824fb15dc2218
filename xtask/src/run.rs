//! `cargo xtask build-and-run`: becomes the lab, or becomes `fairlead`.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::Context;

use crate::{build::Built, shell};

/// Which program a command line asks for, with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Program<'a> {
    Lab(&'a [OsString]),
    Fairlead(&'a [OsString]),
}

/// The lab, unless there is a command line for `fairlead`.
pub(crate) fn choose<'a>(
    lab: &'a [OsString],
    fairlead: Option<&'a [OsString]>,
) -> anyhow::Result<Program<'a>> {
    match fairlead {
        None => Ok(Program::Lab(lab)),
        Some(args) if lab.is_empty() => Ok(Program::Fairlead(args)),
        Some(_) => anyhow::bail!(
            "{lab:?} before `--` is for the lab, but what stands after it runs fairlead: \
             put all of it after `--`"
        ),
    }
}

/// Replaces this process, so that signals and the exit status are those of the program that runs.
/// Returns only if that fails.
pub(crate) fn replace_process(built: &Built, program: Program<'_>) -> anyhow::Result<ExitCode> {
    let (file, args) = match program {
        Program::Lab(args) => (&built.lab, args),
        Program::Fairlead(args) => (&built.fairlead, args),
    };
    let mut command = shell::command(file);
    command
        .args(args)
        .env("FAIRLEAD_BIN", &built.fairlead)
        .env("FAIRLEAD_LAB_BIN", &built.lab);
    Err(command.exec()).with_context(|| format!("run {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_runs_both_programs_at_once() {
        let (none, some) = ([], [OsString::from("--json")]);
        assert_eq!(choose(&none, None).unwrap(), Program::Lab(&none));
        assert_eq!(choose(&some, None).unwrap(), Program::Lab(&some));
        assert_eq!(
            choose(&none, Some(&some)).unwrap(),
            Program::Fairlead(&some)
        );
        let error = choose(&some, Some(&some)).unwrap_err().to_string();
        assert!(error.contains("--json"), "{error}");
    }
}
