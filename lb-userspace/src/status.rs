//! What `fairlead status --json` prints, what the table draws and what metrics export: one
//! description of the whole balancer, made by [`crate::state`] from itself and from counters that
//! others read. Field names are a contract: they are only added to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, Health, Ports, Prefix, ProbeResult};

/// The whole balancer at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The image is written and every interface is attached.
    pub ready: bool,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// Sixteen hex digits; equal for configurations that mean the same.
    pub config_revision: String,
    /// Why the configuration file is not what runs (its last load failed); `null`: it is.
    pub config_error: Option<String>,
    /// Raised by every daemon that takes the maps over.
    pub owner_epoch: u64,
    /// All probes fail at once: the checker itself is suspected, nothing more is taken out.
    pub checker_suspect: bool,
    /// Interfaces.
    pub attachments: Vec<Attachment>,
    /// What is lost behind the data plane.
    #[serde(default)]
    pub losses: Losses,
    /// How it stands with the state directory.
    #[serde(default)]
    pub storage: Storage,
    /// How it stands with each hook.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Counters of all packets since the maps were made.
    pub data_plane: DataPlane,
    /// Services by name.
    pub services: Vec<Service>,
}

/// An interface the program should be attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name.
    pub interface: String,
    /// Index; 0: there is none.
    pub ifindex: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// `attached`, or why not.
    pub state: String,
    /// Interfaces of VLANs on it, whose packets are looked at, too.
    #[serde(default)]
    pub vlans: Vec<String>,
    /// Why some of its packets may not be seen as they came, or cannot be sent by it; `null`: all is well.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// How it stands with the files of the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Which file could not be written, or has been being written for more than a second; `null`: all is well.
    pub trouble: Option<String>,
    /// How long a write has been taking, once it takes more than a second; 0: none does.
    pub late_ms: u64,
    /// How long the oldest change of the state has been waiting to be on disk; 0: all are.
    pub unsaved_ms: u64,
}

/// A hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Name.
    pub name: String,
    /// The command, or scheme and host of the URL.
    pub call: String,
    /// Events that were told since the daemon started.
    pub sent: u64,
    /// Events that were given up after all attempts.
    pub failed: u64,
    /// Events that were dropped because too many waited.
    pub dropped: u64,
    /// Events that are not told yet.
    pub waiting: u64,
    /// Why the last attempt failed; `null`: it did not.
    pub trouble: Option<String>,
}

/// What the kernel and its drivers lost of what the data plane sent (transmitted or redirected), since this daemon began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// By interface and kind; each kind is there for each attached interface.
    pub lost: Vec<Lost>,
    /// Why nobody counts; `null`: somebody does.
    pub trouble: Option<String>,
}

/// Packets that were lost at an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The interface.
    pub interface: String,
    /// A [`lb_common::losses::Loss`] label.
    pub how: String,
    /// How many.
    pub packets: u64,
}

