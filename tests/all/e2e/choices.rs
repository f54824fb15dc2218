//! Who gets flows when a policy decides: spill-over, panic, failback, what a drain does to flows, a pool without checks, a
//! backend that is new.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lb_tests::daemon::{Config, Health, Service};
use lb_tests::load::Long;
use lb_tests::server::{Config as ServerConfig, MESSAGE_BYTES, NAME_BYTES, Server, signature};
use lb_tests::topology::{Family, client};
use lb_userspace::health::runner::now_ns;

use crate::stage::{ECHO, SHAPES, Stage, wait_until};

pub(super) const SOON: Duration = Duration::from_secs(15);

/// Some of the lab's services, changed by name; health may take out a whole pool at once.
pub(super) fn configured(
    mut config: Config,
    names: &[&str],
    change: impl Fn(&mut Service),
) -> Config {
    config.extra += "velocity-percent = 100\n";
    config
        .services
        .retain(|service| names.contains(&service.name.as_str()));
    config.services.iter_mut().for_each(change);
    config
}

pub(super) fn keys(service: &mut Service, more: &str) {
    service.extra += &format!("\n{more}");
}

fn tiers(service: &mut Service, tiers: [u8; 3]) {
    for (backend, tier) in service.backends.iter_mut().zip(tiers) {
        backend.extra += &format!("\ntier = {tier}");
    }
}

#[track_caller]
fn wait_for_flows_to(stage: &Stage, service: &str, wanted: &str) {
    stage.wait(&format!("flows of {service} go to {wanted}"), |status| {
        status.service(service).unwrap().flows_to == wanted
    });
}

/// Who answers new connections, all of which are answered.
fn serving(stage: &Stage, service: &str) -> Vec<u8> {
    let report = stage.storm(&[service], 300);
    report.assert_clean(300);
    report.backends().into_keys().collect()
}

/// Of the flow table's clock: 17.2 s each.
fn epoch() -> u64 {
    now_ns() >> 34
}

fn start(stage: &mut Stage, n: u8) {
    let config = ServerConfig::backend(&stage.topology, n);
    stage.servers[usize::from(n) - 1].start(&config).unwrap();
}

#[test]
fn a_full_backend_gets_none_and_takes_its_turn_again_as_soon_as_connections_end() {
    // More than are under way at once when the lab asks who serves.
    const MOST: usize = 32;
    let stage = Stage::with(SHAPES[0], Server::threads, |config| {
        configured(config, &["echo4"], |service| {
            tiers(service, [0, 1, 1]);
            service.backends[0].extra += &format!("\nmax-connections = {MOST}");
        })
    });
    wait_for_flows_to(&stage, "echo4", "tier 0: 100 %");
    let targets = stage.targets(&["echo4"]);
    let long = Long::start(&stage.topology, &targets, MOST, Duration::from_secs(60)).unwrap();
    long.wait_until_established(SOON).unwrap();
    wait_for_flows_to(&stage, "echo4", "tier 1: 100 %");
    let why = stage
        .daemon
        .status()
        .unwrap()
        .backend("echo4/b1")
        .share_why
        .clone();
    let full = format!("it has {MOST} open flows of at most {MOST}");
    assert!(why.contains(&full), "{why}");
    assert_eq!(serving(&stage, "echo4"), [2, 3]);
    assert_eq!(long.living(), [(1, MOST)].into());
    let before = epoch();
    let ended = long.stop();
    assert!(ended.iter().all(|c| c.failed.is_none()), "{ended:?}");
    let again = stage.wait("b1 takes flows again", |status| {
        status.service("echo4").unwrap().flows_to == "tier 0: 100 %"
    });
    let traffic = again.backend("echo4/b1").traffic;
    assert!(traffic.open_flows < MOST as u64, "{traffic:?}");
    // Closed flows count as live until the epoch ends in which they closed, and that may be now.
    if epoch() == before {
        assert!(traffic.live_flows > 0, "{traffic:?}");
    }
    assert_eq!(serving(&stage, "echo4"), [1]);
    stage.end();
}

