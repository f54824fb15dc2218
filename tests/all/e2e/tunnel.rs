//! What is different when packets reach backends in tunnels: what fits, who may send, routers on the way.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lb_ebpf::fixture::packet::{Body, Packet, Sum};
use lb_tests::decap;
use lb_tests::inject::Injector;
use lb_tests::server::{Content, MESSAGE_BYTES, NAME_BYTES, Server};
use lb_tests::topology::{FAMILIES, Family, backend_mac, client, vip};

use crate::stage::{ECHO, SHAPES, Stage, UDP, WEB, wait_until};

/// `TCPTimeouts` of the client: how often a retransmission timer ran out.
pub(super) fn timeouts(stage: &Stage) -> u64 {
    let text = stage.topology.run_in("client", || {
        fs::read_to_string("/proc/thread-self/net/netstat").unwrap()
    });
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    let (_, value) = fields.find(|(name, _)| *name == "TCPTimeouts").unwrap();
    value.parse().unwrap()
}

/// Sends bytes to a TCP echo service and compares what comes back, except for the names in it.
pub(super) fn upload(target: SocketAddr, bytes: usize) -> Duration {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(target).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for chunk in Content::new(bytes, 11) {
            writer.write_all(&chunk).unwrap();
        }
    });
    let sent: Vec<u8> = Content::new(bytes, 11).flatten().collect();
    let mut message = [0; MESSAGE_BYTES];
    for expected in sent.chunks(MESSAGE_BYTES) {
        stream.read_exact(&mut message).unwrap();
        assert!(message[NAME_BYTES..] == expected[NAME_BYTES..], "{target}");
    }
    sender.join().unwrap();
    begin.elapsed()
}

#[test]
fn large_uploads_go_on_after_the_client_was_told_what_fits() {
    const BYTES: usize = 10 << 20;
    for shape in [SHAPES[4], SHAPES[5]] {
        let stage = Stage::alone(shape);
        for target in stage.targets(&ECHO) {
            let (before, told) = (timeouts(&stage), answers(&stage));
            let took = stage.topology.run_in("client", || upload(target, BYTES));
            let extra = timeouts(&stage) - before;
            println!("{target}: {took:?}, {extra} timeouts");
            assert!(extra <= 1, "{target}: {extra} timeouts");
            assert!(answers(&stage) > told, "{target}: nothing was too big");
        }
        let drops = stage.daemon.status().unwrap().data_plane.drops;
        assert_eq!(drops["packet_too_big"], 0, "{drops:?}");
        stage.end();
    }
}

/// "Packet too big" sent by the balancer.
pub(super) fn answers(stage: &Stage) -> u64 {
    let output = stage.daemon.cli(&["status", "--json"]).unwrap();
    let status: serde_json::Value =
        serde_json::from_str(&output.succeeded().unwrap().stdout).unwrap();
    status["data_plane"]["too_big_answers"].as_u64().unwrap()
}

#[test]
fn a_datagram_that_is_too_big_is_an_error_at_the_client_and_a_smaller_one_arrives() {
    let stage = Stage::new(SHAPES[4]);
    for (target, headers, outer) in [
        (stage.targets(&UDP)[0], 28, 20),
        (stage.targets(&UDP)[1], 48, 40),
    ] {
        stage.topology.run_in("client", || {
            let local = if target.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(local).unwrap();
            socket.connect(target).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket.send(&vec![7; 1500 - headers]).unwrap();
            let error = socket.recv(&mut [0; 2000]).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(libc::EMSGSIZE),
                "{target}: {error}"
            );
            let fits = 1500 - headers - outer;
            socket.send(&vec![7; fits]).unwrap();
            assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), fits, "{target}");
        });
    }
    assert_eq!(answers(&stage), 2);
    stage.end();
}

#[test]
fn a_backend_is_drained_and_another_loses_power_under_traffic() {
    let stage = Stage::with_processes(SHAPES[4]);
    let load = stage.load(&ECHO, 300);
    wait_until("the load runs", Duration::from_secs(5), || {
        load.begun() > 100
    });
    stage.for_each_service("drain", "b2");
    let report = stage.storm(&WEB, 1000);
    report.assert_clean(1000);
    assert!(!report.backends().contains_key(&2), "{report}");
    load.stop().assert_clean(0);
    stage.topology.cut_power("b1", "eth0").unwrap();
    stage.wait_for_health("b1", "down");
    let report = stage.storm(&ECHO, 1000);
    report.assert_clean(1000);
    assert_eq!(report.backends().keys().copied().collect::<Vec<_>>(), [3]);
    stage.topology.restore_power("b1", "eth0").unwrap();
    stage.for_each_service("enable", "b2");
    stage.wait_for_health("b1", "up");
    let report = stage.storm(&ECHO, 1000);
    report.assert_clean(1000);
    assert_eq!(report.backends().len(), 3, "{report}");
    stage.end();
}

