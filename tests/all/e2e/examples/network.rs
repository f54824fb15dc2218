//! The network that a file speaks of: hosts, addresses, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;

use lb_tests::decap;
use lb_tests::topology::{FAMILIES, Family, Topology, backend, balancer_back, balancer_front};
use lb_userspace::model::{self, Forwarding, Service};

use super::family;

/// Routes of packets from backends whose replies go through the balancer.
const TABLE: &str = "100";

/// Interfaces between balancer and backends.
pub(crate) struct Devices {
    /// The balancer's.
    pub(crate) balancer: &'static str,
    /// The backends'.
    pub(crate) backend: &'static str,
}

/// As the topology made them.
pub(crate) fn as_built(topology: &Topology) -> Devices {
    Devices {
        balancer: topology.shape().balancer_back_device(),
        backend: "eth0",
    }
}

/// Which host has a backend's address: its number by address.
pub(super) struct Hosts(BTreeMap<IpAddr, u8>);

impl Hosts {
    /// One for each address, but for those that the topology gives its hosts anyway.
    pub(super) fn of(config: &model::Config) -> Self {
        let backends = config.services.values().flat_map(|s| s.backends.values());
        let addresses: BTreeSet<IpAddr> = backends.map(|backend| backend.address).collect();
        let given = |address: &IpAddr| (1..=20).find(|&n| backend(family(*address), n) == *address);
        let mut hosts = BTreeMap::new();
        for address in &addresses {
            if let Some(number) = given(address) {
                hosts.insert(*address, number);
            }
        }
        let mut free = hosts.values().copied().max().unwrap_or(0);
        for address in addresses {
            hosts.entry(address).or_insert_with(|| {
                free += 1;
                free
            });
        }
        Self(hosts)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u8 {
        self.0.values().copied().max().unwrap()
    }

    /// The name of the host that has an address.
    pub(super) fn at(&self, address: IpAddr) -> String {
        format!("b{}", self.0[&address])
    }

    /// The names of all.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        (1..=self.count()).map(|number| format!("b{number}"))
    }
}

fn ip(topology: &Topology, host: &str, line: &str) {
    let output = topology.run_in(host, || Command::new("ip").args(line.split(' ')).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{host}: ip {line}: {output:?}");
}

/// Backends are asked at their own addresses.
pub(super) fn is_translated(service: &Service) -> bool {
    matches!(service.forwarding, Forwarding::Dnat | Forwarding::Fullnat)
}

/// Every address of a prefix.
fn each(prefix: &model::Prefix) -> Vec<IpAddr> {
    match (prefix.address(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first)..=u32::from(last))
            .map(|address| IpAddr::V4(address.into()))
            .collect(),
        (first, _) => {
            assert!(prefix.is_host(), "{prefix}");
            vec![first]
        }
    }
}

/// Gives the hosts the addresses and routes that the file speaks of.
pub(super) fn furnish(
    topology: &Topology,
    config: &model::Config,
    hosts: &Hosts,
    devices: &Devices,
) {
    let device = devices.balancer;
    for (host, of) in hosts
        .names()
        .flat_map(|host| FAMILIES.map(|of| (host.clone(), of)))
    {
        let gateway = balancer_back(of);
        let line = format!("{} route add default via {gateway} table {TABLE}", flag(of));
        ip(topology, &host, &line);
    }
    for source in &config.daemon.nat_source {
        let gateway = balancer_back(family(source.address()));
        for host in hosts.names() {
            let line = format!("route replace {source} via {gateway}");
            ip(topology, &host, &line);
        }
        for address in each(source) {
            let line = format!("address add {address} dev {device}");
            ip(topology, "lb", &line);
        }
    }
    let mut backends = BTreeSet::new();
    for service in config.services.values() {
        let vip = service.address;
        let of = family(vip.address());
        let through = balancer_front(of);
        let line = format!("{} route replace {vip} via {through}", flag(of));
        ip(topology, "client", &line);
        for backend in service.backends.values() {
            if !is_translated(service) {
                let line = format!("{} route replace local {vip} dev lo", flag(of));
                ip(topology, &hosts.at(backend.address), &line);
            }
            backends.insert((backend.address, service.forwarding == Forwarding::Dnat));
        }
    }
    for (address, through_balancer) in backends {
        let (host, of) = (hosts.at(address), family(address));
        let length = match of {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        let own = devices.backend;
        if !topology.has_address(&host, own, address).unwrap() {
            topology.add_address(&host, own, address, length).unwrap();
            let line = format!("{} route replace {address} dev {device}", flag(of));
            ip(topology, "lb", &line);
        }
        if through_balancer {
            let line = format!("{} rule add from {address} table {TABLE}", flag(of));
            ip(topology, &host, &line);
        }
    }
}

fn flag(of: Family) -> &'static str {
    match of {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Takes out of tunnels, at each host, what the file puts into those to it.
pub(super) fn take_out(topology: &Topology, config: &model::Config, hosts: &Hosts) {
    let tunnels = |service: &&Service| service.forwarding.is_tunnel();
    let mut vips: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for service in config.services.values().filter(tunnels) {
        for backend in service.backends.values() {
            let vips = vips.entry(hosts.at(backend.address)).or_default();
            vips.insert(service.address.to_string());
        }
    }
    for (host, vips) in vips {
        let mut arguments = vec!["--xdp-mode", "native", "--gue-port", "6080"];
        for source in decap::TUNNEL_SOURCES {
            arguments.extend(["--source", source]);
        }
        for vip in &vips {
            arguments.extend(["--vip", vip]);
        }
        decap::command(topology, &host, &arguments).unwrap();
    }
}
