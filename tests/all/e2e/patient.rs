//! Connections through a balancer whose daemon dies, with bounds so wide that they hold on an emulated machine: this
//! runs on other kernels too. What is fast enough is measured elsewhere.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Health};
use lb_tests::server::{MESSAGE_BYTES, NAME_BYTES, Server, signature};
use lb_tests::topology::{Shape, Topology};

use crate::stage::{ECHO, SHAPES, Turn};

/// For anything: a daemon that starts, an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// TCP echo in both families, with probes that nobody needs to hurry for.
fn config(topology: &Topology) -> Config {
    let mut config = Config::lab(topology);
    config
        .services
        .retain(|service| ECHO.contains(&service.name.as_str()));
    for service in &mut config.services {
        service.health = Health {
            kind: "tcp",
            interval_ms: 5000,
            timeout_ms: 4000,
            rise: 1,
            ..Health::LAB
        };
    }
    Config {
        flows: 1 << 12,
        ..config
    }
}

fn connect(topology: &Topology, target: SocketAddr) -> TcpStream {
    let connect = || TcpStream::connect_timeout(&target, PATIENCE);
    let stream = topology.run_in("client", connect).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a message; the name of the backend that echoed it.
fn ask(stream: &mut TcpStream) -> String {
    let sent = [0x5a; MESSAGE_BYTES];
    stream.write_all(&sent).unwrap();
    let mut answer = [0; MESSAGE_BYTES];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[NAME_BYTES..], sent[NAME_BYTES..]);
    signature(&answer).to_owned()
}

#[track_caller]
fn check(shape: Shape) {
    let _turn = Turn::shared();
    let topology = Topology::build(shape).unwrap();
    let _servers = Server::threads(&topology).unwrap();
    let mut daemon = Daemon::prepare(&topology, config(&topology)).unwrap();
    let up = |daemon: &mut Daemon| {
        daemon.spawn().unwrap();
        let all = |status: &lb_tests::daemon::Status| status.ready && status.all_are("up");
        daemon.wait_until("all are up", PATIENCE, all).unwrap();
    };
    up(&mut daemon);
    let targets = daemon.config().targets(&ECHO);
    let mut held: Vec<_> = targets.iter().map(|t| connect(&topology, *t)).collect();
    let names: Vec<_> = held.iter_mut().map(ask).collect();
    let mut each_answers = || {
        for target in &targets {
            let name = ask(&mut connect(&topology, *target));
            assert!(["b1", "b2", "b3"].contains(&name.as_str()), "{name}");
        }
        let again: Vec<_> = held.iter_mut().map(ask).collect();
        assert_eq!(again, names, "a connection went to another backend");
    };
    each_answers();
    daemon.kill().unwrap();
    each_answers();
    up(&mut daemon);
    let log = daemon.log();
    assert!(log.contains("data plane adopted"), "{log}");
    each_answers();
    daemon.check_conservation().unwrap();
    let drops = daemon.status().unwrap().data_plane.drops;
    assert_eq!(drops["map_inconsistent"], 0, "{drops:?}");
}

#[test]
fn connections_outlive_the_daemon_over_dnat_and_two_arms() {
    check(SHAPES[0]);
}

#[test]
fn connections_outlive_the_daemon_over_l2dsr_and_one_arm() {
    check(SHAPES[3]);
}
