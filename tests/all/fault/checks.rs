//! Backends that are slow, wrong, nervous, deaf or hostile: faults that only a check of the right kind finds.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Health as Checks, Service};
use lb_tests::load::Long;
use lb_tests::server::{Config as ServerConfig, ECHO_PORT, HTTP_PORT, Health, Nginx, Server};
use lb_tests::topology::{FAMILIES, Family, backend, vip};
use lb_userspace::model::ProbeVerdict;
use socket2::{Domain, Socket, Type};

use crate::stage::{ECHO, SHAPES, Stage, Stalls, WEB, figure, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// Changes one service.
fn one(mut config: Config, name: &str, change: impl Fn(&mut Service)) -> Config {
    let found = config.services.iter_mut().find(|s| s.name == name);
    change(found.unwrap());
    config
}

/// What the daemon says of the health of a backend of one service, line by line.
fn changes(stage: &Stage, service: &str, backend: &str) -> usize {
    let log = stage.daemon.log();
    let of = |line: &&str| {
        line.contains("health changed")
            && line.contains(&format!("service={service} "))
            && line.contains(&format!("backend={backend} "))
    };
    log.lines().filter(of).count()
}

fn why(stage: &Stage, backend: &str) -> String {
    let told = stage.daemon.cli(&["why", backend]).unwrap();
    told.succeeded().unwrap().stdout
}

/// The verdict of the last probe.
fn last(stage: &Stage, service: &str, backend: &str) -> Option<ProbeVerdict> {
    let told = stage.daemon.cli(&["status", "--json"]).unwrap();
    let text = told.succeeded().unwrap().stdout;
    let status: lb_userspace::status::Status = serde_json::from_str(&text).unwrap();
    let service = status.services.into_iter().find(|s| s.name == service);
    let mut backends = service.unwrap().backends.into_iter();
    let found = backends.find(|b| b.name == backend).unwrap();
    found
        .last_results
        .into_iter()
        .next_back()
        .map(|r| r.verdict)
}

/// Fault B4: a backend answers many times slower than the others, and without an error. It gets a third of a fair
/// share at most within twelve seconds, by small steps (one a second at most, ten of them), and is not taken out.
#[test]
fn b4_server_that_is_slow_gets_less_by_and_by_and_stays_up() {
    let stage = Stage::alone_with(SHAPES[0], Server::threads, |mut config| {
        config.services.retain(|service| service.name == "web4");
        one(config, "web4", |web| {
            web.extra += "\nscheduler = \"least-response-time\"";
            web.health.interval_ms = 400;
            web.health.timeout_ms = 390;
        })
    });
    // Small differences of the others' are no matter.
    let before = stage.daemon.status().unwrap().backend("web4/b2").share;
    assert!(before > 250, "{before}");
    let slow = Health {
        delay_ms: 150,
        ..Health::default()
    };
    let stalls = Stalls::watch();
    stage.servers[1].set_health(&slow).unwrap();
    let began = Instant::now();
    let found = stage
        .daemon
        .wait_until("b2 gets less", Duration::from_secs(90), |status| {
            status.backend("web4/b2").share <= 111
        });
    let slow = found.unwrap().backend("web4/b2").clone();
    let (took, late) = (began.elapsed(), stalls.worst_since(began));
    figure!(
        "B4: a share of {} thousandths, of three alike, after {took:?}; the machine was late by {late:?}",
        slow.share
    );
    // Each of the steps may be as late as the machine is.
    assert!(
        took <= Duration::from_secs(12) + 10 * late,
        "after {took:?}, the machine was late by {late:?}"
    );
    assert!(slow.health == "up" && slow.share > 0, "{slow:?}");
    assert!(slow.share_why.contains("its checks take "), "{slow:?}");
    // So do new flows.
    let report = stage.storm(&["web4"], 3000);
    report.assert_clean(3000);
    let of = report.backends();
    assert!(of[&2] * 3 < of[&1] && of[&2] * 3 < of[&3], "{report}");
    assert_eq!(changes(&stage, "web4", "b2"), 1, "{}", stage.daemon.log());
    stage.end();
}

/// The port of nginx.
const NGINX: u16 = 8081;
/// Where a redirect leads, and nobody may come.
const ELSEWHERE: u16 = 9009;

/// Fault B5: wrong status, wrong body, a redirect. The backend is out, the reason says which, and nobody follows the
/// redirect.
#[test]
fn b5_wrong_status_wrong_body_and_a_redirect_are_named_and_the_redirect_is_not_followed() {
    let answer = |what: &str| {
        format!(
            "server {{ listen [::]:{NGINX} ipv6only=off; location = /health {{ return {what}; }} }}\n"
        )
    };
    let ready = answer("200 \"ready\"");
    let nginx = std::cell::RefCell::new(vec![]);
    let stage = Stage::with(
        SHAPES[0],
        |topology| {
            let start = |host| Nginx::serving(topology, host, NGINX, &ready).unwrap();
            nginx.replace(["b1", "b2", "b3"].map(start).into());
            Server::threads(topology)
        },
        |config| {
            one(config, "web4", |web| {
                web.health.port = Some(NGINX);
                web.health.interval_ms = 400;
                web.health.timeout_ms = 390;
                web.health.extra = "expect-body = \"ready\"";
            })
        },
    );
    let there = SocketAddr::new(backend(Family::V4, 3), ELSEWHERE);
    let other = stage
        .topology
        .run_in("b3", || TcpListener::bind(there))
        .unwrap();
    other.set_nonblocking(true).unwrap();
    let moved = format!("302 http://{there}/health");
    for (what, reason) in [
        ("500", "status 500, expected 200-299"),
        ("200 \"starting\"", "body lacks 'ready'"),
        (
            &moved,
            "status 302, expected 200-299 (redirects are not followed)",
        ),
    ] {
        nginx.borrow()[0].serve(&answer(what)).unwrap();
        let down = stage.wait(what, |status| status.backend("web4/b1").health == "down");
        let told = &down.backend("web4/b1").reason;
        assert!(told.contains(reason), "{told}");
        let told = why(&stage, "web4/b1");
        assert!(told.contains(reason), "{told}");
        let report = stage.storm(&["web4"], 300);
        report.assert_clean(300);
        assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [2, 3]);
        nginx.borrow()[0].serve(&ready).unwrap();
        stage.wait("b1 is right again", |status| {
            status.backend("web4/b1").health == "up"
        });
    }
    // A connection would be in the accept queue.
    let nobody = other.accept().map_err(|error| error.kind());
    assert_eq!(nobody.map(drop), Err(ErrorKind::WouldBlock));
    stage.end();
}