#[test]
fn flows_spill_over_by_the_healthy_part_and_panic_opens_or_closes_a_pool() {
    const CLOSED: u64 = 32;
    let mut stage = Stage::with(SHAPES[0], Server::processes, |config| {
        configured(
            config,
            &["web4", "web6", "echo4"],
            |service| match service.name.as_str() {
                "web4" => tiers(service, [0, 0, 1]),
                "web6" => keys(service, "panic-threshold = 60"),
                "echo4" => keys(service, "panic-threshold = 60\nall-down = \"fail-closed\""),
                _ => {}
            },
        )
    });
    stage.servers[0].kill();
    // Half of a tier, times the 1.4 of `overprovisioning`.
    wait_for_flows_to(&stage, "web4", "tier 0: 70 %, tier 1: 30 %");
    stage.wait_for_health("b1", "down");
    let report = stage.storm(&["web4"], 2000);
    report.assert_clean(2000);
    let of = report.backends();
    assert_eq!(of.keys().copied().collect::<Vec<_>>(), [2, 3]);
    // Six standard deviations of chance: 20.5 each.
    assert!(of[&3].abs_diff(600) <= 123, "{report}");
    assert_eq!(serving(&stage, "web6"), [2, 3]);
    assert_eq!(serving(&stage, "echo4"), [2, 3]);

    stage.servers[1].kill();
    wait_for_flows_to(&stage, "web4", "tier 1: 100 %");
    wait_for_flows_to(&stage, "web6", "all that are enabled (fail-open)");
    wait_for_flows_to(&stage, "echo4", "nobody: too few are healthy (fail-closed)");
    assert_eq!(serving(&stage, "web4"), [3]);
    let open = stage.storm(&["web6"], 300);
    let refused = open
        .failures
        .iter()
        .filter(|f| f.reason.contains("refused"));
    // Two of three refuse, give or take six standard deviations.
    assert!(refused.count().abs_diff(200) <= 49, "{open}");
    assert_eq!(open.backends().into_keys().collect::<Vec<_>>(), [3]);
    let closed = stage.storm(&["echo4"], CLOSED);
    assert_eq!(closed.failures.len() as u64, CLOSED, "{closed}");
    let counters = stage.daemon.counters_at_rest().unwrap();
    assert_eq!(counters.drops["no_backend"], CLOSED, "{counters:?}");

    start(&mut stage, 1);
    start(&mut stage, 2);
    wait_for_flows_to(&stage, "web4", "tier 0: 100 %");
    stage.wait("all are up", |status| status.all_are("up"));
    assert_eq!(serving(&stage, "web4"), [1, 2]);
    assert_eq!(serving(&stage, "web6"), [1, 2, 3]);
    assert_eq!(serving(&stage, "echo4"), [1, 2, 3]);
    stage.end();
}

#[test]
fn flows_stay_with_the_backup_until_a_person_says_otherwise() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |config| {
        configured(config, &["web4"], |service| {
            if service.name == "web4" {
                tiers(service, [0, 1, 1]);
                keys(service, "failback = \"stay\"");
            }
        })
    });
    assert_eq!(serving(&stage, "web4"), [1]);
    stage.servers[0].kill();
    wait_for_flows_to(&stage, "web4", "tier 1: 100 %");
    start(&mut stage, 1);
    stage.wait_for_health("b1", "up");
    assert_eq!(serving(&stage, "web4"), [2, 3]);
    stage.daemon.kill().unwrap();
    stage.daemon.restart().unwrap();
    stage.wait("all are up", |status| status.all_are("up"));
    wait_for_flows_to(&stage, "web4", "tier 1: 100 %");
    assert_eq!(serving(&stage, "web4"), [2, 3]);
    let told = stage.daemon.cli(&["failback", "web4"]).unwrap();
    told.succeeded().unwrap();
    wait_for_flows_to(&stage, "web4", "tier 0: 100 %");
    assert_eq!(serving(&stage, "web4"), [1]);
    stage.end();
}

/// Says something and hears who answers, or how that failed.
pub(super) fn ask(stream: &mut TcpStream) -> Result<String, ErrorKind> {
    let mut message = [7; MESSAGE_BYTES];
    let done = stream
        .write_all(&message)
        .and_then(|()| stream.read_exact(&mut message));
    done.map(|()| signature(&message).to_owned())
        .map_err(|error| error.kind())
}

/// A connection, and who has it.
pub(super) fn connect(stage: &Stage, service: &str) -> (String, TcpStream) {
    let target = stage.daemon.config().service(service).target();
    let connected = stage
        .topology
        .run_in("client", || TcpStream::connect(target));
    let mut stream = connected.unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    (ask(&mut stream).unwrap(), stream)
}

/// The same over UDP.
pub(super) fn ask_udp(socket: &UdpSocket) -> String {
    let mut message = [7; NAME_BYTES + 16];
    socket.send(&message).unwrap();
    let length = socket.recv(&mut message).unwrap();
    signature(&message[..length]).to_owned()
}

pub(super) fn connect_udp(stage: &Stage, service: &str) -> (String, UdpSocket) {
    let target = stage.daemon.config().service(service).target();
    let family = match target.is_ipv4() {
        true => Family::V4,
        false => Family::V6,
    };
    let own = (client(family), 0);
    let bound = stage
        .topology
        .run_in("client", || UdpSocket::bind::<(IpAddr, u16)>(own));
    let socket = bound.unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.connect(target).unwrap();
    (ask_udp(&socket), socket)
}