/// Counters of the data plane; rx = pass + tx + redirect + sum of drops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlane {
    /// Packets in.
    pub rx: u64,
    /// Given to the kernel.
    pub pass: u64,
    /// Sent out of the interface they came from.
    pub tx: u64,
    /// Sent out of another.
    pub redirect: u64,
    /// By [`lb_common::DropReason`] label; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Echo requests answered.
    pub echo_replied: u64,
    /// ICMP errors relayed.
    pub icmp_relayed: u64,
    /// Packets forwarded without an entry in the flow table.
    pub untracked: u64,
    /// Among them: their flows were above the limit of new flows.
    #[serde(default)]
    pub not_admitted: u64,
    /// "Packet too big" sent to clients.
    #[serde(default)]
    pub too_big_answers: u64,
    /// ICMP errors about packets in tunnels, by [`lb_common::counter::PathError`] label; each is there.
    #[serde(default)]
    pub path_errors: BTreeMap<String, u64>,
    /// Resets sent to clients.
    #[serde(default)]
    pub resets: u64,
    /// Datagrams of QUIC that went where the server id in their connection id says.
    #[serde(default)]
    pub by_server_id: u64,
    /// Datagrams of QUIC with a short header whose connection id names no backend: they went the way of their flow.
    #[serde(default)]
    pub no_server_id: u64,
    /// Clients that lost their backend before their `affinity-timeout`, as there was no room for all.
    #[serde(default)]
    pub affinity_evicted: u64,
    /// SYNs that should have said who their client is (`client-option`), and had no room for it.
    #[serde(default)]
    pub options_left_out: u64,
    /// New flows (`dnat`) to a server that has another from the same client's port through another VIP: no other server could take them.
    #[serde(default)]
    pub clashed_flows: u64,
    /// Entries evicted for new flows.
    pub evicted: u64,
    /// Live entries of the flow table at the last sweep.
    pub flows: u64,
    /// Entries it has room for.
    pub flow_capacity: u64,
    /// Flows of `fullnat` that have an entry, and so a port, at the last walk through their table.
    #[serde(default)]
    pub nat_flows: u64,
    /// Entries it has room for; it is rated for half as many.
    #[serde(default)]
    pub nat_capacity: u64,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// VIP, or a prefix of them.
    pub address: Prefix,
    /// Port: a number; a range of them (`8000-8099`) and `any` are texts.
    pub port: Ports,
    /// `tcp`, `udp`, `sctp` or `any`.
    pub protocol: String,
    /// `dnat`, `l2dsr`, `ipip` or `gue`.
    pub forwarding: String,
    /// The largest client's packet, in bytes from its IP header on, that fits on the way to all backends (in
    /// their tunnels, if any) whose way is known; a client that sends a larger one is told. `null`: no way is known.
    #[serde(default)]
    pub largest_packet: Option<u32>,
    /// Why packets of clients are lost on the way to its backends; `null`: nothing is known to be wrong.
    #[serde(default)]
    pub trouble: Option<String>,
    /// `maglev`.
    pub scheduler: String,
    /// Ring slots; 0: no backend may take new flows.
    pub ring_size: u32,
    /// Too few backends are healthy and the service spreads over all of them.
    pub fail_open: bool,
    /// Who gets new flows: `tier 0: 70 %, tier 1: 30 %`, `the sorry backends`, or why nobody does.
    #[serde(default)]
    pub flows_to: String,
    /// Why its address is not claimed yet; `null`: it is, or is not to be.
    #[serde(default)]
    pub claim_waits: Option<String>,
    /// Packets, bytes, flows over all backends.
    pub traffic: Traffic,
    /// Drops by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Backends by name.
    pub backends: Vec<Backend>,
}

/// Traffic of a backend or service since it was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets to backends.
    pub packets: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Replies translated (`dnat`).
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// New flows.
    pub new_flows: u64,
    /// Flows moved here because their backend might not keep them.
    pub moved_in: u64,
    /// Live flows at the last sweep of the flow table.
    pub live_flows: u64,
    /// Those of them that are open: what `max-connections` goes by.
    #[serde(default)]
    pub open_flows: u64,
    /// TCP handshakes.
    #[serde(default)]
    pub handshakes: Handshakes,
}

/// TCP handshakes, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// That began.
    pub begun: u64,
    /// SYNs with ACK that the backend sent (`dnat`, `fullnat`).
    pub answered: u64,
    /// SYNs that came again.
    pub resent: u64,
    /// Refused by the backend (`dnat`, `fullnat`).
    pub refused: u64,
    /// ICMP messages that it cannot be reached (`dnat`, `fullnat`, `ipip`, `gue`).
    pub unreachable: u64,
    /// Answers of which it was measured how long they took (`least-response-time` with `dnat` or `fullnat`).
    #[serde(default)]
    pub timed: u64,
    /// How long these took together, nanoseconds.
    #[serde(default)]
    pub timed_ns: u64,
}

