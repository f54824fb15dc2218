//! The nouns: what an operator configures, as it is after `config` has checked it, and what the
//! world reports about it. Plain values; every wrong state that a type can exclude is excluded.

mod agent;
mod aim;
mod check;
mod failover;
mod full_size;
mod hook;
mod idle;
mod leaving;
pub mod link;
mod passive;
mod ports;
mod prefix;
mod quic;
mod scheduling;
mod sharing;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use lb_common::quic::Lengths;
use serde::{Deserialize, Serialize};

pub use agent::{AgentSource, AgentWeight};
pub use aim::{Aim, RealPath, no_real_path};
pub use check::{
    Check, DnsCheck, DnsRcode, DnsType, ExecCheck, GrpcCheck, HttpCheck, TlsCheck, UdpCheck,
};
pub use failover::{Curve, Failback, Failover, SlowStart, Tier};
pub use full_size::{FullSize, TCP_HEADER, USUAL_SIZE, ip_header};
pub use hook::{Call, Hook, Host, Topic, Webhook};
pub use idle::{NatIdle, TcpIdle};
pub use lb_common::{
    Family, Fields, Forwarding, GueVariant, MidStream, OuterTtl, Protocol, Reach, Scheduling,
    Spread, Tunnel,
};
pub use leaving::{DrainPolicy, OnDown};
pub use link::{AttachMode, Link, Vlan};
pub use passive::Passive;
pub use ports::{Ports, PortsError};
pub use prefix::{Prefix, PrefixError, family};
pub use quic::{ConfigIds, ConfigIdsError, ServerId};
pub use scheduling::{Scheduler, Together};

/// Name of a service or a backend: 1 to 63 of `[a-z0-9-]`, beginning and ending alphanumerical. Shared,
/// not copied, by all who know it: with 100,000 backends names would be most of the memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl Name {
    /// The name, or `None` when it breaks the rule above.
    pub fn new(text: &str) -> Option<Self> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = text.as_bytes();
        let (first, last) = (bytes.first()?, bytes.last()?);
        let fits = bytes.len() <= 63
            && inner(*first)
            && inner(*last)
            && bytes.iter().all(|&c| inner(c) || c == b'-');
        fits.then(|| Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A backend's full name, `service/backend`: the one identity that survives reordering,
/// renumbering and restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The service.
    pub service: Name,
    /// The backend in it.
    pub backend: Name,
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.backend)
    }
}

impl std::str::FromStr for BackendKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .and_then(|(s, b)| {
                Some(Self {
                    service: Name::new(s)?,
                    backend: Name::new(b)?,
                })
            })
            .ok_or_else(|| format!("backend '{text}': not of the form SERVICE/BACKEND"))
    }
}

impl Serialize for BackendKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackendKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How the daemon runs.
    pub daemon: DaemonConfig,
    /// Sizes of the maps when they are created.
    pub limits: Limits,
    /// Services by name. The order in the file means nothing.
    pub services: BTreeMap<Name, Service>,
    /// Who is told what happens, by name.
    pub hooks: BTreeMap<Name, Hook>,
    /// First eight bytes of the SHA-256 of the canonical form, so that a pure reorder of the
    /// file is the same revision.
    pub revision: u64,
}

impl Config {
    /// All backends by their full names, in order.
    pub fn keyed_backends(&self) -> impl Iterator<Item = (BackendKey, &Backend)> {
        self.services.values().flat_map(Service::keyed_backends)
    }

    /// A backend and its service.
    pub fn backend(&self, key: &BackendKey) -> Option<(&Service, &Backend)> {
        let service = self.services.get(&key.service)?;
        Some((service, service.backends.get(&key.backend)?))
    }
}

/// How the daemon runs. Directories and `metrics` change by a restart (which does not disturb forwarding), the
/// rest by a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Seeds, ids and last good configuration live here.
    pub state_dir: std::path::PathBuf,
    /// The control socket and the lock live here.
    pub run_dir: std::path::PathBuf,
    /// A directory on a bpffs, or a place to mount one; pins go to `v<layout>/` below it.
    pub bpffs: std::path::PathBuf,
    /// Interfaces to attach to, by name.
    pub interfaces: Vec<String>,
    /// Native or generic XDP.
    pub xdp_mode: XdpMode,
    /// Where Prometheus scrapes; `None`: nowhere.
    pub metrics: Option<std::net::SocketAddr>,
    /// Echo replies each CPU may send per second for VIPs.
    pub echo_per_second: u32,
    /// New flows that each CPU may enter into the flow table per second.
    pub new_flows_per_second: u32,
    /// ICMP errors that each CPU may send or relay per second.
    pub icmp_errors_per_second: u32,
    /// Resets that each CPU may send per second.
    pub resets_per_second: u32,
    /// Sources of the outer headers of tunnels: at most one of each family, IPv4 first. Host bits are filled
    /// from the flow's hash.
    pub tunnel_source: Vec<Prefix>,
    /// First of the 65,536 socket marks that are kept for checks; a multiple of that, not 0.
    pub check_marks: u32,
    /// Where checks may go, sorted; `None`: anywhere.
    pub check_networks: Option<Vec<Prefix>>,
    /// Addresses that stand for clients of `fullnat`: at most one prefix of each family, IPv4 first.
    pub nat_source: Vec<Prefix>,
    /// Their ports.
    pub nat_ports: Ports,
    /// For how long these are kept.
    pub nat_idle: NatIdle,
    /// What becomes of forwarding without a daemon ...
    pub when_dead: WhenDead,
    /// ... that has been silent for this long.
    pub dead_after: Duration,
    /// At most this share (percent) of a pool's backends is taken out for health reasons ...
    pub velocity_percent: u8,
    /// ... within this time.
    pub velocity_window: Duration,
}

