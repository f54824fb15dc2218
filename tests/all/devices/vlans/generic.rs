//! VLANs with the program in the network stack, after the driver.

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::server::Server;
use lb_tests::topology::Forwarding;

use super::super::{PATIENCE, ask_all, echoing};
use super::{CLIENTS, bonds, network, serve_in, stack, wire};
use crate::stage::Turn;

#[test]
fn vlans_of_an_interface_are_served_in_generic_mode() {
    let _turn = Turn::shared();
    for forwarding in [Forwarding::Dnat, Forwarding::L2dsr] {
        let topology = network(forwarding);
        let _servers = Server::threads(&topology).unwrap();
        wire(&topology);
        serve_in("generic", &topology, "eth0");
    }
}

#[test]
fn that_vlans_of_a_bond_are_not_served_in_generic_mode_is_told_and_the_rest_is_served() {
    let _turn = Turn::shared();
    let topology = network(Forwarding::Dnat);
    let _servers = Server::threads(&topology).unwrap();
    bonds::bond(&topology);
    stack(&topology, "lb", "bond0", CLIENTS);
    let config = Config {
        interfaces: vec!["bond0".to_owned()],
        xdp_mode: "generic",
        ..echoing(&topology)
    };
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();
    let is_told = |status: &Status| {
        let trouble = status.attachments[0].trouble.as_ref();
        trouble.is_some_and(|told| told.contains("in generic mode on a bond"))
    };
    daemon.wait_until("it is told", PATIENCE, is_told).unwrap();
    ask_all(&topology, &daemon);
    daemon.check_conservation().unwrap();
    daemon.stop().unwrap();
    daemon.unload().unwrap();
}
