//! Traffic of every kind, in every shape, in both families.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::load::{Long, Udp};
use lb_tests::server::{Content, Nginx, hex};
use lb_tests::topology::Shape;
use sha2::{Digest, Sha256};

use crate::stage::{ECHO, SENT_AGAIN, SHAPES, Stage, UDP, WEB};

#[track_caller]
fn check_short_connections(shape: Shape) {
    let stage = Stage::new(shape);
    for names in [ECHO, WEB] {
        let report = stage.storm(&names, 6000);
        report.assert_clean(6000);
        // A third each; six standard deviations of 6000 draws are 220.
        let counts = report.backends();
        assert!(
            (1..=3).all(|n| counts.get(&n).is_some_and(|c| *c > 1600)),
            "{report}"
        );
    }
    assert!(stage.retransmissions() <= SENT_AGAIN);
    stage.end();
}

#[test]
fn short_connections_over_dnat_and_two_arms_reach_every_backend() {
    check_short_connections(SHAPES[0]);
}

#[test]
fn short_connections_over_dnat_and_one_arm_reach_every_backend() {
    check_short_connections(SHAPES[1]);
}

#[test]
fn short_connections_over_l2dsr_and_two_arms_reach_every_backend() {
    check_short_connections(SHAPES[2]);
}

#[test]
fn short_connections_over_l2dsr_and_one_arm_reach_every_backend() {
    check_short_connections(SHAPES[3]);
}

#[test]
fn short_connections_over_ipip_and_two_arms_reach_every_backend() {
    check_short_connections(SHAPES[4]);
}

#[test]
fn short_connections_over_ipip_and_one_arm_reach_every_backend() {
    check_short_connections(SHAPES[5]);
}

/// Downloads with curl at the client; the SHA-256 of what arrived.
#[track_caller]
pub(super) fn download(stage: &Stage, target: SocketAddr, path: &str) -> String {
    let url = format!("http://{target}{path}");
    let mut command = Command::new("curl");
    command
        .args(["-sSf", "--max-time", "60", "--noproxy", "*", &url])
        .stdout(Stdio::piped());
    let mut process = stage.topology.spawn_in("client", command).unwrap();
    let mut out = process.child().stdout.take().unwrap();
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match std::io::Read::read(&mut out, &mut chunk).unwrap() {
            0 => break,
            length => hash.update(&chunk[..length]),
        }
    }
    assert!(
        process.wait(Duration::from_secs(5)).unwrap().success(),
        "curl {url} failed"
    );
    hex(&hash.finalize())
}

#[test]
fn large_downloads_arrive_intact() {
    const BYTES: usize = 8 << 20;
    for shape in SHAPES {
        let stage = Stage::new(shape);
        for (seed, target) in stage.targets(&WEB).into_iter().enumerate() {
            let got = download(&stage, target, &format!("/bytes/{BYTES}?seed={seed}"));
            assert_eq!(
                got,
                Content::sha256(BYTES, seed as u64),
                "{shape:?} {target}"
            );
        }
        stage.end();
    }
}

#[test]
fn curl_downloads_from_nginx_through_the_balancer() {
    const BYTES: usize = 16 << 20;
    for shape in [SHAPES[0], SHAPES[3]] {
        let mut nginx = vec![];
        let stage = Stage::with(
            shape,
            |topology| {
                for host in ["b1", "b2", "b3"] {
                    let server = Nginx::start(topology, host)?;
                    server.add_file("file", BYTES, 7)?;
                    nginx.push(server);
                }
                Ok(vec![])
            },
            |config| config,
        );
        for target in stage.targets(&WEB) {
            assert_eq!(
                download(&stage, target, "/file"),
                Content::sha256(BYTES, 7),
                "{shape:?}"
            );
        }
        stage.end();
    }
}

#[test]
fn udp_flows_keep_their_backend_and_lose_nothing() {
    for shape in SHAPES {
        let stage = Stage::new(shape);
        let interval = Duration::from_millis(100);
        let targets = stage.targets(&UDP);
        let udp = Udp::start(
            &stage.topology,
            &targets,
            200,
            interval,
            Duration::from_secs(3),
        );
        let flows = udp.unwrap().wait();
        assert!(
            flows
                .iter()
                .all(|f| f.lost.is_empty() && f.backends.len() == 1),
            "{flows:?}"
        );
        assert!(flows.iter().all(|f| f.answered > 10), "{flows:?}");
        let used: std::collections::BTreeSet<_> = flows
            .iter()
            .flat_map(|f| f.backends.keys().copied())
            .collect();
        assert_eq!(used.into_iter().collect::<Vec<_>>(), [1, 2, 3], "{shape:?}");
        stage.end();
    }
}

#[test]
fn long_connections_last() {
    let stage = Stage::new(SHAPES[0]);
    let targets = stage.targets(&ECHO);
    let long = Long::start(&stage.topology, &targets, 200, Duration::from_secs(3)).unwrap();
    long.wait_until_established(Duration::from_secs(5)).unwrap();
    let connections = long.wait();
    assert_eq!(connections.len(), 200);
    assert!(
        connections
            .iter()
            .all(|c| c.failed.is_none() && c.messages > 10),
        "{connections:?}"
    );
    stage.end();
}
