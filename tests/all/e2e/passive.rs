//! What packets say takes a backend out long before the turn of its checks, and only where a check confirms it.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_tests::daemon::Config;
use lb_tests::decap;
use lb_tests::server::{Config as ServerConfig, ECHO_PORT, HTTP_PORT, Server};
use lb_tests::topology::{Family, Shape, Topology, balancer_back, vip};

use super::tunnel_path::ip;
use crate::stage::{FULLNAT, SHAPES, Stage, figure, wait_until};

mod healthy;
mod spared;

const SERVICE: &str = "echo4";
const VICTIM: &str = "echo4/b1";

/// New connections a second, over all backends.
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

/// The same by connections to the port that clients come to: where answers go straight to clients, at the VIP.
fn at_port(config: Config) -> Config {
    let mut config = seldom(config);
    for service in &mut config.services {
        if service.name == SERVICE {
            service.health.kind = "tcp";
            service.health.port = None;
        }
    }
    config
}

/// Processes, of which the first one has a short queue of connections that it has not accepted yet.
fn small_queue(topology: &Topology) -> anyhow::Result<Vec<Server>> {
    let mut servers = Server::processes(topology)?;
    let config = ServerConfig {
        backlog: 8,
        ..ServerConfig::backend(topology, 1)
    };
    servers[0].kill();
    servers[0].start(&config)?;
    Ok(servers)
}

fn stage(shape: Shape) -> Stage {
    Stage::with(shape, Server::processes, seldom)
}

/// For `nft -f`: connections to the server's port, and to that of its checks, are dropped in silence.
fn firewall() -> String {
    firewall_when("")
}

/// The same with a condition.
fn firewall_when(condition: &str) -> String {
    format!(
        "table inet fault {{ chain in {{ type filter hook input priority 0;
    {condition}tcp dport {{ {ECHO_PORT}, {HTTP_PORT} }} drop
    }}
}}"
    )
}

/// Clients that wait so long for an answer that their SYNs come again, after a second and after three (RFC 6298 section 2.1).
const PATIENCE: Duration = Duration::from_secs(5);

/// Such clients, each with one connection at a time.
struct Patient {
    over: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Patient {
    fn start(stage: &Stage) -> Self {
        let (over, made) = (Arc::default(), Arc::default());
        let target = stage.targets(&[SERVICE])[0];
        let client = |_| {
            let namespace = stage.topology.namespace("client").clone();
            let (over, made): (Arc<AtomicBool>, Arc<AtomicU64>) =
                (Arc::clone(&over), Arc::clone(&made));
            std::thread::spawn(move || {
                namespace.enter().unwrap();
                while !over.load(Ordering::Relaxed) {
                    if TcpStream::connect_timeout(&target, PATIENCE).is_ok() {
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    // A pace that leaves ports over.
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        };
        let threads = (0..60).map(client).collect();
        Self {
            over,
            made,
            threads,
        }
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Has new connections come until the victim is down, and gives the reason.
#[track_caller]
fn down(stage: &Stage, strike: impl FnOnce(&Stage)) -> String {
    let clients = Patient::start(stage);
    wait_until("connections are made", Duration::from_secs(15), || {
        clients.made() > u64::from(RATE)
    });
    let struck = Instant::now();
    strike(stage);
    let status = stage.wait("b1 is down", |status| {
        status.backend(VICTIM).health == "down"
    });
    figure!(
        "{:?}: out {:?} after its fault",
        stage.topology.shape().forwarding,
        struck.elapsed()
    );
    clients.stop();
    for other in ["echo4/b2", "echo4/b3"] {
        assert_eq!(status.backend(other).health, "up", "{status:?}");
    }
    let told = stage.daemon.cli(&["why", VICTIM]).unwrap();
    assert!(told.stdout.contains("packets say"), "{}", told.stdout);
    status.backend(VICTIM).reason.clone()
}

#[test]
fn a_killed_server_refuses_and_is_out_without_its_turn() {
    // Where its RST goes straight to clients, they do not go on.
    for (shape, sign) in [
        (SHAPES[0], "refused"),
        (FULLNAT[0], "refused"),
        (SHAPES[2], "unanswered"),
    ] {
        let mut stage = stage(shape);
        let process = stage.servers.remove(0);
        let reason = down(&stage, |_| drop(process));
        assert!(
            reason.contains(&format!("handshakes {sign} in the last"))
                && reason.contains("checked at once: connect: refused"),
            "{reason}"
        );
        stage.end();
    }
}

#[test]
fn a_server_behind_its_own_firewall_is_silent_and_out_without_its_turn() {
    for shape in [SHAPES[0], FULLNAT[0], SHAPES[2], SHAPES[4]] {
        let stage = stage(shape);
        let reason = down(&stage, |stage| {
            stage.topology.nft("b1", &firewall()).unwrap();
        });
        assert!(
            reason.contains("handshakes unanswered in the last")
                && reason.contains("checked at once: connect: timed out"),
            "{reason}"
        );
        stage.end();
    }
}

/// Fault B7: nobody accepts, so the queue is full soon and the kernel answers no SYN.
#[test]
fn a_server_that_accepts_nobody_is_silent_and_out_without_its_turn() {
    let stage = Stage::with(SHAPES[0], small_queue, at_port);
    let reason = down(&stage, |stage| stage.servers[0].freeze().unwrap());
    assert!(
        reason.contains("handshakes unanswered in the last")
            && reason.contains("checked at once: connect: timed out"),
        "{reason}"
    );
    stage.end();
}

/// Fault B13: clients' packets reach it, and what it says from the VIP is lost.
#[test]
fn a_backend_whose_replies_from_the_vip_are_lost_is_out_without_its_turn() {
    let stage = Stage::with(SHAPES[2], Server::processes, at_port);
    let reason = down(&stage, |stage| {
        let rules = format!(
            "table inet fault {{ chain out {{ type filter hook output priority 0;
    ip saddr {} drop
    }}
}}",
            vip(Family::V4, 0)
        );
        stage.topology.nft("b1", &rules).unwrap();
    });
    assert!(
        reason.contains("handshakes unanswered in the last")
            && reason.contains("answers at its own address"),
        "{reason}"
    );
    stage.end();
}

/// Fault B8: its kernel tells the balancer that it knows no tunnels, so nobody waits for clients to go on. Of a backend
/// of several services it could not be told which of them is meant.
#[test]
fn a_backend_that_takes_nothing_out_of_its_tunnel_is_unreachable_and_out_without_its_turn() {
    let stage = Stage::with(SHAPES[4], Server::processes, |config| {
        let mut config = at_port(config);
        config.services.retain(|service| service.name == SERVICE);
        config
    });
    // Its way to where tunnels come from.
    let route = format!(
        "route add {} via {}",
        decap::TUNNEL_SOURCES[0],
        balancer_back(Family::V4)
    );
    ip(&stage.topology, "b1", &route);
    let reason = down(&stage, |stage| {
        decap::command(&stage.topology, "b1", &["--detach"]).unwrap();
    });
    assert!(
        reason.contains("handshakes unreachable in the last")
            && reason.contains("takes nothing out of the tunnel"),
        "{reason}"
    );
    decap::attach(&stage.topology, "b1").unwrap();
    stage.end();
}
