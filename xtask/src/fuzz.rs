//! `cargo xtask fuzz`: the coverage-guided fuzzer of the data plane (libFuzzer), for a bounded time.
//!
//! The compiler's own instrumentation needs stable flags only, and libFuzzer a C++ compiler, which set-up installs
//! for the linker: no nightly toolchain and no cargo-fuzz.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    shell::{self, cargo},
    test::show,
    workspace::Workspace,
};

/// Counters of edges, and operands of comparisons: what libFuzzer is guided by.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// The longest input, in bytes: room for about a hundred packets.
const LONGEST: &str = "-max_len=2048";

/// What is committed: an input a line, in hexadecimal digits.
const CORPUS: &str = "fuzz/corpus.txt";

/// Where the fuzzer's files are.
struct Folders {
    /// What is committed, a file for each input.
    corpus: PathBuf,
    /// What this machine has found.
    found: PathBuf,
    /// Inputs that failed.
    failed: PathBuf,
}

impl Folders {
    fn make(workspace: &Workspace) -> anyhow::Result<Self> {
        let target = workspace.target.join("fuzz");
        let folders = Self {
            corpus: target.join("corpus"),
            found: target.join("found"),
            failed: target.join("failed"),
        };
        if folders.corpus.exists() {
            fs::remove_dir_all(&folders.corpus)
                .with_context(|| format!("empty {}", folders.corpus.display()))?;
        }
        for folder in [&folders.corpus, &folders.found, &folders.failed] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let path = workspace.root.join(CORPUS);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for (number, line) in (1_u32..).zip(text.lines()) {
            let input = from_hex(line)
                .with_context(|| format!("{}:{number} is no input", path.display()))?;
            fs::write(folders.corpus.join(number.to_string()), input)
                .with_context(|| format!("write into {}", folders.corpus.display()))?;
        }
        Ok(folders)
    }
}

/// Builds the fuzzer and runs it for some seconds, on the committed corpus and on what was found here before.
pub(crate) fn run(workspace: &Workspace, seconds: u32) -> anyhow::Result<()> {
    let fuzzer = build(workspace)?;
    let folders = Folders::make(workspace)?;
    let mut command = shell::command(&fuzzer);
    command
        .arg(&folders.found)
        .arg(&folders.corpus)
        .arg(format!("-max_total_time={seconds}"))
        .args(common(&folders));
    shell::run(&mut command).with_context(|| to_repeat(&folders, &fuzzer))
}

/// Builds the fuzzer and runs it on the committed corpus and on so many inputs that it makes of that: fails also if it ran fewer.
pub(crate) fn run_some(workspace: &Workspace, inputs: u64) -> anyhow::Result<()> {
    let fuzzer = build(workspace)?;
    let folders = Folders::make(workspace)?;
    let committed = fs::read_dir(&folders.corpus)
        .with_context(|| format!("list {}", folders.corpus.display()))?
        .count();
    let asked = inputs.saturating_add(committed as u64);
    let mut command = shell::command(&fuzzer);
    command
        .arg(&folders.corpus)
        .arg(format!("-runs={asked}"))
        .args(common(&folders));
    let mut ran = None;
    let status = show(&mut command, &mut io::stdout(), |line| {
        ran = executed(line).or(ran);
    })?;
    anyhow::ensure!(status.success(), to_repeat(&folders, &fuzzer));
    anyhow::ensure!(
        ran >= Some(asked),
        "the fuzzer ran {ran:?} inputs, not {asked}: {committed} are committed, and it should have made the others"
    );
    Ok(())
}

/// The number of inputs that were run, if a line of the fuzzer's statistics says it.
fn executed(line: &str) -> Option<u64> {
    let number = line.strip_prefix("stat::number_of_executed_units:")?;
    number.trim().parse().ok()
}

fn common(folders: &Folders) -> [String; 4] {
    [
        LONGEST.to_owned(),
        prefix(&folders.failed),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
    ]
}

fn to_repeat(folders: &Folders, fuzzer: &Path) -> String {
    format!(
        "an input in {} fails; to run it again: {} FILE",
        folders.failed.display(),
        fuzzer.display()
    )
}

/// Makes the committed corpus anew: of it and of what was found here, few inputs that reach each edge of the code that any of
/// them reaches.
pub(crate) fn merge(workspace: &Workspace) -> anyhow::Result<()> {
    let fuzzer = build(workspace)?;
    let folders = Folders::make(workspace)?;
    let merged = workspace.target.join("fuzz/merged");
    if merged.exists() {
        fs::remove_dir_all(&merged).with_context(|| format!("empty {}", merged.display()))?;
    }
    fs::create_dir_all(&merged).with_context(|| format!("make {}", merged.display()))?;
    let mut command = shell::command(&fuzzer);
    command
        .args(["-set_cover_merge=1", "-use_counters=0", LONGEST])
        .arg(prefix(&folders.failed))
        .args([&merged, &folders.corpus, &folders.found]);
    shell::run(&mut command)?;
    let mut lines = Vec::new();
    for entry in fs::read_dir(&merged).with_context(|| format!("list {}", merged.display()))? {
        let path = entry?.path();
        let input = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        lines.push(to_hex(&input));
    }
    lines.sort_by_key(|line| (line.len(), line.clone()));
    let path = workspace.root.join(CORPUS);
    let text = lines.join("\n") + "\n";
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("{}: {} inputs", path.display(), lines.len());
    Ok(())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a line; `None`: it has something else than pairs of digits.
fn from_hex(line: &str) -> Option<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    line.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

fn prefix(folder: &Path) -> String {
    format!("-artifact_prefix={}/", folder.display())
}

/// Builds the fuzzer, with a target folder of its own, and returns where it is.
fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    // Named, so that build scripts are not instrumented.
    let machine = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let target = workspace.target.join("fuzz");
    let mut command = cargo(workspace);
    command
        .args(["build", "--release", "--locked", "--target", &machine])
        .arg("--manifest-path")
        .arg(workspace.root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    shell::run(&mut command).context("build the fuzzer")?;
    Ok(target.join(machine).join("release").join("pipeline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read() {
        let line = "stat::number_of_executed_units: 21345";
        assert_eq!(executed(line), Some(21_345));
        assert_eq!(executed("stat::average_exec_per_sec:     4269"), None);
    }

    #[test]
    fn an_input_is_a_line_and_back() {
        for bytes in [&[][..], &[0], &[1, 0xfe, 0x80]] {
            assert_eq!(from_hex(&to_hex(bytes)).as_deref(), Some(bytes));
        }
        for line in ["0", "0g", "00 1", "é"] {
            assert_eq!(from_hex(line), None, "{line}");
        }
    }
}
