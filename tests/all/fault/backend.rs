//! Backends that die, freeze, move or come back.

use std::time::{Duration, Instant};

use lb_tests::capture::{Capture, Frame};
use lb_tests::daemon::{Config, Health, Protocol};
use lb_tests::law::Excused;
use lb_tests::load::{Long, Report};
use lb_tests::server::{Config as ServerConfig, Server};
use lb_tests::topology::{FAMILIES, backend_mac, client};

use crate::stage::{ECHO, SHAPES, Stage, Stalls, WEB, figure, long, wait_until};

/// Checks alone find who fails, at their turns: what packets show would find it earlier.
pub(super) fn active(mut config: Config) -> Config {
    let services = config.services.iter_mut();
    for service in services.filter(|service| service.protocol == Protocol::Tcp) {
        service.health.extra = "passive = false";
    }
    config
}

/// Until a dead backend must have got its last packet.
pub(super) fn bound() -> Duration {
    Duration::from_millis(Health::LAB.bound_ms() + 10)
}

/// The same of one that refuses: no probe has to wait for its timeout (RELIABILITY B1).
fn refused_bound() -> Duration {
    let timeout = Duration::from_millis(Health::LAB.timeout_ms);
    bound().saturating_sub(timeout)
}

fn capture(stage: &Stage, n: u8) -> Capture {
    let port = stage.topology.shape().back_port();
    Capture::start(stage.topology.namespace("switch"), port, backend_mac(n)).unwrap()
}

/// The last frame of a client to the captured MAC address, after a moment.
fn last_after(capture: &Capture, moment: Instant, wanted: impl Fn(&Frame) -> bool) -> Duration {
    assert_eq!(capture.lost().unwrap(), 0, "the capture missed frames");
    let of_client = |f: &Frame| FAMILIES.map(client).contains(&f.source) && wanted(f);
    capture
        .last(of_client)
        .map_or(Duration::ZERO, |f| f.at.saturating_duration_since(moment))
}

/// No failure but in the time in which the balancer could not know yet.
#[track_caller]
fn check_failures(report: &Report, from: Instant, stalls: &Stalls) {
    let until = from + bound() + stalls.worst_since(from);
    let outside = report.failures_outside(from, until);
    assert!(outside.is_empty(), "{outside:?}\n{report}");
}

#[test]
fn b1_dead_process_gets_no_new_flows_and_returns() {
    let mut stage = Stage::alone_with(SHAPES[0], Server::processes, active);
    let stalls = Stalls::watch();
    let capture = capture(&stage, 1);
    let load = stage.load(&WEB, 500);
    wait_until("the load runs", Duration::from_secs(5), || {
        load.begun() > 200
    });
    let killed = Instant::now();
    stage.servers[0].kill();
    stage.wait_for_health("b1", "down");
    let down = Instant::now();
    stage.storm(&ECHO, 3000).assert_clean(3000);
    let last = last_after(&capture, killed, Frame::is_syn);
    assert!(
        last <= refused_bound() + stalls.worst_since(killed),
        "the last new flow to the dead process came after {last:?}"
    );
    let config = ServerConfig::backend(&stage.topology, 1);
    stage.servers[0].start(&config).unwrap();
    stage.wait_for_health("b1", "up");
    let report = stage.storm(&ECHO, 3000);
    report.assert_clean(3000);
    assert!(report.backends().contains_key(&1), "{report}");
    let report = load.stop();
    check_failures(&report, killed, &stalls);
    assert!(
        down - killed <= bound() + Duration::from_millis(200),
        "{:?}",
        down - killed
    );
    stage.end();
}

#[test]
fn b2_backend_without_power_gets_its_last_packet_in_time_and_returns() {
    for shape in [SHAPES[0], SHAPES[3]] {
        let stage = Stage::alone_with(shape, Server::threads, active);
        let stalls = Stalls::watch();
        let capture = capture(&stage, 1);
        let load = stage.load(&WEB, 500);
        wait_until("the load runs", Duration::from_secs(5), || {
            load.begun() > 200
        });
        let cut = Instant::now();
        stage.topology.cut_power("b1", "eth0").unwrap();
        stage.wait_for_health("b1", "down");
        stage.storm(&ECHO, 3000).assert_clean(3000);
        let last = last_after(&capture, cut, |_| true);
        assert!(
            last <= bound() + stalls.worst_since(cut),
            "the last packet to the dead backend came after {last:?}"
        );
        stage.topology.restore_power("b1", "eth0").unwrap();
        stage.wait_for_health("b1", "up");
        let back = stage.storm(&ECHO, 3000);
        back.assert_clean(3000);
        assert!(back.backends().contains_key(&1), "{back}");
        check_failures(&load.stop(), cut, &stalls);
        stage.end();
    }
}

