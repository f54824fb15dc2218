//! The lab judges rightly, and its configuration is one that Fairlead takes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_tests::capture::Frame;
use lb_tests::daemon::{Config, DataPlane, Health};
use lb_tests::lab::{Observed, Outcome};
use lb_tests::load::{Connection, Failure, Report, Sample};
use lb_tests::topology::{Arms, Forwarding, Shape, Topology};

/// A run of twelve seconds in which everything went well.
fn good(begin: Instant) -> Observed {
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let answered = (0..12_000).step_by(10).map(|ms| {
        let serving: &[u8] = match ms {
            0..4000 => &[1, 2, 3],
            4000..8000 => &[2, 3],
            8000..10_000 => &[3],
            _ => &[1, 2, 3],
        };
        let backend = serving[(ms as usize / 10) % serving.len()];
        Sample {
            started: at(ms),
            took: Duration::from_millis(1),
            backend,
        }
    });
    let long = |backend, failed| Connection {
        local: None,
        started: at(1),
        backend,
        messages: 1,
        failed,
    };
    Observed {
        begin,
        kill: at(4000),
        drained: at(8000),
        returned: at(10_000),
        end: at(12_000),
        http: Report {
            answered: answered.collect(),
            failures: vec![failure(at(4100), 900)],
        },
        long: vec![
            long(1, Some((at(4600), "reset".to_owned()))),
            long(2, None),
            long(3, None),
        ],
        udp: vec![],
        frames_to_b1: vec![frame(at(3999)), frame(at(4400)), frame(at(10_500))],
        frames_missed: 0,
        new_flows_while_drained: 0,
        data_plane: DataPlane {
            rx: 10,
            pass: 1,
            redirect: 9,
            ..DataPlane::default()
        },
        start_to_first_answer: Duration::from_millis(300),
        machine_late: Duration::ZERO,
    }
}

fn failure(started: Instant, took_ms: u64) -> Failure {
    let took = Duration::from_millis(took_ms);
    Failure {
        started,
        took,
        reason: "reset".to_owned(),
        local: None,
    }
}

fn frame(at: Instant) -> Frame {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Frame {
        at,
        source: address,
        destination: address,
        protocol: 6,
        tcp_flags: 2,
    }
}

/// The promises that do not hold after a change to a good run.
#[track_caller]
fn check(change: impl FnOnce(&mut Observed), broken: &[&str]) {
    let mut seen = good(Instant::now());
    change(&mut seen);
    let outcome = Outcome::judge(&seen, &Health::LAB, 3);
    let missed: Vec<_> = outcome
        .promises
        .iter()
        .filter(|p| !p.held)
        .map(|p| p.name)
        .collect();
    assert_eq!(missed, broken, "{outcome:#?}");
    assert_eq!(outcome.held(), broken.is_empty());
}

#[test]
fn each_broken_promise_is_noticed() {
    let ms = Duration::from_millis;
    check(|_| {}, &[]);
    let failed = &["failed_requests_outside_failover_window"];
    check(
        |s| s.http.failures.push(failure(s.kill - ms(100), 50)),
        failed,
    );
    check(
        |s| s.http.failures.push(failure(s.kill - ms(100), 150)),
        &[],
    );
    check(
        |s| s.http.failures.push(failure(s.kill + ms(509), 900)),
        &[],
    );
    check(
        |s| s.http.failures.push(failure(s.kill + ms(510), 1)),
        failed,
    );
    let last = &["kill_to_last_packet_ms"];
    check(|s| s.frames_to_b1.push(frame(s.kill + ms(510))), &[]);
    check(|s| s.frames_to_b1.push(frame(s.kill + ms(511))), last);
    let cut = |s: &mut Observed, n: usize, at| s.long[n].failed = Some((at, "reset".to_owned()));
    check(|s| cut(s, 1, s.drained + ms(1)), &["flows_cut_by_drain"]);
    check(
        |s| cut(s, 1, s.drained - ms(1)),
        &["flows_cut_without_cause"],
    );
    check(|s| cut(s, 2, s.kill + ms(1)), &["flows_cut_without_cause"]);
    check(
        |s| s.http.answered.retain(|a| a.backend != 1),
        &["backends_serving_at_first"],
    );
    check(
        |s| s.new_flows_while_drained = 1,
        &["new_flows_while_drained"],
    );
    let late = |s: &mut Observed| {
        let started = s.drained + ms(1);
        s.http.answered.push(Sample {
            started,
            took: ms(1),
            backend: 2,
        });
    };
    check(late, &["requests_to_drained_backend"]);
    check(|s| s.data_plane.rx += 1, &["packets_in_no_counter"]);
    check(|s| s.frames_missed = 1, &["frames_missed_by_capture"]);
}

#[test]
fn requests_are_counted_by_phase_and_backend() {
    let outcome = Outcome::judge(&good(Instant::now()), &Health::LAB, 3);
    let text = serde_json::to_value(&outcome.requests_by_backend_and_phase).unwrap();
    let expected = serde_json::json!({
        "all_serve": {"b1": 134, "b2": 133, "b3": 133},
        "b1_without_power": {"b2": 200, "b3": 200},
        "b2_drained": {"b3": 200},
        "both_returned": {"b1": 66, "b2": 67, "b3": 67},
    });
    assert_eq!(text, expected);
    assert_eq!(outcome.kill_to_last_packet_ms, 400.0);
    assert_eq!(outcome.flows_cut_by_kill, 1);
}

#[test]
fn fairlead_takes_the_configuration_of_the_lab() {
    for arms in [Arms::One, Arms::Two] {
        for forwarding in [Forwarding::Dnat, Forwarding::L2dsr, Forwarding::Ipip] {
            let shape = Shape {
                backends: 3,
                arms,
                forwarding,
            };
            let topology = Topology::build(shape).unwrap();
            let text = Config::lab(&topology).toml(std::path::Path::new("/run/fairlead-lab/x"));
            let outcome = lb_userspace::config::parse("fairlead.toml", &text);
            assert!(
                outcome.diagnostics.is_empty(),
                "{:#?}\n{text}",
                outcome.diagnostics
            );
            assert_eq!(outcome.config.unwrap().services.len(), 6);
        }
    }
}
