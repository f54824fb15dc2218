//! `fairlead check` with real files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::check::{CheckArgs, CheckExit, run};
use crate::config::file::{self, LoadError, ReadError};
use crate::config::render::Colour;

/// A file of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &[u8]) -> Self {
        let file = format!("fairlead-check-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(file);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn minimal() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/minimal.toml")
}

fn check(path: &Path, json: bool) -> (CheckExit, String) {
    let args = CheckArgs::File {
        path: path.to_path_buf(),
        json,
        colour: Colour::Plain,
    };
    let mut out = Vec::new();
    let exit = run(&args, &mut out).unwrap();
    (exit, String::from_utf8(out).unwrap())
}

fn explain(code: &str) -> (CheckExit, String) {
    let args = CheckArgs::Explain {
        code: code.to_owned(),
    };
    let mut out = Vec::new();
    let exit = run(&args, &mut out).unwrap();
    (exit, String::from_utf8(out).unwrap())
}

#[test]
fn a_good_file_ends_with_0() {
    let (exit, text) = check(&minimal(), false);
    assert_eq!(exit, CheckExit::Good, "{text}");
    assert!(text.ends_with("minimal.toml: ok\n"), "{text}");
    let (exit, text) = check(&minimal(), true);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(exit, CheckExit::Good);
    assert_eq!(json["ok"], true);
    assert_eq!(json["errors"], serde_json::json!([]));
}

#[test]
fn a_bad_file_ends_with_1_and_names_file_line_and_column() {
    let file = Scratch::new("bad", b"[daemon]\ninterfaces = [\"eth0\"]\nmetrix = 1\n");
    let (exit, text) = check(&file.0, false);
    assert_eq!(exit, CheckExit::Bad);
    assert!(
        text.contains(&format!("{}:3:1", file.0.display())),
        "{text}"
    );
    let (_, text) = check(&file.0, true);
    assert_eq!(text.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let error = &json["errors"][0];
    assert_eq!(json["ok"], false);
    assert_eq!(error["code"], "FL0003");
    assert_eq!((&error["line"], &error["column"]), (&3.into(), &1.into()));
    assert_eq!(error["key"], "daemon.metrix");
    assert_eq!(error["suggestion"], "metrics");
}

#[test]
fn a_file_that_cannot_be_read_ends_with_2_and_a_cure() {
    let missing = Path::new("/nonexistent/fairlead.toml");
    let (exit, text) = check(missing, false);
    assert_eq!(exit, CheckExit::Unreadable);
    assert!(
        text.starts_with("error[FL0041]: read /nonexistent/fairlead.toml: "),
        "{text}"
    );
    assert!(text.contains("check the path"), "{text}");
    let (exit, text) = check(Path::new("/"), true);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(exit, CheckExit::Unreadable);
    assert_eq!(json["errors"][0]["code"], "FL0041");
    let (exit, text) = check(Path::new("/dev/null"), false);
    assert_eq!(exit, CheckExit::Unreadable);
    assert!(text.contains("not a regular file"), "{text}");
}

#[test]
fn a_file_of_more_than_16_mib_is_not_read() {
    let file = Scratch::new("large", b"");
    let handle = fs::OpenOptions::new().write(true).open(&file.0).unwrap();
    handle.set_len(file::LARGEST + 1).unwrap();
    let (exit, text) = check(&file.0, false);
    assert_eq!(exit, CheckExit::Unreadable);
    assert!(text.starts_with("error[FL0040]"), "{text}");
    assert!(matches!(
        file::load(&file.0),
        Err(LoadError::Read(ReadError::TooLarge { .. }))
    ));
}

#[test]
fn loading_gives_the_configuration_or_all_errors() {
    let loaded = file::load(&minimal()).unwrap();
    assert_eq!(loaded.text, fs::read_to_string(minimal()).unwrap());
    assert_eq!(loaded.config.services.len(), 1);
    let file = Scratch::new("two", b"[daemon]\ninterfaces = []\nmetrics = \"x\"\n");
    let error = file::load(&file.0).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("FL0033") && text.contains("FL0038"), "{text}");
}

#[test]
fn codes_are_explained() {
    let (exit, text) = explain("fl0003");
    assert_eq!(exit, CheckExit::Good);
    assert!(
        text.starts_with("FL0003: there is no such key (error)\n"),
        "{text}"
    );
    assert!(text.contains("\ncure: "), "{text}");
    let (exit, text) = explain("FL9999");
    assert_eq!(exit, CheckExit::Unreadable);
    assert!(text.contains("FL0001") && text.contains("FL0114"), "{text}");
}
