//! A card that backends are behind and that does not run the program.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::load::{Bounds, Request, Storm};
use lb_tests::server::Server;
use lb_tests::topology::{Family, PASS, Topology, client};

use crate::stage::{SHAPES, Turn, UDP, WEB};

const SOON: Duration = Duration::from_secs(20);
const REASON: &str = "packets would leave by eth1, where no program is attached";
const CURE: &str = "add eth1 to `interfaces`";

fn only_front(config: Config) -> Config {
    Config {
        interfaces: vec!["eth0".to_owned()],
        ..config
    }
}

fn all_barred(status: &Status, cure: &str) -> bool {
    let reason = format!("{REASON}: {cure}");
    let mut backends = status.services.iter().flat_map(|s| &s.backends);
    backends.all(|b| b.route == reason && b.share == 0)
}

/// What a command prints.
fn printed(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.cli(arguments).unwrap().succeeded().unwrap();
    output.stdout
}

/// Replies do not need the card: only what is redirected to it is at stake.
#[test]
fn backends_behind_a_card_without_the_program_are_told_and_serve_once_it_has_it() {
    let _turn = Turn::shared();
    let topology = Topology::build(SHAPES[2]).unwrap();
    let _servers = Server::threads(&topology).unwrap();
    let both = Config::lab(&topology);
    let mut daemon = Daemon::start(&topology, only_front(both.clone())).unwrap();
    daemon
        .wait_until("every backend is out of reach", SOON, |s| {
            all_barred(s, CURE)
        })
        .unwrap();
    let why = printed(&daemon, &["why", "web4/b1"]);
    assert!(why.contains(CURE), "{why}");
    assert!(daemon.log().contains(REASON));
    // What comes meanwhile is dropped and counted, and not sent to nowhere.
    let targets = daemon.config().targets(&UDP);
    topology.run_in("client", || {
        let target = targets[0];
        let socket = UdpSocket::bind((client(Family::V4), 0)).unwrap();
        socket.send_to(b"lost", target).unwrap();
    });
    daemon
        .wait_until("it is dropped", SOON, |s| s.data_plane.dropped() > 0)
        .unwrap();
    assert_eq!(daemon.status().unwrap().data_plane.redirect, 0);

    daemon.reload(both.clone()).unwrap();
    daemon
        .wait_until("all backends are up", SOON, |s| s.all_are("up"))
        .unwrap();
    let targets = daemon.config().targets(&WEB);
    let storm = || Storm::run(&topology, &targets, Request::Http("/"), Bounds::count(300));
    storm().unwrap().assert_clean(300);
    daemon.stop().unwrap();
    daemon.restart().unwrap();
    storm().unwrap().assert_clean(300);

    // And back: without a check in between.
    daemon.reload(only_front(both)).unwrap();
    let status = daemon.status().unwrap();
    assert!(all_barred(&status, CURE), "{status:?}");
    assert!(printed(&daemon, &["status"]).contains("no program is attached"));
    daemon.check_conservation().unwrap();
}

/// A program of somebody else holds the card: the daemon cannot attach its own.
fn held(xdp_mode: &'static str) -> (Topology, Vec<Server>, OwnedFd, Daemon) {
    let topology = Topology::build(SHAPES[2]).unwrap();
    let servers = Server::threads(&topology).unwrap();
    let holder = topology.attach_xdp("lb", "eth1", &PASS).unwrap();
    let config = Config {
        xdp_mode,
        ..Config::lab(&topology)
    };
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    daemon.spawn().unwrap();
    (topology, servers, holder, daemon)
}

/// With any program there its driver takes what is redirected to it.
#[test]
fn backends_behind_a_card_that_another_program_holds_serve() {
    let _turn = Turn::shared();
    let (topology, _servers, holder, daemon) = held("native");
    daemon
        .wait_until("all backends are up", SOON, |s| s.all_are("up"))
        .unwrap();
    assert!(!daemon.status().unwrap().ready);
    assert!(daemon.log().contains("holds it"), "{}", daemon.log());
    let targets = daemon.config().targets(&WEB);
    let storm = || Storm::run(&topology, &targets, Request::Http("/"), Bounds::count(300));
    storm().unwrap().assert_clean(300);
    drop(holder);
    daemon
        .wait_until("the card has ours", SOON, |s| s.ready && s.all_are("up"))
        .unwrap();
    storm().unwrap().assert_clean(300);
    daemon.check_conservation().unwrap();
}

#[test]
fn in_generic_mode_packets_leave_by_a_card_that_could_not_be_attached() {
    let _turn = Turn::shared();
    let (topology, _servers, _holder, daemon) = held("generic");
    daemon
        .wait_until("all backends are up", SOON, |s| s.all_are("up"))
        .unwrap();
    assert!(daemon.log().contains("holds it"), "{}", daemon.log());
    let targets = daemon.config().targets(&WEB);
    let storm = Storm::run(&topology, &targets, Request::Http("/"), Bounds::count(300));
    storm.unwrap().assert_clean(300);
    let status = daemon.status().unwrap();
    assert!(!status.ready, "{status:?}");
    let redirected = status.data_plane.redirect;
    assert!(redirected > 1000, "{redirected}");
    daemon.check_conservation().unwrap();
}