/// What the data plane does when the daemon has given no sign of life for `dead_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenDead {
    /// It goes on by the last word that the daemon wrote.
    Forward,
    /// It leaves packets to services to the kernel.
    Pass,
    /// It drops them.
    Drop,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver, or not at all.
    Native,
    /// In the network stack: slow, works with every driver.
    Generic,
    /// In the driver; if that fails, in the stack, which is logged as a warning and shown in status.
    NativeOrGeneric,
}

/// Map sizes; see `lb_common::limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Flow entries; a power of two.
    pub flows: u32,
    /// Services.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Places in rings.
    pub ring_slots: u32,
    /// Next hops.
    pub next_hops: u32,
    /// Ranges of sources.
    pub source_ranges: u32,
    /// Flows of `fullnat`; a power of two.
    pub nat_flows: u32,
    /// Clients that stay with their backend for a time; a multiple of eight.
    pub affinities: u32,
}

/// In [`Service::mss`]: as much as fits.
pub const FITTING_MSS: u16 = u16::MAX;

/// What the operator configures as one unit: addresses, ports and protocol, and who serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The VIP, or a prefix of them.
    pub address: Prefix,
    /// The port, or a range of them.
    pub port: Ports,
    /// TCP, UDP, SCTP or any.
    pub protocol: Protocol,
    /// How packets reach backends.
    pub forwarding: Forwarding,
    /// The outer TTL of tunnels.
    pub tunnel_ttl: OuterTtl,
    /// UDP port of `gue`.
    pub gue_port: NonZeroU16,
    /// What stands behind UDP in `gue`.
    pub gue_variant: GueVariant,
    /// The kind of the TCP option by which SYNs of `fullnat` say who the client is; 0: there is none.
    pub client_option: u8,
    /// How new flows spread.
    pub scheduler: Scheduler,
    /// Which flows are kept together.
    pub together: Together,
    /// Ring slots; `None`: by pool size (see `maglev::ring_size`).
    pub ring_size: Option<u32>,
    /// Flows of UDP that are idle for this long are scheduled anew; and all others but TCP's that have no time of their own.
    pub udp_idle: Duration,
    /// The same of SCTP; `None`: as `udp_idle`.
    pub sctp_idle: Option<Duration>,
    /// The same of what is neither UDP, TCP nor SCTP; `None`: as `udp_idle`.
    pub other_idle: Option<Duration>,
    /// TCP connections that are idle for this long are scheduled anew, by a SYN.
    pub tcp_idle: TcpIdle,
    /// TCP segments in the middle of nothing.
    pub mid_stream: MidStream,
    /// The largest MSS that SYNs of TCP say, in bytes, if it fits; [`FITTING_MSS`]: what fits; 0: what they like.
    pub mss: u16,
    /// What is scheduled.
    pub spread: Spread,
    /// Under which config ids QUIC's connection ids name a backend. Then all backends have a server id, of one length.
    pub config_ids: ConfigIds,
    /// Who may come.
    pub sources: Sources,
    /// The checks.
    pub health: HealthPolicy,
    /// What becomes of a drained backend's flows at the deadline.
    pub drain: DrainPolicy,
    /// When that is, after the beginning of a drain without a deadline of its own; `None`: never.
    pub drain_deadline: Option<Duration>,
    /// What happens to the flows of a backend that is down.
    pub on_down: OnDown,
    /// When that is, after it went down or was lost; `None`: at once.
    pub on_down_deadline: Option<Duration>,
    /// When no backend may take flows, or too few are healthy.
    pub all_down: AllDown,
    /// From tier to tier and back.
    pub failover: Failover,
    /// Interface that the daemon adds the VIP to and announces it on; `None`: the router's matter.
    pub claim: Option<String>,
    /// Backends by name.
    pub backends: BTreeMap<Name, Backend>,
}

