//! The lab as a person starts it: it ends by itself, says that all promises held, leaves nothing.

use std::process::{Command, Stdio};

use lb_tests::topology::sweep;

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

#[test]
fn nothing_is_left_of_a_killed_lab_after_the_next_start() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"))
        .args(["--duration", "30s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(lab.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("requests") {
        line.clear();
        let length = std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        assert!(
            length > 0,
            "the lab ended before any request: {:?}",
            lab.wait()
        );
    }
    let pid = lab.id();
    lab.kill().unwrap();
    lab.wait().unwrap();
    sweep().unwrap();
    assert_eq!(left_of(pid), Vec::<String>::new());
}
