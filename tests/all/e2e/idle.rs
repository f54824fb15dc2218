//! A connection from the port of one that has been silent for longer than its service says begins anew.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_common::flow::EPOCH_SHIFT;
use lb_tests::daemon::Config;
use lb_tests::server::{MESSAGE_BYTES, Server, signature};
use lb_tests::topology::{Family, client};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::stage::{SHAPES, Stage, wait_until};

/// So many ports of the client: a connection from each goes to whose turn it is.
const PORTS: u16 = 12;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By RST.
    Reset,
    /// Not at all, as far as others see: its client has lost its state.
    Silent,
}

/// Who answers a connection from this port, which then ends.
fn ask(stage: &Stage, target: SocketAddr, port: u16, end: End) -> String {
    stage.topology.run_in("client", || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        let own = SocketAddr::from((client(Family::V4), port));
        socket.bind(&own.into()).unwrap();
        // A server that still has the connection of before says so, is reset, and answers the next SYN.
        socket.connect(&target.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        let mut message = [7; MESSAGE_BYTES];
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut message).unwrap();
        if end == End::Silent {
            // Closed then, a socket says nothing (tcp_disconnect, Linux net/ipv4/tcp.c).
            setsockopt(&stream, sockopt::TcpRepair, &1).unwrap();
        }
        signature(&message).to_owned()
    })
}

/// Each service has ports of its own: both are at the same servers.
fn everybody(stage: &Stage, (service, first): (&str, u16), end: End) -> BTreeMap<u16, String> {
    let target = stage.daemon.config().service(service).target();
    let ports = first..first + PORTS;
    ports
        .map(|port| (port, ask(stage, target, port, end)))
        .collect()
}

/// Two services of which one lets go of what was silent.
fn configured(mut config: Config, key: &str) -> Config {
    config.services.retain(|service| service.name == "echo4");
    let mut keeps = config.services[0].clone();
    keeps.name = "keeps".to_owned();
    keeps.port += 1;
    config.services.push(keeps);
    for service in &mut config.services {
        service.extra += "\nscheduler = \"round-robin\"";
    }
    config.services[0].extra += &format!("\n{key} = \"1s\"");
    config
}

#[track_caller]
fn check(end: End, key: &str) {
    let stage = Stage::with(SHAPES[0], Server::threads, |config| configured(config, key));
    let services = [("echo4", 20_000), ("keeps", 21_000)];
    let before = services.map(|service| everybody(&stage, service, end));
    if end == End::Reset {
        // What has just ended is still known.
        assert_eq!(
            services.map(|service| everybody(&stage, service, end)),
            before
        );
    }
    // A second is rounded up to one epoch, and an age to the next.
    let silence = Duration::from_nanos(2 << EPOCH_SHIFT) + Duration::from_secs(1);
    let begun = Instant::now();
    wait_until("the silence lasts", silence * 2, || {
        begun.elapsed() > silence
    });
    let [echo, keeps] = services.map(|service| everybody(&stage, service, end));
    assert_eq!(keeps, before[1], "without a limit flows stay");
    assert_ne!(echo, before[0], "with a limit it is somebody else's turn");
    stage.end();
}

#[test]
fn what_was_reset_is_scheduled_anew_after_the_silence_that_its_service_says() {
    check(End::Reset, "tcp-closing-idle");
}

#[test]
fn what_ended_unseen_is_scheduled_anew_after_the_silence_that_its_service_says() {
    check(End::Silent, "tcp-handshake-idle");
}
