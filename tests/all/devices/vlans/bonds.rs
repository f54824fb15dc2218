//! What belongs to a bond comes and goes, while connections go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::server::Server;
use lb_tests::topology::{Cable, Forwarding, Topology};

use super::super::{PATIENCE, echoing, ip};
use super::{EVERYTHING, json, network, rehang};
use crate::stage::{ECHO, Turn, UDP, figure, wait_until};
use quiet::Quiet;
use talk::Talk;

mod modes;
mod quiet;
mod talk;

/// Answers that show that a connection goes on.
const ENOUGH: u64 = 5;

fn on_lb(topology: &Topology, line: &str) {
    ip(topology, "lb", line);
}

/// Puts the balancer's interface into a bond, which gets its addresses.
pub(super) fn bond(topology: &Topology) {
    on_lb(
        topology,
        "link add bond0 type bond mode active-backup miimon 100",
    );
    on_lb(topology, "link set bond0 up");
    rehang(topology, "lb", "eth0", "bond0", EVERYTHING);
    join(topology, "eth0");
}

fn join(topology: &Topology, device: &str) {
    on_lb(topology, &format!("link set {device} down"));
    on_lb(topology, &format!("link set {device} master bond0"));
}

/// Another cable of the balancer.
fn spare() -> Cable {
    Cable {
        host: "lb".to_owned(),
        device: "eth5",
        mac: [0x02, 0xf1, 0, 0, 0, 5],
        port: "lb5".to_owned(),
        bridge: "front",
        addresses: vec![],
        routes: vec![],
    }
}

/// The interface that the bond sends by.
fn active(topology: &Topology) -> String {
    let shown = json(topology, "lb", "-j -d link show bond0");
    let active = &shown[0]["linkinfo"]["info_data"]["active_slave"];
    active.as_str().unwrap_or_default().to_owned()
}

/// The bond has found that an interface has carrier.
fn is_working(topology: &Topology, device: &str) -> bool {
    let shown = json(topology, "lb", &format!("-j -d link show {device}"));
    let of_bond = &shown[0]["linkinfo"]["info_slave_data"];
    of_bond["mii_status"].as_str() == Some("UP")
}

/// Packets that came in by an interface, and that left by it.
fn packets(topology: &Topology, device: &str) -> [u64; 2] {
    let shown = json(topology, "lb", &format!("-j -s link show {device}"));
    ["rx", "tx"].map(|way| shown[0]["stats64"][way]["packets"].as_u64().unwrap())
}

/// A balancer with a bond, and who talks through it.
struct Scene<'a> {
    topology: &'a Topology,
    daemon: &'a Daemon,
    talks: &'a [Talk],
    forwarding: Forwarding,
}

