//! Files that README and ARCHITECTURE name in backticks must exist: prose that points nowhere is
//! worse than none. Pure.

use super::{Complaint, File};

/// Whether a file's prose is checked.
pub(super) fn is_checked(path: &str) -> bool {
    matches!(path, "README.md" | "ARCHITECTURE.md")
}

/// Complaints about one text; `paths` are all files of the workspace.
pub(super) fn check(file: &File, paths: &[&str]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut in_block = false;
    for (line, text) in (1_usize..).zip(file.text.lines()) {
        if text.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let missing = backticked(text)
                .flat_map(alternatives)
                .filter(|name| !exists(name, paths));
            complaints.extend(missing.map(|name| Complaint {
                path: file.path.clone(),
                line,
                text: format!("`{name}` is named but is not there"),
            }));
        }
    }
    complaints
}

/// What stands between pairs of backticks.
fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn alternatives(name: &str) -> Vec<String> {
    let parts = name
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match parts {
        None => vec![name.into()],
        Some((before, (choices, after))) => choices
            .split(',')
            .map(|choice| format!("{before}{}{after}", choice.trim()))
            .collect(),
    }
}

/// Whether the name is that of a file or folder here, or does not look like one.
fn exists(name: &str, paths: &[&str]) -> bool {
    let name = name.trim_end_matches('/');
    let source = [".rs", ".md"].iter().any(|ending| name.ends_with(ending));
    let (first, in_folder) = name
        .split_once('/')
        .map_or((name, false), |(first, _)| (first, true));
    let ours = in_folder
        && paths
            .iter()
            .any(|path| path.starts_with(&format!("{first}/")));
    let odd = name.contains(|c: char| c.is_whitespace() || "<>*$~:()".contains(c));
    // `foo.rs` stands for any file.
    let example = name.rsplit('/').next() == Some("foo.rs");
    if odd || example || name.starts_with('/') || !(source || ours) {
        return true;
    }
    paths.iter().any(|path| {
        let below = path
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // `plan.rs` and `dataplane/bpf.rs` are short for the one file that ends so.
        below || (source && path.ends_with(&format!("/{name}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 4] = [
        "README.md",
        "xtask/src/main.rs",
        "lb-userspace/src/dataplane/bpf.rs",
        "examples/fairlead.toml",
    ];

    #[track_caller]
    fn check_text(text: &str, missing: &[&str]) {
        let file = File {
            path: "README.md".into(),
            text: text.into(),
        };
        let texts: Vec<String> = check(&file, &PATHS).into_iter().map(|c| c.text).collect();
        let expected: Vec<String> = missing
            .iter()
            .map(|name| format!("`{name}` is named but is not there"))
            .collect();
        assert_eq!(texts, expected, "{text}");
    }

    #[test]
    fn files_and_folders_that_are_there_may_be_named() {
        check_text(
            "see `xtask/src/main.rs`, `xtask/`, `main.rs` and `dataplane/bpf.rs`",
            &[],
        );
        check_text("`examples/fairlead.toml`", &[]);
    }

    #[test]
    fn files_that_are_not_there_are_found() {
        check_text("`xtask/src/gone.rs`", &["xtask/src/gone.rs"]);
        check_text(
            "`gone.rs` and `examples/gone.toml`",
            &["gone.rs", "examples/gone.toml"],
        );
        check_text("`dataplane/{bpf,mem}.rs`", &["dataplane/mem.rs"]);
    }

    #[test]
    fn what_is_no_file_of_ours_is_left_alone() {
        check_text(
            "`fairlead.toml`, `/sys/fs/bpf`, `10.0.0.0/24`, `cargo xtask test`, `a/b`",
            &[],
        );
        check_text("```\nxtask/src/gone.rs `xtask/src/gone.rs`\n```", &[]);
    }
}
