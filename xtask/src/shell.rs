//! Starts other programs: prints what it runs, and keeps this program's own cargo environment
//! away from them.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::workspace::Workspace;

/// Variables that `cargo run` sets for this program and that would mislead a cargo below it.
const CARGO_RUN_PREFIXES: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// A command with this process's environment, less what `cargo run` added to it.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let added_by_cargo = name.to_str().is_some_and(|name| {
            CARGO_RUN_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if added_by_cargo || name == "CARGO_CRATE_NAME" || name == "OUT_DIR" {
            command.env_remove(name);
        }
    }
    if let Some(paths) = env::var_os("LD_LIBRARY_PATH") {
        match own_library_paths(&paths) {
            Some(kept) => command.env("LD_LIBRARY_PATH", kept),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

/// The cargo that runs this program, in the workspace's root folder.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace.root);
    command
}

/// Runs a command with the terminal's input and output; an error if it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("+ {}", display(command));
    let status = command
        .status()
        .with_context(|| format!("start `{}`", display(command)))?;
    anyhow::ensure!(status.success(), "`{}` failed: {status}", display(command));
    Ok(())
}

/// Standard output of a command, or nothing if it cannot be started or fails.
pub(crate) fn output(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let output = command(program).args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Program and arguments on one line, for people: no quoting.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// The folder that `cargo install` puts programs into.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"))
}

/// PATH, and after it the folders that a short PATH leaves out: sbin and cargo's own.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    for folder in extra.into_iter().chain(cargo_bin()) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The file that `name` would run.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// `LD_LIBRARY_PATH` as it was before cargo prepended its own and the toolchain's folders.
fn own_library_paths(paths: &OsStr) -> Option<OsString> {
    let kept: Vec<PathBuf> = env::split_paths(paths)
        .filter(|path| {
            let text = path.to_string_lossy();
            let from_cargo = path.ends_with("deps")
                || path.ends_with("debug")
                || text.contains("/toolchains/")
                || text.contains("/rustlib/");
            !from_cargo && !text.is_empty()
        })
        .collect();
    if kept.is_empty() {
        None
    } else {
        env::join_paths(kept).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &str, after: Option<&str>) {
        assert_eq!(
            own_library_paths(OsStr::new(before)),
            after.map(OsString::from)
        );
    }

    #[test]
    fn only_the_users_library_folders_reach_other_programs() {
        check("/r/target/debug/deps:/r/target/debug", None);
        check("/r/target/debug/deps:/opt/lib", Some("/opt/lib"));
        check(
            "/h/.rustup/toolchains/stable/lib:/opt/a:/opt/b",
            Some("/opt/a:/opt/b"),
        );
        check("", None);
    }
}
