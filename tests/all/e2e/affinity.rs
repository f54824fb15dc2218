//! Clients of one prefix stay together with a backend, until their time is over.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Health, Protocol, Service};
use lb_tests::server::{ECHO_PORT, Server};
use lb_tests::topology::{Family, Topology};

use super::schedulers::{answers, see_all_flows_on_one_cpu};
use crate::stage::{SHAPES, Stage};

const SERVICE: &str = "prefix";
/// Clients stay for so long, ...
const TIMEOUT: Duration = Duration::from_secs(8);
/// ... rounded up to ticks of 1.07 s of the data plane's clock, and one more at most.
const ROUNDED: Duration = Duration::from_millis(2 * 1074);
/// Addresses of the client, in two prefixes of 28 bits.
const PREFIXES: [[u8; 3]; 2] = [[16, 20, 31], [32, 33, 47]];

fn config(mut config: Config, topology: &Topology) -> Config {
    let mut service = Service::new(topology, SERVICE, Family::V4, 0, Protocol::Tcp, ECHO_PORT);
    service.extra += &format!(
        "\nscheduler = \"round-robin\"\naffinity-timeout = \"{}s\"\nclient-prefix = 28",
        TIMEOUT.as_secs()
    );
    // Nobody is to leave: each backend has its turn.
    service.health = Health {
        kind: "none",
        ..Health::LAB
    };
    config.services = vec![service];
    config
}

/// Who answers the clients of a prefix, all of them alike.
fn home(stage: &Stage, target: SocketAddr, prefix: [u8; 3]) -> u8 {
    let from = |last| answers(&stage.topology, Ipv4Addr::new(10, 10, 0, last), target);
    let homes: BTreeSet<u8> = prefix.into_iter().map(from).collect();
    assert_eq!(homes.len(), 1, "{prefix:?}: {homes:?}");
    homes.into_iter().next().unwrap()
}

#[test]
fn clients_of_a_prefix_have_one_backend_and_a_new_turn_when_their_time_is_over() {
    let all_cpus = see_all_flows_on_one_cpu();
    let servers = |topology: &Topology| {
        all_cpus.allow_again();
        Server::threads(topology)
    };
    let stage = Stage::with_topology(SHAPES[0], servers, config);
    let target = stage.targets(&[SERVICE])[0];
    for last in PREFIXES.concat() {
        let from = Ipv4Addr::new(10, 10, 0, last).into();
        let added = stage.topology.add_address("client", "eth0", from, 24);
        added.unwrap();
    }
    // Turns of one CPU: each prefix takes the next one.
    let begun = Instant::now();
    let homes = PREFIXES.map(|prefix| home(&stage, target, prefix));
    let again = PREFIXES.map(|prefix| home(&stage, target, prefix));
    if begun.elapsed() < TIMEOUT {
        assert_ne!(homes[0], homes[1]);
        assert_eq!(homes, again);
    }
    // Each new flow begins their time anew.
    let (mut last, mut stays) = (begun, again[0]);
    let since = Instant::now();
    while since.elapsed() < TIMEOUT + ROUNDED {
        std::thread::sleep(TIMEOUT / 16);
        let asked = Instant::now();
        let now = home(&stage, target, PREFIXES[0]);
        if last.elapsed() < TIMEOUT {
            assert_eq!(now, stays, "it had a flow {:?} ago", last.elapsed());
        }
        (last, stays) = (asked, now);
    }
    std::thread::sleep(TIMEOUT + ROUNDED);
    let before = stays;
    assert_ne!(
        home(&stage, target, PREFIXES[0]),
        before,
        "its time is over"
    );
    stage.end();
}
