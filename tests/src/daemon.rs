//! The balancer under test: its configuration as plain values, and its text. `daemon/*.rs` runs it
//! and asks it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::decap::TUNNEL_SOURCES;
use crate::server::{ECHO_PORT, HTTP_PORT};
use crate::topology::{FAMILIES, Family, Forwarding, Topology, backend, nat_source, vip};

mod handle;
mod status;

pub use handle::{Daemon, Output, fairlead_binary};
pub use status::{Backend, DataPlane, Hook, Service as ServiceStatus, Status, Storage, Traffic};

/// What a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// All of them.
    Any,
}

/// How a service finds out whether its backends work.
#[derive(Clone, Debug)]
pub struct Health {
    /// The type: `http`, `tcp`, ...; `none` without all else.
    pub kind: &'static str,
    /// Between two probes, in milliseconds.
    pub interval_ms: u64,
    /// Of one probe, in milliseconds.
    pub timeout_ms: u64,
    /// Good probes in a row until up.
    pub rise: u32,
    /// Bad probes in a row until down.
    pub fall: u32,
    /// Another port than the backend's.
    pub port: Option<u16>,
    /// Random shift of each probe, in milliseconds.
    pub jitter_ms: u64,
    /// More lines of TOML for the table `[service.health]`.
    pub extra: &'static str,
}

impl Health {
    /// The values of the lab: a dead backend is found within 500 ms.
    pub const LAB: Self = Self {
        kind: "http",
        interval_ms: 200,
        timeout_ms: 100,
        rise: 2,
        fall: 2,
        port: None,
        jitter_ms: 0,
        extra: "",
    };

    /// The longest that a dead backend may go unnoticed, in milliseconds: fall x (interval +
    /// jitter) + timeout.
    pub fn bound_ms(&self) -> u64 {
        u64::from(self.fall) * (self.interval_ms + self.jitter_ms) + self.timeout_ms
    }
}

/// A backend of a service.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// Name within the service.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Share of new flows.
    pub weight: u16,
    /// More lines of TOML.
    pub extra: String,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name.
    pub name: String,
    /// VIP.
    pub address: IpAddr,
    /// Port of the VIP.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Forwarding.
    pub forwarding: Forwarding,
    /// Health checks.
    pub health: Health,
    /// Backends.
    pub backends: Vec<BackendConfig>,
    /// More than one address or port, as TOML values in place of both; backends then have no port.
    pub reach: Option<(&'static str, &'static str)>,
    /// More lines of TOML for the table `[[service]]`.
    pub extra: String,
}

impl Service {
    /// A service over all backends of a topology. Flows of a backend that is down move to others: a
    /// client learns by a reset, at once, that its connection is lost. With direct return the port of the VIP is that of
    /// the backends.
    pub fn new(
        topology: &Topology,
        name: &str,
        family: Family,
        number: u8,
        protocol: Protocol,
        backend_port: u16,
    ) -> Self {
        let shape = topology.shape();
        let backends = (1..=shape.backends).map(|n| BackendConfig {
            name: format!("b{n}"),
            address: backend(family, n),
            port: backend_port,
            weight: 1,
            extra: String::new(),
        });
        let http_over_dnat = backend_port == HTTP_PORT && shape.forwarding.translates();
        let health = match backend_port {
            HTTP_PORT => Health::LAB,
            _ => Health {
                port: Some(HTTP_PORT),
                ..Health::LAB
            },
        };
        Self {
            name: name.to_owned(),
            address: vip(family, number),
            port: if http_over_dnat { 80 } else { backend_port },
            protocol,
            forwarding: shape.forwarding,
            health,
            backends: backends.collect(),
            reach: None,
            extra: "on-down = \"migrate\"".to_owned(),
        }
    }

    /// Where clients connect to.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }
}

/// A configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Services.
    pub services: Vec<Service>,
    /// Interfaces with the data plane.
    pub interfaces: Vec<String>,
    /// `native`, `generic` or `native-or-generic`.
    pub xdp_mode: &'static str,
    /// Flow table entries.
    pub flows: u64,
    /// More lines of TOML for the table `[daemon]`.
    pub extra: String,
    /// More tables of TOML.
    pub tables: String,
}

