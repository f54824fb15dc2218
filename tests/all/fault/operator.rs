//! What people do by mistake.

use std::time::Duration;

use crate::stage::{ECHO, SHAPES, Stage, wait_until};

#[test]
fn o1_last_backend_is_drained_only_by_force() {
    let stage = Stage::new(SHAPES[0]);
    stage.for_each_service("drain", "b1");
    stage.for_each_service("drain", "b2");
    let answer = stage.daemon.cli(&["drain", "echo4/b3"]).unwrap();
    assert!(answer.code.is_some_and(|code| code != 0), "{answer:?}");
    assert!(answer.stderr.contains("--force"), "{answer:?}");
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage
        .daemon
        .cli(&["drain", "echo4/b3", "--force"])
        .unwrap()
        .succeeded()
        .unwrap();
    stage.wait("echo4/b3 is draining", |s| {
        s.backend("echo4/b3").admin == "draining"
    });
    stage.end();
}

#[test]
fn o3_flushed_neighbours_are_found_again() {
    let stage = Stage::new(SHAPES[0]);
    let load = stage.load(&ECHO, 300);
    for _ in 0..5 {
        stage.topology.flush_neighbours("lb", "eth1").unwrap();
        stage.topology.flush_neighbours("lb", "eth0").unwrap();
        wait_until("it forwards again", Duration::from_secs(1), || {
            stage.storm(&ECHO, 20).failures.is_empty()
        });
        stage.storm(&ECHO, 500).assert_clean(500);
    }
    drop(load.stop());
    stage.end();
}

#[test]
fn o3_claimed_address_that_was_removed_is_back_at_once() {
    use lb_tests::topology::{FAMILIES, vip};
    let stage = Stage::with(
        SHAPES[0],
        lb_tests::server::Server::threads,
        |mut config| {
            for service in &mut config.services {
                service.extra.push_str("\nclaim = \"eth0\"");
            }
            config
        },
    );
    for family in FAMILIES {
        stage
            .topology
            .remove_address("lb", "eth0", vip(family, 0))
            .unwrap();
        wait_until("the address is back", Duration::from_millis(500), || {
            stage
                .topology
                .has_address("lb", "eth0", vip(family, 0))
                .unwrap()
        });
    }
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}
