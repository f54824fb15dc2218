//! The daemon that is killed, stopped, or started twice.

use std::time::{Duration, Instant};

use lb_tests::server::Server;
use lb_userspace::dataplane::Dataplane;
use lb_userspace::dataplane::bpf::Opening;
use lb_userspace::embedded;
use nix::sys::signal::Signal;

use crate::stage::{ECHO, SHAPES, Stage, long, wait_until};

#[test]
fn p1_daemon_that_is_killed_at_any_moment_hurts_nobody() {
    let mut stage = Stage::alone(SHAPES[0]);
    let load = stage.load(&ECHO, 1500);
    let kills = if long() { 100 } else { 10 };
    for round in 0..kills {
        // Moments from the first milliseconds of a start on.
        stage.daemon.kill().unwrap();
        stage.daemon.spawn().unwrap();
        let started = Instant::now();
        let moment = Duration::from_millis(round * 37 % 370 + round / 10);
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
    let seconds = if long() { 60 } else { 10 };
    wait_until("it is frozen", Duration::from_secs(90), || {
        frozen.elapsed().as_secs() >= seconds
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

#[test]
fn p10_daemon_that_wakes_after_a_takeover_ends_without_a_write() {
    let mut stage = Stage::with_processes(SHAPES[0]);
    let load = stage.load(&ECHO, 500);
    let old = stage.daemon.process().unwrap();
    old.signal(Signal::SIGSTOP).unwrap();
    let (mut next, opening) = stage.take_over(embedded::OBJECT).unwrap();
    assert!(
        matches!(opening, Opening::Adopted { owner_epoch: 2, .. }),
        "{opening:?}"
    );
    let before = next.actual().unwrap();
    load.stop().assert_clean(1);
    // Something that it would write about.
    stage.servers.iter_mut().take(1).for_each(Server::kill);
    let old = stage.daemon.process().unwrap();
    old.signal(Signal::SIGCONT).unwrap();
    let status = old.wait(Duration::from_secs(10)).unwrap();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert_eq!(next.actual().unwrap(), before);
    let log = stage.daemon.log();
    assert!(log.contains("owner epoch"), "{log}");
    drop(next);
    stage.daemon.restart().unwrap();
    stage.wait_for_health("b1", "down");
    stage.storm(&ECHO, 2000).assert_clean(2000);
    stage.end();
}