impl Config {
    /// The services of the lab on a topology, in both families: HTTP (`web4`, `web6`), TCP echo
    /// (`echo4`, `echo6`) and UDP echo (`udp4`, `udp6`), at the first VIP.
    pub fn lab(topology: &Topology) -> Self {
        let mut services = vec![];
        for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
            let service = |name: &str, protocol, port| {
                Service::new(
                    topology,
                    &format!("{name}{digit}"),
                    family,
                    0,
                    protocol,
                    port,
                )
            };
            services.push(service("web", Protocol::Tcp, HTTP_PORT));
            services.push(service("echo", Protocol::Tcp, ECHO_PORT));
            services.push(service("udp", Protocol::Udp, ECHO_PORT));
        }
        let devices = topology.shape().balancer_devices();
        Self {
            services,
            interfaces: devices.iter().map(|&device| device.to_owned()).collect(),
            xdp_mode: "native",
            flows: 1 << 20,
            extra: String::new(),
            tables: String::new(),
        }
    }

    /// A service by its name.
    pub fn service(&self, name: &str) -> &Service {
        let found = self.services.iter().find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("no service {name} in the configuration"))
    }

    /// The VIP and port of services by their names.
    pub fn targets(&self, names: &[&str]) -> Vec<SocketAddr> {
        names
            .iter()
            .map(|name| self.service(name).target())
            .collect()
    }

    /// The file. `home` holds the daemon's state, socket and bpffs.
    pub fn toml(&self, home: &Path) -> String {
        let mut text = String::new();
        self.write(&mut text, home).expect("write to a string");
        text
    }

    fn write(&self, out: &mut String, home: &Path) -> std::fmt::Result {
        let home = home.display();
        writeln!(out, "[daemon]")?;
        writeln!(out, "state-dir = \"{home}/state\"")?;
        writeln!(out, "run-dir = \"{home}/run\"")?;
        writeln!(out, "bpffs = \"{home}/bpf\"")?;
        writeln!(out, "interfaces = {:?}", self.interfaces)?;
        writeln!(out, "xdp-mode = \"{}\"", self.xdp_mode)?;
        writeln!(out, "metrics = \"127.0.0.1:9460\"\n{}", self.extra)?;
        let mut forwardings = self.services.iter().map(|service| service.forwarding);
        if forwardings.any(Forwarding::is_tunnel) {
            writeln!(out, "tunnel-source = {TUNNEL_SOURCES:?}")?;
        }
        let mut forwardings = self.services.iter().map(|service| service.forwarding);
        if forwardings.any(|forwarding| forwarding == Forwarding::Fullnat) {
            let sources = FAMILIES.map(|family| nat_source(family).to_string());
            writeln!(out, "nat-source = {sources:?}")?;
        }
        writeln!(out, "[limits]\nflows = {}\n{}", self.flows, self.tables)?;
        self.services
            .iter()
            .try_for_each(|service| service.write(out))
    }
}

impl Service {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n[[service]]\nname = \"{}\"", self.name)?;
        match self.reach {
            Some((address, port)) => writeln!(out, "address = {address}\nport = {port}")?,
            None => writeln!(out, "address = \"{}\"\nport = {}", self.address, self.port)?,
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            Protocol::Any => "any",
        };
        let forwarding = match self.forwarding {
            Forwarding::Dnat => "dnat",
            Forwarding::L2dsr => "l2dsr",
            Forwarding::Ipip => "ipip",
            Forwarding::Gue => "gue",
            Forwarding::Fullnat => "fullnat",
        };
        writeln!(
            out,
            "protocol = \"{protocol}\"\nforwarding = \"{forwarding}\"\n{}",
            self.extra
        )?;
        let health = &self.health;
        writeln!(out, "[service.health]\ntype = \"{}\"", health.kind)?;
        if health.kind == "http" {
            writeln!(out, "path = \"/health\"")?;
        }
        if let Some(port) = health.port {
            writeln!(out, "port = {port}")?;
        }
        if health.kind != "none" {
            writeln!(out, "interval = \"{}ms\"", health.interval_ms)?;
            writeln!(out, "timeout = \"{}ms\"", health.timeout_ms)?;
            writeln!(out, "jitter = \"{}ms\"", health.jitter_ms)?;
            writeln!(out, "rise = {}\nfall = {}", health.rise, health.fall)?;
        }
        writeln!(out, "{}", health.extra)?;
        for backend in &self.backends {
            writeln!(out, "\n[[service.backend]]\nname = \"{}\"", backend.name)?;
            writeln!(out, "address = \"{}\"", backend.address)?;
            if self.reach.is_none() {
                writeln!(out, "port = {}", backend.port)?;
            }
            writeln!(out, "weight = {}\n{}", backend.weight, backend.extra)?;
        }
        Ok(())
    }
}
