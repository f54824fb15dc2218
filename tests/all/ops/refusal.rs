//! What `fairlead` says when it cannot do what it was asked for: what failed, with what, and the
//! cure. Nothing is lost.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Output, fairlead_binary};
use lb_tests::topology::Topology;

use super::run;
use crate::stage::{ECHO, SHAPES, Stage, wait_until};

#[track_caller]
fn refused(output: &Output, expected: &[&str]) {
    assert_eq!(output.code, Some(1), "{output:?}");
    for part in expected {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    let doubled = output.stderr.matches("os error").count();
    assert!(doubled <= 1, "the cause is told twice: {}", output.stderr);
}

#[test]
fn no_daemon_no_file_and_no_interface_are_told_with_a_cure() {
    let topology = Topology::build(SHAPES[0]).unwrap();
    let mut config = Config::lab(&topology);
    config.interfaces = vec!["eth0".to_owned(), "eth7".to_owned()];
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    let nobody = daemon.cli(&["status"]).unwrap();
    refused(
        &nobody,
        &["fairlead.sock", "does 'fairlead run' run?", "--socket"],
    );
    let missing = daemon
        .bare_cli(&["run", "--config", "/nowhere/fairlead.toml"])
        .unwrap();
    refused(
        &missing,
        &["/nowhere/fairlead.toml", "No such file", "check the path"],
    );
    daemon.spawn().unwrap();
    let mut shown = String::new();
    wait_until(
        "the daemon shows its state",
        Duration::from_secs(10),
        || {
            daemon
                .cli(&["status"])
                .is_ok_and(|status| status.code == Some(0))
        },
    );
    shown.push_str(&daemon.cli(&["status"]).unwrap().stdout);
    // One interface that is not there keeps nobody from using the other.
    assert!(shown.contains("NOT READY"), "{shown}");
    assert!(shown.contains("eth0 (native): attached"), "{shown}");
    assert!(
        shown.contains("eth7 (none): missing: no such interface"),
        "{shown}"
    );
    assert!(daemon.log().contains("eth7"), "{}", daemon.log());
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}

#[test]
fn a_user_without_privileges_is_told_which_and_touches_nothing() {
    let topology = Topology::build(SHAPES[0]).unwrap();
    let daemon = Daemon::prepare(&topology, Config::lab(&topology)).unwrap();
    // The user nobody may neither enter our directory nor, perhaps, that of the build.
    let directory = std::env::temp_dir().join(format!("fairlead-nobody-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (binary, config) = (directory.join("fairlead"), directory.join("fairlead.toml"));
    // By a process of its own: a child that another thread forks would inherit our descriptor, and
    // a program that somebody has open for writing cannot be executed (ETXTBSY).
    let install = |mode: &str, from: &std::path::Path, to: &std::path::Path| {
        let mut command = Command::new("install");
        let status = command.arg("-m").arg(mode).arg(from).arg(to).status();
        assert!(status.unwrap().success(), "install {}", from.display());
    };
    install("0755", &fairlead_binary().unwrap(), &binary);
    install("0644", &daemon.config_file(), &config);
    let as_nobody = |arguments: &[&str]| {
        let mut command = vec!["setpriv", "--reuid", "65534", "--regid", "65534"];
        command.extend(["--clear-groups", binary.to_str().unwrap()]);
        command.extend(arguments);
        let output = run(&topology, "lb", &command);
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    };
    let config = config.to_str().unwrap();
    let run = as_nobody(&["run", "--config", config]);
    let unload = as_nobody(&["unload", "--config", config]);
    let check = as_nobody(&["check", config]);
    let socket = daemon.home().join("run/fairlead.sock");
    let status = as_nobody(&["--socket", socket.to_str().unwrap(), "status"]);
    std::fs::remove_dir_all(&directory).unwrap();
    refused(
        &run,
        &[
            "load the data plane",
            "CAP_BPF CAP_NET_ADMIN CAP_PERFMON",
            "run as root",
        ],
    );
    refused(
        &unload,
        &["unload the data plane", "CAP_BPF", "run as root"],
    );
    refused(&status, &["fairlead.sock", "Permission denied"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(
        !daemon.home().join("state").exists(),
        "a directory was made"
    );
}

#[test]
fn a_metrics_port_that_is_taken_is_told_and_a_second_daemon_does_no_harm() {
    let topology = Topology::build(SHAPES[0]).unwrap();
    let daemon = Daemon::prepare(&topology, Config::lab(&topology)).unwrap();
    let config = daemon.config_file();
    let start = ["run", "--config", config.to_str().unwrap()];
    let taken = topology
        .run_in("lb", || TcpListener::bind("127.0.0.1:9460"))
        .unwrap();
    let output = daemon.bare_cli(&start).unwrap();
    refused(
        &output,
        &["127.0.0.1:9460 for metrics", "daemon.metrics", "\"off\""],
    );
    assert_eq!(topology.has_xdp("lb", "eth0").unwrap(), Some(false));
    drop(taken);
    drop((daemon, topology));
    let stage = Stage::new(SHAPES[0]);
    let config = stage.daemon.config_file();
    let second = stage
        .daemon
        .bare_cli(&["run", "--config", config.to_str().unwrap()])
        .unwrap();
    refused(&second, &["running already: pid", "run-dir"]);
    let unload = stage
        .daemon
        .bare_cli(&["unload", "--config", config.to_str().unwrap()])
        .unwrap();
    refused(&unload, &["running already: pid", "stop it first"]);
    stage.storm(&ECHO, 300).assert_clean(300);
    stage.end();
}
