//! Tunnels where no error reaches anybody, over real connections: what hangs, what `mss` mends of it, and what it takes besides.
//!
//! The way from backends to clients passes no balancer and takes 1480 bytes, which nobody is told. What clients send is
//! answered by the balancer where it does not fit the tunnel, and their firewalls drop the answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lb_tests::daemon::Config;
use lb_tests::law::Excused;
use lb_tests::server::{Content, Server};
use lb_tests::topology::{FAMILIES, PASS, client};
use socket2::SockRef;

use super::encapsulation::{GUE, HEADER, MIXED};
use super::path_mtu::deafen;
use super::traffic::download;
use super::tunnel::{answers, upload};
use super::tunnel_path::ip;
use crate::stage::{ECHO, SHAPES, Stage, WEB, figure};

/// What passes on the way back.
const MTU: u32 = 1480;
/// Of a transfer that goes on.
const BYTES: usize = 2 << 20;
/// Of one that hangs.
const FEW: usize = 256 << 10;
/// How long one is waited for that does. Thousands of times what it takes where nothing is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// What every tunnel here has room for, less IPv6 and TCP.
const ADVERTISED: u32 = 1380;

/// Lets the ways back take no more than [`MTU`] bytes. With a program at its other end an interface sends single packets, each of
/// which is measured.
fn narrow(stage: &Stage) -> Vec<OwnedFd> {
    let ports = ["b1d", "b2d", "b3d"].into_iter();
    ports
        .map(|port| {
            let program = stage.topology.attach_xdp("switch", port, &PASS).unwrap();
            stage.topology.set_mtu("switch", port, MTU).unwrap();
            program
        })
        .collect()
}

/// Bytes that come until the end, or until nothing has come for some time.
fn read_all(stream: &mut TcpStream, most: usize) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut got, mut chunk) = (0, vec![0; 64 << 10]);
    while got < most {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => got += length,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    got
}

/// Its end is a reset: what it has not sent is not sent later either.
fn connect(target: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(target).unwrap();
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    stream
}

/// Bytes that come back of some that are sent to an echo service.
fn echoed(target: SocketAddr) -> usize {
    let mut stream = connect(target);
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        // That it cannot send all is what this is about.
        let sent = Content::new(FEW, 11).try_for_each(|chunk| writer.write_all(&chunk));
        drop(sent);
    });
    let got = read_all(&mut stream, FEW);
    sender.join().unwrap();
    got
}

/// Bytes that come of some that are asked of a web service.
fn fetched(target: SocketAddr) -> usize {
    let mut stream = connect(target);
    let request =
        format!("GET /bytes/{FEW}?seed=3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    read_all(&mut stream, usize::MAX)
}

/// What comes of transfers down and up in both families, all at once.
fn tried(stage: &Stage) -> [Vec<usize>; 2] {
    let all = [(WEB, fetched as fn(SocketAddr) -> usize), (ECHO, echoed)];
    let all = all.map(|(names, transfer)| (stage.targets(&names), transfer));
    stage.topology.run_in("client", || {
        std::thread::scope(|scope| {
            let begun = all.each_ref().map(|(targets, transfer)| {
                let each = targets.iter();
                let each = each.map(|target| scope.spawn(move || transfer(*target)));
                each.collect::<Vec<_>>()
            });
            begun.map(|each| each.into_iter().map(|one| one.join().unwrap()).collect())
        })
    })
}

/// Nothing but what is small comes through.
#[track_caller]
fn assert_hang(what: &str, got: &[usize]) {
    figure!("{what}: {got:?} of {FEW} bytes in {PATIENCE:?}");
    assert!(got.iter().all(|got| *got < FEW / 64), "{what}: {got:?}");
}

#[track_caller]
fn download_all(stage: &Stage) {
    for (seed, target) in (0..).zip(stage.targets(&WEB)) {
        let begin = Instant::now();
        let got = download(stage, target, &format!("/bytes/{BYTES}?seed={seed}"));
        assert_eq!(got, Content::sha256(BYTES, seed), "{target}");
        figure!("{target}: {BYTES} bytes down in {:?}", begin.elapsed());
    }
}

#[track_caller]
fn check(name: &str, change: impl FnOnce(Config) -> Config) {
    let mut stage = Stage::with(SHAPES[4], Server::threads, change);
    deafen(&stage);
    let _programs = narrow(&stage);
    let told = answers(&stage);
    let [down, up] = tried(&stage);
    assert_hang(&format!("{name}, down"), &down);
    assert_hang(&format!("{name}, up"), &up);
    assert!(answers(&stage) > told, "{name}: nothing was too big");

    let mut config = stage.daemon.config().clone();
    let services = config.services.iter_mut();
    for service in services.filter(|service| !service.name.starts_with("udp")) {
        service.extra += "\nmss = \"clamp\"";
    }
    stage.daemon.reload(config).unwrap();
    download_all(&stage);
    // The SYN+ACK that says what the client may send does not pass the balancer.
    let [down, up] = tried(&stage);
    assert!(down.iter().all(|got| *got >= FEW), "{name}: {down:?}");
    assert_hang(&format!("{name}, up, with the MSS clamped"), &up);

    for host in ["b1", "b2", "b3"] {
        for family in FAMILIES {
            let to = client(family);
            let flag = if to.is_ipv4() { "-4" } else { "-6" };
            let line = format!("{flag} route add {to} dev eth1 advmss {ADVERTISED}");
            ip(&stage.topology, host, &line);
        }
    }
    let told = answers(&stage);
    for target in stage.targets(&ECHO) {
        let took = stage.topology.run_in("client", || upload(target, BYTES));
        figure!("{target}: {BYTES} bytes up in {took:?}, backends say a smaller MSS");
    }
    assert_eq!(answers(&stage), told, "{name}: something was too big");
    // What the way back has dropped is in nobody's count.
    stage.end_but(Excused {
        kept: 1000,
        ..Excused::default()
    });
}

#[test]
fn where_no_error_arrives_transfers_through_ipip_go_on_with_smaller_segments_and_hang_without() {
    check("ipip", |config| config);
}

#[test]
fn where_no_error_arrives_transfers_through_ipip_of_the_other_family_do_so_too() {
    check("ipip of the other family", |config| MIXED.change(config));
}

#[test]
fn where_no_error_arrives_transfers_through_gue_go_on_with_smaller_segments_and_hang_without() {
    check("gue", |config| GUE.change(config));
}

#[test]
fn where_no_error_arrives_transfers_through_gue_with_a_header_do_so_too() {
    check("gue with a header", |config| HEADER.change(config));
}
