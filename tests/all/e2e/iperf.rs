//! iperf3 through the balancer: many connections at once that must meet one server, both ways.

use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::daemon::{Config, Health, Service};
use lb_tests::topology::{Process, Shape, Topology};

use super::encapsulation::GUE;
use crate::stage::{FULLNAT, SHAPES, Stage, figure, wait_until};

const PORT: u16 = 5201;
const BYTES: u64 = 64 << 20;
const STREAMS: u64 = 4;
/// Bytes under way of each. What comes at once and a kernel on the way has no room for, it drops uncounted: veth takes
/// 256 packets, and a host without XDP 1,000.
const WINDOW: &str = "32K";
/// The kernel doubles a window; both ends have one.
const UNDER_WAY: u64 = 2 * (64 << 10);

/// A server on each backend; those with direct return have the VIP themselves.
fn servers(topology: &Topology) -> Vec<Process> {
    let start = |host: &&str| {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--port", &PORT.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        topology.spawn_in(host, command).unwrap()
    };
    let hosts = ["b1", "b2", "b3"];
    let servers = hosts.iter().map(start).collect();
    for host in hosts {
        let listens = || {
            let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap();
            sockets.contains(&format!(":{PORT:04X} "))
        };
        topology.run_in(host, || {
            wait_until("iperf3 listens", Duration::from_secs(10), listens);
        });
    }
    servers
}

/// iperf3 speaks of a transfer on one connection and transfers on others: all go where the client's address leads.
fn iperf(mut config: Config) -> Config {
    let echo = |service: &&Service| service.name.starts_with("echo");
    config.services = config.services.iter().filter(echo).cloned().collect();
    for service in &mut config.services {
        service.port = PORT;
        for backend in &mut service.backends {
            backend.port = PORT;
        }
        // A server serves one client at a time, and a check would be one.
        service.health = Health {
            kind: "none",
            ..Health::LAB
        };
        service.extra = "scheduler = \"source-hash\"".to_owned();
    }
    config
}

/// Bytes that arrived, as iperf3 itself says at its end.
fn transfer(stage: &Stage, target: std::net::SocketAddr, more: &[&str]) -> (u64, f64) {
    let mut command = Command::new("iperf3");
    command
        .args(["--json", "--client", &target.ip().to_string()])
        .args(["--port", &PORT.to_string()])
        .args(["--parallel", &STREAMS.to_string()])
        .args(["--bytes", &BYTES.to_string()])
        .args(["--window", WINDOW])
        .args(more);
    let output = stage.topology.run_in("client", || command.output());
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(output.status.success(), "{target}: {}", json["error"]);
    let sum = &json["end"]["sum_received"];
    let number = |key: &str| sum[key].as_f64().unwrap_or_else(|| panic!("{key}: {said}"));
    (number("bytes") as u64, number("bits_per_second"))
}

#[track_caller]
fn check(shape: Shape, change: impl FnOnce(Config) -> Config) {
    let mut running = vec![];
    let stage = Stage::alone_with(
        shape,
        |topology| {
            running = servers(topology);
            Ok(vec![])
        },
        |config| iperf(change(config)),
    );
    let names = ["echo4", "echo6"];
    for target in stage.targets(&names) {
        for more in [&[][..], &["--reverse"]] {
            let (bytes, rate) = transfer(&stage, target, more);
            figure!(
                "iperf3 {shape:?} {target} {more:?}: {:.2} Gbit/s",
                rate / 1e9
            );
            // What some connections still had under way when the others were done is not waited for.
            assert!(
                bytes + STREAMS * UNDER_WAY >= BYTES,
                "{shape:?} {target} {more:?}: {bytes} bytes"
            );
        }
    }
    let status = stage.daemon.status().unwrap();
    for name in names {
        let backends = &status.service(name).unwrap().backends;
        let used = backends.iter().filter(|b| b.traffic.new_flows > 0);
        let flows: Vec<u64> = used.map(|b| b.traffic.new_flows).collect();
        // One that speaks and those that transfer; a later transfer may have a port of one before.
        let least = 1 + STREAMS;
        assert!(
            matches!(flows[..], [all] if (least..=2 * least).contains(&all)),
            "{shape:?} {name}: {flows:?}"
        );
    }
    for server in &mut running {
        assert_eq!(server.ended().unwrap(), None, "a server ended");
    }
    stage.end();
}

#[test]
fn many_connections_of_iperf_meet_one_server_over_dnat() {
    check(SHAPES[0], |config| config);
}

#[test]
fn many_connections_of_iperf_meet_one_server_over_l2dsr() {
    check(SHAPES[3], |config| config);
}

#[test]
fn many_connections_of_iperf_meet_one_server_over_ipip() {
    check(SHAPES[4], |config| config);
}

#[test]
fn many_connections_of_iperf_meet_one_server_over_gue() {
    check(SHAPES[4], |config| GUE.change(config));
}

#[test]
fn many_connections_of_iperf_meet_one_server_over_fullnat() {
    check(FULLNAT[0], |config| config);
}
