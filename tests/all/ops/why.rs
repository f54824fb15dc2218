//! `fairlead why`: what a person sees when a backend gets no flows.

use crate::stage::{ECHO, SHAPES, Stage, wait_until};
use std::time::Duration;

/// What is told of a backend, once it holds all these pieces.
#[track_caller]
fn shows(stage: &Stage, backend: &str, pieces: &[&str]) -> String {
    let told = || {
        let output = stage.daemon.cli(&["why", backend]).unwrap();
        output.succeeded().unwrap().stdout
    };
    let all = |text: &str| pieces.iter().all(|piece| text.contains(piece));
    wait_until(
        &format!("{backend} is told with {pieces:?}: {}", told()),
        Duration::from_secs(10),
        || all(&told()),
    );
    told()
}

#[test]
fn why_tells_what_keeps_new_flows_away_and_what_it_takes() {
    let stage = Stage::new(SHAPES[0]);
    stage.storm(&ECHO, 300).assert_clean(300);
    let told = shows(
        &stage,
        "echo4/b1",
        &[
            "echo4/b1  10.10.1.1:7000/tcp  dnat  weight 1  tier 0\n",
            "new flows  yes, 33.3 % of all: tier 0 carries 100.0 %\n",
            "http to port 8080 every 200ms, timeout 100ms; down after 2 more bad in a row",
            "eth1 02:f1:",
            "last checks, newest first\n",
        ],
    );
    assert!(
        told.contains("ago  took ") && told.contains(" begun, 0 moved here; "),
        "{told}"
    );
    stage.topology.cut_power("b1", "eth0").unwrap();
    stage.wait_for_health("b1", "down");
    stage
        .daemon
        .cli(&["drain", "echo4/b1"])
        .unwrap()
        .succeeded()
        .unwrap();
    shows(
        &stage,
        "echo4/b1",
        &[
            "new flows  no: it drains; ",
            "fairlead enable echo4/b1\n",
            "2 more good probes in a row; the next ",
            "health     down for ",
            "timed out after 100 ms",
        ],
    );
    // By name and by address: of all services.
    let of_all = shows(
        &stage,
        "b1",
        &["echo4/b1", "echo6/b1", "web4/b1", "web6/b1", "udp6/b1"],
    );
    assert!(!of_all.contains("/b2"), "{of_all}");
    shows(&stage, "10.10.1.1", &["echo4/b1", "web4/b1", "udp4/b1"]);
    let json = stage.daemon.cli(&["why", "--json", "echo4/b1"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json.succeeded().unwrap().stdout).unwrap();
    assert_eq!(json["backends"][0]["obstacles"][0]["kind"], "draining");
    let results = &json["backends"][0]["backend"]["last_results"];
    let newest = results.as_array().unwrap().last().unwrap();
    assert_eq!(newest["verdict"]["verdict"], "bad", "{results}");
    let nobody = stage.daemon.cli(&["why", "echo4/b9"]).unwrap();
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(
        nobody
            .stderr
            .contains("not configured (did you mean 'echo4/b"),
        "{nobody:?}"
    );
    stage.topology.restore_power("b1", "eth0").unwrap();
    stage
        .daemon
        .cli(&["enable", "echo4/b1"])
        .unwrap()
        .succeeded()
        .unwrap();
    shows(
        &stage,
        "echo4/b1",
        &["new flows  yes, 33.3 % of all: tier 0 carries 100.0 %\n"],
    );
    stage.end();
}
