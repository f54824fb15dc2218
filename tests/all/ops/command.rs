//! The command line as a person and a script use it: screens, completions, check, the JSON log.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, fairlead_binary};
use lb_tests::topology::Topology;
use nix::sys::signal::Signal;

use super::{run, text};
use crate::stage::{SHAPES, Stage, wait_until};

/// What a terminal of this width shows of `status --watch` in two seconds.
fn watched(stage: &Stage, width: u16, no_colour: &str) -> String {
    let binary = fairlead_binary().unwrap();
    let socket = stage.daemon.home().join("run/fairlead.sock");
    let inner = format!(
        "stty cols {width} rows 60; NO_COLOR={no_colour} timeout --foreground --preserve-status \
         -s INT 2.5 {} --socket {} status --watch",
        binary.display(),
        socket.display(),
    );
    text(
        &stage.topology,
        "lb",
        &["script", "-qec", &inner, "/dev/null"],
    )
}

/// What is left without control sequences.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => drop(chars.by_ref().skip(1).find(char::is_ascii_alphabetic)),
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

#[test]
fn watching_the_status_fits_the_terminal() {
    let stage = Stage::new(SHAPES[0]);
    for width in [80, 120] {
        let shown = watched(&stage, width, "");
        assert!(shown.contains("\u{1b}[32mup"), "no colour: {shown}");
        let lines = plain(&shown);
        let longest = lines
            .lines()
            .map(|line| line.chars().count())
            .max()
            .unwrap();
        assert!(longest <= usize::from(width), "{longest} columns:\n{lines}");
        for expected in [
            "ready",
            "web6  [fd00:10::100]:80/tcp",
            "packets/s",
            "[fd00:10:1::3]:8080",
        ] {
            assert!(lines.contains(expected), "{expected}:\n{lines}");
        }
        assert_eq!(
            lines.contains("good probes in a row"),
            width >= 100,
            "{lines}"
        );
        let drawn = lines.matches("fairlead ").count();
        assert!(drawn >= 2, "drawn {drawn} times:\n{lines}");
    }
    let shown = watched(&stage, 80, "1");
    assert!(!shown.contains("\u{1b}[32m"), "colour: {shown}");
    stage.end();
}

#[test]
fn completions_know_every_command() {
    let commands = [
        "run",
        "check",
        "status",
        "drain",
        "enable",
        "disable",
        "reload",
        "unload",
        "completions",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = Command::new(fairlead_binary().unwrap())
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(script.status.success(), "{script:?}");
        let script = String::from_utf8(script.stdout).unwrap();
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.contains("deadline"), "{shell}");
    }
}

#[test]
fn check_tells_by_its_exit_status_what_it_found() {
    let directory = std::env::temp_dir().join(format!("fairlead-check-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let good = include_str!("../../../examples/minimal.toml");
    let bad = good.replace("port = 80", "prot = 80");
    let check = |name: &str, content: &str, more: &[&str]| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        let mut command = Command::new(fairlead_binary().unwrap());
        command.arg("check").arg(path).args(more).output().unwrap()
    };
    let output = check("good.toml", good, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = check("bad.toml", &bad, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said.contains("port") && said.contains("bad.toml:"),
        "{said}"
    );
    let output = check("bad.toml", &bad, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{json}");
    std::fs::remove_dir_all(&directory).unwrap();
    let gone = Command::new(fairlead_binary().unwrap())
        .args(["check", "/nowhere/fairlead.toml"])
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(2), "{gone:?}");
}

#[test]
fn each_line_of_the_json_log_is_an_object() {
    let topology = Topology::build(SHAPES[0]).unwrap();
    let daemon = Daemon::prepare(&topology, Config::lab(&topology)).unwrap();
    let path = topology.directory().join("json.log");
    let mut command = Command::new(fairlead_binary().unwrap());
    command
        .args(["run", "--log-format", "json", "--config"])
        .arg(daemon.config_file())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&path).unwrap());
    let mut process = topology.spawn_in("lb", command).unwrap();
    let log = || std::fs::read_to_string(&path).unwrap();
    wait_until(
        "two interfaces are attached",
        Duration::from_secs(10),
        || log().matches("\"attached\"").count() >= 2,
    );
    // It has hardly started: a signal that comes now must not cut the start short.
    process.signal(Signal::SIGHUP).unwrap();
    process.signal(Signal::SIGTERM).unwrap();
    assert!(
        process.wait(Duration::from_secs(10)).unwrap().success(),
        "{}",
        log()
    );
    let log = log();
    assert!(log.lines().count() >= 5, "{log}");
    for line in log.lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["timestamp", "level", "message", "target"] {
            assert!(object[key].is_string(), "{key}: {line}");
        }
    }
    let binary = fairlead_binary().unwrap();
    let config = daemon.config_file();
    let filter = [
        "run",
        "--log",
        "=nonsense=",
        "--config",
        config.to_str().unwrap(),
    ];
    let mut command = vec![binary.to_str().unwrap()];
    command.extend(filter);
    let refused = run(&topology, "lb", &command);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("log filter"),
        "{refused:?}"
    );
}
