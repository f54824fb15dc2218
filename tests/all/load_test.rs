//! The load generators against real servers, by plain forwarding: they count what happens.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_tests::load::{Bounds, LATE, Long, Request, Storm, Udp, retransmissions};
use lb_tests::server::{ECHO_PORT, HTTP_PORT, Server};
use lb_tests::topology::{FAMILIES, Shape, Topology, backend};

fn network() -> (Topology, Vec<Server>) {
    let topology = Topology::build(Shape::default()).unwrap();
    let servers = Server::threads(&topology).unwrap();
    (topology, servers)
}

/// Every backend in both families.
fn everyone(port: u16) -> Vec<SocketAddr> {
    let each = |family| (1..=3).map(move |n| SocketAddr::from((backend(family, n), port)));
    FAMILIES.into_iter().flat_map(each).collect()
}

#[test]
fn short_connections_are_answered_by_whom_they_asked() {
    let (topology, _servers) = network();
    for (request, port) in [(Request::Echo, ECHO_PORT), (Request::Http("/"), HTTP_PORT)] {
        let begin = Instant::now();
        let report = Storm::run(
            &topology,
            &everyone(port),
            request.clone(),
            Bounds::count(6000),
        )
        .unwrap();
        println!("{request:?}: {report} in {:?}", begin.elapsed());
        report.assert_clean(6000);
        assert_eq!(
            report.backends().values().copied().collect::<Vec<_>>(),
            [2000; 3]
        );
    }
    let again = retransmissions(topology.namespace("client")).unwrap();
    assert_eq!(again, 0, "segments were sent again");
}

#[test]
fn long_connections_and_datagrams_notice_a_power_cut() {
    let (topology, _servers) = network();
    let time = Duration::from_secs(30);
    let long = Long::start(&topology, &everyone(ECHO_PORT), 30, time).unwrap();
    let udp = Udp::start(
        &topology,
        &everyone(ECHO_PORT),
        30,
        Duration::from_millis(20),
        time,
    )
    .unwrap();
    long.wait_until_established(Duration::from_secs(5)).unwrap();
    assert_eq!(
        long.living().into_iter().collect::<Vec<_>>(),
        [(1, 10), (2, 10), (3, 10)]
    );
    topology.cut_power("b2", "eth0").unwrap();
    let cut = Instant::now();
    let all_noticed = || {
        let failed = long
            .connections()
            .into_iter()
            .filter(|c| c.failed.is_some() && c.messages > 0);
        failed.count() >= 10 && udp.flows().iter().filter(|f| !f.lost.is_empty()).count() >= 10
    };
    while !all_noticed() {
        assert!(cut.elapsed() < 4 * LATE, "{:?}", long.connections());
        std::thread::sleep(Duration::from_millis(5));
    }
    let (connections, flows) = (long.stop(), udp.stop());
    assert!(
        connections
            .iter()
            .all(|c| c.failed.is_none() || matches!(c.backend, 0 | 2))
    );
    let hurt = flows.iter().filter(|f| !f.lost.is_empty());
    assert!(
        hurt.clone().all(|f| f.backends.keys().all(|b| *b == 2)),
        "{flows:?}"
    );
    assert_eq!(hurt.count(), 10);
    assert!(flows.iter().all(|f| f.sent >= f.answered && f.answered > 0));
}

#[test]
fn a_slow_answer_is_a_failure() {
    let (topology, servers) = network();
    let health = lb_tests::server::Health {
        delay_ms: 2000,
        ..Default::default()
    };
    servers[0].set_health(&health).unwrap();
    let target = SocketAddr::from((backend(FAMILIES[0], 1), HTTP_PORT));
    let bounds = Bounds {
        concurrency: 1,
        ..Bounds::count(1)
    };
    let report = Storm::run(&topology, &[target], Request::Http("/health"), bounds).unwrap();
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].took >= LATE, "{report}");
}

#[test]
fn a_thousand_long_connections_and_flows_do_not_hurt_each_other() {
    let (topology, _servers) = network();
    let time = Duration::from_secs(30);
    let targets = everyone(ECHO_PORT);
    let long = Long::start(&topology, &targets, 1000, time).unwrap();
    let udp = Udp::start(&topology, &targets, 1000, Duration::from_secs(1), time).unwrap();
    long.wait_until_established(Duration::from_secs(10))
        .unwrap();
    Storm::run(&topology, &targets, Request::Echo, Bounds::count(10_000))
        .unwrap()
        .assert_clean(10_000);
    let (connections, flows) = (long.stop(), udp.stop());
    assert_eq!(connections.len(), 1000, "none was made anew");
    assert!(connections.iter().all(|c| c.failed.is_none()));
    assert!(flows.iter().all(|f| f.lost.is_empty()), "{flows:?}");
}
