//! A connection whose client asked for something once, and is silent until its server says it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use lb_tests::daemon::{Health, Protocol, Service};
use lb_tests::server::ECHO_PORT;
use lb_tests::topology::{FAMILIES, Family, Topology};

use super::super::super::PATIENCE;

/// The port of its server.
const PORT: u16 = 7100;

/// Services that have such connections, with one server.
pub(super) fn services(topology: &Topology, health: &Health) -> Vec<Service> {
    let service = |family: Family| {
        let name = format!("quiet{}", if family == Family::V4 { 4 } else { 6 });
        let mut service = Service::new(topology, &name, family, 1, Protocol::Tcp, PORT);
        service.backends.truncate(1);
        service.health = Health {
            port: Some(ECHO_PORT),
            ..health.clone()
        };
        service
    };
    FAMILIES.map(service).into()
}

/// The two ends of a connection.
pub(super) struct Quiet {
    client: TcpStream,
    server: TcpStream,
}

impl Quiet {
    pub(super) fn open(topology: &Topology, target: SocketAddr) -> Self {
        let local: SocketAddr = match target.is_ipv4() {
            true => (Ipv4Addr::UNSPECIFIED, PORT).into(),
            false => (Ipv6Addr::UNSPECIFIED, PORT).into(),
        };
        let listener = topology.run_in("b1", || TcpListener::bind(local)).unwrap();
        let client = topology.run_in("client", || TcpStream::connect_timeout(&target, PATIENCE));
        let (server, _) = listener.accept().unwrap();
        let ends = Self {
            client: client.unwrap(),
            server,
        };
        for end in [&ends.client, &ends.server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        ends
    }

    /// The client's last word for a while.
    pub(super) fn ask(&mut self) {
        say(&mut self.client, &mut self.server);
    }

    /// The server's answer.
    pub(super) fn answer(&mut self) {
        say(&mut self.server, &mut self.client);
    }
}

fn say(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"word").unwrap();
    let mut heard = [0; 4];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"word");
}