impl Scene<'_> {
    /// All that is open goes on after a change, and says how long that took.
    fn goes_on(&self, after: &str) {
        let begin = Instant::now();
        let before: Vec<u64> = self.talks.iter().map(Talk::answers).collect();
        let enough = || {
            let mut pairs = self.talks.iter().zip(&before);
            pairs.all(|(talk, before)| talk.answers() >= before + ENOUGH)
        };
        wait_until(&format!("all go on after {after}"), PATIENCE, enough);
        let took = begin.elapsed();
        let gaps: Vec<_> = self.talks.iter().map(Talk::take_gap).collect();
        let longest = gaps.iter().map(|gap| gap.longest).max();
        let lost: u64 = gaps.iter().map(|gap| gap.lost).sum();
        let dropped = self.daemon.status().unwrap().data_plane.dropped();
        figure!(
            "bond, {:?}: {after}: all have {ENOUGH} answers more in {} ms; longest silence of one {} ms, {lost} datagrams unanswered; {dropped} dropped by now",
            self.forwarding,
            took.as_millis(),
            longest.unwrap_or_default().as_millis()
        );
    }

    /// All that comes and goes does so by this interface.
    fn goes_by(&self, device: &str, after: &str) {
        let is_active = || active(self.topology) == device;
        let took = wait_until(&format!("{device} is the active one"), PATIENCE, is_active);
        figure!(
            "bond, {:?}: {after}: {device} is the active one after {} ms",
            self.forwarding,
            took.as_millis()
        );
        self.goes_on(after);
        let before = packets(self.topology, device);
        let rx = self.daemon.status().unwrap().data_plane.rx;
        self.goes_on(&format!("{after}, later"));
        let [came, left] = packets(self.topology, device);
        assert!(came > before[0], "{device} received nothing");
        assert!(left > before[1], "{device} sent nothing");
        let counted = |status: &Status| status.data_plane.rx > rx;
        self.daemon
            .wait_until("the program sees packets", PATIENCE, counted)
            .unwrap();
    }

    /// Connections whose clients have asked by now, and hear nothing yet.
    fn quiet(&self) -> Vec<Quiet> {
        let targets = self.daemon.config().targets(&["quiet4", "quiet6"]);
        let open = |target| Quiet::open(self.topology, target);
        let mut quiet: Vec<_> = targets.into_iter().map(open).collect();
        quiet.iter_mut().for_each(Quiet::ask);
        quiet
    }

    fn change_members(&self) {
        let topology = self.topology;
        self.goes_on("the beginning");
        join(topology, "eth5");
        self.goes_by("eth0", "eth5 joined");

        wait_until("eth5 works", PATIENCE, || is_working(topology, "eth5"));
        on_lb(topology, "link set eth0 down");
        self.goes_by("eth5", "the active one, eth0, went down");

        on_lb(topology, "link set eth0 up");
        wait_until("eth0 works", PATIENCE, || is_working(topology, "eth0"));
        self.goes_on("eth0 returned");
        // Their clients are silent from here on, and came by the one that leaves.
        let mut quiet = self.quiet();
        on_lb(topology, "link set eth5 nomaster");
        self.goes_by("eth0", "the active one, eth5, left");
        let begin = Instant::now();
        quiet.iter_mut().for_each(Quiet::answer);
        figure!(
            "bond, {:?}: {} silent clients have their answers after {} ms",
            self.forwarding,
            quiet.len(),
            begin.elapsed().as_millis()
        );

        join(topology, "eth5");
        wait_until("eth5 works", PATIENCE, || is_working(topology, "eth5"));
        self.goes_on("eth5 returned");
        // The bond has its MAC address from this one.
        on_lb(topology, "link set eth0 down");
        on_lb(topology, "link set eth0 nomaster");
        self.goes_by("eth5", "the active one, eth0, went down and left");
    }
}

/// Ends those who talk, whatever happens.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn members_change(forwarding: Forwarding) {
    let mut topology = network(forwarding);
    let _servers = Server::threads(&topology).unwrap();
    topology.add_cable(spare()).unwrap();
    // Up and by itself it would answer ARP for the bond's addresses with its own MAC address.
    on_lb(&topology, "link set eth5 down");
    bond(&topology);
    let mut config = Config {
        interfaces: vec!["bond0".to_owned()],
        ..echoing(&topology)
    };
    // That checks are late on a busy machine, or lost with an interface, is not what this is about.
    for service in &mut config.services {
        service.health.fall = 1000;
    }
    let health = config.services[0].health.clone();
    config.services.extend(quiet::services(&topology, &health));
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();

    let tcp = daemon.config().targets(&ECHO);
    let udp = daemon.config().targets(&UDP);
    let talks: Vec<Talk> = tcp
        .into_iter()
        .map(|target| Talk::connect(&topology, target))
        .chain(udp.into_iter().map(|target| Talk::bind(&topology, target)))
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for talk in &talks {
            scope.spawn(|| talk.run(&stop));
        }
        let scene = Scene {
            topology: &topology,
            daemon: &daemon,
            talks: &talks,
            forwarding,
        };
        scene.change_members();
    });
    let status = daemon.wait_until("all are up", PATIENCE, all).unwrap();
    let drops = status
        .data_plane
        .drops
        .iter()
        .filter(|(_, count)| **count != 0);
    figure!(
        "bond, {forwarding:?}: drops {:?}",
        drops.collect::<Vec<_>>()
    );
    daemon.check_conservation().unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}

#[test]
fn connections_go_on_while_interfaces_of_a_bond_come_and_go() {
    let _turn = Turn::shared();
    for forwarding in [Forwarding::Dnat, Forwarding::L2dsr] {
        members_change(forwarding);
    }
}
