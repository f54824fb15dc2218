//! Servers that stand behind two VIPs, and clients that use one port to both at the same time (`dnat`).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Protocol, Service};
use lb_tests::server::Server;
use lb_tests::topology::{Family, Topology, client};

use super::fullnat::witness::{WITNESS, Witness};
use super::fullnat::{connect, says};
use crate::stage::{SHAPES, Stage, wait_until};

const SOON: Duration = Duration::from_secs(15);
/// Ports that a client uses. With three servers, and no care, a third of them would meet one server twice.
const PORTS: u16 = 40;

/// The witnesses of all hosts behind two VIPs, over TCP and over UDP.
fn with_witnesses(mut config: Config, topology: &Topology) -> Config {
    for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
        for (name, number, protocol) in [
            ("one", 1, Protocol::Tcp),
            ("two", 2, Protocol::Tcp),
            ("first", 1, Protocol::Udp),
            ("second", 2, Protocol::Udp),
        ] {
            let name = format!("{name}{digit}");
            let service = Service::new(topology, &name, family, number, protocol, WITNESS);
            config.services.push(service);
        }
    }
    config
}

/// How often each witness has seen the client since the last time.
fn seen(witnesses: &[Witness; 3], from: SocketAddr) -> [usize; 3] {
    let count = |witness: &Witness| witness.seen().iter().filter(|end| **end == from).count();
    [0, 1, 2].map(|n| count(&witnesses[n]))
}

/// Its server closes the connection, so that the client may use the port again at once.
#[track_caller]
fn ends(mut stream: TcpStream) {
    stream.write_all(b"q").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn one_port_of_a_client_reaches_two_vips_of_the_same_servers_at_the_same_time() {
    let stage = Stage::with_topology(SHAPES[0], Server::threads, with_witnesses);
    let witnesses = ["b1", "b2", "b3"].map(|host| Witness::start(&stage.topology, host));
    for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
        let target = |name: &str| {
            let config = stage.daemon.config();
            config.service(&format!("{name}{digit}")).target()
        };
        // What was closed there may wait for its last ACK.
        let open = |from, name| {
            let begin = Instant::now();
            loop {
                match connect(&stage.topology, "client", from, target(name)) {
                    Err(error)
                        if error.kind() == ErrorKind::AddrNotAvailable
                            && begin.elapsed() < SOON =>
                    {
                        thread::sleep(Duration::from_millis(1));
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        for port in 30_000..30_000 + PORTS {
            let from = (client(family), port);
            let mut both = ["one", "two"].map(|name| open(from, name));
            for byte in [1, 2, 3] {
                both.iter_mut().for_each(|stream| says(stream, byte));
            }
            let mut servers = seen(&witnesses, from.into());
            servers.sort_unstable();
            assert_eq!(servers, [0, 1, 1], "port {port}");

            // And what begins anew while the other goes on, whichever it is.
            for name in ["one", "two"] {
                let [one, two] = both;
                both = match name {
                    "one" => {
                        ends(one);
                        [open(from, name), two]
                    }
                    _ => {
                        ends(two);
                        [one, open(from, name)]
                    }
                };
                both.iter_mut().for_each(|stream| says(stream, 4));
            }
            both.into_iter().for_each(ends);
            seen(&witnesses, from.into());
        }
        for port in 31_000..31_000 + PORTS {
            let from = (client(family), port);
            let datagrams = || -> std::io::Result<Vec<(u8, SocketAddr)>> {
                let socket = UdpSocket::bind(from)?;
                socket.set_read_timeout(Some(SOON))?;
                for (byte, name) in [(1, "first"), (2, "second"), (3, "first"), (4, "second")] {
                    socket.send_to(&[byte], target(name))?;
                }
                let mut byte = [0];
                (0..4)
                    .map(|_| socket.recv_from(&mut byte).map(|(_, from)| (byte[0], from)))
                    .collect()
            };
            let mut answers = stage.topology.run_in("client", datagrams).unwrap();
            answers.sort_unstable();
            let (first, second) = (target("first"), target("second"));
            let all = [(1, first), (2, second), (3, first), (4, second)];
            assert_eq!(answers, all, "port {port}");
            seen(&witnesses, from.into());
        }
    }
    let clashed = || stage.daemon.status().unwrap().data_plane.clashed_flows;
    assert_eq!(clashed(), 0);

    // With one server there is nobody else. The first one keeps it.
    for key in ["one4/b2", "one4/b3", "two4/b2", "two4/b3"] {
        stage
            .daemon
            .cli(&["drain", key])
            .unwrap()
            .succeeded()
            .unwrap();
    }
    let targets = stage.targets(&["one4", "two4"]);
    let from = (client(Family::V4), 32_000);
    let mut one = connect(&stage.topology, "client", from, targets[0]).unwrap();
    says(&mut one, 1);
    let refused = connect(&stage.topology, "client", from, targets[1]);
    assert!(refused.is_err(), "{refused:?}");
    wait_until("it is counted", SOON, || clashed() > 0);
    ends(one);
    stage.end();
}
