//! Counts tests by what cargo and the test binaries print. Pure.

use std::fmt;

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// A run is good if nothing failed and something ran.
    pub(crate) fn is_success(self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
    }

    /// A test that is among the failed has passed when it ran again.
    pub(crate) fn passed_at_last(&mut self) {
        self.failed = self.failed.saturating_sub(1);
        self.passed = self.passed.saturating_add(1);
    }

    /// Counts a check that is not a test: it can only fail.
    pub(crate) fn count_check(&mut self, name: &str, result: anyhow::Result<()>) {
        if let Err(error) = result {
            eprintln!("FAILED: {name}: {error:#}");
            self.failed = self.failed.saturating_add(1);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// One test binary's run.
#[derive(Debug)]
struct Run {
    /// The crate's name, or `doc-tests NAME`.
    name: String,
    /// What its `test result:` line says; `None` until there is one.
    result: Option<Counts>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// The runs seen so far.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    runs: Vec<Run>,
    failed: Vec<String>,
}

impl Totals {
    /// With a run that has begun: nobody prints its line `Running`.
    pub(crate) fn of(name: &str) -> Self {
        Self {
            runs: vec![Run {
                name: name.to_owned(),
                result: None,
            }],
            failed: Vec::new(),
        }
    }

    /// The tests that failed so far, by their names.
    pub(crate) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Takes one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(name) = started(line) {
            self.runs.push(Run { name, result: None });
        } else if let Some(counts) = result(line)
            && let Some(run) = self.runs.last_mut()
        {
            // The runner's own line comes last; one before it is something a test printed.
            run.result = Some(counts);
        } else if let Some(name) = failed(line) {
            self.failed.push(name.to_owned());
        }
    }

    /// The tally, and what is wrong. `expected` are the crates whose binary must run a test.
    pub(crate) fn finish(self, cargo_succeeded: bool, expected: &[&str]) -> (Tally, Vec<String>) {
        let mut tally = Tally::default();
        let mut complaints = Vec::new();
        for run in &self.runs {
            let Some(counts) = run.result else {
                complaints.push(format!("{} ended without a result", run.name));
                continue;
            };
            tally.add(Tally {
                passed: counts.passed,
                failed: counts.failed,
            });
            if counts.ignored > 0 {
                complaints.push(format!(
                    "{}: {} tests were ignored",
                    run.name, counts.ignored
                ));
            }
        }
        for name in expected {
            let ran = |run: &Run| {
                run.name == *name
                    && run
                        .result
                        .is_some_and(|counts| counts.passed > 0 || counts.failed > 0)
            };
            if !self.runs.iter().any(ran) {
                complaints.push(format!("{name} ran no test"));
            }
        }
        if !cargo_succeeded && tally.failed == 0 && complaints.is_empty() {
            complaints.push("cargo failed".into());
        }
        tally.failed = tally.failed.saturating_add(complaints.len() as u64);
        (tally, complaints)
    }
}

/// The crate of a line such as `Running unittests src/lib.rs (target/debug/deps/lb_common-0123)`
/// or `Doc-tests lb_common`.
fn started(line: &str) -> Option<String> {
    if let Some(name) = line.trim().strip_prefix("Doc-tests ") {
        return Some(format!("doc-tests {name}"));
    }
    binary(line, "Running ").map(|(name, _)| name.to_owned())
}

/// The test of a line such as `test e2e::traffic::long_connections_last ... FAILED`.
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The crate and the path of a test binary in a line of cargo such as `VERB all/main.rs (target/debug/deps/all-99)`.
pub(crate) fn binary<'l>(line: &'l str, verb: &str) -> Option<(&'l str, &'l str)> {
    let path = line
        .trim()
        .strip_prefix(verb)?
        .strip_suffix(')')?
        .rsplit_once('(')?
        .1;
    let file = path.rsplit('/').next()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _hash)| name);
    Some((name, path))
}

/// The counts of a line such as
/// `test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s`.
fn result(line: &str) -> Option<Counts> {
    let (_verdict, counts) = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let count = |word: &str| {
        counts
            .split(';')
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = "     Running unittests src/lib.rs (target/debug/deps/lb_common-0af3)";
    const ALL: &str = "     Running all/main.rs (target/debug/deps/all-99)";
    const DOC: &str = "   Doc-tests lb_common";

    fn ok(passed: u64) -> String {
        format!(
            "test result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        )
    }

    #[track_caller]
    fn check(
        lines: &[&str],
        cargo_succeeded: bool,
        expected: &[&str],
        tally: &str,
        complaints: &[&str],
    ) {
        let mut totals = Totals::default();
        for line in lines {
            totals.line(line);
        }
        let (got, complained) = totals.finish(cargo_succeeded, expected);
        assert_eq!(got.to_string(), tally);
        assert_eq!(complained, complaints);
    }

    #[test]
    fn all_binaries_are_added_up() {
        let lines = [
            COMMON,
            "running 3 tests",
            &ok(3),
            "",
            ALL,
            &ok(4),
            DOC,
            &ok(0),
        ];
        check(
            &lines,
            true,
            &["lb_common", "all"],
            "7 passed, 0 failed",
            &[],
        );
    }

    #[test]
    fn failed_tests_are_counted_once() {
        let failed = "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        check(
            &[COMMON, failed],
            false,
            &["lb_common"],
            "2 passed, 3 failed",
            &[],
        );
    }

    #[test]
    fn a_binary_that_runs_no_test_or_is_not_there_fails() {
        check(
            &[COMMON, &ok(0)],
            true,
            &["lb_common"],
            "0 passed, 1 failed",
            &["lb_common ran no test"],
        );
        check(
            &[COMMON, &ok(1)],
            true,
            &["lb_common", "all"],
            "1 passed, 1 failed",
            &["all ran no test"],
        );
        // Doc-tests do not stand in for the crate's own tests.
        check(
            &[DOC, &ok(1)],
            true,
            &["lb_common"],
            "1 passed, 1 failed",
            &["lb_common ran no test"],
        );
    }

    #[test]
    fn an_ignored_test_is_a_failure() {
        let ignored = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s";
        check(
            &[COMMON, ignored],
            true,
            &[],
            "2 passed, 1 failed",
            &["lb_common: 1 tests were ignored"],
        );
    }

    #[test]
    fn a_binary_that_dies_fails() {
        let lines = [COMMON, "running 3 tests", ALL, &ok(4)];
        check(
            &lines,
            false,
            &[],
            "4 passed, 1 failed",
            &["lb_common ended without a result"],
        );
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        check(
            &["error: could not compile"],
            false,
            &[],
            "0 passed, 1 failed",
            &["cargo failed"],
        );
    }

    #[test]
    fn a_test_that_prints_a_result_line_is_not_counted_twice() {
        check(
            &[COMMON, &ok(50), &ok(3)],
            true,
            &["lb_common"],
            "3 passed, 0 failed",
            &[],
        );
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!Tally::default().is_success());
        let tally = |passed, failed| Tally { passed, failed };
        assert!(tally(1, 0).is_success());
        assert!(!tally(1, 1).is_success());
    }

    #[test]
    fn failed_tests_are_named_and_may_pass_at_last() {
        let mut totals = Totals::default();
        for line in [
            ALL,
            "test e2e::one ... ok",
            "test e2e::two ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        ] {
            totals.line(line);
        }
        assert_eq!(totals.failed(), ["e2e::two"]);
        let (mut tally, _) = totals.finish(false, &["all"]);
        tally.passed_at_last();
        assert_eq!(tally.to_string(), "2 passed, 0 failed");
    }
}
