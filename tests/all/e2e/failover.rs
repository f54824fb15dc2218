//! Who gets flows: tiers and sorry backends, a limit of connections, slow start, and resets by a backend that leaves.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lb_tests::daemon::Config;
use lb_tests::server::{Config as ServerConfig, MESSAGE_BYTES, Server, signature};

use crate::stage::{FULLNAT, SHAPES, Stage, wait_until};

const SOON: Duration = Duration::from_secs(15);

/// Three tiers in `web4`, a limit and a next tier in `echo6`, slow start in `web6`, resets in `echo4`.
fn configured(mut config: Config) -> Config {
    // Else the second of three would be held for ten seconds.
    config.extra += "velocity-percent = 100\n";
    for service in &mut config.services {
        let (keys, backends): (&str, [&str; 3]) = match service.name.as_str() {
            "web4" => ("", ["", "tier = 1", "tier = \"sorry\""]),
            "echo6" => ("", ["max-connections = 8", "tier = 1", "tier = 1"]),
            "web6" => ("slow-start = \"6s\"", [""; 3]),
            "echo4" => ("drain-policy = \"reset\"\ndrain-deadline = \"1s\"", [""; 3]),
            _ => continue,
        };
        service.extra += &format!("\n{keys}");
        if service.name == "echo4" {
            service.extra = service.extra.replace("\"migrate\"", "\"reset\"");
        }
        for (backend, keys) in service.backends.iter_mut().zip(backends) {
            backend.extra += &format!("\n{keys}");
        }
    }
    config
}

fn connect(stage: &Stage, service: &str) -> TcpStream {
    let target = stage.daemon.config().service(service).target();
    let connected = stage
        .topology
        .run_in("client", || TcpStream::connect(target));
    let stream = connected.unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Says something and hears who answers, or how that failed.
fn ask(stream: &mut TcpStream) -> Result<String, ErrorKind> {
    let mut message = [7; MESSAGE_BYTES];
    let done = stream
        .write_all(&message)
        .and_then(|()| stream.read_exact(&mut message));
    done.map(|()| signature(&message).to_owned())
        .map_err(|error| error.kind())
}

/// So many connections, by who has them.
fn open(stage: &Stage, service: &str, count: usize) -> BTreeMap<String, Vec<TcpStream>> {
    let mut by_backend: BTreeMap<String, Vec<TcpStream>> = BTreeMap::new();
    for _ in 0..count {
        let mut stream = connect(stage, service);
        let name = ask(&mut stream).unwrap();
        by_backend.entry(name).or_default().push(stream);
    }
    by_backend
}

#[track_caller]
fn wait_for_flows_to(stage: &Stage, service: &str, wanted: &str) {
    stage.wait(&format!("flows of {service} go to {wanted}"), |status| {
        status.service(service).unwrap().flows_to == wanted
    });
}

fn check_that_only_serves(stage: &Stage, service: &str, backend: u8) {
    let report = stage.storm(&[service], 200);
    report.assert_clean(200);
    assert_eq!(
        report.backends().into_keys().collect::<Vec<_>>(),
        [backend],
        "{report}"
    );
}

#[test]
fn flows_fail_over_from_tier_to_tier_to_the_sorry_server_and_return() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, configured);
    check_that_only_serves(&stage, "web4", 1);
    stage.servers[0].kill();
    wait_for_flows_to(&stage, "web4", "tier 1: 100 %");
    check_that_only_serves(&stage, "web4", 2);
    stage.servers[1].kill();
    wait_for_flows_to(&stage, "web4", "the sorry backends");
    check_that_only_serves(&stage, "web4", 3);
    stage.wait("b3 is warm in web6", |status| {
        !status.backend("web6/b3").share_why.contains("warms up")
    });
    // A return gives a tenth at first where that is asked for, and is told.
    let config = ServerConfig::backend(&stage.topology, 1);
    stage.servers[0].start(&config).unwrap();
    wait_for_flows_to(&stage, "web4", "tier 0: 100 %");
    check_that_only_serves(&stage, "web4", 1);
    let warming = stage.wait("b1 warms up in web6", |status| {
        status.backend("web6/b1").share > 0
    });
    let (cold, warm) = (warming.backend("web6/b1"), warming.backend("web6/b3"));
    assert!(
        cold.share < warm.share && cold.share_why.contains("warms up"),
        "{cold:?}"
    );
    let report = stage.storm(&["web6"], 400);
    report.assert_clean(400);
    let of = report.backends();
    assert!(of.get(&1).unwrap_or(&0) * 2 < of[&3], "{report}");
    let log = stage.daemon.log();
    assert!(log.contains("new flows go to others"), "{log}");
    stage.end();
}

