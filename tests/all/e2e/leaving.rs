//! What becomes of the flows of a backend that leaves, by a person's word or by an outage: datagrams, services of any
//! protocol, a deadline, and the end of the last one.

use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::thread::spawn;
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Protocol};
use lb_tests::server::Server;

use super::choices::{SOON, ask, ask_udp, configured, connect, connect_udp, keys};
use crate::stage::{FULLNAT, SHAPES, Stage, wait_until};

/// As many that none of them is `b1`'s once in sixty million runs.
const FLOWS: usize = 44;
/// A closed connection stands in the flow table until the epoch (17 s) after its end is over.
const FORGOTTEN: Duration = Duration::from_secs(180);

/// Whoever was served at once has not sent a second SYN.
const AGAIN: Duration = Duration::from_millis(900);

/// `b1` answers no check any more, and all else.
const FIREWALL: &str = "table inet fault { chain checks { type filter hook input priority 0; tcp dport 8080 drop; }; }";

type Flows<T> = Vec<(String, T)>;

fn open(stage: &Stage, service: &str) -> Flows<TcpStream> {
    (0..FLOWS).map(|_| connect(stage, service)).collect()
}

fn open_udp(stage: &Stage, service: &str) -> Flows<UdpSocket> {
    (0..FLOWS).map(|_| connect_udp(stage, service)).collect()
}

/// How many are `b1`'s: some.
fn of_first<T>(flows: &Flows<T>) -> usize {
    let count = flows.iter().filter(|(name, _)| name == "b1").count();
    assert!(count > 0);
    count
}

fn drain(stage: &Stage, service: &str) {
    let key = format!("{service}/b1");
    let told = stage.daemon.cli(&["drain", &key]).unwrap();
    told.succeeded().unwrap();
}

/// How many flows were left when those of a backend of a service ended, as the log tells.
pub(super) fn left_at_the_end(stage: &Stage, service: &str, cause: &str) -> Option<usize> {
    let (service, cause) = (format!("service={service} "), format!("cause={cause}"));
    let log = stage.daemon.log();
    let told =
        |line: &&str| line.contains("drained") && line.contains(&service) && line.contains(&cause);
    let line = log.lines().find(told)?;
    let number = line.split("left=").nth(1).unwrap();
    Some(number.split(' ').next().unwrap().parse().unwrap())
}

#[track_caller]
fn wait_for_the_end(stage: &Stage, service: &str, cause: &str, limit: Duration) -> usize {
    wait_until("the flows of b1 have ended", limit, || {
        left_at_the_end(stage, service, cause).is_some()
    });
    left_at_the_end(stage, service, cause).unwrap()
}

#[track_caller]
fn all_stay(flows: &mut Flows<TcpStream>) {
    for (name, stream) in flows {
        assert_eq!(ask(stream).as_deref(), Ok(name.as_str()));
    }
}

#[track_caller]
fn all_datagrams_stay(flows: &Flows<UdpSocket>) {
    for (name, socket) in flows {
        assert_eq!(ask_udp(socket), *name);
    }
}

/// Those of `b1` go to others, and all others stay.
#[track_caller]
fn datagrams_move(flows: &Flows<UdpSocket>) {
    for (name, socket) in flows {
        let now = ask_udp(socket);
        assert_eq!(now == *name, name != "b1", "{name}, now {now}");
    }
}

/// Those of `b1` are reset, and all others stay.
#[track_caller]
fn are_reset(flows: Flows<TcpStream>) {
    for (name, mut stream) in flows {
        let expected = match name == "b1" {
            true => Err(ErrorKind::ConnectionReset),
            false => Ok(name.clone()),
        };
        assert_eq!(ask(&mut stream), expected, "{name}");
    }
}

