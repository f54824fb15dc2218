//! What the machine that reads a configuration says about it: warnings that no file can be judged by alone. I/O.

use std::fs;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

use super::nat;
use crate::model::DaemonConfig;

/// First and last port that connections from here take if they do not ask for one.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Warnings for people; none where this machine does not say what it has.
pub fn remarks(daemon: &DaemonConfig) -> Vec<String> {
    if daemon.nat_source.is_empty() {
        return Vec::new();
    }
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let addresses: Vec<(String, IpAddr)> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            let v6 = || address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
            Some((interface.interface_name, v4.or_else(v6)?))
        })
        .collect();
    let text = fs::read_to_string(LOCAL_PORTS).unwrap_or_default();
    let mut ports = text.split_whitespace().filter_map(|word| word.parse().ok());
    let local_ports = ports.next().zip(ports.next());
    nat::on_host(daemon, &addresses, local_ports)
}
