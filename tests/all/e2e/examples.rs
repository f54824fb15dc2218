//! Every file in `examples/` as it stands, in a network that has its addresses: all of its services answer over real
//! sockets, by all of the backends that they name and by nobody else.
//!
//! Each address of a backend is a host of its own. Files for devices that not every kernel has are read here, and run in
//! [`crate::devices`](../devices.rs) on one that has them.

use std::net::IpAddr;
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::topology::{Arms, Family, Shape, Topology};
use lb_userspace::config;
use lb_userspace::model;

use crate::stage::{SHAPES, Turn};

mod network;
mod questions;
mod servers;

pub(crate) use network::{Devices, as_built};
use network::{Hosts, furnish, take_out};

/// For a daemon that starts, and for an answer: some run in an emulated machine, on a host that may have more to do.
const PATIENCE: Duration = Duration::from_secs(300);

fn read(text: &str) -> model::Config {
    let outcome = config::parse("example", text);
    outcome.config.expect("a good file")
}

/// The file with places of its own for the daemon's files, and nothing else changed.
fn with_places(text: &str, daemon: &Daemon) -> String {
    let home = daemon.home().display();
    let mut lines = Vec::new();
    for line in text.lines() {
        let place = ["state-dir", "run-dir", "bpffs"]
            .iter()
            .any(|key| line.starts_with(key));
        if !place {
            lines.push(line.to_owned());
        }
        if line == "[daemon]" {
            lines.push(format!("state-dir = \"{home}/state\""));
            lines.push(format!("run-dir = \"{home}/run\""));
            lines.push(format!("bpffs = \"{home}/bpf\""));
        }
    }
    lines.join("\n")
}

fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Runs a file in a network whose interfaces are made first, and asks all services: so many questions.
#[track_caller]
pub(crate) fn check(text: &str, expected: usize, wire: impl FnOnce(&Topology) -> Devices) {
    let _turn = Turn::shared();
    let config = read(text);
    let hosts = Hosts::of(&config);
    let shape = Shape {
        backends: hosts.count(),
        arms: match config.daemon.interfaces.len() {
            1 => Arms::One,
            _ => Arms::Two,
        },
        // Replies go straight to clients, but those of backends that a rule sends through the balancer.
        ..SHAPES[3]
    };
    let topology = Topology::build(shape).unwrap();
    let devices = wire(&topology);
    furnish(&topology, &config, &hosts, &devices);
    servers::serve(&topology, &config, &hosts);
    take_out(&topology, &config, &hosts);
    let mut daemon = Daemon::prepare(&topology, Config::lab(&topology)).unwrap();
    daemon.write_config(&with_places(text, &daemon)).unwrap();
    daemon.spawn().unwrap();
    let all = |status: &Status| status.ready && status.all_are("up");
    daemon.wait_until("all are up", PATIENCE, all).unwrap();
    assert_eq!(questions::ask(&topology, &config, &hosts), expected);
    daemon.check_conservation().unwrap();
}

/// A test for each file: how many questions its services are asked, and how the network is wired.
macro_rules! served {
    ($($test:ident: $file:literal, $questions:literal, $wire:expr;)*) => {
        /// The files that the tests here run.
        const SERVED: &[&str] = &[$($file),*];
        $(
            #[test]
            fn $test() {
                let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/", $file));
                $crate::e2e::examples::check(text, $questions, $wire);
            }
        )*
    };
}
#[cfg_attr(
    not(feature = "devices"),
    expect(unused_imports, reason = "for files with devices")
)]
pub(crate) use served;

served! {
    the_smallest_file_serves_at_once: "minimal.toml", 1, as_built;
    the_commented_file_serves_as_it_stands: "fairlead.toml", 2, as_built;
    prefixes_ranges_and_any_protocol_serve_as_the_example_says: "ranges.toml", 13, as_built;
    backends_behind_routers_serve_through_the_tunnels_of_the_example: "tunnels.toml", 2, as_built;
    quic_serves_as_the_example_says: "quic.toml", 3, as_built;
    the_file_of_the_tour_serves: "tour.toml", 2, as_built;
    backends_without_a_route_to_clients_serve_as_the_example_says: "fullnat.toml", 2, as_built;
}

/// The files that only [`crate::devices`](../devices.rs) runs, which says the same of itself.
pub(crate) const WITH_DEVICES: &[&str] = &["bond.toml", "qinq.toml", "vlan.toml"];

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

#[test]
fn the_files_for_vlans_and_bonds_are_good() {
    for (name, services) in WITH_DEVICES.iter().zip([1, 2, 2]) {
        let text = std::fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
        assert_eq!(read(&text).services.len(), services, "{name}");
    }
}

#[test]
fn every_example_has_a_test() {
    let files = std::fs::read_dir(FOLDER).unwrap();
    let mut files: Vec<_> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut run = [SERVED, WITH_DEVICES].concat();
    run.sort_unstable();
    assert_eq!(files, run);
}
