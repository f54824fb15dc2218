//! The servers of a file: each says the name of its host, whatever it is asked.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use lb_tests::topology::Topology;
use lb_userspace::model::{self, Protocol, Service};

use super::network::{Hosts, is_translated};
use super::questions::{
    SCTP, address, behind_header, inside, inside_sctp, portless, ports, raw, sctp,
};

/// What `fairlead.toml` expects of its server; other checks want less.
const READY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready";

/// RFC 9260 section 3.2.
const INIT_ACK: u8 = 2;

/// Where the servers of one host listen.
#[derive(Default)]
struct Places {
    /// Ports of both families.
    streams: BTreeSet<u16>,
    /// Replies come from where the question came to.
    datagrams: BTreeSet<SocketAddr>,
    /// And a protocol.
    raw: BTreeSet<(IpAddr, u8)>,
}

impl Places {
    fn add(&mut self, service: &Service, backend: &model::Backend) {
        let at = ports(service);
        let address = match is_translated(service) {
            true => backend.address,
            false => address(service),
        };
        let own = [service.health.port, backend.port];
        let own = own.into_iter().flatten().map(|port| port.get());
        self.streams.extend(own);
        if matches!(service.protocol, Protocol::Tcp | Protocol::Any) {
            self.streams.extend(at.iter().copied());
        }
        if matches!(service.protocol, Protocol::Udp | Protocol::Any) {
            let datagrams = at.iter().map(|port| SocketAddr::new(address, *port));
            self.datagrams.extend(datagrams);
        }
        if matches!(service.protocol, Protocol::Sctp | Protocol::Any) {
            self.raw.insert((address, SCTP));
        }
        if service.protocol == Protocol::Any {
            self.raw.insert((address, portless(service)));
        }
    }
}

/// Serves at each host what its addresses are backends of.
pub(super) fn serve(topology: &Topology, config: &model::Config, hosts: &Hosts) {
    for name in hosts.names() {
        let mut places = Places::default();
        for service in config.services.values() {
            for backend in service.backends.values() {
                if hosts.at(backend.address) == name {
                    places.add(service, backend);
                }
            }
        }
        // A route makes an address of IPv6 this host's, but not one to bind to.
        let bind_to_any = [("net/ipv6/ip_nonlocal_bind", "1")];
        topology.namespace(&name).sysctl(&bind_to_any).unwrap();
        topology.run_in(&name, || listen(&name, places));
    }
}

fn listen(name: &str, places: Places) {
    for port in places.streams {
        let listener = TcpListener::bind(("::", port)).unwrap();
        let name = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let name = name.clone();
                std::thread::spawn(move || answer(stream, &name));
            }
        });
    }
    for at in places.datagrams {
        let socket = UdpSocket::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
        let name = name.to_owned();
        let datagrams = move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 2048]) {
                drop(socket.send_to(name.as_bytes(), from));
            }
        };
        std::thread::spawn(datagrams);
    }
    for (at, protocol) in places.raw {
        let socket = raw(protocol, at);
        let name = name.to_owned();
        std::thread::spawn(move || packets(&socket, protocol, &name));
    }
}

/// Answers requests of HTTP, and says its name to all else.
fn answer(mut stream: TcpStream, name: &str) {
    let mut buffer = [0; 2048];
    if let Ok(length @ 1..) = stream.read(&mut buffer) {
        let http = buffer[..length].starts_with(b"GET ");
        let said = if http { READY } else { name.as_bytes() };
        // The client may be gone.
        let _ = stream.write_all(said);
    }
}

/// Answers packets that came whole; others get no answer.
fn packets(socket: &UdpSocket, protocol: u8, name: &str) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let packet = &buffer[..length];
        let reply = match protocol {
            SCTP => inside_sctp(packet, from).map(|(ports, _)| {
                let [client, own] = ports;
                sctp([own, client], INIT_ACK, name.as_bytes())
            }),
            _ => inside(protocol, packet, from).map(|_| behind_header(protocol, name.as_bytes())),
        };
        if let Some(reply) = reply {
            drop(socket.send_to(&reply, from));
        }
    }
}
