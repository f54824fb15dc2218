//! Links and interfaces of the balancer that fail, vanish and return.

use std::time::{Duration, Instant};

use crate::stage::{ECHO, SHAPES, Stage, Stalls, WEB, wait_until};

#[track_caller]
fn check_carrier(device: &str) {
    let stage = Stage::alone(SHAPES[0]);
    let stalls = Stalls::watch();
    stage.storm(&ECHO, 500).assert_clean(500);
    stage.topology.cut_power("lb", device).unwrap();
    // Longer than it takes to find a dead backend.
    let cut = Instant::now();
    wait_until("the cut lasts", Duration::from_secs(2), || {
        cut.elapsed().as_millis() > 1200
    });
    let restored = Instant::now();
    stage.topology.restore_power("lb", device).unwrap();
    // The kernel forgot all neighbours of the interface: they are asked for anew.
    stage.wait_for_routes();
    let known = restored.elapsed();
    assert!(
        known <= Duration::from_millis(200) + stalls.worst_since(restored),
        "the next hops were known after {known:?}"
    );
    let report = stage.storm(&ECHO, 3000);
    report.assert_clean(3000);
    assert_eq!(
        report.backends().into_keys().collect::<Vec<_>>(),
        [1, 2, 3],
        "{report}"
    );
    assert!(stage.daemon.status().unwrap().all_are("up"));
    stage.end();
}

#[test]
fn l1_balancer_that_lost_the_link_to_its_clients_forwards_when_it_is_back() {
    check_carrier("eth0");
}

#[test]
fn l1_balancer_that_lost_the_link_to_its_backends_takes_none_of_them_for_dead() {
    check_carrier("eth1");
}

#[test]
fn l2_interface_that_was_deleted_and_made_again_is_attached_within_50_ms() {
    for device in ["eth0", "eth1"] {
        let mut stage = Stage::alone(SHAPES[0]);
        let stalls = Stalls::watch();
        let begin = Instant::now();
        stage.topology.delete_device("lb", device).unwrap();
        assert_eq!(stage.topology.has_xdp("lb", device).unwrap(), None);
        let seen = std::thread::scope(|scope| {
            let lb = stage.topology.namespace("lb").clone();
            let poll = scope.spawn(move || attached_after(&lb, device));
            stage.topology.recreate_device("lb", device).unwrap();
            poll.join().unwrap()
        });
        assert!(
            seen <= Duration::from_millis(50) + stalls.worst_since(begin),
            "{device} had no program for {seen:?}"
        );
        let all_up = |status: &lb_tests::daemon::Status| status.all_are("up");
        stage.wait("all backends are up", all_up);
        wait_until("it forwards", Duration::from_secs(3), || {
            stage.storm(&WEB, 2).failures.is_empty()
        });
        stage.storm(&ECHO, 3000).assert_clean(3000);
        stage.end();
    }
}

/// From the moment an interface is there to the moment it has an XDP program.
fn attached_after(lb: &lb_tests::topology::Namespace, device: &str) -> Duration {
    let begin = Instant::now();
    let mut there = None;
    while begin.elapsed() < Duration::from_secs(10) {
        match lb_tests::topology::has_xdp(lb, device).unwrap() {
            None => {}
            Some(false) => drop(there.get_or_insert_with(Instant::now)),
            Some(true) => return there.map_or(Duration::ZERO, |at| at.elapsed()),
        }
    }
    panic!("{device} got no XDP program within 10 s");
}