#[test]
fn a_full_backend_gets_no_new_flows_and_the_next_tier_does() {
    let stage = Stage::with(SHAPES[0], Server::threads, configured);
    let mut held = open(&stage, "echo6", 8);
    assert_eq!(held.keys().collect::<Vec<_>>(), ["b1"]);
    let full = stage.wait("b1 is full", |status| status.backend("echo6/b1").share == 0);
    assert!(
        full.backend("echo6/b1")
            .share_why
            .contains("it has 8 open flows of at most 8")
    );
    let others = open(&stage, "echo6", 8);
    assert!(!others.contains_key("b1"), "{others:?}");
    for stream in held.get_mut("b1").unwrap() {
        assert_eq!(ask(stream).as_deref(), Ok("b1"));
    }
    drop((held, others));
    stage.end();
}

#[test]
fn clients_of_a_backend_that_leaves_are_reset_at_once_and_only_they() {
    let dnat_dsr_tunnel = [SHAPES[0], SHAPES[3], SHAPES[4]];
    for shape in dnat_dsr_tunnel.into_iter().chain(FULLNAT) {
        let stage = Stage::with(shape, Server::threads, configured);
        let mut held = open(&stage, "echo4", 12);
        let key = "echo4/b1";
        stage
            .daemon
            .cli(&["drain", key])
            .unwrap()
            .succeeded()
            .unwrap();
        // The deadline of the service.
        wait_until("the drain is over", SOON, || {
            stage.daemon.log().contains("drained")
        });
        let mut resets = 0;
        let mut check = |held: &mut BTreeMap<String, Vec<TcpStream>>, left: &str| {
            for (name, streams) in held.iter_mut() {
                for stream in streams {
                    let expected = match name == left {
                        true => Err(ErrorKind::ConnectionReset),
                        false => Ok(name.clone()),
                    };
                    assert_eq!(ask(stream), expected, "{name}");
                    resets += u64::from(name == left);
                }
            }
            held.remove(left);
            let plane = stage.daemon.status().unwrap().data_plane;
            assert_eq!((plane.resets, plane.drops["backend_left"]), (resets, 0));
        };
        check(&mut held, "b1");
        // One that goes down, too: nobody else could tell its clients.
        stage.topology.cut_power("b2", "eth0").unwrap();
        stage.wait_for_health("b2", "down");
        check(&mut held, "b2");
        let again = open(&stage, "echo4", 6);
        assert_eq!(again.keys().collect::<Vec<_>>(), ["b3"]);
        stage.topology.restore_power("b2", "eth0").unwrap();
        stage.wait_for_health("b2", "up");
        drop((held, again));
        stage.end();
    }
}

#[test]
fn a_new_vip_is_claimed_when_enough_are_up() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |config| config);
    let mut config = stage.daemon.config().clone();
    let vip = lb_tests::topology::vip(lb_tests::topology::Family::V4, 9);
    let mut service = config.service("web4").clone();
    service.name = "late".to_owned();
    service.address = vip;
    service.extra += "\nclaim = \"eth0\"\nmin-healthy = 3";
    config.services.push(service);
    stage.servers[0].kill();
    stage.wait_for_health("b1", "down");
    stage.daemon.reload(config).unwrap();
    stage.wait("two are up", |status| {
        status.backend("late/b2").health == "up" && status.backend("late/b3").health == "up"
    });
    let status = stage.daemon.status().unwrap();
    let waits = status.service("late").unwrap().claim_waits.clone();
    assert!(
        waits.is_some_and(|why| why.starts_with("2 of the 3")),
        "{status:?}"
    );
    let has = |stage: &Stage| stage.topology.has_address("lb", "eth0", vip).unwrap();
    assert!(!has(&stage));
    let config = ServerConfig::backend(&stage.topology, 1);
    stage.servers[0].start(&config).unwrap();
    wait_until("the VIP is claimed", SOON, || has(&stage));
    // And stays so, whoever is up.
    stage.servers[1].kill();
    stage.wait_for_health("b2", "down");
    stage.daemon.kill().unwrap();
    stage.daemon.restart().unwrap();
    stage.wait("b2 is down", |status| {
        status.backend("late/b2").health == "down"
    });
    assert!(has(&stage));
    stage.end();
}
