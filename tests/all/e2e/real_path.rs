//! Checks go to the VIP on a backend by the way of clients' packets: what breaks that way takes the backend out, and the
//! reason says so.

use std::process::Command;
use std::time::Duration;

use lb_common::tunnel::GUE_PORT;
use lb_tests::decap;
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, Family, Topology, vip};

use super::encapsulation::{GUE, HEADER};
use crate::stage::{SHAPES, Stage, WEB, wait_until};

pub(super) mod full_size;

/// Two arms with l2dsr, and ipip.
const L2DSR: usize = 2;
const IPIP: usize = 4;

/// Health and reason of `b1` in a service.
fn first(stage: &Stage, service: &str) -> (String, String) {
    let status = stage.daemon.status().unwrap();
    let service = status.services.iter().find(|s| s.name == service).unwrap();
    let backend = service.backends.iter().find(|b| b.name == "b1").unwrap();
    (backend.health.clone(), backend.reason.clone())
}

/// Waits until `b1` of the web service of a family is down, and gives the reason.
#[track_caller]
fn down(stage: &Stage, family: Family) -> String {
    let service = if family == Family::V4 { "web4" } else { "web6" };
    wait_until("b1 is down", Duration::from_secs(15), || {
        first(stage, service).0 == "down"
    });
    first(stage, service).1
}

/// What `tc` and the kernel say of programs on an interface of the balancer, by their names.
fn programs(topology: &Topology, device: &str) -> Vec<String> {
    use aya::programs::{SchedClassifier, TcAttachType};
    topology.run_in("lb", || {
        let mut names = vec![];
        for end in [TcAttachType::Egress, TcAttachType::Ingress] {
            let (_, programs) = SchedClassifier::query_tcx(device, end).unwrap();
            names.extend(programs.iter().map(|p| p.name_as_str().unwrap().to_owned()));
        }
        names
    })
}

/// Nothing of ours is at the ends of any interface's stack, and no rule or table for checks.
fn nothing_left(stage: &Stage) {
    for device in stage.topology.shape().balancer_devices() {
        assert_eq!(programs(&stage.topology, device), [""; 0], "{device}");
        let shown = stage.topology.run_in("lb", || {
            Command::new("tc")
                .args(["qdisc", "show", "dev", device])
                .output()
                .unwrap()
        });
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(!shown.contains("clsact"), "{shown}");
    }
}

#[test]
fn a_vip_that_is_missing_on_a_backend_takes_it_out_and_is_named() {
    let mut stage = Stage::new(SHAPES[L2DSR]);
    for family in FAMILIES {
        let address = vip(family, 0);
        let length = if family == Family::V4 { 32 } else { 128 };
        stage.topology.remove_address("b1", "lo", address).unwrap();
        let reason = down(&stage, family);
        assert!(
            reason.contains("answers at its own address")
                && reason.contains(&format!("{address} is missing on it")),
            "{reason}"
        );
        stage
            .topology
            .add_address("b1", "lo", address, length)
            .unwrap();
        stage.wait_for_health("b1", "up");
    }
    stage.storm(&WEB, 300).assert_clean(300);

    // The host has the VIP itself, as with `claim`: checks go out all the same, and answers from it come in.
    for family in FAMILIES {
        let length = if family == Family::V4 { 32 } else { 128 };
        stage
            .topology
            .add_address("lb", "lo", vip(family, 0), length)
            .unwrap();
    }
    stage.daemon.stop().unwrap();
    stage.daemon.restart().unwrap();
    stage.wait_for_health("b1", "up");
    for family in FAMILIES {
        stage
            .topology
            .remove_address("lb", "lo", vip(family, 0))
            .unwrap();
    }

    let device = stage.topology.shape().balancer_back_device();
    let ours = ["fairlead_probe_out", "fairlead_probe_in"];
    let short = ours.map(|name| &name[..15]);
    assert_eq!(programs(&stage.topology, device), short);
    // After a kill nothing is left; the next daemon has its own.
    stage.daemon.kill().unwrap();
    nothing_left(&stage);
    stage.daemon.restart().unwrap();
    stage.wait_for_health("b1", "up");
    assert_eq!(programs(&stage.topology, device), short);
    stage.daemon.stop().unwrap();
    nothing_left(&stage);
    stage.daemon.restart().unwrap();
    stage.wait_for_health("b1", "up");
    stage.end();
}

#[track_caller]
fn takes_nothing_out(stage: &Stage) {
    for family in FAMILIES {
        let reason = down(stage, family);
        assert!(
            reason.contains("answers at its own address")
                && reason.contains("takes nothing out of the tunnel"),
            "{reason}"
        );
    }
}

#[test]
fn a_backend_that_takes_nothing_out_of_its_tunnel_is_out_and_that_is_named() {
    let stage = Stage::new(SHAPES[IPIP]);
    decap::command(&stage.topology, "b1", &["--detach"]).unwrap();
    takes_nothing_out(&stage);
    decap::attach(&stage.topology, "b1").unwrap();
    stage.wait_for_health("b1", "up");
    stage.end();
}

#[test]
fn a_backend_without_its_decapsulator_of_gue_or_with_another_port_is_out_and_that_is_named() {
    for way in [GUE, HEADER] {
        let stage = Stage::with(SHAPES[IPIP], Server::threads, |config| way.change(config));
        decap::command(&stage.topology, "b1", &["--detach"]).unwrap();
        takes_nothing_out(&stage);
        decap::attach(&stage.topology, "b1").unwrap();
        stage.wait_for_health("b1", "up");
        decap::attach_with(&stage.topology, "b1", "native", GUE_PORT + 1).unwrap();
        takes_nothing_out(&stage);
        decap::attach(&stage.topology, "b1").unwrap();
        stage.wait_for_health("b1", "up");
        stage.storm(&WEB, 300).assert_clean(300);
        stage.end();
    }
}
