//! `cargo xtask tidy`: the rules of the house as a check that fails with file and line.
//!
//! The rules are pure functions over the text of files (`tidy/rules.rs`, `tidy/prose.rs`) and the
//! exceptions are data (`tidy/exceptions.rs`); this file only reads the tree and prints.

mod exceptions;
mod prose;
mod rules;
mod source;

use std::{collections::BTreeSet, fmt, fs, path::Path, process::ExitCode};

use anyhow::Context;

use crate::{shell::cargo, workspace::Workspace};

/// The most crates that the default build may consist of.
const MOST_CRATES: usize = 200;

/// A file of the workspace.
struct File {
    /// Its path from the root, with `/`.
    path: String,
    text: String,
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Complaint {
    path: String,
    /// From 1.
    line: usize,
    text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// Runs the check as a command.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    check(workspace)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks all rules, prints what is broken, and fails if anything is.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let mut files = Vec::new();
    read_tree(&workspace.root, &workspace.root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let mut complaints: Vec<Complaint> = files.iter().flat_map(rules::check).collect();
    complaints.extend(exceptions::check(&files));
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for file in files.iter().filter(|file| prose::is_checked(&file.path)) {
        complaints.extend(prose::check(file, &paths));
    }
    complaints.sort();
    for complaint in &complaints {
        println!("{complaint}");
    }
    let crates = crates_of_default_build(workspace)?;
    println!(
        "tidy: {} files, {crates} crates in the default build (at most {MOST_CRATES})",
        files.len()
    );
    anyhow::ensure!(
        crates <= MOST_CRATES,
        "the default build has {crates} crates, more than {MOST_CRATES}: take a dependency out"
    );
    anyhow::ensure!(
        complaints.is_empty(),
        "{} rules are broken, see above",
        complaints.len()
    );
    Ok(())
}

/// Reads all text files below `folder`, but what git and cargo write.
fn read_tree(root: &Path, folder: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let path = entry.path();
        let kind = entry
            .file_type()
            .with_context(|| format!("look at {}", path.display()))?;
        let name = entry.file_name();
        if kind.is_dir() && name != ".git" && name != "target" {
            read_tree(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let relative = path
                .strip_prefix(root)
                .context("a path outside of the root")?;
            // A file that is no text still exists: README may name it.
            let text = String::from_utf8(bytes).unwrap_or_default();
            files.push(File {
                path: relative.to_string_lossy().into_owned(),
                text,
            });
        }
    }
    Ok(())
}

fn crates_of_default_build(workspace: &Workspace) -> anyhow::Result<usize> {
    let output = cargo(workspace)
        .args([
            "tree",
            "--package",
            "lb-userspace",
            "--edges",
            "normal,build",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .context("start `cargo tree`")?;
    anyhow::ensure!(
        output.status.success(),
        "`cargo tree` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(crate_names(&String::from_utf8_lossy(&output.stdout)).len())
}

/// Name and version of each line of `cargo tree --prefix none`, each once.
fn crate_names(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .map(|line| {
            line.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_is_used_twice_counts_once_and_two_versions_count_twice() {
        let tree = "fairlead v0.1.0 (/r)\nserde v1.0.1\nserde v1.0.1 (*)\nserde v0.9.0\n\n";
        assert_eq!(crate_names(tree).len(), 3);
    }
}
