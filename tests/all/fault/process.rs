//! The daemon that is killed, stopped, or started twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_tests::daemon::{BackendConfig, Health};
use lb_tests::server::Server;
use lb_userspace::dataplane::Dataplane;
use lb_userspace::dataplane::bpf::Opening;
use lb_userspace::embedded;
use nix::sys::signal::Signal;

use crate::stage::{ECHO, SHAPES, Stage, long, wait_until};

#[test]
fn p1_daemon_that_is_killed_at_any_moment_hurts_nobody() {
    let mut stage = Stage::alone(SHAPES[0]);
    let load = stage.load(&ECHO, 1500);
    let kills = if long() { 100 } else { 10 };
    for round in 0..kills {
        // Moments from the first milliseconds of a start on.
        stage.daemon.kill().unwrap();
        stage.daemon.spawn().unwrap();
        let started = Instant::now();
        let moment = Duration::from_millis(round * 37 % 370 + round / 10);
        wait_until("the moment has come", Duration::from_secs(5), || {
            started.elapsed() >= moment
        });
    }
    stage.daemon.kill().unwrap();
    stage.daemon.restart().unwrap();
    stage.wait("all backends are up", |status| status.all_are("up"));
    load.stop().assert_clean(1);
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}

#[test]
fn p3_daemon_that_was_frozen_takes_nobody_for_dead() {
    let mut stage = Stage::new(SHAPES[0]);
    let load = stage.load(&ECHO, 1000);
    stage
        .daemon
        .process()
        .unwrap()
        .signal(Signal::SIGSTOP)
        .unwrap();
    let frozen = Instant::now();
    let seconds = if long() { 60 } else { 10 };
    wait_until("it is frozen", Duration::from_secs(90), || {
        frozen.elapsed().as_secs() >= seconds
    });
    stage
        .daemon
        .process()
        .unwrap()
        .signal(Signal::SIGCONT)
        .unwrap();
    let awake = Instant::now();
    while awake.elapsed() < Duration::from_secs(1) {
        let status = stage.daemon.status().unwrap();
        assert!(status.all_are("up"), "{status:#?}");
    }
    load.stop().assert_clean(1);
    stage.end();
}

#[test]
fn p10_daemon_that_wakes_after_a_takeover_ends_without_a_write() {
    let mut stage = Stage::with_processes(SHAPES[0]);
    let load = stage.load(&ECHO, 500);
    let old = stage.daemon.process().unwrap();
    old.signal(Signal::SIGSTOP).unwrap();
    let (mut next, opening) = stage.take_over(embedded::OBJECT).unwrap();
    assert!(
        matches!(opening, Opening::Adopted { owner_epoch: 2, .. }),
        "{opening:?}"
    );
    let before = next.actual().unwrap();
    load.stop().assert_clean(1);
    // Something that it would write about.
    stage.servers.iter_mut().take(1).for_each(Server::kill);
    let old = stage.daemon.process().unwrap();
    old.signal(Signal::SIGCONT).unwrap();
    let status = old.wait(Duration::from_secs(10)).unwrap();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert_eq!(next.actual().unwrap(), before);
    let log = stage.daemon.log();
    assert!(log.contains("owner epoch"), "{log}");
    drop(next);
    stage.daemon.restart().unwrap();
    stage.wait_for_health("b1", "down");
    stage.storm(&ECHO, 2000).assert_clean(2000);
    stage.end();
}

/// The soft and hard limit of open files of a process.
fn open_files(pid: u32) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("Max open files"));
    let mut words = line.unwrap().split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn set_open_files(pid: u32, soft: &str, hard: &str) {
    let limit = format!("--nofile={soft}:{hard}");
    let status = std::process::Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &limit])
        .status();
    assert!(status.unwrap().success());
}

/// Fault P6: no descriptor is left. Checks say nothing, and nobody is taken for dead.
#[test]
fn p6_daemon_without_a_free_descriptor_takes_nobody_for_dead() {
    // Patient, so that nothing but the lack of descriptors can be taken for a fault.
    let mut stage = Stage::with(SHAPES[0], Server::threads, |mut config| {
        for service in &mut config.services {
            service.health.interval_ms = 500;
            service.health.timeout_ms = 490;
            service.health.fall = 3;
        }
        config
    });
    let downs = |stage: &Stage| stage.daemon.log().matches("to=Down").count();
    let load = stage.load(&ECHO, 500);
    let pid = stage.daemon.process().unwrap().pid();
    let (soft, hard) = open_files(pid);
    assert_eq!(soft, hard, "it takes what it may have");
    // What is open stays open.
    set_open_files(pid, "1", &hard);
    let (begun, before) = (load.begun(), downs(&stage));
    let without = Instant::now();
    wait_until("rounds have passed", Duration::from_secs(60), || {
        load.begun() > begun + 1000 && without.elapsed() > Duration::from_secs(5)
    });
    set_open_files(pid, &soft, &hard);
    let told = stage.daemon.cli(&["why", "web4/b1"]).unwrap();
    let told = told.succeeded().unwrap().stdout;
    assert!(
        told.contains("no file descriptor left in this process"),
        "{told}"
    );
    stage.wait("all are up", |status| {
        status.all_are("up") && !status.checker_suspect
    });
    assert_eq!(downs(&stage), before, "{}", stage.daemon.log());
    load.stop().assert_clean(1000);
    stage.end();
}

