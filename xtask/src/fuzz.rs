//! `cargo xtask fuzz`: the coverage-guided fuzzers (libFuzzer) of the data plane and of what reads the answers to checks, for a bounded time or
//! so many inputs.
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
/// What a fuzzer feeds: the name of its program, and of its corpus.
pub(crate) const TARGETS: [&str; 5] = [PIPELINE, "http", "http2", "grpc", "dns"];

/// The data plane: of the others the tests read the corpora only, as their fuzzers take minutes to build.
pub(crate) const PIPELINE: &str = "pipeline";

/// The longest input, in bytes: room for about a hundred packets, or for an answer and what may be wrong with it.
fn longest(target: &str) -> &'static str {
    match target {
        PIPELINE => "-max_len=2048",
        _ => "-max_len=512",
    }
}

/// What is committed: an input a line, in hexadecimal digits.
fn corpus(target: &str) -> String {
    format!("fuzz/corpus/{target}.txt")
}

/// One fuzzer's program and files.
struct Fuzzer {
    name: String,
    program: PathBuf,
    /// What is committed, a file for each input.
    corpus: PathBuf,
    /// What this machine has found.
    found: PathBuf,
    /// Inputs that failed.
    failed: PathBuf,
}

impl Fuzzer {
    /// Of a program among those that were built.
    fn new(workspace: &Workspace, programs: &Path, name: &str) -> anyhow::Result<Self> {
        let target = workspace.target.join("fuzz").join(name);
        let fuzzer = Self {
            name: name.to_owned(),
            program: programs.join(name),
            corpus: target.join("corpus"),
            found: target.join("found"),
            failed: target.join("failed"),
        };
        if fuzzer.corpus.exists() {
            fs::remove_dir_all(&fuzzer.corpus)
                .with_context(|| format!("empty {}", fuzzer.corpus.display()))?;
        }
        for folder in [&fuzzer.corpus, &fuzzer.found, &fuzzer.failed] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let path = workspace.root.join(corpus(name));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for (number, line) in (1_u32..).zip(text.lines()) {
            let input = from_hex(line)
                .with_context(|| format!("{}:{number} is no input", path.display()))?;
            fs::write(fuzzer.corpus.join(number.to_string()), input)
                .with_context(|| format!("write into {}", fuzzer.corpus.display()))?;
        }
        Ok(fuzzer)
    }

    /// For some seconds, on the committed corpus and on what was found here before.
    fn run(&self, seconds: u32) -> anyhow::Result<()> {
        let mut command = shell::command(&self.program);
        command
            .arg(&self.found)
            .arg(&self.corpus)
            .arg(format!("-max_total_time={seconds}"))
            .args(self.common());
        shell::run(&mut command).with_context(|| self.to_repeat())
    }

    /// On the committed corpus and on so many inputs that it makes of that: fails also if it ran fewer.
    fn run_some(&self, inputs: u64) -> anyhow::Result<()> {
        let committed = fs::read_dir(&self.corpus)
            .with_context(|| format!("list {}", self.corpus.display()))?
            .count();
        let asked = inputs.saturating_add(committed as u64);
        let mut command = shell::command(&self.program);
        command
            .arg(&self.corpus)
            .arg(format!("-runs={asked}"))
            .args(self.common());
        let mut ran = None;
        let status = show(&mut command, &mut io::stdout(), |line| {
            ran = executed(line).or(ran);
        })?;
        anyhow::ensure!(status.success(), self.to_repeat());
        anyhow::ensure!(
            ran >= Some(asked),
            "the fuzzer of {} ran {ran:?} inputs, not {asked}: {committed} are committed, and it should have made the others",
            self.name
        );
        Ok(())
    }

    /// Few inputs of those committed and found that reach each edge of the code that any of them reaches.
    fn merged(&self, workspace: &Workspace) -> anyhow::Result<Vec<String>> {
        let merged = workspace
            .target
            .join("fuzz")
            .join(&self.name)
            .join("merged");
        if merged.exists() {
            fs::remove_dir_all(&merged).with_context(|| format!("empty {}", merged.display()))?;
        }
        fs::create_dir_all(&merged).with_context(|| format!("make {}", merged.display()))?;
        let mut command = shell::command(&self.program);
        command
            .args(["-set_cover_merge=1", "-use_counters=0", longest(&self.name)])
            .arg(prefix(&self.failed))
            .args([&merged, &self.corpus, &self.found]);
        shell::run(&mut command)?;
        let mut lines = Vec::new();
        for entry in fs::read_dir(&merged).with_context(|| format!("list {}", merged.display()))? {
            let path = entry?.path();
            let input = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            lines.push(to_hex(&input));
        }
        lines.sort_by_key(|line| (line.len(), line.clone()));
        Ok(lines)
    }

    fn common(&self) -> [String; 4] {
        [
            longest(&self.name).to_owned(),
            prefix(&self.failed),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ]
    }

    fn to_repeat(&self) -> String {
        format!(
            "an input in {} fails; to run it again: {} FILE",
            self.failed.display(),
            self.program.display()
        )
    }
}

/// How long a fuzzer runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// For so many seconds.
    Seconds(u32),
    /// For so many inputs besides those that are committed.
    Inputs(u64),
}

/// Builds a fuzzer and runs it.
pub(crate) fn run(workspace: &Workspace, target: &str, extent: Extent) -> anyhow::Result<()> {
    let fuzzer = Fuzzer::new(workspace, &build(workspace, target)?, target)?;
    match extent {
        Extent::Seconds(seconds) => fuzzer.run(seconds),
        Extent::Inputs(inputs) => fuzzer.run_some(inputs),
    }
}

/// The number of inputs that were run, if a line of the fuzzer's statistics says it.
fn executed(line: &str) -> Option<u64> {
    let number = line.strip_prefix("stat::number_of_executed_units:")?;
    number.trim().parse().ok()
}

/// Makes the committed corpus of a fuzzer anew, of it and of what was found here.
pub(crate) fn merge(workspace: &Workspace, target: &str) -> anyhow::Result<()> {
    let fuzzer = Fuzzer::new(workspace, &build(workspace, target)?, target)?;
    let lines = fuzzer.merged(workspace)?;
    let path = workspace.root.join(corpus(target));
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

/// Builds a fuzzer, with a target folder that all have to themselves, and returns that of the program.
fn build(workspace: &Workspace, fuzzer: &str) -> anyhow::Result<PathBuf> {
    // Named, so that build scripts are not instrumented.
    let machine = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let target = workspace.target.join("fuzz");
    let mut command = cargo(workspace);
    command
        .args(["build", "--release", "--locked", "--target", &machine])
        .args(["--bin", fuzzer])
        .arg("--manifest-path")
        .arg(workspace.root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    if fuzzer != PIPELINE {
        command.args(["--features", "answers"]);
    }
    shell::run(&mut command).with_context(|| format!("build the fuzzer of {fuzzer}"))?;
    Ok(target.join(machine).join("release"))
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