/// Fault B6: a backend is good and bad in turn. Damping keeps it out after a few changes, so capacity does not come and go
/// with it, and no established flow of others is moved.
#[test]
fn b6_server_that_flaps_is_kept_out_and_moves_no_flow_of_others() {
    const KEYS: &str =
        "damping = 3\ndamping-window = \"10m\"\ndamping-hold = \"10m\"\ndamping-hold-max = \"10m\"";
    let stage = Stage::with(SHAPES[0], Server::threads, |config| {
        one(config, "echo4", |echo| echo.health.extra = KEYS)
    });
    let say = |good: bool| {
        let health = Health {
            status: if good { 200 } else { 503 },
            ..Health::default()
        };
        stage.servers[0].set_health(&health).unwrap();
    };
    let wait = |health: &str| {
        stage.wait(health, |status| status.backend("echo4/b1").health == health);
    };
    say(false);
    wait("down");
    let minute = Duration::from_secs(120);
    let long = Long::start(&stage.topology, &stage.targets(&["echo4"]), 100, minute).unwrap();
    long.wait_until_established(SOON).unwrap();
    assert_eq!(long.living().into_keys().collect::<Vec<_>>(), [2, 3]);
    say(true);
    wait("up");
    say(false);
    wait("down");
    let before = changes(&stage, "echo4", "b1");
    for round in 0..6 {
        let good = round % 2 == 0;
        say(good);
        wait_until("its checks show it", SOON, || {
            let last = last(&stage, "echo4", "b1");
            matches!(last, Some(ProbeVerdict::Good)) == good && last.is_some()
        });
    }
    say(true);
    wait_until("it would be up if it were not damped", SOON, || {
        why(&stage, "echo4/b1").contains("it must stay good for 10m")
            && stage.daemon.log().contains("health change held back")
    });
    assert_eq!(
        changes(&stage, "echo4", "b1"),
        before,
        "{}",
        stage.daemon.log()
    );
    let report = stage.storm(&["echo4"], 1000);
    report.assert_clean(1000);
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [2, 3]);
    // A connection that was moved would have been reset.
    let connections = long.stop();
    assert!(
        connections.len() == 100 && connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    stage.end();
}

/// A listener of the backend b1 of which nobody takes a connection.
fn deaf(stage: &Stage) -> Socket {
    let address = SocketAddr::new(backend(Family::V4, 1), ECHO_PORT);
    let listen = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)?;
        Ok(socket)
    };
    stage.topology.run_in("b1", listen).unwrap()
}

/// Fault B7, by a check: a server's accept queue is full, so its kernel answers no SYN.
#[test]
fn b7_server_that_accepts_nobody_is_out_when_its_queue_is_full() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |config| {
        one(config, "echo4", |echo| {
            echo.health = Checks {
                kind: "tcp",
                ..Checks::LAB
            }
        })
    });
    stage.servers[0].kill();
    // Its queue takes a connection or two, checks among them, and then none.
    let queue = deaf(&stage);
    stage.wait("b1 accepts nobody", |status| {
        let b1 = status.backend("echo4/b1");
        b1.health == "down" && b1.reason.contains("connect: timed out after 100 ms")
    });
    let report = stage.storm(&["echo4"], 1000);
    report.assert_clean(1000);
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [2, 3]);
    drop(queue);
    let config = ServerConfig::backend(&stage.topology, 1);
    stage.servers[0].start(&config).unwrap();
    stage.wait_for_health("b1", "up");
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}

