//! ICMP errors over real sockets: what a router between clients and balancer says of what a VIP sent reaches the backend that sent
//! it, and what a backend says of what a client sent reaches the client.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Health};
use lb_tests::law::Excused;
use lb_tests::server::{Content, NAME_BYTES, Server};
use lb_tests::topology::{
    Arms, FAMILIES, Family, Forwarding, Shape, Topology, balancer_front, client, vip,
};

use super::encapsulation::{GUE, HEADER, MIXED, MIXED_HEADER};
use super::traffic::download;
use crate::stage::{FULLNAT, SHAPES, Stage, UDP, WEB};

/// Of the way from the router to the client.
const MTU: usize = 1300;
/// Of a download.
const BYTES: usize = 3 << 20;
/// Nobody listens there.
const CLOSED_PORT: u16 = 7999;

/// The router's address among the clients.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 10, 0, 33].into(),
        Family::V6 => [0xfd00, 0x10, 0, 0, 0, 0, 0, 0x33].into(),
    }
}

fn ip(topology: &Topology, host: &str, line: &str) {
    let output = topology.run_in(host, || Command::new("ip").args(line.split(' ')).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{host}: ip {line}: {output:?}");
}

/// `b3` becomes the router between the client and everybody else, both ways.
fn route(topology: &Topology) {
    topology
        .namespace("b3")
        .sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])
        .unwrap();
    for (family, length) in FAMILIES.into_iter().zip([24, 64]) {
        let (router, client, vip) = (router(family), client(family), vip(family, 0));
        topology.add_address("b3", "eth0", router, length).unwrap();
        if topology.shape().returns_directly() {
            // What is said to the VIP is said to the balancer.
            topology.remove_address("b3", "lo", vip).unwrap();
            for backend in ["b1", "b2"] {
                topology.add_host_route(backend, client, router).unwrap();
            }
        }
        topology
            .add_host_route("b3", vip, balancer_front(family))
            .unwrap();
        topology.add_host_route("client", vip, router).unwrap();
        let narrow = format!("route add {client} dev eth0 mtu lock {MTU}");
        ip(topology, "b3", &narrow);
    }
}

/// A stage with the router, whose backends are `b1` and `b2`.
fn stage(shape: Shape, change: impl FnOnce(Config) -> Config) -> Stage {
    assert_eq!(shape.arms, Arms::One, "the router is a neighbour of all");
    let servers = |topology: &Topology| {
        let servers = Server::threads(topology)?;
        route(topology);
        Ok(servers)
    };
    let stage = Stage::alone_with(shape, servers, |config| {
        let mut config = change(config);
        for service in &mut config.services {
            service.backends.retain(|backend| backend.name != "b3");
        }
        config
    });
    assert_eq!(relayed(&stage), 0);
    stage
}

fn relayed(stage: &Stage) -> u64 {
    stage.daemon.status().unwrap().data_plane.icmp_relayed
}

/// Ends a test in which every error of the router was relayed.
fn end(stage: Stage) {
    let forwarding = stage.topology.shape().forwarding;
    // A backend hears them from what stands for clients.
    let adopted = match forwarding {
        Forwarding::Fullnat => relayed(&stage),
        _ => 0,
    };
    stage.end_but(Excused {
        adopted,
        ..Excused::default()
    });
}

#[track_caller]
fn check_downloads(shape: Shape, change: impl FnOnce(Config) -> Config) {
    let stage = stage(shape, change);
    for (seed, target) in (0..).zip(stage.targets(&WEB)) {
        let before = relayed(&stage);
        let got = download(&stage, target, &format!("/bytes/{BYTES}?seed={seed}"));
        assert_eq!(got, Content::sha256(BYTES, seed), "{target}");
        assert!(relayed(&stage) > before, "{target}: no error was relayed");
    }
    end(stage);
}

#[test]
fn downloads_over_dnat_go_on_behind_a_router_with_a_smaller_mtu() {
    check_downloads(SHAPES[1], |config| config);
}

#[test]
fn downloads_over_fullnat_go_on_behind_a_router_with_a_smaller_mtu() {
    check_downloads(FULLNAT[1], |config| config);
}

#[test]
fn downloads_over_l2dsr_go_on_behind_a_router_with_a_smaller_mtu() {
    check_downloads(SHAPES[3], |config| config);
}

