//! Forwarding goes on when the daemon is dead, and a new one takes over what it finds.

use std::time::Duration;

use lb_tests::law::Excused;
use lb_tests::load::{Bounds, Long, Request, Storm};

use crate::stage::{ECHO, SHAPES, Stage, WEB};

const MINUTES: Duration = Duration::from_secs(180);

#[test]
fn five_kills_and_restarts_fail_none_of_a_hundred_thousand_connections() {
    let mut stage = Stage::alone(SHAPES[0]);
    let targets = stage.targets(&ECHO);
    let long = Long::start(&stage.topology, &targets, 100, MINUTES).unwrap();
    long.wait_until_established(Duration::from_secs(10))
        .unwrap();
    let before = stage.ids();
    let bounds = Bounds {
        time: MINUTES,
        ..Bounds::count(100_000)
    };
    let storm = Storm::start(&stage.topology, &targets, Request::Echo, bounds).unwrap();
    for round in 1..=5 {
        let due = round * 16_000;
        crate::stage::wait_until("the storm goes on", MINUTES, || storm.begun() >= due);
        stage.daemon.kill().unwrap();
        // Some thousand connections without a daemon.
        crate::stage::wait_until("it goes on alone", MINUTES, || storm.begun() >= due + 4000);
        stage.daemon.restart().unwrap();
    }
    storm.wait().assert_clean(100_000);
    assert_eq!(stage.retransmissions(), 0);
    let connections = long.stop();
    assert_eq!(connections.len(), 100);
    assert!(
        connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    assert_eq!(stage.ids(), before);
    stage.end();
}

#[test]
fn stopping_the_daemon_leaves_forwarding_and_unload_ends_it() {
    let mut stage = Stage::new(SHAPES[0]);
    stage.check_law();
    stage.daemon.stop().unwrap();
    stage.storm(&ECHO, 2000).assert_clean(2000);
    stage.storm(&WEB, 2000).assert_clean(2000);
    stage.unload();
    let target = stage.targets(&WEB);
    let bounds = Bounds {
        concurrency: 1,
        ..Bounds::count(1)
    };
    let report = Storm::run(&stage.topology, &target, Request::Http("/"), bounds).unwrap();
    assert_eq!(
        report.failures.len(),
        1,
        "forwarding without a data plane: {report}"
    );
    let pins = std::fs::read_dir(stage.daemon.home().join("bpf"));
    let left = pins.map(|entries| entries.flatten().map(|e| e.path()).collect::<Vec<_>>());
    assert!(left.as_ref().map_or(true, Vec::is_empty), "{left:?}");
    stage.load_again();
    stage.storm(&ECHO, 1000).assert_clean(1000);
    // Without a data plane the kernel got the one SYN.
    stage.end_but(Excused {
        kept: 1,
        ..Excused::default()
    });
}

#[test]
fn a_second_daemon_is_refused() {
    let stage = Stage::new(SHAPES[0]);
    let file = stage.daemon.config_file();
    let second = stage
        .daemon
        .bare_cli(&["run", "--config", file.to_str().unwrap()])
        .unwrap();
    assert!(second.code.is_some_and(|code| code != 0), "{second:?}");
    assert!(second.stderr.contains("running"), "{second:?}");
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}
