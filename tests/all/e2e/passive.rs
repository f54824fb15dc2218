//! What packets say takes a backend out long before the turn of its checks, and only where a check confirms it.

use std::time::Duration;

use lb_tests::daemon::Config;
use lb_tests::server::{ECHO_PORT, Server};
use lb_tests::topology::Shape;

use crate::stage::{FULLNAT, SHAPES, Stage, wait_until};

const SERVICE: &str = "echo4";
const VICTIM: &str = "echo4/b1";

/// New connections a second, over three backends.
const RATE: u32 = 200;

/// Checks so seldom that none has its turn while a test runs.
fn seldom(mut config: Config) -> Config {
    for service in &mut config.services {
        if service.name == SERVICE {
            service.health.interval_ms = 600_000;
            service.health.timeout_ms = 500;
            service.health.fall = 3;
            service.health.extra = "passive = true";
            service.extra += "\npanic-threshold = 60";
        }
    }
    config
}

fn stage(shape: Shape) -> Stage {
    Stage::with(shape, Server::processes, seldom)
}

/// For `nft -f`: connections to the server's port are dropped in silence.
fn firewall() -> String {
    format!(
        "table inet fault {{ chain in {{ type filter hook input priority 0;
    tcp dport {ECHO_PORT} drop
    }}
}}"
    )
}

/// Has new connections come until the victim is down, and gives the reason.
#[track_caller]
fn down(stage: &Stage, strike: impl FnOnce(&Stage)) -> String {
    let load = stage.load(&[SERVICE], RATE);
    wait_until("connections are made", Duration::from_secs(15), || {
        load.begun() > u64::from(RATE)
    });
    strike(stage);
    let status = stage.wait("b1 is down", |status| {
        status.backend(VICTIM).health == "down"
    });
    drop(load.stop());
    for other in ["echo4/b2", "echo4/b3"] {
        assert_eq!(status.backend(other).health, "up", "{status:?}");
    }
    let told = stage.daemon.cli(&["why", VICTIM]).unwrap();
    assert!(told.stdout.contains("packets say"), "{}", told.stdout);
    status.backend(VICTIM).reason.clone()
}

#[test]
fn a_killed_server_refuses_and_is_out_without_its_turn() {
    for shape in [SHAPES[0], FULLNAT[0]] {
        let mut stage = stage(shape);
        let process = stage.servers.remove(0);
        let reason = down(&stage, |_| drop(process));
        assert!(
            reason.contains("handshakes refused in the last")
                && reason.contains("checked at once: connect: refused"),
            "{reason}"
        );
        stage.end();
    }
}

#[test]
fn a_server_behind_its_own_firewall_is_silent_and_out_without_its_turn() {
    for (shape, sign) in [(SHAPES[0], "unanswered"), (SHAPES[2], "begun again")] {
        let stage = stage(shape);
        let reason = down(&stage, |stage| {
            stage.topology.nft("b1", &firewall()).unwrap();
        });
        assert!(
            reason.contains(&format!("handshakes {sign} in the last"))
                && reason.contains("checked at once: connect: timed out"),
            "{reason}"
        );
        stage.end();
    }
}

/// Two may not be out: `panic-threshold`.
#[test]
fn when_all_are_silent_no_more_are_out_than_the_service_can_spare() {
    let stage = stage(SHAPES[0]);
    let load = stage.load(&[SERVICE], RATE);
    wait_until("connections are made", Duration::from_secs(15), || {
        load.begun() > u64::from(RATE)
    });
    for host in ["b1", "b2", "b3"] {
        stage.topology.nft(host, &firewall()).unwrap();
    }
    let begun = load.begun();
    wait_until("more are tried", Duration::from_secs(30), || {
        load.begun() > begun + 3 * u64::from(RATE)
    });
    drop(load.stop());
    let status = stage.daemon.status().unwrap();
    let service = status.service(SERVICE).unwrap();
    let down = service.backends.iter().filter(|b| b.health == "down");
    assert!(down.count() <= 1, "{service:?}");
    stage.end();
}
