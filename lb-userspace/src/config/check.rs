//! `fairlead check FILE [--json]` and `fairlead check --explain CODE`. Needs no privileges. I/O.

use std::io::{self, Write};
use std::path::PathBuf;

use super::render::{self, Colour};
use super::{codes, file, host, parse_bytes};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckArgs {
    /// Check a file.
    File {
        /// The file.
        path: PathBuf,
        /// One JSON object instead of text.
        json: bool,
        /// For text.
        colour: Colour,
    },
    /// Say what a code means.
    Explain {
        /// `FL0003`, in any case.
        code: String,
    },
}

/// How the process should end. The numbers are documented and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckExit {
    /// The file may be used (there may be warnings).
    Good = 0,
    /// The file has errors.
    Bad = 1,
    /// The file cannot be read, or there is no such code.
    Unreadable = 2,
}

impl From<CheckExit> for std::process::ExitCode {
    fn from(exit: CheckExit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command; what it has to say goes to `out`.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> io::Result<CheckExit> {
    match args {
        CheckArgs::File { path, json, colour } => {
            let name = path.display().to_string();
            let bytes = match file::read(path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    unreadable(&name, &error, *json, out)?;
                    return Ok(CheckExit::Unreadable);
                }
            };
            let (outcome, source) = parse_bytes(&name, &bytes);
            if *json {
                serde_json::to_writer(&mut *out, &render::json(&outcome))?;
                writeln!(out)?;
            } else {
                write!(out, "{}", render::text(&outcome, &source, *colour))?;
                let daemon = outcome.config.as_ref().map(|config| &config.daemon);
                for remark in daemon.map(host::remarks).unwrap_or_default() {
                    writeln!(out, "note: {remark}")?;
                }
            }
            Ok(match outcome.config {
                Some(_) => CheckExit::Good,
                None => CheckExit::Bad,
            })
        }
        CheckArgs::Explain { code } => explain(code, out),
    }
}

fn unreadable(
    name: &str,
    error: &file::ReadError,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let code = error.code();
    if !json {
        return writeln!(out, "error[{}]: {error}", code.id);
    }
    let report = serde_json::json!({
        "file": name,
        "ok": false,
        "errors": [{
            "code": code.id,
            "severity": code.severity.as_str(),
            "file": name,
            "line": null,
            "column": null,
            "key": "",
            "message": error.to_string(),
            "help": code.cure,
            "suggestion": null,
            "labels": [],
        }],
        "warnings": [],
        "omitted": 0,
    });
    writeln!(out, "{report}")
}

fn explain(id: &str, out: &mut dyn Write) -> io::Result<CheckExit> {
    if let Some(code) = codes::find(id) {
        write!(out, "{}", codes::explain(code))?;
        return Ok(CheckExit::Good);
    }
    let (first, last) = (codes::ALL.first(), codes::ALL.last());
    let id_of = |code: Option<&&codes::Code>| code.map_or("", |c| c.id);
    writeln!(
        out,
        "explain {}: there is no such code (they go from {} to {})",
        super::value::printable(id),
        id_of(first),
        id_of(last)
    )?;
    Ok(CheckExit::Unreadable)
}
