//! The daemon that is killed, stopped, or started twice.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::stage::{ECHO, SHAPES, Stage, wait_until};

#[test]
fn p1_daemon_that_is_killed_at_any_moment_hurts_nobody() {
    let mut stage = Stage::new(SHAPES[0]);
    let load = stage.load(&ECHO, 1500);
    for round in 0..10_u64 {
        // Moments from the first milliseconds of a start on.
        stage.daemon.kill().unwrap();
        stage.daemon.spawn().unwrap();
        let started = Instant::now();
        let moment = Duration::from_millis(round * 37);
        wait_until("the moment has come", Duration::from_secs(5), || {
            started.elapsed() >= moment
        });
    }
    stage.daemon.kill().unwrap();
    stage.daemon.restart().unwrap();
    stage.wait("all backends are up", |status| status.all_are("up"));
    load.stop().assert_clean(1);
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}

#[test]
fn p3_daemon_that_was_frozen_takes_nobody_for_dead() {
    let mut stage = Stage::new(SHAPES[0]);
    let load = stage.load(&ECHO, 1000);
    stage
        .daemon
        .process()
        .unwrap()
        .signal(Signal::SIGSTOP)
        .unwrap();
    let frozen = Instant::now();
    wait_until("it is frozen", Duration::from_secs(10), || {
        frozen.elapsed().as_secs() >= 5
    });
    stage
        .daemon
        .process()
        .unwrap()
        .signal(Signal::SIGCONT)
        .unwrap();
    let awake = Instant::now();
    while awake.elapsed() < Duration::from_secs(1) {
        let status = stage.daemon.status().unwrap();
        assert!(status.all_are("up"), "{status:#?}");
    }
    load.stop().assert_clean(1);
    stage.end();
}
