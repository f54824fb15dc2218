//! Bonds that send by all that belongs to them, with a bond at the other end of the cables, as a switch has.

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::server::Server;
use lb_tests::topology::{Forwarding, Topology};

use super::super::super::{PATIENCE, ask_all, echoing, ip};
use super::super::{EVERYTHING, json, network, rehang};
use super::{join, on_lb, packets, spare};
use crate::stage::{Turn, figure, wait_until};

const MEMBERS: [&str; 2] = ["eth0", "eth5"];

/// Bonds at both ends of two cables. `kind`: the mode and its options.
fn bond_both_ends(topology: &mut Topology, kind: &str) {
    topology.add_cable(spare()).unwrap();
    let add = format!("link add bond0 type bond mode {kind} miimon 100");
    // Up and by itself it would answer ARP for the bond's addresses. The other keeps its addresses until the bond takes them.
    on_lb(topology, "link set eth5 down");
    on_lb(topology, &add);
    ip(topology, "switch", &add);
    for port in ["lb", "lb5"] {
        for line in [
            format!("link set {port} nomaster"),
            format!("link set {port} down"),
            format!("link set {port} master bond0"),
        ] {
            ip(topology, "switch", &line);
        }
    }
    ip(topology, "switch", "link set bond0 up");
    ip(topology, "switch", "link set bond0 master front");
    on_lb(topology, "link set bond0 up");
    rehang(topology, "lb", "eth0", "bond0", EVERYTHING);
    for member in MEMBERS {
        join(topology, member);
    }
}

/// Both cables are used, which with LACP (802.3ad) both ends must have agreed upon.
fn is_whole(topology: &Topology, lacp: bool) -> bool {
    let shown = json(topology, "lb", "-j -d link show bond0");
    let ports = &shown[0]["linkinfo"]["info_data"]["ad_info"]["num_ports"];
    let up = MEMBERS
        .iter()
        .all(|member| super::is_working(topology, member));
    up && (!lacp || ports.as_u64() == Some(2))
}

fn serve(kind: &str, forwarding: Forwarding) {
    let lacp = kind.starts_with("802.3ad");
    let mut topology = network(forwarding);
    let _servers = Server::threads(&topology).unwrap();
    bond_both_ends(&mut topology, kind);
    let took = wait_until("both cables are used", PATIENCE, || {
        is_whole(&topology, lacp)
    });
    let mut config = Config {
        interfaces: vec!["bond0".to_owned()],
        ..echoing(&topology)
    };
    // Of those that are lost with a cable this is not about.
    for service in &mut config.services {
        service.health.fall = 1000;
    }
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();
    let shown = daemon.cli(&["status"]).unwrap().stdout;
    assert!(shown.contains("bond0 (native): attached"), "{shown}");

    let before = MEMBERS.map(|member| packets(&topology, member));
    let rx = daemon.status().unwrap().data_plane.rx;
    for _ in 0..5 {
        ask_all(&topology, &daemon);
    }
    let after = MEMBERS.map(|member| packets(&topology, member));
    figure!(
        "{kind}, {forwarding:?}: whole after {took:?}; packets in and out of each, {before:?}, then {after:?}"
    );
    for (member, (before, after)) in MEMBERS.iter().zip(before.iter().zip(&after)) {
        for way in 0..2 {
            // LACP and neighbour discovery alone are fewer.
            assert!(after[way] > before[way] + 20, "{kind}: {member}, way {way}");
        }
    }
    let counted = |status: &Status| status.data_plane.rx >= rx + 200;
    daemon
        .wait_until("the program sees packets", PATIENCE, counted)
        .unwrap();

    on_lb(&topology, "link set eth0 down");
    wait_until("the cable is found to be cut", PATIENCE, || {
        !super::is_working(&topology, "eth0")
    });
    wait_until("connections go by the other", PATIENCE, || {
        let asked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask_all(&topology, &daemon)));
        asked.is_ok()
    });
    let lost = daemon.status().unwrap().losses;
    assert_eq!(lost.trouble, None);
    let drops = daemon.status().unwrap().data_plane.drops;
    let drops: Vec<_> = drops.iter().filter(|(_, count)| **count != 0).collect();
    figure!(
        "{kind}, {forwarding:?}: with one cable; drops {drops:?}, lost {:?}",
        lost.lost
    );
    daemon.check_conservation().unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}

#[test]
fn bonds_that_send_by_all_their_interfaces_serve() {
    let _turn = Turn::shared();
    for kind in [
        "balance-rr",
        "balance-xor xmit_hash_policy layer3+4",
        "802.3ad lacp_rate fast xmit_hash_policy layer3+4",
    ] {
        for forwarding in [Forwarding::Dnat, Forwarding::L2dsr] {
            serve(kind, forwarding);
        }
    }
}
