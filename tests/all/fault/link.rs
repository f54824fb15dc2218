//! Links and interfaces of the balancer that fail, vanish and return.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_common::losses::Loss;
use lb_tests::capture::Capture;
use lb_tests::law::Excused;
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, Family, backend_mac, client};
use nix::net::if_::InterfaceFlags;

use crate::stage::{ECHO, SHAPES, Stage, Stalls, UDP, WEB, figure, wait_until};

/// Datagrams of the client to both UDP services, one to each every millisecond, until dropped.
struct Ticks {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticks {
    fn start(stage: &Stage) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = stage.topology.namespace("client").clone();
        let targets = stage.targets(&UDP);
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                client.enter().unwrap();
                let open = |target: SocketAddr| {
                    let any: IpAddr = match target {
                        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                    };
                    let socket = UdpSocket::bind((any, 0)).unwrap();
                    socket.connect(target).unwrap();
                    socket
                };
                let sockets: Vec<_> = targets.into_iter().map(open).collect();
                while !stop.load(Ordering::Relaxed) {
                    for socket in &sockets {
                        // The answers are left unread; an ICMP error is told by the next send.
                        let _ = socket.send(b"tick");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Waits until the kernel says that an interface carries frames (again): when.
fn running(stage: &Stage, host: &str, device: &str) -> Instant {
    let is_running = || {
        let mut all = nix::ifaddrs::getifaddrs().unwrap();
        let found = all.find(|i| i.interface_name == device).unwrap();
        found.flags.contains(InterfaceFlags::IFF_RUNNING)
    };
    stage.topology.run_in(host, || {
        wait_until("the link is up", Duration::from_secs(10), is_running);
        Instant::now()
    })
}

/// The first datagram of a client in each family that left for a backend after a moment.
fn first_forwarded(captures: &[Capture], family: Family, after: Instant) -> Option<Duration> {
    let frames = captures.iter().flat_map(Capture::frames);
    let wanted = frames.filter(|f| f.source == client(family) && f.protocol == 17 && f.at >= after);
    wanted.map(|f| f.at - after).min()
}

/// Both ends of a cable are up again: when. Until the switch takes its end for up, it forwards nothing.
fn both_running(stage: &Stage, device: &str) -> Instant {
    let shape = stage.topology.shape();
    let mut cables = shape.cables().into_iter();
    let cable = cables.find(|c| c.host == "lb" && c.device == device);
    let port = cable
        .unwrap_or_else(|| panic!("{device} in {shape:?}"))
        .port;
    std::thread::scope(|scope| {
        let own = scope.spawn(|| running(stage, "lb", device));
        let other = scope.spawn(move || running(stage, "switch", &port));
        stage.topology.restore_power("lb", device).unwrap();
        own.join().unwrap().max(other.join().unwrap())
    })
}

/// From the moment the cable carries frames again to the first packet of a client that is forwarded, and how late the machine was.
fn cut_for_a_while(stage: &Stage, device: &str, captures: &[Capture]) -> (Duration, Duration) {
    let stalls = Stalls::watch();
    stage.topology.cut_power("lb", device).unwrap();
    // Longer than it takes to find a dead backend.
    let cut = Instant::now();
    wait_until("the cut lasts", Duration::from_secs(2), || {
        cut.elapsed().as_millis() > 1200
    });
    let up = both_running(stage, device);
    // The kernel forgot all neighbours of the interface: they are asked for anew.
    stage.wait_for_routes();
    let first = || FAMILIES.map(|family| first_forwarded(captures, family, up));
    wait_until("it forwards again", Duration::from_secs(5), || {
        first().iter().all(Option::is_some)
    });
    let late = stalls.worst_since(up);
    let first = first();
    figure!("{device} up to the first packet forwarded {first:?}, machine late by {late:?}");
    (first.into_iter().flatten().max().unwrap(), late)
}

#[track_caller]
fn check_carrier(device: &str) {
    /// A machine that is busy with something else is late at each step of many: it may be so for a while.
    const TRIES: u64 = 8;
    /// What the port of a switch had received and not yet taken when it was cut is gone, and counted nowhere (veth frees its ring).
    const IN_THE_CABLE: u64 = 64;
    let stage = Stage::alone(SHAPES[0]);
    stage.storm(&ECHO, 500).assert_clean(500);
    let captures = [1, 2, 3].map(|n| {
        let port = stage.topology.shape().back_port();
        Capture::start(stage.topology.namespace("switch"), port, backend_mac(n)).unwrap()
    });
    let ticks = Ticks::start(&stage);
    let mut cuts = 0;
    loop {
        let (first, late) = cut_for_a_while(&stage, device, &captures);
        cuts += 1;
        // The kernel, the follower of its notices, the owner of the maps and the client each wait for their turn.
        if first <= Duration::from_millis(10) + 4 * late {
            break;
        }
        assert!(
            cuts < TRIES,
            "the first packet was forwarded {first:?} after the link was up"
        );
    }
    drop(ticks);
    for capture in &captures {
        assert_eq!(capture.lost().unwrap(), 0, "the capture missed frames");
    }
    let report = stage.storm(&ECHO, 3000);
    report.assert_clean(3000);
    assert_eq!(
        report.backends().into_keys().collect::<Vec<_>>(),
        [1, 2, 3],
        "{report}"
    );
    assert!(stage.daemon.status().unwrap().all_are("up"));
    stage.end_but(Excused {
        kept: cuts * IN_THE_CABLE,
        ..Excused::default()
    });
}

#[test]
fn l1_balancer_that_lost_the_link_to_its_clients_forwards_when_it_is_back() {
    check_carrier("eth0");
}

#[test]
fn l1_balancer_that_lost_the_link_to_its_backends_takes_none_of_them_for_dead() {
    check_carrier("eth1");
}

#[test]
fn l2_interface_that_was_deleted_and_made_again_is_attached_within_50_ms() {
    for device in ["eth0", "eth1"] {
        let mut stage = Stage::alone(SHAPES[0]);
        let stalls = Stalls::watch();
        let begin = Instant::now();
        stage.topology.delete_device("lb", device).unwrap();
        assert_eq!(stage.topology.has_xdp("lb", device).unwrap(), None);
        let seen = std::thread::scope(|scope| {
            let lb = stage.topology.namespace("lb").clone();
            let poll = scope.spawn(move || attached_after(&lb, device));
            stage.topology.recreate_device("lb", device).unwrap();
            poll.join().unwrap()
        });
        stage.count_again("lb", device);
        assert!(
            seen <= Duration::from_millis(50) + 2 * stalls.worst_since(begin),
            "{device} had no program for {seen:?}"
        );
        let all_up = |status: &lb_tests::daemon::Status| status.all_are("up");
        stage.wait("all backends are up", all_up);
        wait_until("it forwards", Duration::from_secs(3), || {
            stage.storm(&WEB, 2).failures.is_empty()
        });
        stage.storm(&ECHO, 3000).assert_clean(3000);
        stage.end();
    }
}

/// From the moment an interface is there to the moment it has an XDP program.
fn attached_after(lb: &lb_tests::topology::Namespace, device: &str) -> Duration {
    let begin = Instant::now();
    let mut there = None;
    while begin.elapsed() < Duration::from_secs(10) {
        match lb_tests::topology::has_xdp(lb, device).unwrap() {
            None => {}
            Some(false) => drop(there.get_or_insert_with(Instant::now)),
            Some(true) => return there.map_or(Duration::ZERO, |at| at.elapsed()),
        }
    }
    panic!("{device} got no XDP program within 10 s");
}

/// Packets that got lost behind the program, by interface and how; all kinds are told of both interfaces.
fn lost(stage: &Stage) -> BTreeMap<(String, String), u64> {
    let losses = stage.daemon.status().unwrap().losses;
    assert_eq!(losses.trouble, None);
    let lost = losses.lost.into_iter();
    let lost: BTreeMap<_, _> = lost
        .map(|lost| ((lost.interface, lost.how), lost.packets))
        .collect();
    assert_eq!(lost.len(), 2 * Loss::ALL.len(), "{lost:?}");
    lost
}

#[test]
fn l8_packets_that_an_interface_does_not_take_are_counted_and_said() {
    let mut stage = Stage::alone_with(SHAPES[0], Server::threads, |mut config| {
        for service in &mut config.services {
            service.health.kind = "none";
            service.health.port = None;
        }
        config
    });
    stage.storm(&ECHO, 500).assert_clean(500);
    let none = lost(&stage);
    assert!(none.values().all(|packets| *packets == 0), "{none:?}");
    let said = |stage: &Stage| {
        let output = stage.daemon.cli(&["status"]).unwrap();
        output.stdout
    };
    assert!(!said(&stage).contains("LOST"), "{}", said(&stage));

    // A veth takes redirected packets only where its other end works with XDP; since Linux 6.3 the kernel knows before it tries.
    stage.topology.free_port(stage.topology.shape().back_port());
    let total = |stage: &Stage| lost(stage).values().sum::<u64>();
    // A last packet of a connection may have come until now.
    let redirected = || stage.daemon.counters_at_rest().unwrap().redirect;
    let arrived = loop {
        // One that is lost between two looks would be missing for ever.
        let (before, lost) = (redirected(), total(&stage));
        if redirected() == before {
            break before - lost;
        }
    };
    let ticks = Ticks::start(&stage);
    let many = || total(&stage) > 500;
    wait_until("packets are lost", Duration::from_secs(10), many);
    drop(ticks);
    wait_until("all are counted", Duration::from_secs(10), || {
        total(&stage) == redirected() - arrived
    });
    let packets = total(&stage);
    let at =
        |interface: &str, how: Loss| lost(&stage)[&(interface.to_owned(), how.label().to_owned())];
    let ways = [("eth0", Loss::Redirect), ("eth1", Loss::Transmit)];
    let (interface, how) = ways
        .into_iter()
        .find(|(interface, how)| at(interface, *how) == packets)
        .unwrap_or_else(|| panic!("{:?}", lost(&stage)));
    let line = format!(
        "LOST behind the program ({}): {packets} at {interface}: the ",
        how.label()
    );
    assert!(said(&stage).contains(&line), "{}", said(&stage));
    stage.daemon.check_conservation().unwrap();
}
