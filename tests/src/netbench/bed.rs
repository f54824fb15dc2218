//! A candidate at work: its network, its servers, itself.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::xdp::XdpMode;

use super::wire::{self, BALANCER_DEVICE, Burst, Wire};
use super::{Candidate, bulk, haproxy};
use crate::daemon::{Config, Daemon, Health, Protocol, Service};
use crate::load::{Bounds, Request, Storm};
use crate::server::{ECHO_PORT, HTTP_PORT, Server};
use crate::topology::{Family, Process, Topology, backend, vip};

/// Everything here is IPv4.
const FAMILY: Family = Family::V4;
/// `return XDP_PASS`, as `struct bpf_insn`s. Frames that the kernel makes get into a veth only if its other end has
/// an XDP program (drivers/net/veth.c, `veth_xdp_xmit`).
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
/// Connections of the proof; each backend answers about a third.
const PROOF: u64 = 60;

/// Settings of a balancer that opens or tracks many connections: all ports, those in TIME_WAIT again after
/// a second.
const MANY_CONNECTIONS: &[(&str, &str)] = &[
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
];
/// A closed connection is tracked for a second, or the table of all namespaces
/// (nf_conntrack_max) fills within a run.
const TRACKING: &[(&str, &str)] = &[
    ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
    ("net/netfilter/nf_conntrack_tcp_timeout_close", "1"),
];

/// Dropped from top to bottom; the topology ends every process in it.
pub struct Bed {
    /// Who forwards.
    pub candidate: Candidate,
    forwarder: Forwarder,
    wire: Wire,
    _bulk: Vec<bulk::Server>,
    _servers: Vec<Server>,
    topology: Topology,
}

/// What has to live as long as the candidate is to forward.
enum Forwarder {
    Kernel,
    Xdp(#[expect(dead_code, reason = "dropping it detaches the program")] Ebpf),
    Haproxy(Process),
    Fairlead(Daemon),
}

impl Bed {
    /// Builds the network and starts the candidate.
    pub fn build(candidate: Candidate) -> Result<Self> {
        Self::try_build(candidate).with_context(|| format!("set up {}", candidate.name()))
    }

    fn try_build(candidate: Candidate) -> Result<Self> {
        let mut topology = Topology::build_for_throughput(candidate.shape())?;
        let wire = Wire::attach(&mut topology)?;
        let servers = Server::threads(&topology)?;
        let bulk = (1..=topology.shape().backends)
            .map(|n| bulk::Server::start(&topology, n))
            .collect::<Result<_>>()?;
        topology.namespace("lb").sysctl(MANY_CONNECTIONS)?;
        let forwarder = match candidate {
            Candidate::MacSwap => Forwarder::Xdp(attach_mac_swap(&topology)?),
            Candidate::Routing => Forwarder::Kernel,
            Candidate::Nftables => {
                topology.nft("lb", &nft_rules(topology.shape().backends))?;
                topology.namespace("lb").sysctl(TRACKING)?;
                Forwarder::Kernel
            }
            Candidate::Haproxy => {
                topology.add_address("lb", "lo", vip(FAMILY, 0), 32)?;
                Forwarder::Haproxy(haproxy::start(&topology, &[ECHO_PORT, bulk::PORT])?)
            }
            Candidate::Dnat | Candidate::L2dsr => {
                Forwarder::Fairlead(Daemon::start_up(&topology, fairlead_config(&topology))?)
            }
        };
        Ok(Self {
            candidate,
            forwarder,
            wire,
            _bulk: bulk,
            _servers: servers,
            topology,
        })
    }

    /// The network.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where clients connect to for a port: a VIP, or every backend in turn where nobody balances.
    pub fn targets(&self, port: u16) -> Vec<SocketAddr> {
        match self.candidate {
            Candidate::Routing => (1..=self.topology.shape().backends)
                .map(|n| SocketAddr::from((backend(FAMILY, n), port)))
                .collect(),
            _ => vec![SocketAddr::from((vip(FAMILY, 0), port))],
        }
    }