#[test]
fn at_the_deadline_of_a_drain_flows_are_kept_or_moved_as_the_service_says() {
    for shape in [SHAPES[0], SHAPES[3]] {
        let stage = Stage::with(shape, Server::threads, |config| {
            configured(
                config,
                &["echo4", "echo6", "udp4"],
                |service| match service.name.as_str() {
                    "echo4" | "udp4" => keys(
                        service,
                        "drain-policy = \"migrate\"\ndrain-deadline = \"1s\"",
                    ),
                    "echo6" => keys(service, "drain-policy = \"keep\"\ndrain-deadline = \"1s\""),
                    _ => {}
                },
            )
        });
        let open = |service: &str| {
            (0..16)
                .map(|_| connect(&stage, service))
                .collect::<Vec<_>>()
        };
        let (moved, kept) = (open("echo4"), open("echo6"));
        let udp: Vec<_> = (0..16).map(|_| connect_udp(&stage, "udp4")).collect();
        for service in ["echo4", "echo6", "udp4"] {
            let told = stage
                .daemon
                .cli(&["drain", &format!("{service}/b1")])
                .unwrap();
            told.succeeded().unwrap();
        }
        wait_until("all three drains are over", SOON, || {
            let log = stage.daemon.log();
            let over = |service: &&str| {
                let of = |line: &str| {
                    line.contains("drained") && line.contains(&format!("service={service} "))
                };
                log.lines().any(of)
            };
            ["echo4", "echo6", "udp4"].iter().all(over)
        });
        let mut left = 0;
        for (name, mut stream) in moved {
            // Another server does not know the connection, and says so.
            let expected = match name == "b1" {
                true => Err(ErrorKind::ConnectionReset),
                false => Ok(name.clone()),
            };
            assert_eq!(ask(&mut stream), expected, "{shape:?}");
            left += usize::from(name == "b1");
        }
        for (name, mut stream) in kept {
            assert_eq!(ask(&mut stream).as_deref(), Ok(name.as_str()), "{shape:?}");
            left += usize::from(name == "b1");
        }
        for (name, socket) in udp {
            let now = ask_udp(&socket);
            assert_eq!(now == name, name != "b1", "{shape:?}: {name}, now {now}");
            left += usize::from(name == "b1");
        }
        // That none of 48 had it happens once in three hundred million runs.
        assert!(left > 0);
        stage.end();
    }
}

#[test]
fn a_pool_without_checks_is_up_whatever_its_servers_do() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |config| {
        configured(config, &["echo4", "echo6"], |service| {
            if service.name == "echo6" {
                service.health = Health {
                    kind: "none",
                    ..Health::LAB
                };
            }
        })
    });
    assert_eq!(serving(&stage, "echo6"), [1, 2, 3]);
    stage.servers[0].kill();
    stage.wait("b1 is found dead where it is checked", |status| {
        status.backend("echo4/b1").health == "down"
    });
    assert_eq!(
        stage.daemon.status().unwrap().backend("echo6/b1").health,
        "up"
    );
    let report = stage.storm(&["echo6"], 300);
    let refused = report
        .failures
        .iter()
        .filter(|f| f.reason.contains("refused"));
    // A third, give or take six standard deviations.
    assert!(refused.count().abs_diff(100) <= 49, "{report}");
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(serving(&stage, "echo4"), [2, 3]);
    start(&mut stage, 1);
    stage.wait_for_health("b1", "up");
    stage.storm(&ECHO, 300).assert_clean(300);
    stage.end();
}

#[test]
fn a_new_backend_gets_flows_when_it_has_proven_itself_and_a_new_service_serves_at_once() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |config| {
        configured(config, &["web4", "echo4"], |service| {
            service.backends.truncate(2);
            if service.name == "web4" {
                keys(service, "claim = \"eth0\"");
            }
        })
    });
    stage.servers[2].kill();
    let old = stage.daemon.config().clone();
    let mut new = old.clone();
    for service in &mut new.services {
        let mut third = service.backends[0].clone();
        let family = match service.address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        third.name = "b3".to_owned();
        third.address = lb_tests::topology::backend(family, 3);
        service.backends.push(third);
    }
    // Another port of an address that is claimed already.
    let mut late = new.service("echo4").clone();
    late.name = "late".to_owned();
    late.address = new.service("web4").address;
    late.port = 7001;
    late.extra += "\nclaim = \"eth0\"\nmin-healthy = 3";
    // Of another one no check has an answer for a long time.
    let mut slow = new.service("echo4").clone();
    slow.name = "slow".to_owned();
    slow.address = late.address;
    slow.port = 7002;
    slow.backends.truncate(2);
    slow.health = Health {
        kind: "exec",
        interval_ms: 60_000,
        timeout_ms: 50_000,
        extra: "command = [\"/bin/sleep\", \"45\"]",
        ..slow.health
    };
    new.services.extend([late, slow]);
    stage.daemon.reload(new).unwrap();
    assert_eq!(serving(&stage, "slow"), [1, 2]);
    let status = stage.daemon.status().unwrap();
    assert_eq!(status.backend("slow/b1").health, "unknown");
    stage.wait("the new service has two", |status| {
        let up = |n| status.backend(&format!("late/b{n}")).health == "up";
        up(1) && up(2) && status.backend("late/b3").health == "down"
    });
    let status = stage.daemon.status().unwrap();
    assert_eq!(
        status.service("late").unwrap().claim_waits,
        None,
        "{status:?}"
    );
    for service in ["late", "web4", "echo4"] {
        assert_eq!(serving(&stage, service), [1, 2], "{service}");
    }
    start(&mut stage, 3);
    stage.wait_for_health("b3", "up");
    for service in ["late", "web4", "echo4"] {
        assert_eq!(serving(&stage, service), [1, 2, 3], "{service}");
    }
    stage.end();
}
