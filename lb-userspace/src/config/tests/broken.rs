//! Broken files as data: `config/broken/NAME.toml` has its text and JSON in
//! `config/snapshots/NAME.snap`. A new case is a new file; `INSTA_UPDATE=always` writes its
//! snapshot, to be read before it is committed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::render::{self, Colour};
use crate::config::{Diagnostic, Outcome, codes, parse, parse_bytes};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/config")
        .join(name)
}

/// Name and bytes of every broken file, in the order of their names.
pub(super) fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder("broken"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn read(name: &str, bytes: &[u8]) -> (Outcome, String) {
    parse_bytes(&format!("{name}.toml"), bytes)
}

#[test]
fn each_broken_file_is_answered_as_its_snapshot_says() {
    for (name, bytes) in files() {
        let (outcome, source) = read(&name, &bytes);
        let text = render::text(&outcome, &source, Colour::Plain);
        let json = serde_json::to_string_pretty(&render::json(&outcome)).unwrap();
        let shown = format!("{text}\n{json}");
        insta::with_settings!({
            snapshot_path => folder("snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, shown);
        });
    }
    // Afterwards, since the snapshots may just have been made: many files, and no stale snapshot.
    let names: BTreeSet<String> = files().into_iter().map(|(name, _)| name).collect();
    assert!(names.len() >= 45, "{}", names.len());
    let snapshots: BTreeSet<String> = fs::read_dir(folder("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "snap"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, snapshots);
}

#[test]
fn files_named_warn_may_be_used_and_all_others_may_not() {
    for (name, bytes) in files() {
        let (outcome, _) = read(&name, &bytes);
        let warns = name.starts_with("warn-");
        assert_eq!(outcome.config.is_some(), warns, "{name}");
        assert_eq!(outcome.errors().count() == 0, warns, "{name}");
        assert!(!outcome.diagnostics.is_empty(), "{name}");
    }
}

#[test]
fn every_code_is_triggered_by_a_file_but_those_for_files_that_cannot_be_read() {
    let mut seen = BTreeSet::new();
    for (name, bytes) in files() {
        let (outcome, _) = read(&name, &bytes);
        seen.extend(outcome.diagnostics.iter().map(|d| d.code.id));
    }
    // These two are triggered in `check`.
    seen.extend([codes::UNREADABLE.id, codes::TOO_LARGE.id]);
    let all: BTreeSet<&str> = codes::ALL.iter().map(|c| c.id).collect();
    assert_eq!(seen, all);
}

#[test]
fn codes_are_unique_and_ascending_and_say_something() {
    for pair in codes::ALL.windows(2) {
        assert!(pair[0].id < pair[1].id, "{}", pair[1].id);
    }
    for code in codes::ALL {
        let texts = [code.title, code.cause, code.cure];
        assert!(
            texts.iter().all(|t| t.len() > 10 && !t.ends_with('.')),
            "{code:?}"
        );
        let warning = code.id.starts_with("FL01");
        assert_eq!(warning, code.severity.as_str() == "warning", "{code:?}");
    }
}

/// Checks that a diagnostic points into the text and says what to do.
pub(super) fn well_formed(d: &Diagnostic, source: &str) {
    assert!(
        d.span.start <= d.span.end && d.span.end <= source.len(),
        "{d:?}"
    );
    assert!(source.get(d.span.clone()).is_some(), "{d:?}");
    let lines = source.matches('\n').count().saturating_add(1);
    assert!((1..=lines).contains(&d.position.line), "{d:?}");
    let row = source.split('\n').nth(d.position.line - 1).unwrap();
    assert!(
        (1..=row.chars().count() + 1).contains(&d.position.column),
        "{d:?}"
    );
    assert!(!d.message.is_empty() && !d.help.is_empty(), "{d:?}");
    assert!(!d.message.contains(char::is_control), "{d:?}");
    for label in &d.labels {
        assert!(source.get(label.span.clone()).is_some(), "{d:?}");
    }
}

#[test]
fn every_diagnostic_has_a_place_and_a_cure() {
    for (name, bytes) in files() {
        let (outcome, source) = read(&name, &bytes);
        for d in &outcome.diagnostics {
            well_formed(d, &source);
            let whole_file = ["bytes-", "missing-", "empty", "warn-no-service"];
            let keyed = !d.key.is_empty() || d.code == &codes::SYNTAX;
            assert!(
                keyed
                    || whole_file.iter().any(|w| name.starts_with(w))
                    || d.code == &codes::DUPLICATE_KEY,
                "{name}: {d:?}"
            );
        }
    }
}

#[test]
fn what_a_suggestion_replaces_is_no_longer_wrong() {
    let mut tried = 0;
    for (name, bytes) in files() {
        let (outcome, source) = read(&name, &bytes);
        for d in &outcome.diagnostics {
            let Some(suggestion) = &d.suggestion else {
                continue;
            };
            let mut cured = source.clone();
            cured.replace_range(suggestion.span.clone(), &suggestion.replacement);
            let again = parse(&name, &cured);
            let same = |e: &&Diagnostic| {
                e.span.start == d.span.start && (e.code == d.code || e.code == &codes::SYNTAX)
            };
            let left: Vec<_> = again.diagnostics.iter().filter(same).collect();
            assert!(left.is_empty(), "{name}: {suggestion:?}: {left:?}");
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}
