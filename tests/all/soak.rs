//! The command of `cargo xtask soak`.

use std::process::{Command, Output};

fn soak(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fairlead-soak"))
        .args(options)
        .output()
        .unwrap()
}

#[test]
fn a_soak_runs_as_many_packets_as_asked_and_the_same_ones_again() {
    let options = ["--packets", "20000", "--first", "77", "--threads", "1"];
    let run = || {
        let output = soak(&options);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // But for how long it took.
        let first = lines.remove(0);
        let (what, _) = first.split_once(", ").unwrap();
        lines.insert(0, what.to_owned());
        lines
    };
    let lines = run();
    let packets: u64 = lines[0].split(' ').next().unwrap().parse().unwrap();
    assert!((20_000..21_000).contains(&packets), "{}", lines[0]);
    assert_eq!(lines.last().unwrap(), "all agree");
    assert_eq!(lines, run());
}

#[test]
fn a_soak_of_no_packets_is_refused() {
    let output = soak(&["--packets", "0"]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--packets"), "{text}");
}