/// How long after its power was cut a backend got its last packet, over many cuts, each at another
/// point between two probes.
#[test]
fn b2_time_to_the_last_packet_is_spread_below_its_bound() {
    let cuts = if long() { 200 } else { 20 };
    let stage = Stage::alone_with(SHAPES[0], Server::threads, active);
    let stalls = Stalls::watch();
    let interval = Duration::from_millis(Health::LAB.interval_ms);
    let mut times = vec![];
    let mut worst_late = Duration::ZERO;
    for cut_number in 0..cuts {
        let capture = capture(&stage, 1);
        let load = stage.load(&WEB, 500);
        wait_until("the load reaches b1", Duration::from_secs(5), || {
            capture.frames().iter().filter(|f| f.is_syn()).count() > 20
        });
        // The golden ratio spreads any number of points evenly over the interval.
        let phase = interval.mul_f64(f64::from(cut_number) * 0.618_033_988_75 % 1.0);
        std::thread::sleep(phase);
        let cut = Instant::now();
        stage.topology.cut_power("b1", "eth0").unwrap();
        stage.wait_for_health("b1", "down");
        let late = stalls.worst_since(cut);
        // It is down: whatever is begun now goes elsewhere.
        let begun = load.begun();
        wait_until("more flows are begun", Duration::from_secs(5), || {
            load.begun() > begun + 50
        });
        check_failures(&load.stop(), cut, &stalls);
        // Each family is a service of its own, with probes of its own.
        for family in FAMILIES {
            let last = last_after(&capture, cut, |f| f.source == client(family));
            assert!(last > Duration::ZERO, "no packet after the cut");
            assert!(
                last <= bound() + late,
                "the last packet came after {last:?}, the machine was late by {late:?}"
            );
            times.push(last);
        }
        worst_late = worst_late.max(late);
        stage.topology.restore_power("b1", "eth0").unwrap();
        stage.wait_for_health("b1", "up");
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    figure!(
        "B2, power cut to the last packet, {cuts} cuts: median {:?}, 99 % {:?}, worst {:?} of at most {:?}; \
         the machine was late by {worst_late:?} at worst",
        at(50),
        at(99),
        at(100),
        bound()
    );
    stage.end();
}

#[test]
fn b3_frozen_server_is_found_although_its_kernel_accepts() {
    let stage = Stage::alone_with(SHAPES[0], Server::processes, active);
    let stalls = Stalls::watch();
    let load = stage.load(&WEB, 300);
    wait_until("the load runs", Duration::from_secs(5), || {
        load.begun() > 100
    });
    let frozen = Instant::now();
    stage.servers[1].freeze().unwrap();
    stage.wait_for_health("b2", "down");
    stage.storm(&ECHO, 2000).assert_clean(2000);
    stage.servers[1].thaw().unwrap();
    stage.wait_for_health("b2", "up");
    check_failures(&load.stop(), frozen, &stalls);
    stage.end();
}

#[test]
fn b9_backend_with_another_mac_address_is_reached_at_once() {
    const NEW: [u8; 6] = [0x02, 0xf1, 0xff, 0, 1, 2];
    let stage = Stage::alone(SHAPES[0]);
    let stalls = Stalls::watch();
    // It announces its new address, as a host that takes over an address does.
    let announce = [
        ("net/ipv4/conf/eth0/arp_notify", "1"),
        ("net/ipv6/conf/eth0/ndisc_notify", "1"),
    ];
    stage.topology.namespace("b2").sysctl(&announce).unwrap();
    // The balancer's kernel believes it even if it has just heard another one.
    let believe = [("net/ipv4/neigh/eth1/locktime", "0")];
    stage.topology.namespace("lb").sysctl(&believe).unwrap();
    let (old, new) = (capture(&stage, 2), {
        let switch = stage.topology.namespace("switch");
        Capture::start(switch, stage.topology.shape().back_port(), NEW).unwrap()
    });
    let load = stage.load(&WEB, 1000);
    wait_until("the load runs", Duration::from_secs(5), || {
        load.begun() > 300
    });
    let waited = || stage.daemon.waited_for_cpu().unwrap();
    let before = waited();
    let changed = Instant::now();
    stage.topology.change_mac("b2", "eth0", NEW).unwrap();
    let announced = Instant::now();
    wait_until(
        "b2 is reached by its new address",
        Duration::from_secs(5),
        || {
            FAMILIES
                .iter()
                .all(|f| new.last(|frame| frame.source == client(*f)).is_some())
        },
    );
    let late = waited() - before;
    let report = stage.storm(&ECHO, 3000);
    report.assert_clean(3000);
    assert!(report.backends().contains_key(&2), "{report}");
    let last = last_after(&old, announced, |_| true);
    assert!(
        last <= Duration::from_millis(10) + late,
        "a packet to the old address after {last:?}"
    );
    let failures = load.stop();
    let outside = failures.failures_outside(
        changed,
        announced + Duration::from_millis(10) + late + stalls.worst_since(changed),
    );
    assert!(outside.is_empty(), "{outside:?}");
    let astray = old.frames().iter().filter(|f| f.at >= changed).count() as u64;
    figure!(
        "B9: last packet to the old address after {last:?}, {astray} in all; waits for a CPU {late:?}"
    );
    stage.end_but(Excused {
        astray,
        ..Excused::default()
    });
}

#[test]
fn b10_when_all_probes_fail_at_once_the_checker_is_suspected_and_nobody_is_taken_out() {
    let stage = Stage::new(SHAPES[0]);
    let load = stage.load(&WEB, 300);
    // Only what the balancer itself sends, which is what its probes are.
    let rules = "table inet fault { chain out { type filter hook output priority 0;
        tcp dport 8080 drop
        }
    }";
    stage.topology.nft("lb", rules).unwrap();
    stage.wait("the checker is suspected", |status| status.checker_suspect);
    let report = stage.storm(&ECHO, 6000);
    report.assert_clean(6000);
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    stage.topology.nft("lb", "delete table inet fault").unwrap();
    stage.wait("all is well again", |s| {
        !s.checker_suspect && s.all_are("up")
    });
    load.stop().assert_clean(1);
    stage.end();
}

