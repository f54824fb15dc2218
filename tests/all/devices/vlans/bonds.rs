//! An interface comes to a bond.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::server::{MESSAGE_BYTES, Server};
use lb_tests::topology::{Forwarding, Topology};

use super::super::{PATIENCE, ask_all, echoing, ip};
use super::{EVERYTHING, network, rehang};
use crate::stage::{ECHO, Turn};

/// `return XDP_PASS`: what the kernel needs at the other end of a veth pair to take frames that XDP sends.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// Plugs another cable into the balancer.
fn plug(topology: &Topology, device: &str, port: &str) -> std::os::fd::OwnedFd {
    let balancer = topology.namespace("lb").name().to_owned();
    for line in [
        format!("link add {port} type veth peer name {device} netns {balancer}"),
        format!("link set {port} master front"),
        format!("link set {port} up"),
    ] {
        ip(topology, "switch", &line);
    }
    topology.attach_xdp("switch", port, &PASS).unwrap()
}

/// One message and its echo.
fn say(stream: &mut TcpStream) {
    stream.write_all(&[0x5a; MESSAGE_BYTES]).unwrap();
    stream.read_exact(&mut [0; MESSAGE_BYTES]).unwrap();
}

fn open(topology: &Topology, target: SocketAddr) -> TcpStream {
    let stream = topology.run_in("client", || TcpStream::connect_timeout(&target, PATIENCE));
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn connections_through_a_bond_go_on_when_another_interface_joins() {
    let _turn = Turn::shared();
    let topology = network(Forwarding::Dnat);
    let _servers = Server::threads(&topology).unwrap();
    let on_lb = |line: &str| drop(ip(&topology, "lb", line));
    on_lb("link add bond0 type bond mode active-backup miimon 100");
    on_lb("link set bond0 up");
    rehang(&topology, "lb", "eth0", "bond0", EVERYTHING);
    on_lb("link set eth0 down");
    on_lb("link set eth0 master bond0");
    let config = Config {
        interfaces: vec!["bond0".to_owned()],
        ..echoing(&topology)
    };
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();
    ask_all(&topology, &daemon);
    let targets = daemon.config().targets(&ECHO);
    let mut streams: Vec<_> = targets
        .iter()
        .map(|target| open(&topology, *target))
        .collect();
    streams.iter_mut().for_each(say);

    let _pass = plug(&topology, "eth5", "lb5");
    on_lb("link set eth5 master bond0");
    streams.iter_mut().for_each(say);
    ask_all(&topology, &daemon);
    let status = daemon.wait_until("all are up", PATIENCE, all).unwrap();
    println!("{:?}", status.data_plane.drops);
    daemon.check_conservation().unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}
