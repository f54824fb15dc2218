//! Fault B8: the way of clients' packets to a backend breaks, though its own address answers. How long until it is out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_tests::decap;
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, Shape, vip};

use super::backend::{active, bound};
use crate::stage::{SHAPES, Stage, Stalls, WEB, figure};

/// Of UTC, for what happens within some seconds.
const DAY: f64 = 86_400.0;

/// When the daemon took the first backend of a service out, by its log: seconds since midnight.
fn out_at(stage: &Stage, service: &str) -> f64 {
    let log = stage.daemon.log();
    let words = [
        "health changed",
        &format!("service={service} backend=b1 "),
        "to=Down",
    ];
    let line = log
        .lines()
        .find(|line| words.iter().all(|word| line.contains(word)));
    let line = line.unwrap_or_else(|| panic!("nobody was taken out:\n{log}"));
    let (_, time) = line.split_once('T').unwrap();
    let (time, _) = time.split_once('Z').unwrap();
    let parts = time.split(':').map(|part| part.parse::<f64>().unwrap());
    parts.fold(0.0, |sum, part| 60.0 * sum + part)
}

/// Breaks it by `strike`, and checks when it is out, and the reason.
#[track_caller]
fn out_in_time(shape: Shape, strike: impl FnOnce(&Stage), named: &str) -> Stage {
    let stage = Stage::alone_with(shape, Server::threads, active);
    let stalls = Stalls::watch();
    strike(&stage);
    // It is broken by now; what the command itself took is not the balancer's.
    let (struck, at) = (Instant::now(), SystemTime::now());
    let down = stage.wait("b1 is out", |status| {
        let mut services = WEB.iter().map(|service| format!("{service}/b1"));
        services.all(|key| status.backend(&key).health == "down")
    });
    let late = stalls.worst_since(struck);
    let at = at.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for service in WEB {
        let reason = &down.backend(&format!("{service}/b1")).reason;
        assert!(
            reason.contains("answers at its own address") && reason.contains(named),
            "{reason}"
        );
        let took = (out_at(&stage, service) - at).rem_euclid(DAY);
        // One that was out before the command had ended.
        let took = Duration::from_secs_f64(if took > DAY / 2.0 { 0.0 } else { took });
        figure!(
            "B8, {:?}, {service}: out after {took:?} of at most {:?}; the machine was late by {late:?}",
            shape.forwarding,
            bound()
        );
        assert!(
            took <= bound() + late,
            "{service}: out after {took:?}, the machine was late by {late:?}"
        );
    }
    stage
}

#[test]
fn b8_backend_without_the_vip_is_out_within_the_bound_of_its_checks() {
    let strike = |stage: &Stage| {
        for family in FAMILIES {
            let address = vip(family, 0);
            stage.topology.remove_address("b1", "lo", address).unwrap();
        }
    };
    out_in_time(SHAPES[2], strike, "is missing on it").end();
}

#[test]
fn b8_backend_without_its_decapsulator_is_out_within_the_bound_of_its_checks() {
    let strike = |stage: &Stage| {
        decap::command(&stage.topology, "b1", &["--detach"]).unwrap();
    };
    let stage = out_in_time(SHAPES[4], strike, "takes nothing out of the tunnel");
    decap::attach(&stage.topology, "b1").unwrap();
    stage.end();
}
