//! `fullnat`: backends without a route to clients serve them.

use std::time::Duration;

use lb_tests::load::Udp;
use lb_tests::topology::Shape;

use crate::stage::{ECHO, FULLNAT, Stage, UDP, WEB};

#[track_caller]
fn check_short_connections(shape: Shape) {
    let stage = Stage::new(shape);
    for names in [ECHO, WEB] {
        let report = stage.storm(&names, 3000);
        report.assert_clean(3000);
        let counts = report.backends();
        // A third each; six standard deviations of 3000 draws are 155.
        assert!(
            (1..=3).all(|n| counts.get(&n).is_some_and(|c| *c > 800)),
            "{report}"
        );
    }
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}

#[test]
fn short_connections_over_fullnat_and_two_arms_reach_every_backend() {
    check_short_connections(FULLNAT[0]);
}

#[test]
fn short_connections_over_fullnat_and_one_arm_reach_every_backend() {
    check_short_connections(FULLNAT[1]);
}

#[test]
fn udp_flows_over_fullnat_keep_their_backend_and_lose_nothing() {
    for shape in FULLNAT {
        let stage = Stage::new(shape);
        let targets = stage.targets(&UDP);
        let interval = Duration::from_millis(100);
        let length = Duration::from_secs(3);
        let udp = Udp::start(&stage.topology, &targets, 200, interval, length);
        let flows = udp.unwrap().wait();
        assert!(
            flows
                .iter()
                .all(|f| f.lost.is_empty() && f.backends.len() == 1),
            "{flows:?}"
        );
        assert!(flows.iter().all(|f| f.answered > 10), "{flows:?}");
        stage.end();
    }
}