/// An address of `b2` that is reached through `b3` only.
pub(super) fn far(family: Family) -> IpAddr {
    match family {
        Family::V4 => "10.10.9.2".parse().unwrap(),
        Family::V6 => "fd00:10:9::2".parse().unwrap(),
    }
}

#[test]
fn a_backend_may_be_behind_a_router() {
    let mut services = vec![];
    let stage = Stage::with(
        SHAPES[4],
        |topology| {
            topology.namespace("b3").sysctl(&[
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
            ])?;
            for family in FAMILIES {
                let length = if family == Family::V4 { 32 } else { 128 };
                topology.add_address("b2", "eth0", far(family), length)?;
                let near = lb_tests::topology::backend;
                topology.add_host_route("lb", far(family), near(family, 3))?;
                topology.add_host_route("b3", far(family), near(family, 2))?;
            }
            decap::attach(topology, "b2")?;
            Server::threads(topology)
        },
        |mut config| {
            for service in &mut config.services {
                let family = if service.address.is_ipv4() {
                    Family::V4
                } else {
                    Family::V6
                };
                service.backends.retain(|b| b.name != "b3");
                service.backends[1].address = far(family);
            }
            services = config.services.iter().map(|s| s.name.clone()).collect();
            config
        },
    );
    assert_eq!(services.len(), 6);
    let before = decap::show(&stage.topology, "b3").unwrap();
    for names in [ECHO, WEB] {
        let report = stage.storm(&names, 2000);
        report.assert_clean(2000);
        assert_eq!(
            report.backends().keys().copied().collect::<Vec<_>>(),
            [1, 2]
        );
    }
    // They went through the router, which took nothing out of its tunnel.
    let after = decap::show(&stage.topology, "b3").unwrap();
    assert_eq!(after.packets["delivered"], before.packets["delivered"]);
    assert!(after.packets["passed"] > before.packets["passed"] + 2000);
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}

#[test]
fn decapsulator_that_changes_its_mode_tells_how_long_there_was_none() {
    let stage = Stage::new(SHAPES[4]);
    let told = |mode| decap::attach_in(&stage.topology, "b1", mode).unwrap();
    for mode in ["generic", "native"] {
        let changed = told(mode);
        assert!(changed.contains("in the other mode, after "), "{changed}");
        let same = told(mode);
        assert!(!same.contains("after"), "{same}");
    }
    stage.storm(&WEB, 300).assert_clean(300);
    stage.end();
}

/// Packets to the decapsulator of `b1` that no balancer sends, each with what it is dropped for.
fn forged(family: Family) -> Vec<(Vec<u8>, &'static str)> {
    let at = |address: IpAddr, port| SocketAddr::new(address, port);
    let ip = |v4: &str, v6: &str| -> IpAddr {
        match family {
            Family::V4 => v4.parse().unwrap(),
            Family::V6 => v6.parse().unwrap(),
        }
    };
    let b1 = lb_tests::topology::backend(family, 1);
    let balancer = ip("10.9.0.5", "fd00:9::5");
    let inner = |source: IpAddr, destination: IpAddr, ttl, body| Packet {
        to: backend_mac(1),
        from: [2, 0xf1, 0, 0, 1, 0xfe],
        source: at(source, 5353),
        destination: at(destination, 7000),
        ttl,
        body,
        sum: Sum::Right,
        class: 0,
        padding: vec![],
    };
    let datagram = || Body::Udp {
        data: b"forged".to_vec(),
    };
    let outer = |source: IpAddr, inner: Packet| Packet {
        source: at(source, 0),
        destination: at(b1, 0),
        ttl: 64,
        body: Body::Tunnel {
            label: 0,
            inner: Box::new(inner.clone()),
        },
        ..inner
    };
    let (someone, service) = (client(family), vip(family, 0));
    let good = || inner(someone, service, 64, datagram());
    let martian = ip("127.0.0.1", "::1");
    let nested = outer(balancer, good());
    [
        (outer(someone, good()), "unknown_source"),
        (
            outer(ip("10.9.1.1", "fd00:9::1:1"), good()),
            "unknown_source",
        ),
        (
            outer(balancer, inner(someone, b1, 64, datagram())),
            "unknown_destination",
        ),
        (
            outer(balancer, inner(someone, someone, 64, datagram())),
            "unknown_destination",
        ),
        (
            outer(balancer, inner(martian, service, 64, datagram())),
            "martian_source",
        ),
        (
            outer(balancer, inner(service, service, 64, datagram())),
            "martian_source",
        ),
        (
            outer(balancer, inner(b1, service, 64, datagram())),
            "own_source",
        ),
        (
            outer(balancer, inner(balancer, service, 64, datagram())),
            "own_source",
        ),
        (
            outer(balancer, inner(someone, service, 1, datagram())),
            "ttl_expired",
        ),
        (
            outer(
                balancer,
                Packet {
                    destination: at(service, 0),
                    ..nested
                },
            ),
            "nested",
        ),
    ]
    .map(|(packet, reason)| (packet.bytes(), reason))
    .into()
}

