//! Packets too big for the interface that they leave by, without a tunnel: their senders learn what fits.

use std::net::UdpSocket;
use std::time::Duration;

use lb_tests::daemon::Service;
use lb_tests::server::{Content, Server};
use lb_tests::topology::Shape;

use super::traffic::download;
use super::tunnel::{answers, timeouts, upload};
use crate::stage::{ECHO, FULLNAT, SHAPES, Stage, UDP, WEB, wait_until};

const MTU: u32 = 1400;

/// A stage whose balancer has a smaller MTU than its neighbours on these interfaces, once its data plane knows.
fn stage(shape: Shape, devices: &[&str]) -> Stage {
    let stage = Stage::alone(shape);
    narrow(&stage, devices);
    stage
}

fn narrow(stage: &Stage, devices: &[&str]) {
    for device in devices {
        stage.topology.set_mtu("lb", device, MTU).unwrap();
    }
    wait_until("the MTU is known", Duration::from_secs(5), || {
        let output = stage.daemon.cli(&["status", "--json"]).unwrap();
        let text = output.succeeded().unwrap().stdout;
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        let services = status["services"].as_array().unwrap();
        services
            .iter()
            .all(|service| service["largest_packet"] == MTU)
    });
}

#[test]
fn large_uploads_go_on_after_the_client_was_told_what_fits() {
    // Where replies do not come back through the smaller MTU: a veth interface receives no larger packets than it sends.
    let stage = stage(SHAPES[2], &["eth1"]);
    for target in stage.targets(&ECHO) {
        let (before, told) = (timeouts(&stage), answers(&stage));
        let took = stage.topology.run_in("client", || upload(target, 10 << 20));
        let extra = timeouts(&stage) - before;
        println!("{target}: {took:?}, {extra} timeouts");
        assert!(extra <= 1, "{target}: {extra} timeouts");
        assert!(answers(&stage) > told, "{target}: nothing was too big");
    }
    end(stage);
}

#[test]
fn large_downloads_go_on_after_the_backend_was_told_what_fits() {
    check_downloads(SHAPES[0]);
}

/// The balancer's answer must be about what the backend sent: to `nat-source`.
#[test]
fn large_downloads_over_fullnat_go_on_after_the_backend_was_told_what_fits() {
    check_downloads(FULLNAT[0]);
}

#[track_caller]
fn check_downloads(shape: Shape) {
    const BYTES: usize = 8 << 20;
    let stage = Stage::alone(shape);
    stage.topology.set_mtu("lb", "eth0", MTU).unwrap();
    for (seed, target) in (0..).zip(stage.targets(&WEB)) {
        let told = answers(&stage);
        let got = download(&stage, target, &format!("/bytes/{BYTES}?seed={seed}"));
        assert_eq!(got, Content::sha256(BYTES, seed), "{target}");
        assert!(answers(&stage) > told, "{target}: nothing was too big");
    }
    end(stage);
}

/// Nobody hears the balancer's errors: all that is too big is lost, in silence.
pub(super) fn deafen(stage: &Stage) {
    const RULES: &str = "add table inet deaf
add chain inet deaf in { type filter hook input priority 0; }
add rule inet deaf in icmp type destination-unreachable drop
add rule inet deaf in icmpv6 type packet-too-big drop
";
    for host in ["client", "b1", "b2", "b3"] {
        stage.topology.nft(host, RULES).unwrap();
    }
}

/// Where the way is smaller than both ends believe, and no error reaches them.
#[track_caller]
fn check_clamp(shape: Shape) {
    const BYTES: usize = 8 << 20;
    let stage = Stage::alone_with(shape, Server::threads, |mut config| {
        let tcp = |service: &&mut Service| !service.name.starts_with("udp");
        for service in config.services.iter_mut().filter(tcp) {
            service.extra += "\nmss = \"clamp\"";
        }
        config
    });
    deafen(&stage);
    narrow(&stage, &["eth1"]);
    for (seed, target) in (0..).zip(stage.targets(&WEB)) {
        let got = download(&stage, target, &format!("/bytes/{BYTES}?seed={seed}"));
        assert_eq!(got, Content::sha256(BYTES, seed), "{target}");
    }
    for target in stage.targets(&ECHO) {
        stage.topology.run_in("client", || upload(target, BYTES));
    }
    assert_eq!(answers(&stage), 0, "something was too big");
    end(stage);
}

#[test]
fn with_the_mss_clamped_large_transfers_go_on_where_no_error_arrives() {
    check_clamp(SHAPES[0]);
}

#[test]
fn with_the_mss_clamped_large_transfers_over_fullnat_go_on_where_no_error_arrives() {
    check_clamp(FULLNAT[0]);
}

/// Ends a test in which everybody was told what fits.
fn end(stage: Stage) {
    let drops = stage.daemon.status().unwrap().data_plane.drops;
    assert_eq!(drops["packet_too_big"], 0, "{drops:?}");
    stage.end();
}

#[test]
fn a_datagram_that_is_too_big_is_an_error_at_the_client_and_a_smaller_one_arrives() {
    check_datagrams(SHAPES[2]);
}

#[test]
fn a_datagram_too_big_for_fullnat_is_an_error_at_the_client_and_a_smaller_one_arrives() {
    check_datagrams(FULLNAT[0]);
}

#[track_caller]
fn check_datagrams(shape: Shape) {
    let stage = stage(shape, &["eth1"]);
    for (target, headers) in [(stage.targets(&UDP)[0], 28), (stage.targets(&UDP)[1], 48)] {
        stage.topology.run_in("client", || {
            let local = match target.is_ipv4() {
                true => "0.0.0.0:0",
                false => "[::]:0",
            };
            let socket = UdpSocket::bind(local).unwrap();
            socket.connect(target).unwrap();
            let patience = Some(Duration::from_secs(5));
            socket.set_read_timeout(patience).unwrap();
            let fits = MTU as usize - headers;
            socket.send(&vec![7; fits + 1]).unwrap();
            let error = socket.recv(&mut [0; 2000]).unwrap_err();
            let number = error.raw_os_error();
            assert_eq!(number, Some(libc::EMSGSIZE), "{target}: {error}");
            socket.send(&vec![7; fits]).unwrap();
            assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), fits, "{target}");
        });
    }
    assert_eq!(answers(&stage), 2);
    stage.end();
}