    /// Proves that the candidate forwards: connections are answered with their own content by every backend, and
    /// single packets come back.
    pub fn prove(&mut self) -> Result<()> {
        let name = self.candidate.name();
        if self.candidate.takes_connections() {
            let bounds = Bounds::count(PROOF);
            let targets = self.targets(ECHO_PORT);
            let report = Storm::run(&self.topology, &targets, Request::Echo, bounds)?;
            let backends = usize::from(self.topology.shape().backends);
            ensure!(
                report.failures.is_empty() && report.backends().len() == backends,
                "{name} does not forward connections to all backends: {report}"
            );
            bulk::prove(&self.topology, &self.targets(bulk::PORT))
                .with_context(|| format!("{name} does not forward bulk data"))?;
        }
        if self.candidate.takes_packets() {
            // The first packets resolve neighbours, and the kernel holds them back until then.
            self.burst(1, wire::CHUNK)?;
            let burst = self.burst(16, wire::CHUNK)?;
            ensure!(
                burst.arrived > 0,
                "{name} gives no packet back: {} sent",
                burst.sent
            );
        }
        Ok(())
    }

    /// Single UDP packets of 64 bytes, of this many flows in turn, as fast as one CPU carries them.
    pub fn burst(&mut self, flows: u64, packets: u64) -> Result<Burst> {
        // Where the kernel forwards, it has to be let in.
        let _pass: Option<OwnedFd> = match self.forwarder {
            Forwarder::Kernel => Some(self.topology.attach_xdp("lb", BALANCER_DEVICE, &PASS)?),
            _ => None,
        };
        let to = self.targets(ECHO_PORT);
        let to = to.first().context("no target")?;
        self.wire.send(*to, 0..flows, packets)
    }

    /// Checks what must hold after all load: the process lives, packets are conserved.
    pub fn check(&mut self) -> Result<()> {
        match &mut self.forwarder {
            Forwarder::Haproxy(process) => match process.ended()? {
                Some(status) => anyhow::bail!("HAProxy ended during the run: {status}"),
                None => Ok(()),
            },
            Forwarder::Fairlead(daemon) => daemon.check_conservation(),
            Forwarder::Kernel | Forwarder::Xdp(_) => Ok(()),
        }
    }
}

fn attach_mac_swap(topology: &Topology) -> Result<Ebpf> {
    let mut ebpf = wire::programs()?;
    topology.run_in("lb", || -> Result<()> {
        wire::load(&mut ebpf, "mac_swap")?
            .attach(BALANCER_DEVICE, XdpMode::Driver)
            .context("attach the MAC swap")?;
        Ok(())
    })?;
    Ok(ebpf)
}

/// New connections go to the backends in turn.
fn nft_rules(backends: u8) -> String {
    let map: Vec<String> = (1..=backends)
        .map(|n| format!("{} : {}", n - 1, backend(FAMILY, n)))
        .collect();
    format!(
        "table ip balancer {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr {} dnat to numgen inc mod {backends} map {{ {} }}
    }}
}}
",
        vip(FAMILY, 0),
        map.join(", ")
    )
}

/// TCP echo, bulk data and UDP at one VIP. Checks are rare, so that they cost next to nothing.
fn fairlead_config(topology: &Topology) -> Config {
    let service = |name: &str, protocol, port| {
        let mut service = Service::new(topology, name, FAMILY, 0, protocol, port);
        service.health = Health {
            interval_ms: 1000,
            timeout_ms: 900,
            fall: 10,
            port: Some(HTTP_PORT),
            ..Health::LAB
        };
        service
    };
    Config {
        services: vec![
            service("echo", Protocol::Tcp, ECHO_PORT),
            service("bulk", Protocol::Tcp, bulk::PORT),
            service("udp", Protocol::Udp, ECHO_PORT),
        ],
        ..Config::lab(topology)
    }
}

/// The longest that a part of the set-up may take.
pub(super) const SET_UP: Duration = Duration::from_secs(10);
