//! Clients that open each connection from the port of their last one, while its backend drains, leave with their next connection, for how
//! long soever they have done so.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::daemon::Health;
use lb_tests::server::Server;
use lb_tests::topology::{Family, Shape, client};
use lb_userspace::health::runner::now_ns;
use socket2::{Domain, Socket, Type};

use super::choices::{SOON, ask, configured};
use super::leaving::left_at_the_end;
use crate::stage::{SHAPES, Stage};

/// Whose client has just come, and whose has been here for long.
const YOUNG: &str = "echo4";
const OLD: &str = "echo6";
/// Between two connections.
const PAUSE: Duration = Duration::from_millis(20);
/// Until a drain has ended by itself: what has closed is counted for two epochs at most.
const LIMIT: Duration = Duration::from_secs(90);

/// Of the flow table's clock: 17.2 s each.
fn epoch() -> u64 {
    now_ns() >> 34
}

/// A connection from this port of the client, one question and an end by RST: who answers; none if the connection was reset.
fn once(stage: &Stage, service: &str, port: u16) -> Option<String> {
    let target = stage.targets(&[service])[0];
    let (family, domain) = match target.is_ipv4() {
        true => (Family::V4, Domain::IPV4),
        false => (Family::V6, Domain::IPV6),
    };
    let own: (IpAddr, u16) = (client(family), port);
    let open = || {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&SocketAddr::from(own).into())?;
        socket.connect_timeout(&target.into(), SOON)?;
        socket.set_read_timeout(Some(SOON))?;
        Ok::<TcpStream, std::io::Error>(socket.into())
    };
    let deadline = Instant::now() + SOON;
    let mut stream = loop {
        match stage.topology.run_in("client", open) {
            Ok(stream) => break stream,
            // A child that another test has just forked may hold the last one for a moment.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                assert!(Instant::now() < deadline, "port {port}: {error}");
                std::thread::sleep(PAUSE);
            }
            Err(error) => panic!("port {port}: {error}"),
        }
    };
    let answer = ask(&mut stream);
    drop(stream);
    std::thread::sleep(PAUSE);
    match answer {
        Ok(name) => Some(name),
        Err(ErrorKind::ConnectionReset) => None,
        Err(error) => panic!("port {port}: {error:?}"),
    }
}

fn drain(stage: &Stage, service: &str, backend: &str) {
    let key = format!("{service}/{backend}");
    let told = stage.daemon.cli(&["drain", &key]).unwrap();
    told.succeeded().unwrap();
}

fn check(shape: Shape) {
    let stage = Stage::with(shape, Server::threads, |config| {
        configured(config, &[YOUNG, OLD], |service| {
            // Nobody is to leave but by a drain.
            service.health = Health {
                kind: "none",
                ..Health::LAB
            };
        })
    });
    // Its port is seen in so many epochs that no SYN would move it, were it one connection.
    let old = 40_000;
    let home = once(&stage, OLD, old);
    let begun = epoch();
    while epoch() < begun + 4 {
        assert_eq!(once(&stage, OLD, old), home, "nobody leaves");
    }
    // It has just come.
    let young = 40_001;
    let young_home = once(&stage, YOUNG, young);
    assert_eq!(once(&stage, YOUNG, young), young_home);

    drain(&stage, YOUNG, young_home.as_deref().unwrap());
    drain(&stage, OLD, home.as_deref().unwrap());
    let since = Instant::now();
    let mut ends = [None; 2];
    while ends.contains(&None) {
        for (end, service) in ends.iter_mut().zip([YOUNG, OLD]) {
            let told = left_at_the_end(&stage, service, "Drain").is_some();
            *end = end.or(told.then(|| since.elapsed()));
        }
        // All the while, and at once.
        let name = once(&stage, YOUNG, young);
        assert!(name.is_some() && name != young_home, "{name:?} answers");
        let name = once(&stage, OLD, old);
        assert!(name.is_some() && name != home, "{name:?} answers");
        assert!(since.elapsed() < LIMIT, "these drains have ended: {ends:?}");
    }
    println!("{shape:?}: drained after {ends:?}");
    assert_eq!(left_at_the_end(&stage, YOUNG, "Drain"), Some(0));
    assert_eq!(left_at_the_end(&stage, OLD, "Drain"), Some(0));
    stage.end();
}

#[test]
fn a_port_that_is_used_again_and_again_does_not_stay_with_dnat() {
    check(SHAPES[0]);
}

#[test]
fn a_port_that_is_used_again_and_again_does_not_stay_with_l2dsr() {
    check(SHAPES[2]);
}
