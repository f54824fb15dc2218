//! What `fairlead status --json` says, read as any other program would: by the names of its keys.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The balancer at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The maps are written and every interface is attached.
    pub ready: bool,
    /// Tells configurations apart.
    pub config_revision: String,
    /// Why the configuration file is not what runs.
    #[serde(default)]
    pub config_error: Option<String>,
    /// All probes fail at once: the checker is suspected.
    #[serde(default)]
    pub checker_suspect: bool,
    /// The files of the state directory.
    pub storage: Storage,
    /// Hooks.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Counters of all packets.
    pub data_plane: DataPlane,
    /// Services.
    pub services: Vec<Service>,
    /// Interfaces.
    pub attachments: Vec<Attachment>,
    /// What was lost behind the program.
    pub losses: Losses,
}

/// What the kernel and its drivers lost of what the program sent.
#[derive(Clone, Debug, Deserialize)]
pub struct Losses {
    /// By interface and how.
    pub lost: Vec<Lost>,
    /// Why nobody counts.
    pub trouble: Option<String>,
}

/// Packets that were lost at an interface.
#[derive(Clone, Debug, Deserialize)]
pub struct Lost {
    /// The interface.
    pub interface: String,
    /// In which way.
    pub how: String,
    /// How many.
    pub packets: u64,
}

/// An interface with the program.
#[derive(Clone, Debug, Deserialize)]
pub struct Attachment {
    /// Interfaces of VLANs on it that are served.
    pub vlans: Vec<String>,
    /// What is wrong with them.
    pub trouble: Option<String>,
}

/// A hook.
#[derive(Clone, Debug, Deserialize)]
pub struct Hook {
    /// Name.
    pub name: String,
    /// Events that were told.
    pub sent: u64,
    /// Events that were given up.
    pub failed: u64,
    /// Events that were dropped.
    pub dropped: u64,
    /// Events that are not told yet.
    pub waiting: u64,
}

/// How it stands with the state directory.
#[derive(Clone, Debug, Deserialize)]
pub struct Storage {
    /// What is wrong with it.
    pub trouble: Option<String>,
    /// How long a write has been taking too long.
    pub late_ms: u64,
    /// How long the oldest change has been waiting to be saved.
    pub unsaved_ms: u64,
}

/// Counters of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DataPlane {
    /// Packets in.
    pub rx: u64,
    /// Given to the kernel.
    pub pass: u64,
    /// Sent out of the interface they came from.
    pub tx: u64,
    /// Sent out of another.
    pub redirect: u64,
    /// Dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets forwarded without an entry in the flow table.
    #[serde(default)]
    pub untracked: u64,
    /// ICMP errors about packets in tunnels, by what came of them.
    pub path_errors: BTreeMap<String, u64>,
    /// ICMP errors sent on to the backend or client whose packet they quote.
    pub icmp_relayed: u64,
    /// Resets sent to clients.
    #[serde(default)]
    pub resets: u64,
    /// Datagrams of QUIC that went where their connection id says.
    #[serde(default)]
    pub by_server_id: u64,
    /// Datagrams of QUIC whose connection id names no backend.
    #[serde(default)]
    pub no_server_id: u64,
    /// Clients that lost their backend before their time.
    pub affinity_evicted: u64,
    /// New flows to a server that has another from the same client's port.
    pub clashed_flows: u64,
    /// Entries evicted for new flows.
    #[serde(default)]
    pub evicted: u64,
    /// Flows of `fullnat` that have an entry.
    pub nat_flows: u64,
}

/// A service.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Who gets new flows.
    #[serde(default)]
    pub flows_to: String,
    /// Why its address is not claimed yet.
    #[serde(default)]
    pub claim_waits: Option<String>,
    /// Backends.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug, Deserialize)]
pub struct Backend {
    /// Name.
    pub name: String,
    /// Its index in the kernel.
    #[serde(default)]
    pub id: u32,
    /// `enabled`, `draining` or `disabled`.
    pub admin: String,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// Why.
    pub reason: String,
    /// Its share of new flows, in thousandths.
    #[serde(default)]
    pub share: u32,
    /// Why it is that.
    #[serde(default)]
    pub share_why: String,
    /// The thousandths of its weight that its agent leaves it, if agents are asked.
    #[serde(default)]
    pub agent: Option<u32>,
    /// Why its checks will not be good for long.
    #[serde(default)]
    pub warning: Option<String>,
    /// The way to it: interface and MAC address, or why there is none.
    pub route: String,
    /// Counters.
    pub traffic: Traffic,
}

/// Traffic of a backend.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Traffic {
    /// Packets to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows scheduled to it.
    pub new_flows: u64,
    /// Flows moved to it from a backend that might not keep them.
    #[serde(default)]
    pub moved_in: u64,
    /// Live flows at the last sweep.
    pub live_flows: u64,
    /// Those of them that are open.
    #[serde(default)]
    pub open_flows: u64,
    /// TCP handshakes with it.
    #[serde(default)]
    pub handshakes: Handshakes,
}

/// What became of TCP handshakes.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Handshakes {
    /// ICMP messages that the backend cannot be reached.
    pub unreachable: u64,
}

impl DataPlane {
    /// Every packet ends in exactly one counter: rx = pass + tx + redirect + sum of drops.
    pub fn conserved(&self) -> bool {
        self.rx == self.pass + self.tx + self.redirect + self.dropped()
    }

    /// All drops.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

impl Status {
    /// A backend by `SERVICE/BACKEND`.
    #[track_caller]
    pub fn backend(&self, key: &str) -> &Backend {
        let found = key.split_once('/').and_then(|(service, backend)| {
            let service = self.services.iter().find(|s| s.name == service)?;
            service.backends.iter().find(|b| b.name == backend)
        });
        found.unwrap_or_else(|| panic!("no backend {key} in {self:?}"))
    }

    /// A service by its name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// True when every backend of every service has this health.
    pub fn all_are(&self, health: &str) -> bool {
        let mut backends = self.services.iter().flat_map(|service| &service.backends);
        backends.all(|backend| backend.health == health)
    }
}
