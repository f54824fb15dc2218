//! What people do by mistake.

use std::time::{Duration, Instant};

use crate::stage::{ECHO, SHAPES, Stage, Stalls, wait_until};

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
    let stage = Stage::alone(SHAPES[0]);
    let stalls = Stalls::watch();
    let load = stage.load(&ECHO, 1000);
    for _ in 0..10 {
        for device in ["eth1", "eth0"] {
            let begin = Instant::now();
            stage.topology.flush_neighbours("lb", device).unwrap();
            let flushed = Instant::now();
            stage.wait_for_neighbours();
            let known = flushed.elapsed();
            assert!(
                known <= Duration::from_millis(100) + stalls.worst_since(begin),
                "{device}: the neighbours were known after {known:?}"
            );
        }
        stage.storm(&ECHO, 500).assert_clean(500);
    }
    // The last address of a neighbour stays in use until it is known that nobody answers.
    load.stop().assert_clean(1);
    stage.end();
}

#[test]
fn o3_route_that_was_removed_is_named_and_used_again_when_it_is_back() {
    use lb_tests::topology::{FAMILIES, balancer_back};
    let stage = Stage::alone(SHAPES[0]);
    let stalls = Stalls::watch();
    stage.topology.flush_addresses("lb", "eth1").unwrap();
    let status = stage.wait("no backend has a way", |status| {
        let mut backends = status.services.iter().flat_map(|s| &s.backends);
        backends.all(|b| !b.route.starts_with("eth1 "))
    });
    // People are told why.
    let route = &status.backend("echo4/b1").route;
    assert!(route.contains("route"), "{route}");
    let restored = Instant::now();
    for family in FAMILIES {
        let length = if family == lb_tests::topology::Family::V4 {
            24
        } else {
            64
        };
        let address = balancer_back(family);
        stage
            .topology
            .add_address("lb", "eth1", address, length)
            .unwrap();
    }
    stage.wait_for_routes();
    let known = restored.elapsed();
    assert!(
        known <= Duration::from_millis(100) + stalls.worst_since(restored),
        "the next hops were known after {known:?}"
    );
    stage.wait("all are up", |status| status.all_are("up"));
    stage.storm(&ECHO, 2000).assert_clean(2000);
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
    let stalls = Stalls::watch();
    for family in FAMILIES {
        stage
            .topology
            .remove_address("lb", "eth0", vip(family, 0))
            .unwrap();
        let removed = Instant::now();
        let back = wait_until("the address is back", Duration::from_secs(5), || {
            stage
                .topology
                .has_address("lb", "eth0", vip(family, 0))
                .unwrap()
        });
        assert!(
            back <= Duration::from_millis(100) + stalls.worst_since(removed),
            "{family:?}: the address was back after {back:?}"
        );
    }
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}
