//! The lab as a person starts it: it ends by itself, says that all promises held, leaves nothing.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use lb_tests::inventory::{Inventory, Mark, interfaces};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::stage::Turn;

/// What is left of a run, by its process id: namespaces, directories, mounts.
fn left_of(pid: u32) -> Vec<String> {
    let mine = |name: &str| {
        let rest = name.strip_prefix(&format!("fl{pid}"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
    };
    let list = |directory: &str| match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect(),
        Err(_) => vec![],
    };
    let names = [list("/run/netns"), list("/run/fairlead-lab")].concat();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts
        .lines()
        .filter(|line| line.contains(&format!("/fl{pid}/")));
    names
        .into_iter()
        .filter(|name| mine(name))
        .chain(mounts.map(str::to_owned))
        .collect()
}

#[track_caller]
fn check_lab(arguments: &[&str]) {
    // It measures time and makes a network of its own.
    let _turn = Turn::alone();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"));
    command.args(["--duration", "9s", "--json"]).args(arguments);
    let lab = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = lab.id();
    let output = lab.wait_with_output().unwrap();
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{arguments:?}: {}\n{errors}\n{out}",
        output.status
    );
    let last = out.lines().last().expect("no output");
    let outcome: serde_json::Value = serde_json::from_str(last).expect("the last line is no JSON");
    assert!(
        outcome["requests"]
            .as_u64()
            .is_some_and(|requests| requests > 1000),
        "{last}"
    );
    assert_eq!(
        outcome["failed_requests"]["after_failover_window"], 0,
        "{last}"
    );
    assert_eq!(outcome["flows_cut_by_drain"], 0, "{last}");
    assert!(
        outcome["data_plane"]["rx"]
            .as_u64()
            .is_some_and(|rx| rx > 1000),
        "{last}"
    );
    assert_eq!(left_of(pid), Vec::<String>::new());
}

#[test]
fn lab_keeps_its_promises_over_dnat() {
    check_lab(&[]);
}

#[test]
fn lab_keeps_its_promises_over_l2dsr_with_one_arm() {
    check_lab(&["--forwarding", "l2dsr", "--arms", "1"]);
}

#[test]
fn lab_keeps_its_promises_over_ipip() {
    check_lab(&["--forwarding", "ipip"]);
}

/// A lab in full swing, in a process group of its own, as a shell would start it.
struct Running {
    lab: Child,
    mark: Mark,
    seen: Inventory,
    /// Open, or its next line would kill it.
    lines: BufReader<ChildStdout>,
}

/// Over tunnels: there the backends have programs and pins, too.
fn running() -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"));
    command.args(["--duration", "30s", "--forwarding", "ipip"]);
    command.process_group(0);
    let mark = Mark::put_on(&mut command);
    let mut lab = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(lab.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("requests") {
        line.clear();
        let length = lines.read_line(&mut line).unwrap();
        assert!(
            length > 0,
            "the lab ended before any request: {:?}",
            lab.wait()
        );
    }
    let files = format!("/run/fairlead-lab/fl{}", lab.id());
    let seen = Inventory::take(&mark, files.as_ref()).unwrap();
    // The lab, three servers, the daemon; or what follows would say nothing.
    assert!(seen.processes.len() >= 5, "{seen:?}");
    assert!(seen.namespaces.len() >= 4, "{seen:?}");
    assert!(seen.count("map_id") >= 10, "{seen:?}");
    // The data plane on two interfaces, the programs of their switch ports and three decapsulators.
    assert!(
        seen.count("link_id") >= 7 && seen.count("prog_id") >= 6,
        "{seen:?}"
    );
    assert!(!seen.left(&mark).unwrap().is_empty());
    Running {
        lab,
        mark,
        seen,
        lines,
    }
}

/// Nothing is left: no name, no process, no program, map or link. The kernel frees some of it a
/// moment after its last user has gone.
#[track_caller]
fn check_nothing_is_left(pid: u32, mark: &Mark, seen: &Inventory) {
    assert_eq!(left_of(pid), Vec::<String>::new());
    let begin = std::time::Instant::now();
    loop {
        let left = seen.left(mark).unwrap();
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed().as_secs() < 10, "{left:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn nothing_is_left_of_a_killed_lab_after_the_next_run() {
    let interfaces_before = interfaces().unwrap();
    let mut run = running();
    run.lab.kill().unwrap();
    run.lab.wait().unwrap();
    let mut next = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"))
        .arg("network")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(next.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    kill(Pid::from_raw(next.id() as i32), Signal::SIGINT).unwrap();
    assert!(next.wait().unwrap().success());
    check_nothing_is_left(run.lab.id(), &run.mark, &run.seen);
    assert_eq!(interfaces().unwrap(), interfaces_before);
}

/// A terminal sends the signal of Ctrl-C to everything that runs there.
#[test]
fn nothing_is_left_of_a_lab_after_ctrl_c() {
    let interfaces_before = interfaces().unwrap();
    let mut run = running();
    killpg(Pid::from_raw(run.lab.id() as i32), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    run.lines.read_to_string(&mut rest).unwrap();
    let status = run.lab.wait().unwrap();
    assert!(status.success(), "{status}: {rest}");
    check_nothing_is_left(run.lab.id(), &run.mark, &run.seen);
    assert_eq!(interfaces().unwrap(), interfaces_before);
}
