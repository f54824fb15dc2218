//! The control socket, and the commands that go through it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use lb_tests::load::Long;

use super::run;
use crate::stage::{ECHO, SHAPES, Stage, WEB};

#[test]
fn only_its_owner_may_use_the_socket_and_a_get_changes_nothing() {
    let stage = Stage::new(SHAPES[0]);
    let socket = stage.daemon.home().join("run/fairlead.sock");
    let socket_is = std::fs::metadata(&socket).unwrap();
    assert_eq!(socket_is.permissions().mode() & 0o777, 0o600);
    let directory = std::fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(
        (directory.permissions().mode() & 0o777, directory.uid()),
        (0o700, 0)
    );
    let before = stage.daemon.status().unwrap();
    let socket = socket.to_str().unwrap();
    let order = "{\"backend\":\"web4/b1\",\"state\":\"disabled\"}";
    let ask = |more: &[&str]| {
        let mut command = vec!["curl", "-sS", "--max-time", "5", "-o", "/dev/null"];
        command.extend(["-w", "%{http_code}", "--unix-socket", socket]);
        command.extend(more);
        let output = run(&stage.topology, "lb", &command);
        String::from_utf8(output.stdout).unwrap()
    };
    let json = "content-type: application/json";
    for (request, expected) in [
        (
            &["-X", "GET", "-H", json, "-d", order, "http://x/v1/admin"][..],
            "405",
        ),
        (&["http://x/v1/admin?backend=web4/b1&state=disabled"], "405"),
        (&["http://x/v1/reload"], "405"),
        (&["http://x/v1/status"], "200"),
        (&["-X", "POST", "http://x/v1/status"], "405"),
        (&["http://x/"], "404"),
        (
            &[
                "-H",
                json,
                "-d",
                "{\"backend\":\"web4/b1\"}",
                "http://x/v1/admin",
            ],
            "422",
        ),
        (&["-H", json, "-d", "not json", "http://x/v1/admin"], "400"),
        (&["-d", order, "http://x/v1/admin"], "415"),
    ] {
        assert_eq!(ask(request), expected, "{request:?}");
    }
    let after = stage.daemon.status().unwrap();
    assert_eq!(before.config_revision, after.config_revision);
    assert_eq!(after.backend("web4/b1").admin, "enabled");
    stage.end();
}

#[test]
fn an_unknown_backend_is_refused_with_the_one_that_may_be_meant() {
    let stage = Stage::new(SHAPES[0]);
    for (arguments, code, expected) in [
        (&["drain", "web4/b9"][..], 1, "did you mean 'web4/b1'?"),
        (&["enable", "wbe4/b2"], 1, "did you mean 'web4/b2'?"),
        (&["disable", "nothing-like-it/b2"], 1, "not configured"),
        (&["drain", "b1"], 2, "SERVICE/BACKEND"),
        (&["drain", "web4/b1", "--deadline", "soon"], 2, "--deadline"),
    ] {
        let answer = stage.daemon.cli(arguments).unwrap();
        assert_eq!(answer.code, Some(code), "{arguments:?}: {answer:?}");
        assert!(
            answer.stderr.contains(expected),
            "{arguments:?}: {answer:?}"
        );
        assert_eq!(answer.stdout, "", "{arguments:?}");
    }
    stage.end();
}

#[test]
fn backends_are_drained_disabled_and_enabled_from_the_command_line() {
    let stage = Stage::new(SHAPES[0]);
    for (verb, state) in [
        ("drain", "draining"),
        ("enable", "enabled"),
        ("disable", "disabled"),
        ("enable", "enabled"),
    ] {
        stage.for_each_service(verb, "b1");
        for service in ["web4", "web6"] {
            let status = stage.daemon.status().unwrap();
            assert_eq!(status.backend(&format!("{service}/b1")).admin, state);
        }
        let before = stage.daemon.status().unwrap();
        stage.storm(&WEB, 300).assert_clean(300);
        let after = stage.daemon.status().unwrap();
        let new = |key: &str| {
            after.backend(key).traffic.new_flows - before.backend(key).traffic.new_flows
        };
        assert_eq!(
            new("web4/b1") > 0,
            state == "enabled",
            "{state}: {}",
            new("web4/b1")
        );
    }
    let mut config = stage.daemon.config().clone();
    config.services.retain(|service| service.name != "udp6");
    stage
        .daemon
        .write_config(&config.toml(stage.daemon.home()))
        .unwrap();
    let answer = stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();
    assert!(
        answer.stdout.contains("5 services, 15 backends"),
        "{answer:?}"
    );
    assert_eq!(stage.daemon.status().unwrap().services.len(), 5);
    stage.daemon.write_config("nonsense = [").unwrap();
    let answer = stage.daemon.cli(&["reload"]).unwrap();
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("fairlead.toml:1:"), "{answer:?}");
    assert_eq!(stage.daemon.status().unwrap().services.len(), 5);
    stage.end();
}

#[test]
fn drain_waits_for_the_last_flow_and_says_when_the_deadline_came_first() {
    let stage = Stage::new(SHAPES[0]);
    let targets = stage.targets(&ECHO);
    let idle = stage.daemon.cli(&["drain", "web4/b2", "--wait"]).unwrap();
    assert_eq!(idle.code, Some(0), "{idle:?}");
    assert!(idle.stdout.contains("web4/b2: drained after"), "{idle:?}");
    let long = Long::start(&stage.topology, &targets, 24, Duration::from_secs(60)).unwrap();
    long.wait_until_established(Duration::from_secs(10))
        .unwrap();
    let held = stage.wait("all flows are counted", |status| {
        let backends = ["echo4/b1", "echo4/b2", "echo4/b3"].map(|key| status.backend(key));
        backends.iter().map(|b| b.traffic.live_flows).sum::<u64>() == 12
    });
    let flows = held.backend("echo4/b1").traffic.live_flows;
    assert!(flows > 0, "{held:?}");
    let wait = ["drain", "echo4/b1", "--wait", "--deadline", "700ms"];
    let late = stage.daemon.cli(&wait).unwrap();
    assert_eq!(late.code, Some(124), "{late:?}");
    let noun = if flows == 1 { "flow" } else { "flows" };
    for expected in [
        format!("echo4/b1: {flows} {noun} left after"),
        format!("echo4/b1: the deadline passed with {flows} {noun} left"),
    ] {
        assert!(late.stdout.contains(&expected), "{expected}: {late:?}");
    }
    // The policy is to keep flows: none was cut, and they end in their own time.
    let connections = long.stop();
    assert!(
        connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    stage
        .daemon
        .cli(&["enable", "echo4/b1"])
        .unwrap()
        .succeeded()
        .unwrap();
    stage.end();
}
