//! What `fairlead why` tells: whether a backend gets new flows, what stands in the way, and what it takes to come
//! back. Data only: [`crate::state`] makes it, the command line draws it. Field names are a contract: they are
//! only added to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{BackendKey, Name};
use crate::status::Backend;

/// Whom it is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One backend: `web/b1`.
    Key(BackendKey),
    /// The backends of this name, of all services: `b1`.
    Name(Name),
    /// All backends at an address: `192.0.2.7`.
    Address(IpAddr),
}

impl std::str::FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return text.parse().map(Self::Key);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        Name::new(text).map(Self::Name).ok_or_else(|| {
            format!("backend '{text}': not of the form SERVICE/BACKEND, no name and no IP address")
        })
    }
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// When it was true, nanoseconds since boot: what the times of results are measured by.
    pub now: u64,
    /// Each backend that was meant, by service.
    pub backends: Vec<Explained>,
}

/// A backend, explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// Its service.
    pub service: String,
    /// `tcp`, `udp`, `sctp` or `any`.
    pub protocol: String,
    /// `dnat`, `l2dsr`, `ipip` or `gue`.
    pub forwarding: String,
    /// The service spreads over all enabled backends, since none is healthy.
    pub fail_open: bool,
    /// As in the status.
    pub backend: Backend,
    /// How it is checked; `null`: not at all.
    pub check: Option<Check>,
    /// What keeps new flows away, or would if the service did not spread over all; empty: nothing.
    pub obstacles: Vec<Obstacle>,
}

/// How a backend is checked, and how far its verdict is from the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// As in the configuration.
    #[serde(rename = "type")]
    pub kind: String,
    /// Port that is probed; `null`: the type has none.
    pub port: Option<u16>,
    /// Milliseconds between two probes.
    pub interval_ms: u64,
    /// Milliseconds after which a probe has failed.
    pub timeout_ms: u64,
    /// Milliseconds until the next probe is due, give or take the jitter. 0: it is under way or about to be. `null`: not known yet.
    pub next_in_ms: Option<u64>,
    /// More good probes in a row until it is up; `null`: it is.
    pub good_until_up: Option<u16>,
    /// More bad probes in a row until it is down; `null`: it is.
    pub bad_until_down: Option<u16>,
}

/// Something that keeps new flows away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// What kind of thing.
    pub kind: Kind,
    /// What it is, for people.
    pub what: String,
    /// What it would take, for people.
    pub cure: String,
}

/// Kinds of obstacles, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A person said so.
    Disabled,
    /// A person said so.
    Draining,
    /// Weight 0.
    NoWeight,
    /// The way to it is not resolved.
    Unreachable,
    /// Probes say that it is down.
    Down,
    /// Probes have not said yet that it is up.
    Unproven,
    /// It would be up if it had not changed so often.
    Damped,
    /// It has as many open flows as it may have.
    Full,
    /// It may take flows, and others get them: backends of other tiers, or nobody, since too few are healthy.
    NotChosen,
}