impl Service {
    /// How its packets are put into others to a backend at an address; the usual way, if they are not.
    pub fn tunnel(&self, backend: IpAddr) -> Tunnel {
        match self.forwarding {
            Forwarding::Dnat | Forwarding::L2dsr => Tunnel::USUAL,
            Forwarding::Fullnat => Tunnel::telling(self.client_option),
            Forwarding::Ipip => {
                Tunnel::ipip(self.address.family(), family(backend), self.tunnel_ttl)
            }
            Forwarding::Gue => Tunnel::gue(self.gue_port.get(), self.gue_variant, self.tunnel_ttl),
        }
    }

    /// What it takes beyond one address, one port and one protocol; `None`: it has an endpoint of its own.
    pub fn reach(&self) -> Option<Reach> {
        let one = self.address.is_host()
            && self.port.single().is_some()
            && self.protocol != Protocol::Any;
        (!one).then_some(Reach {
            length: self.address.length_of_128(),
            low: self.port.low(),
            high: self.port.high(),
        })
    }

    /// Which connection ids name a backend, as the maps have it.
    pub fn quic(&self) -> Lengths {
        let mut ids = self.backends.values().filter_map(|b| b.server_id);
        ids.next()
            .map_or(Lengths::NONE, |id| self.config_ids.lengths(id.len()))
    }

    /// How its new flows are scheduled, as the maps have it.
    pub fn scheduling(&self) -> Scheduling {
        self.together
            .scheduling(self.scheduler, self.address.family())
    }

    /// A backend's share beside others; 0: none.
    pub fn weight_of(&self, backend: &Backend) -> u16 {
        match self.scheduler {
            Scheduler::RoundRobin => backend.weight.min(1),
            _ => backend.weight,
        }
    }

    /// Its packets always go the long way.
    pub fn is_aside(&self) -> bool {
        self.spread != Spread::Flow || !self.config_ids.is_empty()
    }

    /// Address and ports as in a URL: `192.0.2.0/24:8000-8099`, `[2001:db8::1]:80`.
    pub fn endpoint(&self) -> String {
        endpoint(self.address, self.port)
    }

    /// Its backends by their full names, in order.
    pub fn keyed_backends(&self) -> impl Iterator<Item = (BackendKey, &Backend)> {
        self.backends.values().map(|backend| {
            let key = BackendKey {
                service: self.name.clone(),
                backend: backend.name.clone(),
            };
            (key, backend)
        })
    }
}

/// As [`Service::endpoint`].
pub fn endpoint(address: Prefix, ports: Ports) -> String {
    match address.family() {
        Family::V4 => format!("{address}:{ports}"),
        Family::V6 => format!("[{address}]:{ports}"),
    }
}

/// Clients that a service serves: the longest prefix that holds a client's address decides; a client in none is
/// served unless there are prefixes to allow. Sorted, without doubles; no prefix is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Served.
    pub allow: Vec<Prefix>,
    /// Not served.
    pub deny: Vec<Prefix>,
}

impl Sources {
    /// True when everybody is served.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name within the service.
    pub name: Name,
    /// Where it listens (`dnat`) or where its MAC address is found (`l2dsr`).
    pub address: IpAddr,
    /// The port; in `l2dsr` equal to the service's. `None`: the one that the client chose.
    pub port: Option<NonZeroU16>,
    /// Relative share of new flows, 0 to 1000; 0: none.
    pub weight: u16,
    /// As configured; the command line may override it at run time.
    pub admin: AdminState,
    /// Which come before and after it.
    pub tier: Tier,
    /// It takes no new flows while it has so many; `None`: any number.
    pub max_connections: Option<NonZeroU32>,
    /// What QUIC's connection ids call it.
    pub server_id: Option<ServerId>,
}

/// What a person says about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminState {
    /// May take and keep flows (if healthy).
    Enabled,
    /// Keeps flows, takes none.
    Draining,
    /// Neither keeps nor takes flows.
    Disabled,
}

/// What probes say about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No verdict yet: no new flows, unless the service trusts at start.
    Unknown,
    /// `rise` good probes in a row.
    Up,
    /// `fall` bad probes in a row.
    Down,
}

/// When no backend of a service is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllDown {
    /// Spread over all enabled backends as if all were up.
    FailOpen,
    /// Drop new flows with `no_backend`.
    FailClosed,
}