#[test]
fn datagrams_stay_with_a_backend_that_drains_where_the_service_says_so() {
    for shape in [SHAPES[0], SHAPES[3]] {
        let stage = Stage::with(shape, Server::threads, |config| {
            configured(config, &["udp4", "udp6"], |service| {
                keys(service, "drain-policy = \"keep\"");
                if service.name == "udp4" {
                    keys(service, "drain-deadline = \"4s\"");
                }
            })
        });
        let (four, six) = (open_udp(&stage, "udp4"), open_udp(&stage, "udp6"));
        drain(&stage, "udp4");
        drain(&stage, "udp6");
        let left = wait_for_the_end(&stage, "udp4", "Drain", SOON);
        assert_eq!(left, of_first(&four), "{shape:?}");
        of_first(&six);
        for flows in [&four, &six] {
            all_datagrams_stay(flows);
        }
        for service in ["udp4", "udp6"] {
            let new = open_udp(&stage, service);
            assert!(new.iter().all(|(name, _)| name != "b1"), "{new:?}");
        }
        stage.end();
    }
}

#[test]
fn flows_of_a_backend_that_is_down_stay_move_or_wait_for_a_deadline() {
    let on_down = |service: &str, seconds: &str| match service {
        "udp4" => "on-down = \"keep\"".to_owned(),
        "udp6" => "on-down = \"migrate\"".to_owned(),
        "echo6" => "on-down = \"keep\"".to_owned(),
        _ => format!("on-down = \"reset\"\non-down-deadline = \"{seconds}\""),
    };
    for shape in [SHAPES[0], SHAPES[2]] {
        let with = |config: Config, seconds: &str| {
            let mut config = config;
            for service in &mut config.services {
                service.extra = on_down(&service.name, seconds);
            }
            config
        };
        let mut stage = Stage::with(shape, Server::threads, |config| {
            let names = ["udp4", "udp6", "echo4", "echo6"];
            with(configured(config, &names, |_| {}), "1h")
        });
        let (kept, moved) = (open_udp(&stage, "udp4"), open_udp(&stage, "udp6"));
        let (mut waiting, mut streams) = (open(&stage, "echo4"), open(&stage, "echo6"));
        of_first(&kept);
        of_first(&moved);
        of_first(&streams);
        stage.topology.nft("b1", FIREWALL).unwrap();
        stage.wait_for_health("b1", "down");
        all_datagrams_stay(&kept);
        datagrams_move(&moved);
        all_stay(&mut waiting);
        all_stay(&mut streams);
        let why = stage.daemon.cli(&["why", "echo4/b1"]).unwrap();
        let why = why.succeeded().unwrap().stdout.clone();
        assert!(why.contains("they stay, on-down acts in "), "{why}");
        // The hour becomes a second, which is over.
        let shorter = with(stage.daemon.config().clone(), "4s");
        stage.daemon.reload(shorter).unwrap();
        let left = wait_for_the_end(&stage, "echo4", "Outage", SOON);
        assert_eq!(left, of_first(&waiting), "{shape:?}");
        are_reset(waiting);
        // What stays is told of when the last one has ended.
        all_stay(&mut streams);
        assert_eq!(left_at_the_end(&stage, "echo6", "Outage"), None);
        drop(streams);
        let left = wait_for_the_end(&stage, "echo6", "Outage", FORGOTTEN);
        assert_eq!(left, 0, "{shape:?}");
        stage.topology.nft("b1", "delete table inet fault").unwrap();
        stage.wait_for_health("b1", "up");
        stage.end();
    }
}

/// As [`FIREWALL`], but for everything.
const SILENCE: &str = "table inet fault { chain everything { type filter hook input priority 0; meta l4proto tcp drop; }; }";

