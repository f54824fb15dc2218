//! The virtual machine: boots, is read, and is judged by what it said.

use std::{fs, io, path::PathBuf, process::Stdio};

use anyhow::Context;

use crate::{
    setup::Emulator,
    test::{Tally, Totals, show},
};

/// Seconds after which the machine is killed: several times what it takes on an idle host.
const AT_MOST: u32 = 2400;
/// The status of timeout(1) when it killed.
const TIMED_OUT: i32 = 124;
/// Told to the kernel: a panic ends the machine (it does not reboot), an oops is a panic, and what depends on a
/// steady clock is off, since other programs hold up an emulated CPU.
const COMMAND_LINE: &str = "console=ttyS0,115200 rdinit=/init panic=-1 oops=panic loglevel=5 mitigations=off \
                            nowatchdog random.trust_cpu=on apparmor=0 audit=0";
/// What the guest's last line says when all went well.
const GOOD_END: &str = "guest: the tests ended with status 0";
/// How the guest's last line begins.
const END: &str = "guest: ";
/// What the kernel says when it is not well.
const BAD_SIGNS: [&str; 5] = ["Kernel panic", "BUG:", "WARNING:", "Oops", "Call Trace"];

/// A machine that has not run yet.
pub(super) struct Machine {
    pub(super) emulator: Emulator,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Where what the kernel says is kept.
    pub(super) console: PathBuf,
    /// Where what the tests say is kept.
    pub(super) report: PathBuf,
}

impl Machine {
    /// Boots it; `expected` tests must run.
    pub(super) fn run(&self, expected: usize) -> anyhow::Result<Tally> {
        for log in [&self.console, &self.report] {
            drop(fs::remove_file(log));
        }
        let mut command = self.emulator.command(AT_MOST);
        command
            .args(["-machine", "pc", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-nic", "none"])
            .args(["-append", COMMAND_LINE])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .arg("-chardev")
            .arg(format!(
                "stdio,id=report,signal=off,logfile={}",
                self.report.display()
            ))
            .args(["-serial", "chardev:report"])
            .stdin(Stdio::null());
        let mut totals = Totals::of("all");
        let mut end = None;
        let status = show(&mut command, &mut io::stdout(), |line| {
            totals.line(line);
            if line.starts_with(END) {
                end = Some(line.trim_end().to_owned());
            }
        })?;
        println!(
            "the kernel's messages: {}\nthe tests' output: {}",
            self.console.display(),
            self.report.display()
        );
        let console =
            fs::read(&self.console).with_context(|| format!("read {}", self.console.display()))?;
        let (mut tally, mut complaints) = totals.finish(true, &["all"]);
        complaints.extend(judge(&Ended {
            status: status.code(),
            end: end.as_deref(),
            console: &String::from_utf8_lossy(&console),
            tally,
            expected,
        }));
        for complaint in complaints {
            eprintln!("FAILED: {complaint}");
            tally.failed = tally.failed.saturating_add(1);
        }
        Ok(tally)
    }
}

/// What is known of a machine that ran.
struct Ended<'a> {
    /// Of `timeout`, which passes on the emulator's.
    status: Option<i32>,
    /// The guest's last line.
    end: Option<&'a str>,
    console: &'a str,
    tally: Tally,
    /// Tests that should have run.
    expected: usize,
}

/// What is wrong beside tests that failed.
fn judge(ended: &Ended<'_>) -> Vec<String> {
    let mut complaints = Vec::new();
    match ended.status {
        Some(0) => {}
        Some(TIMED_OUT) => {
            complaints.push(format!("the machine had not ended after {AT_MOST} s"));
        }
        Some(status) => complaints.push(format!("the emulator ended with status {status}")),
        None => complaints.push("the emulator was killed".into()),
    }
    match ended.end {
        Some(GOOD_END) => {}
        // Tests that fail are in the tally.
        Some(_) if ended.tally.failed > 0 => {}
        Some(end) => complaints.push(end.to_owned()),
        None => complaints.push("the machine ended before its tests".into()),
    }
    let ran = ended.tally.passed.saturating_add(ended.tally.failed);
    if ran != ended.expected as u64 {
        complaints.push(format!("{ran} tests ran, not {}", ended.expected));
    }
    let bad = |line: &&str| BAD_SIGNS.iter().any(|sign| line.contains(sign));
    if let Some(line) = ended.console.lines().find(bad) {
        complaints.push(format!("the kernel said: {}", line.trim()));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Ended<'static> {
        Ended {
            status: Some(0),
            end: Some(GOOD_END),
            console: "[    0.0] Linux version 6.1\n",
            tally: Tally {
                passed: 3,
                failed: 0,
            },
            expected: 3,
        }
    }

    #[track_caller]
    fn check(ended: &Ended<'_>, expected: &[&str]) {
        assert_eq!(judge(ended), expected);
    }

    #[test]
    fn a_machine_that_did_its_work_is_good() {
        check(&good(), &[]);
    }

    #[test]
    fn a_test_that_fails_is_not_told_twice() {
        let failed = Ended {
            end: Some("guest: the tests ended with status 101"),
            tally: Tally {
                passed: 2,
                failed: 1,
            },
            ..good()
        };
        check(&failed, &[]);
    }

    #[test]
    fn a_machine_that_hangs_or_dies_is_told() {
        let hung = Ended {
            status: Some(TIMED_OUT),
            end: None,
            tally: Tally::default(),
            ..good()
        };
        let limit = format!("the machine had not ended after {AT_MOST} s");
        let early = "the machine ended before its tests";
        check(&hung, &[&limit, early, "0 tests ran, not 3"]);
        let panicked = Ended {
            end: None,
            console: "[ 1.0] x\n[ 2.0] Kernel panic - not syncing: Fatal\n",
            ..good()
        };
        let said = "the kernel said: [ 2.0] Kernel panic - not syncing: Fatal";
        check(&panicked, &[early, said]);
        let killed = Ended {
            end: Some("guest: the tests ended by SIGSEGV"),
            tally: Tally {
                passed: 0,
                failed: 0,
            },
            ..good()
        };
        check(
            &killed,
            &["guest: the tests ended by SIGSEGV", "0 tests ran, not 3"],
        );
    }

    #[test]
    fn a_warning_of_the_kernel_is_a_failure() {
        let warned = Ended {
            console: "[ 2.0] WARNING: CPU: 0 PID: 1 at net/core/filter.c\n",
            ..good()
        };
        check(
            &warned,
            &["the kernel said: [ 2.0] WARNING: CPU: 0 PID: 1 at net/core/filter.c"],
        );
    }
}
