//! What an operator changes while traffic flows: drain, enable, disable, reload.

use std::time::{Duration, Instant};

use lb_tests::load::Long;

use crate::stage::{ECHO, SHAPES, Stage, WEB};

const MINUTE: Duration = Duration::from_secs(60);

/// Long connections, established and on every backend.
#[track_caller]
fn long(stage: &Stage, count: usize) -> Long {
    let long = Long::start(&stage.topology, &stage.targets(&ECHO), count, MINUTE).unwrap();
    long.wait_until_established(Duration::from_secs(10))
        .unwrap();
    assert_eq!(long.living().into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    long
}

#[test]
fn drained_backend_keeps_its_flows_and_takes_no_new_ones() {
    for shape in [SHAPES[0], SHAPES[3]] {
        let stage = Stage::new(shape);
        let long = long(&stage, 60);
        let load = stage.load(&WEB, 300);
        stage.for_each_service("drain", "b2");
        let drained = Instant::now();
        stage.storm(&ECHO, 3000).assert_clean(3000);
        let before = long.living();
        let enabled = Instant::now();
        stage.for_each_service("enable", "b2");
        let after = stage.storm(&ECHO, 3000);
        after.assert_clean(3000);
        assert!(after.backends().contains_key(&2), "{after}");
        let report = load.stop();
        report.assert_clean(1);
        assert_eq!(
            report.by_backend(drained, enabled).get(&2),
            None,
            "{report}"
        );
        assert!(before.contains_key(&2), "{before:?}");
        let connections = long.stop();
        assert!(
            connections.iter().all(|c| c.failed.is_none()),
            "{connections:?}"
        );
        stage.end();
    }
}

#[test]
fn waiting_for_a_drain_ends_when_the_last_flow_has_ended() {
    let stage = Stage::new(SHAPES[0]);
    let long = long(&stage, 30);
    let wait = std::thread::scope(|scope| {
        let daemon = &stage.daemon;
        let wait = scope.spawn(move || {
            let answer = daemon.cli(&["drain", "echo4/b2", "--deadline", "60s", "--wait"]);
            (answer.unwrap(), Instant::now())
        });
        stage.wait("echo4/b2 is draining", |s| {
            s.backend("echo4/b2").admin == "draining"
        });
        let stopped = Instant::now();
        drop(long.stop());
        let (answer, ended) = wait.join().unwrap();
        assert!(ended > stopped, "the drain ended before its flows");
        answer
    });
    assert_eq!(wait.code, Some(0), "{wait:?}");
    stage.end();
}

#[test]
fn disabled_backend_loses_its_flows_and_the_others_keep_theirs() {
    let stage = Stage::new(SHAPES[0]);
    let long = long(&stage, 60);
    let hurt = *long.living().get(&2).unwrap();
    stage.for_each_service("disable", "b2");
    crate::stage::wait_until("connections of b2 are gone", Duration::from_secs(5), || {
        long.connections()
            .iter()
            .filter(|c| c.backend == 2 && c.failed.is_some())
            .count()
            == hurt
    });
    let connections = long.stop();
    assert!(
        connections
            .iter()
            .all(|c| c.failed.is_none() || c.backend == 2),
        "{connections:?}"
    );
    stage.end();
}

#[test]
fn backend_that_is_removed_and_added_again_hurts_nobody_else() {
    let mut stage = Stage::new(SHAPES[0]);
    let long = long(&stage, 60);
    let load = stage.load(&WEB, 300);
    let whole = stage.daemon.config().clone();
    let mut without = whole.clone();
    for service in &mut without.services {
        service.backends.retain(|backend| backend.name != "b3");
    }
    stage.daemon.reload(without).unwrap();
    let removed = Instant::now();
    let report = stage.storm(&ECHO, 2000);
    report.assert_clean(2000);
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [1, 2]);
    let back = Instant::now();
    stage.daemon.reload(whole).unwrap();
    stage.wait("b3 is up again", |status| status.all_are("up"));
    let report = stage.storm(&ECHO, 2000);
    report.assert_clean(2000);
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    let load = load.stop();
    load.assert_clean(1);
    assert_eq!(load.by_backend(removed, back).get(&3), None, "{load}");
    let connections = long.stop();
    assert!(
        connections
            .iter()
            .all(|c| c.failed.is_none() || matches!(c.backend, 0 | 3))
    );
    stage.end();
}

#[test]
fn new_weights_change_the_share_of_new_flows() {
    let mut stage = Stage::new(SHAPES[0]);
    let mut config = stage.daemon.config().clone();
    for service in &mut config.services {
        for (backend, weight) in service.backends.iter_mut().zip([0, 1, 3]) {
            backend.weight = weight;
        }
    }
    stage.daemon.reload(config).unwrap();
    let report = stage.storm(&ECHO, 8000);
    report.assert_clean(8000);
    let counts = report.backends();
    assert_eq!(counts.get(&1), None, "{report}");
    // Six standard deviations of 8000 draws with a quarter are 232.
    assert!((1768..=2232).contains(&counts[&2]), "{report}");
    stage.end();
}