#[test]
fn downloads_over_ipip_go_on_behind_a_router_with_a_smaller_mtu() {
    check_downloads(SHAPES[5], |config| config);
}

#[test]
fn downloads_over_ipip_of_the_other_family_go_on_behind_a_router_with_a_smaller_mtu() {
    check_downloads(SHAPES[5], |config| MIXED.change(config));
}

#[test]
fn downloads_over_gue_go_on_behind_a_router_with_a_smaller_mtu() {
    for way in [GUE, HEADER, MIXED_HEADER] {
        check_downloads(SHAPES[5], |config| way.change(config));
    }
}

fn connected(target: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(match target.is_ipv4() {
        true => "0.0.0.0:0",
        false => "[::]:0",
    });
    let socket = socket.unwrap();
    socket.connect(target).unwrap();
    socket
}

/// Sends a datagram until it comes back: answers are lost until the backend has learned what fits.
fn echo(target: SocketAddr, size: usize) {
    let socket = connected(target);
    let patience = Some(Duration::from_millis(200));
    socket.set_read_timeout(patience).unwrap();
    let said: Vec<u8> = Content::new(size, 3).flatten().collect();
    let mut heard = vec![0; 2 * size];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let got = socket.send(&said).and_then(|_| socket.recv(&mut heard));
        match got {
            Ok(length) => {
                assert_eq!(length, size, "{target}");
                assert!(heard[NAME_BYTES..size] == said[NAME_BYTES..], "{target}");
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It does not fit the tunnel in the pieces that the client made.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => panic!("{target}: {error}"),
        }
        assert!(Instant::now() < deadline, "{target}: {size} bytes are lost");
    }
}

/// A whole packet of IPv4, which may not be cut, and two pieces of IPv6, of which the first is too large: one error each.
#[track_caller]
fn check_datagrams(shape: Shape, change: impl FnOnce(Config) -> Config) {
    let stage = stage(shape, change);
    for (target, size) in stage.targets(&UDP).into_iter().zip([MTU, 2000]) {
        let before = relayed(&stage);
        stage.topology.run_in("client", || echo(target, size));
        assert!(relayed(&stage) > before, "{target}: no error was relayed");
    }
    end(stage);
}

#[test]
fn large_datagrams_over_dnat_arrive_after_the_backend_was_told_what_fits() {
    check_datagrams(SHAPES[1], |config| config);
}

#[test]
fn large_datagrams_over_fullnat_arrive_after_the_backend_was_told_what_fits() {
    check_datagrams(FULLNAT[1], |config| config);
}

#[test]
fn large_datagrams_over_l2dsr_arrive_after_the_backend_was_told_what_fits() {
    check_datagrams(SHAPES[3], |config| config);
}

#[test]
fn large_datagrams_over_ipip_arrive_after_the_backend_was_told_what_fits() {
    check_datagrams(SHAPES[5], |config| config);
}

#[test]
fn large_datagrams_over_gue_arrive_after_the_backend_was_told_what_fits() {
    check_datagrams(SHAPES[5], |config| HEADER.change(config));
}

#[test]
fn a_client_learns_that_nobody_listens_at_the_backend() {
    for shape in [SHAPES[0], SHAPES[1], FULLNAT[0], FULLNAT[1]] {
        let stage = Stage::with(shape, Server::threads, |mut config| {
            let udp = |name: &str| UDP.contains(&name);
            config.services.retain(|service| udp(&service.name));
            for service in &mut config.services {
                for backend in &mut service.backends {
                    backend.port = CLOSED_PORT;
                }
                service.health = Health {
                    kind: "none",
                    port: None,
                    ..Health::LAB
                };
            }
            config
        });
        for target in stage.targets(&UDP) {
            let before = relayed(&stage);
            stage.topology.run_in("client", || {
                let socket = connected(target);
                let patience = Some(Duration::from_secs(30));
                socket.set_read_timeout(patience).unwrap();
                socket.send(b"anybody?").unwrap();
                let error = socket.recv(&mut [0; 100]).unwrap_err();
                let kind = error.kind();
                assert_eq!(kind, io::ErrorKind::ConnectionRefused, "{target}: {error}");
            });
            assert_eq!(relayed(&stage), before + 1, "{shape:?} {target}");
        }
        stage.end();
    }
}