/// The checks of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// What a probe does.
    pub check: Check,
    /// Port to probe; `None`: the backend's own.
    pub port: Option<NonZeroU16>,
    /// As configured; see [`Service::aim`].
    pub target: Option<Aim>,
    /// The largest packet of a client that has to pass, in bytes; `None`: any size will do. See [`Service::full_size`].
    pub full_size: Option<u16>,
    /// Between the starts of two probes of one target.
    pub interval: Duration,
    /// The same, while results are beginning to differ from the verdict; at most the interval.
    pub fast_interval: Duration,
    /// A probe that takes longer has failed; at most the interval.
    pub timeout: Duration,
    /// Each start is moved by up to this much either way.
    pub jitter: Duration,
    /// Good probes in a row until `up`.
    pub rise: NonZeroU16,
    /// Bad probes in a row until `down`.
    pub fall: NonZeroU16,
    /// `unknown` counts as `up` for new flows, until the first verdict.
    pub trust_at_start: bool,
    /// How a target that goes up and down is kept down.
    pub damping: Damping,
    /// How packets make a suspect of a backend between two probes; `None`: they do not.
    pub passive: Option<Passive>,
    /// What becomes of what backends say about their load.
    pub agent: Option<AgentWeight>,
}

/// A target that changes too often has to stay good for longer before it is up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damping {
    /// So many changes ...
    pub changes: u16,
    /// ... within this time are too often; 0 changes: never. A target that stayed up for this long is forgiven.
    pub window: Duration,
    /// It must be good for this long at first, for twice that after its next relapse, ...
    pub hold: Duration,
    /// ... and never for longer than this.
    pub hold_max: Duration,
}

impl Default for Damping {
    fn default() -> Self {
        Self {
            changes: 0,
            window: Duration::from_secs(60),
            hold: Duration::from_secs(10),
            hold_max: Duration::from_secs(300),
        }
    }
}

/// One probe, as `health::runner` reports it. Times are the monotonic clock's, in nanoseconds
/// since boot, as the prober saw them; a round in which the prober itself was late can so be
/// told from one in which the target was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When it should have started.
    pub scheduled: u64,
    /// When it started.
    pub started: u64,
    /// When it ended.
    pub ended: u64,
    /// How it ended.
    pub verdict: ProbeVerdict,
    /// It was made apart from the target's turns, since packets made a suspect of somebody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extra: bool,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "reason")]
pub enum ProbeVerdict {
    /// As expected.
    Good,
    /// As expected, and something will soon not be: what, for people, at most 256 bytes.
    Warned(String),
    /// The same of what has an end that is known, such as a certificate: [`crate::event::Record::Warned`] tells of it.
    Expiring(String),
    /// Not as expected: the reason, for people, at most 256 bytes.
    Bad(String),
    /// The probe could not be made for a cause on our side (no file descriptors, no memory):
    /// it says nothing about the target.
    Void(String),
}

/// What a prober is told to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose health it is.
    pub backend: BackendKey,
    /// Address to connect to.
    pub address: IpAddr,
    /// Port to connect to.
    pub port: u16,
    /// How it is probed as the VIP; `None`: as itself.
    pub real_path: Option<RealPath>,
    /// The largest packet that is to arrive; `None`: any size will do.
    pub full_size: Option<FullSize>,
    /// What to do.
    pub check: Check,
    /// Where in the answer the backend says how much it can bear.
    pub agent: Option<AgentSource>,
    /// As in [`HealthPolicy`].
    pub interval: Duration,
    /// As in [`HealthPolicy`].
    pub fast_interval: Duration,
    /// As in [`HealthPolicy`].
    pub timeout: Duration,
    /// As in [`HealthPolicy`].
    pub jitter: Duration,
    /// As in [`HealthPolicy`].
    pub rise: u16,
    /// As in [`HealthPolicy`].
    pub fall: u16,
    /// So many first probes follow one another quickly, so that a new target is known soon.
    pub opening: u16,
}

/// A way to an address, as netlink tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// Resolved: frames go out of `ifindex` with these MAC addresses.
    Resolved {
        /// Interface.
        ifindex: u32,
        /// Its MAC address.
        source: [u8; 6],
        /// The neighbour's MAC address: the backend, or the router before it.
        destination: [u8; 6],
    },
    /// Not usable: the reason, for people.
    Unresolved(String),
    /// It leaves by an interface that is not one of the configured ones.
    Elsewhere {
        /// Its name.
        interface: String,
        /// The name of that by which its frames leave: what is to be configured.
        port: String,
    },
}

/// For people: `02:00:00:00:00:01 by interface 3`, or why there is none.
impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resolved {
                ifindex,
                destination,
                ..
            } => {
                let mac = destination.map(|byte| format!("{byte:02x}")).join(":");
                write!(f, "{mac} by interface {ifindex}")
            }
            Self::Unresolved(why) => f.write_str(why),
            Self::Elsewhere { interface, port } => write!(
                f,
                "packets would leave by {interface}, where no program is attached: add {port} to `interfaces`"
            ),
        }
    }
}
