//! Checks of other types than HTTP: a backend is broken in a way that only its check sees, and gets no new flows.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_tests::daemon::{Config, Health};
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, Topology, backend};

use crate::stage::{ECHO, SHAPES, Stage};

const SERVFAIL: u8 = 2;
const DNS_PORT: u16 = 53;

/// Checked in this way, all services.
fn checked(mut config: Config, health: Health) -> Config {
    for service in &mut config.services {
        service.health = health.clone();
    }
    config
}

/// New flows go to the first backend, or to none but the others.
fn check_flows(stage: &Stage, first_serves: bool) {
    let report = stage.storm(&ECHO, 1000);
    report.assert_clean(1000);
    let backends = report.backends();
    assert_eq!(backends.contains_key(&1), first_serves, "{report}");
    assert!(
        backends.contains_key(&2) && backends.contains_key(&3),
        "{report}"
    );
}

/// The reason of the first backend, which is down.
fn reason(stage: &Stage) -> String {
    let status = stage.daemon.status().unwrap();
    let mut backends = status.services.iter().flat_map(|s| &s.backends);
    let down = backends.find(|b| b.name == "b1").unwrap();
    down.reason.clone()
}

/// Answers each query for an address on the first backend's and the others' port 53, until it is dropped.
struct Names {
    /// What the first backend's answers have as their code.
    rcode: Arc<AtomicU8>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Names {
    fn start(topology: &Topology) -> Self {
        let (rcode, over) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for n in 1..=topology.shape().backends {
            for family in FAMILIES {
                let address = (backend(family, n), DNS_PORT);
                let bound = topology.run_in(&format!("b{n}"), || UdpSocket::bind(address));
                let socket = bound.unwrap();
                let look = Some(Duration::from_millis(50));
                socket.set_read_timeout(look).unwrap();
                let code = if n == 1 {
                    rcode.clone()
                } else {
                    Arc::default()
                };
                let over = over.clone();
                threads.push(thread::spawn(move || {
                    let mut query = [0; 512];
                    while !over.load(Ordering::Relaxed) {
                        // Nobody asked within 50 ms.
                        let Ok((read, from)) = socket.recv_from(&mut query) else {
                            continue;
                        };
                        let answer = answer(&query[..read], code.load(Ordering::Relaxed));
                        socket.send_to(&answer, from).unwrap();
                    }
                }));
            }
        }
        Self {
            rcode,
            over,
            threads,
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has said so.
            let _panicked = thread.join();
        }
    }
}

/// The question, and 192.0.2.7 if all is well (RFC 1035 section 4).
fn answer(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = rcode;
    if rcode == 0 {
        bytes[7] = 1;
        // The name of the question, A, IN, 60 s, four bytes.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    }
    bytes
}

#[test]
fn name_server_that_fails_behind_an_open_port_gets_no_new_flows_and_returns() {
    let names = std::cell::OnceCell::new();
    let servers = |topology: &Topology| {
        assert!(names.set(Names::start(topology)).is_ok());
        Server::threads(topology)
    };
    let stage = Stage::with(SHAPES[0], servers, |config| {
        let health = Health {
            kind: "dns",
            port: Some(DNS_PORT),
            extra: "query = \"www.example.org\"\nexpect-address = \"192.0.2.7\"",
            ..Health::LAB
        };
        checked(config, health)
    });
    check_flows(&stage, true);
    let names = names.get().unwrap();
    names.rcode.store(SERVFAIL, Ordering::Relaxed);
    stage.wait_for_health("b1", "down");
    assert_eq!(
        reason(&stage),
        "bad probes in a row: 2; the last: rcode SERVFAIL, expected NOERROR"
    );
    check_flows(&stage, false);
    names.rcode.store(0, Ordering::Relaxed);
    stage.wait_for_health("b1", "up");
    check_flows(&stage, true);
    stage.end();
}

#[test]
fn host_that_answers_no_echo_gets_no_new_flows_and_returns() {
    let stage = Stage::with(SHAPES[0], Server::threads, |config| {
        let health = Health {
            kind: "icmp",
            ..Health::LAB
        };
        checked(config, health)
    });
    check_flows(&stage, true);
    let silent = |silent: &str| {
        stage.topology.run_in("b1", || {
            for family in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
                std::fs::write(format!("/proc/sys/net/{family}"), silent).unwrap();
            }
        });
    };
    silent("1");
    stage.wait_for_health("b1", "down");
    assert_eq!(
        reason(&stage),
        "bad probes in a row: 2; the last: answer: timed out after 100 ms"
    );
    check_flows(&stage, false);
    silent("0");
    stage.wait_for_health("b1", "up");
    check_flows(&stage, true);
    stage.end();
}