/// Fault B13, by a check: packets reach the backend, and what it says from the VIP is lost.
#[test]
fn b13_backend_whose_replies_from_the_vip_are_lost_is_out_and_that_is_named() {
    // `l2dsr`, one arm and two.
    for shape in [SHAPES[2], SHAPES[3]] {
        let stage = Stage::new(shape);
        let (four, six) = (vip(Family::V4, 0), vip(Family::V6, 0));
        let rules = format!(
            "table inet fault {{ chain out {{ type filter hook output priority 0;
            ip saddr {four} drop
            ip6 saddr {six} drop
            }}
            }}"
        );
        stage.topology.nft("b1", &rules).unwrap();
        for service in WEB {
            let down = stage.wait("b1 is out", |status| {
                status.backend(&format!("{service}/b1")).health == "down"
            });
            let reason = &down.backend(&format!("{service}/b1")).reason;
            assert!(reason.contains("answers at its own address"), "{reason}");
        }
        let report = stage.storm(&WEB, 600);
        report.assert_clean(600);
        assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [2, 3]);
        stage.topology.nft("b1", "delete table inet fault").unwrap();
        stage.wait_for_health("b1", "up");
        stage.storm(&WEB, 600).assert_clean(600);
        stage.end();
    }
}

/// What a hostile server sends to one after the other, for as long as it is listened to.
const ANSWERS: [(&[u8], &[u8]); 5] = [
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n",
        b"x",
    ),
    (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0",
    ),
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    (b"", b"\x15\x03\x03\0\x02\x01\x5a"),
];

/// Attacks who connects to it until its listener is shut down; counts.
fn attack(listener: &Socket, served: &AtomicUsize) {
    while let Ok((stream, _)) = listener.accept() {
        let (first, again) = ANSWERS[served.fetch_add(1, SeqCst) % ANSWERS.len()];
        let again = again.repeat(16_384 / again.len());
        std::thread::spawn(move || {
            let mut stream = TcpStream::from(stream);
            let mut request = [0; 1024];
            // Until the client has seen enough.
            let mut done = stream.read(&mut request).map(drop);
            done = done.and_then(|()| stream.write_all(first));
            while done.is_ok() {
                done = stream.write_all(&again);
            }
        });
    }
}

/// Memory of the daemon's own, in bytes.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// Fault A6: a target of checks answers ten gigabytes, heads without end and worse. It is out, costs no memory, and
/// delays no other check.
#[test]
fn a6_hostile_target_costs_no_memory_and_delays_no_other() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |mut config| {
        config
            .services
            .retain(|service| WEB.contains(&service.name.as_str()));
        for service in &mut config.services {
            service.health.extra = "expect-body = \"ok\"";
        }
        config
    });
    stage.servers[0].kill();
    let listen = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HTTP_PORT));
        socket.bind(&address.into())?;
        socket.listen(128)?;
        Ok(socket)
    };
    let listener = stage.topology.run_in("b1", listen).unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let attacking = std::thread::spawn({
        let (listener, served) = (listener.try_clone().unwrap(), served.clone());
        move || attack(&listener, &served)
    });
    let load = stage.load(&WEB, 200);
    let served_more = |count: usize| {
        let from = served.load(SeqCst);
        wait_until("it has attacked", Duration::from_secs(120), || {
            served.load(SeqCst) >= from + count
        });
    };
    served_more(100);
    stage.wait_for_health("b1", "down");
    let pid = stage.daemon.process().unwrap().pid();
    let before = memory(pid);
    served_more(200);
    let grown = memory(pid).saturating_sub(before);
    figure!("A6: {grown} bytes more after 200 attacks");
    // Kept, they would be 12 MiB or more.
    assert!(grown <= 1 << 20, "{grown} bytes");
    for family in FAMILIES {
        let web = if family == Family::V4 { "web4" } else { "web6" };
        for backend in ["b2", "b3"] {
            assert_eq!(changes(&stage, web, backend), 1, "{}", stage.daemon.log());
        }
    }
    listener.shutdown(std::net::Shutdown::Both).unwrap();
    attacking.join().unwrap();
    drop(listener);
    let report = load.stop();
    // Until it was out, it was asked for the real thing too.
    assert!(report.backends().contains_key(&2), "{report}");
    let config = ServerConfig::backend(&stage.topology, 1);
    stage.servers[0].start(&config).unwrap();
    stage.wait_for_health("b1", "up");
    stage.storm(&WEB, 1000).assert_clean(1000);
    stage.end();
}