/// Sends frames out of the balancer's interface toward the backends, again and again. Each time it waits until
/// the decapsulator of `b1` has them: the ring of a veth holds 256.
fn send_times(stage: &Stage, frames: &[Vec<u8>], times: u64) {
    let device = stage.topology.shape().balancer_back_device();
    let injector = Injector::open(stage.topology.namespace("lb"), device).unwrap();
    let dropped = || decap::dropped(&stage.topology, "b1").unwrap();
    let mut expected = dropped();
    for _ in 0..times {
        for frame in frames {
            injector.send(frame).unwrap();
        }
        expected += frames.len() as u64;
        wait_until("they have arrived", Duration::from_secs(5), || {
            dropped() >= expected
        });
    }
}

#[test]
fn nothing_that_is_forged_gets_through_the_decapsulator() {
    const TIMES: u64 = 50;
    const AT_ONCE: u64 = 100;
    // Checks of the VIP would be taken out of their tunnels too, and counted.
    let mut stage = Stage::with(SHAPES[4], Server::threads, |mut config| {
        for service in &mut config.services {
            service.health.extra = "target = \"backend\"";
        }
        config
    });
    let forged: Vec<_> = FAMILIES.into_iter().flat_map(forged).collect();
    assert!(TIMES * AT_ONCE * forged.len() as u64 >= 100_000);
    let before = decap::show(&stage.topology, "b1").unwrap();
    stage.uncounted(|stage| {
        for (frame, _) in &forged {
            let frames = vec![frame.clone(); AT_ONCE as usize];
            send_times(stage, &frames, TIMES);
        }
    });
    let after = decap::show(&stage.topology, "b1").unwrap();
    assert_eq!(after.packets["delivered"], before.packets["delivered"]);
    for reason in forged.iter().map(|(_, reason)| reason) {
        let expected = TIMES * AT_ONCE * forged.iter().filter(|(_, r)| r == reason).count() as u64;
        assert_eq!(
            after.packets[*reason] - before.packets[*reason],
            expected,
            "{reason}"
        );
    }
    // And what the balancer sends still does.
    stage.storm(&ECHO, 500).assert_clean(500);
    stage.end();
}

#[test]
fn a_decapsulator_gets_new_rules_without_a_gap_and_goes_when_told_to() {
    let stage = Stage::new(SHAPES[4]);
    let load = stage.load(&ECHO, 500);
    for _ in 0..20 {
        decap::attach(&stage.topology, "b1").unwrap();
    }
    load.stop().assert_clean(0);
    assert_eq!(stage.retransmissions(), 0);
    let shown = decap::show(&stage.topology, "b1").unwrap();
    assert_eq!(shown.state, "attached");
    assert!(shown.packets["delivered"] > 0, "{shown:?}");
    decap::command(&stage.topology, "b1", &["--detach"]).unwrap();
    assert_eq!(stage.topology.has_xdp("b1", "eth0").unwrap(), Some(false));
    let error = decap::show(&stage.topology, "b1").unwrap_err().to_string();
    assert!(error.contains("no decapsulator"), "{error}");
    stage.end();
}