#[test]
fn b11_when_all_are_really_down_the_policy_of_the_service_decides_and_every_packet_is_counted() {
    const CLOSED: u64 = 32;
    let mut stage = Stage::with(SHAPES[0], Server::processes, |mut config| {
        config.extra = "velocity-window = \"500ms\"".to_owned();
        for service in &mut config.services {
            let policy = if service.name.starts_with("echo") {
                "closed"
            } else {
                "open"
            };
            service.extra += &format!("\nall-down = \"fail-{policy}\"");
        }
        config
    });
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.servers.iter_mut().for_each(Server::kill);
    // Half of a pool within a window, and nothing before a window without any good probe.
    stage.wait("all are down", |status| status.all_are("down"));
    let counters = |stage: &Stage| stage.daemon.counters_at_rest().unwrap();
    let before = counters(&stage);
    assert_eq!(before.drops["no_backend"], 0);
    // No answer, and too late for a SYN to be sent again.
    let closed = stage.storm(&ECHO, CLOSED);
    assert_eq!(closed.failures.len() as u64, CLOSED, "{closed}");
    let after = counters(&stage);
    assert_eq!(after.drops["no_backend"], CLOSED, "{after:?}");
    assert_eq!(after.redirect, before.redirect, "{after:?}");
    let flows = |stage: &Stage| {
        let status = stage.daemon.status().unwrap();
        let backends = WEB
            .iter()
            .flat_map(|s| (1..=3).map(move |n| format!("{s}/b{n}")));
        backends
            .map(|key| status.backend(&key).traffic.new_flows)
            .sum::<u64>()
    };
    let scheduled = flows(&stage);
    // The hosts are there and refuse: they were asked.
    let open = stage.storm(&WEB, 300);
    assert!(
        open.failures.len() == 300 && open.failures.iter().all(|f| f.reason.contains("refused")),
        "{open}"
    );
    // One that was refused leaves its port to the next one, which then is the same flow.
    let asked = flows(&stage) - scheduled;
    assert!((280..=300).contains(&asked), "{asked}");
    assert_eq!(counters(&stage).drops["no_backend"], CLOSED);
    for n in 1..=3 {
        let config = ServerConfig::backend(&stage.topology, n);
        stage.servers[usize::from(n) - 1].start(&config).unwrap();
    }
    stage.wait("all are up again", |status| status.all_are("up"));
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}

#[test]
fn b12_backend_that_returns_gets_new_flows_and_none_that_is_established() {
    let mut stage = Stage::with_processes(SHAPES[0]);
    stage.servers[2].kill();
    stage.wait_for_health("b3", "down");
    let minute = Duration::from_secs(60);
    let long = Long::start(&stage.topology, &stage.targets(&ECHO), 100, minute).unwrap();
    long.wait_until_established(Duration::from_secs(10))
        .unwrap();
    assert_eq!(long.living().into_keys().collect::<Vec<_>>(), [1, 2]);
    let config = ServerConfig::backend(&stage.topology, 3);
    stage.servers[2].start(&config).unwrap();
    stage.wait_for_health("b3", "up");
    let report = stage.storm(&ECHO, 3000);
    report.assert_clean(3000);
    assert!(report.backends()[&3] > 800, "{report}");
    // A connection that was moved would be answered by a reset.
    let connections = long.stop();
    assert!(
        connections.len() == 100 && connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}