/// A limit below which so many numbers of descriptors are free.
fn limit_with_free(pid: u32, free: usize) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str().unwrap().parse::<u64>();
    let open: BTreeSet<u64> = open.map(|entry| number(entry.unwrap()).unwrap()).collect();
    let mut numbers = (0..).filter(|number| !open.contains(number));
    numbers.nth(free).unwrap()
}

#[test]
fn p6_who_asks_has_an_answer_when_checks_have_taken_all_descriptors() {
    // Checks of 60 ports that answer nothing are under way nearly all the time, and hold a descriptor each.
    let mut stage = Stage::with(SHAPES[0], Server::threads, |mut config| {
        for service in &mut config.services {
            service.health.interval_ms = 500;
            service.health.timeout_ms = 490;
            service.health.fall = 3;
        }
        config
    });
    let drop = "table inet silent { chain input { type filter hook input priority 0; tcp dport 9000-9059 drop\n }\n }";
    stage.topology.nft("b1", drop).unwrap();
    let mut config = stage.daemon.config().clone();
    let mut silent = config.service("echo4").clone();
    (silent.name, silent.port) = ("silent".to_owned(), 9);
    silent.health = Health {
        kind: "tcp",
        interval_ms: 500,
        timeout_ms: 490,
        port: None,
        ..silent.health
    };
    let like = silent.backends[0].clone();
    let backend = |n: u16| BackendConfig {
        name: format!("p{n}"),
        port: 9000 + n,
        ..like.clone()
    };
    silent.backends = (0..60).map(backend).collect();
    config.services.push(silent);
    let pid = stage.daemon.process().unwrap().pid();
    let few = limit_with_free(pid, 12).to_string();
    stage.daemon.reload(config).unwrap();
    let (soft, hard) = open_files(pid);
    let load = stage.load(&ECHO, 300);
    set_open_files(pid, &few, &hard);
    let said = |stage: &Stage| {
        let why = |n| stage.daemon.cli(&["why", &format!("silent/p{n}")]).unwrap();
        let lacks = |n| {
            let why = why(n).succeeded().unwrap().stdout;
            why.contains("no file descriptor left in this process")
        };
        (0..60).step_by(7).any(lacks)
    };
    wait_until("checks lack descriptors", Duration::from_secs(60), || {
        said(&stage)
    });
    for _ in 0..20 {
        let status = stage.daemon.status().unwrap();
        for name in ["web4", "echo4", "echo6"] {
            let service = status.service(name).unwrap();
            let all_up = service.backends.iter().all(|b| b.health == "up");
            assert!(all_up, "{service:?}");
        }
    }
    assert!(said(&stage));
    set_open_files(pid, &soft, &hard);
    let log = stage.daemon.log();
    let false_downs = log.lines().filter(|line| line.contains("to=Down"));
    assert_eq!(
        false_downs
            .filter(|line| !line.contains("service=silent"))
            .count(),
        0,
        "{log}"
    );
    load.stop().assert_clean(500);
    stage.end();
}

/// Lets a process run for 5 ms of every 100, until told to stop.
fn starve(pid: u32, done: &std::sync::atomic::AtomicBool) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    while !done.load(std::sync::atomic::Ordering::SeqCst) {
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        std::thread::sleep(Duration::from_millis(95));
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fault P7: the daemon gets a twentieth of a CPU. Nobody is taken for dead; who is dead is found, though late.
#[test]
fn p7_daemon_that_is_starved_of_cpu_takes_nobody_for_dead_but_who_is() {
    let mut stage = Stage::with(SHAPES[0], Server::processes, |mut config| {
        for service in &mut config.services {
            service.health.interval_ms = 1000;
            service.health.timeout_ms = 500;
        }
        config
    });
    let load = stage.load(&ECHO, 300);
    let pid = stage.daemon.process().unwrap().pid();
    let done = std::sync::atomic::AtomicBool::new(false);
    let seconds = if long() { 60 } else { 10 };
    std::thread::scope(|scope| {
        let starving = scope.spawn(|| starve(pid, &done));
        let began = Instant::now();
        wait_until("it is starved", Duration::from_secs(90), || {
            began.elapsed().as_secs() >= seconds
        });
        let log = stage.daemon.log();
        let nobody = !log.contains("to=Down");
        load.stop().assert_clean(1000);
        stage.servers[2].kill();
        let patience = Duration::from_secs(60);
        let found = stage.daemon.wait_until("b3 is down", patience, |status| {
            let mut all = status.services.iter().flat_map(|s| &s.backends);
            all.all(|b| b.health == if b.name == "b3" { "down" } else { "up" })
        });
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        starving.join().unwrap();
        assert!(nobody, "{log}");
        found.unwrap();
    });
    // How late checks began is there for monitoring: most of the time it was stopped for 95 ms of 100.
    let page = crate::ops::metrics::page(&stage.topology);
    let late = &page["fairlead_check_late_seconds_bucket"];
    let within = |limit: &str| {
        let mut found = late
            .iter()
            .filter(|(labels, _)| labels.contains(&format!("le=\"{limit}\"")));
        *found.next().unwrap().1
    };
    assert!(within("+Inf") - within("0.01") > 10.0, "{late:?}");
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}