impl Handshakes {
    /// With their names in metrics.
    pub fn by_outcome(&self) -> [(&'static str, u64); 5] {
        use lb_common::counter::Handshake;
        Handshake::ALL.map(|which| {
            let count = match which {
                Handshake::Begun => self.begun,
                Handshake::Answered => self.answered,
                Handshake::Resent => self.resent,
                Handshake::Refused => self.refused,
                Handshake::Unreachable => self.unreachable,
            };
            (which.label(), count)
        })
    }
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Name within the service.
    pub name: String,
    /// Its index in the kernel.
    pub id: u32,
    /// Address.
    pub address: IpAddr,
    /// Port. `null`: the one that the client chose.
    pub port: Option<u16>,
    /// Weight.
    pub weight: u16,
    /// Its tier: `0` to `9`, or `sorry`.
    #[serde(default)]
    pub tier: String,
    /// The share of the service's new flows that it gets, in thousandths.
    #[serde(default)]
    pub share: u32,
    /// It takes no new flows while it has so many; `null`: any number.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Why it gets that share, or none.
    #[serde(default)]
    pub share_why: String,
    /// The part of its weight that it gets as its agent says, in thousandths; `null`: agents are not asked.
    #[serde(default)]
    pub agent: Option<u32>,
    /// What a person says.
    pub admin: AdminState,
    /// What probes say.
    pub health: Health,
    /// Milliseconds since health last changed.
    pub health_for_ms: u64,
    /// Why it is so.
    pub reason: String,
    /// It takes new flows now.
    pub takes_new: bool,
    /// It keeps the flows it has.
    pub keeps: bool,
    /// A change that is held back, and why: by the velocity limit, or a return by damping.
    pub held: Option<String>,
    /// What packets say against it, and what a check that was made at once said; `null`: nothing was held against it.
    #[serde(default)]
    pub suspicion: Option<String>,
    /// What its checks, which are good, saw that expires soon, such as a certificate; `null`: nothing.
    #[serde(default)]
    pub warning: Option<String>,
    /// While draining.
    pub drain: Option<Drain>,
    /// While it is down or no way leads to it, and its flows stay.
    #[serde(default)]
    pub outage: Option<Drain>,
    /// The largest packet that fits the path to it, its tunnel's headers included, in bytes, as routers said; `null`: they said nothing, or not lately.
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// The way to it: `eth1 02:00:00:00:00:01`, or why there is none.
    pub route: String,
    /// Counters.
    pub traffic: Traffic,
    /// The last ten probes, newest last.
    pub last_results: Vec<ProbeResult>,
}

/// How far a drain or an outage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Milliseconds until `drain-policy` or `on-down` acts; `null`: never.
    pub deadline_in_ms: Option<u64>,
    /// Flows left at the last sweep.
    pub left: u64,
    /// No flow is left, or the policy has acted.
    pub done: bool,
}

/// Counters as the dataplane reads them, summed over CPUs, absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Global lines.
    pub totals: lb_common::counter::Totals,
    /// Backend lines by BackendId.
    pub backends: BTreeMap<u32, lb_common::CounterLine>,
    /// Handshakes of backends by BackendId, by [`lb_common::counter::Handshake`].
    pub handshakes: BTreeMap<u32, lb_common::CounterLine>,
    /// The second global line, by [`lb_common::counter::More`].
    pub more: lb_common::CounterLine,
    /// By [`lb_common::counter::Rest`].
    pub rest: lb_common::CounterLine,
    /// The line of [`lb_common::counter::PathError`].
    pub path_errors: lb_common::CounterLine,
    /// The largest packet that fits the path to a backend, by BackendId, where routers said so.
    pub paths: BTreeMap<u32, u32>,
    /// Drops by service index, by [`lb_common::DropReason`] number.
    pub service_drops: BTreeMap<u32, [u64; 32]>,
}