/// The SYN of a client comes again after one second and after three (RFC 6298 section 2.1): by then checks have told.
#[test]
fn clients_that_wait_for_a_backend_that_went_down_are_served_by_others() {
    for shape in [SHAPES[0], SHAPES[2], FULLNAT[0]] {
        let stage = Stage::with(shape, Server::threads, |config| {
            configured(config, &["echo4"], |service| {
                service.extra = "on-down = \"keep\"".to_owned();
            })
        });
        let mut before = open(&stage, "echo4");
        of_first(&before);
        stage.topology.nft("b1", SILENCE).unwrap();
        let target = stage.daemon.config().service("echo4").target();
        let waiting = || {
            let namespace = stage.topology.namespace("client").clone();
            spawn(move || {
                namespace.enter().unwrap();
                let began = Instant::now();
                let mut stream = TcpStream::connect_timeout(&target, SOON).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                (ask(&mut stream).unwrap(), began.elapsed())
            })
        };
        let waiting: Vec<_> = (0..FLOWS).map(|_| waiting()).collect();
        let served: Vec<_> = waiting.into_iter().map(|w| w.join().unwrap()).collect();
        assert!(served.iter().all(|(name, _)| name != "b1"), "{served:?}");
        let late = served.iter().filter(|(_, after)| *after > AGAIN).count();
        assert!(late > 0, "nobody came to b1: {served:?}");
        stage.wait_for_health("b1", "down");
        stage.topology.nft("b1", "delete table inet fault").unwrap();
        // Connections that were there before are there still.
        all_stay(&mut before);
        stage.end();
    }
}

/// Flows that others took over from backends that may not keep them.
fn moved_in(stage: &Stage, service: &str) -> u64 {
    let status = stage.daemon.status().unwrap();
    let backends = &status.service(service).unwrap().backends;
    backends.iter().map(|b| b.traffic.moved_in).sum()
}

#[test]
fn connections_of_a_backend_that_is_down_move_to_others_that_refuse_them() {
    for shape in [SHAPES[0], SHAPES[2]] {
        let stage = Stage::with(shape, Server::threads, |config| {
            configured(config, &["echo4", "echo6"], |service| {
                service.extra = match service.name.as_str() {
                    "echo4" => "on-down = \"migrate\"".to_owned(),
                    _ => "on-down = \"reset\"".to_owned(),
                };
            })
        });
        let (moving, reset) = (open(&stage, "echo4"), open(&stage, "echo6"));
        let wanted = of_first(&moving);
        of_first(&reset);
        stage.topology.nft("b1", FIREWALL).unwrap();
        stage.wait_for_health("b1", "down");
        // Whoever gets a segment of such a connection knows none, and says so by a RST of its own.
        are_reset(moving);
        assert_eq!(moved_in(&stage, "echo4"), wanted as u64, "{shape:?}");
        // With the other policy nobody else gets any.
        are_reset(reset);
        assert_eq!(moved_in(&stage, "echo6"), 0, "{shape:?}");
        // Those that come now are served.
        let new = open(&stage, "echo4");
        assert!(new.iter().all(|(name, _)| name != "b1"), "{new:?}");
        stage.topology.nft("b1", "delete table inet fault").unwrap();
        stage.end();
    }
}

#[test]
fn a_service_of_any_protocol_resets_connections_and_moves_datagrams() {
    let stage = Stage::with(SHAPES[2], Server::threads, |config| {
        configured(config, &["echo4"], |service| {
            service.protocol = Protocol::Any;
            service.reach = Some(("\"10.10.0.100\"", "\"any\""));
            service.extra =
                "drain-policy = \"reset\"\ndrain-deadline = \"4s\"\non-down = \"reset\"".to_owned();
        })
    });
    let (streams, datagrams) = (open(&stage, "echo4"), open_udp(&stage, "echo4"));
    let wanted = of_first(&streams) + of_first(&datagrams);
    drain(&stage, "echo4");
    let left = wait_for_the_end(&stage, "echo4", "Drain", SOON);
    assert_eq!(left, wanted);
    are_reset(streams);
    datagrams_move(&datagrams);
    let enabled = stage.daemon.cli(&["enable", "echo4/b1"]).unwrap();
    enabled.succeeded().unwrap();
    stage.wait("b1 takes flows", |status| {
        status.backend("echo4/b1").share > 0
    });
    // The same when it is down.
    let (streams, datagrams) = (open(&stage, "echo4"), open_udp(&stage, "echo4"));
    let wanted = [of_first(&streams), of_first(&datagrams)];
    assert!(wanted.iter().all(|count| *count > 0));
    stage.topology.nft("b1", FIREWALL).unwrap();
    stage.wait_for_health("b1", "down");
    are_reset(streams);
    datagrams_move(&datagrams);
    stage.topology.nft("b1", "delete table inet fault").unwrap();
    stage.end();
}
