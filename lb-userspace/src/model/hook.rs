//! Hooks: who is told when something happens, and how.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{ExecCheck, Name, TlsCheck};

/// A command that is run, or a server that is told, for each event of some kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name, in metrics and logs.
    pub name: Name,
    /// Kinds of events.
    pub on: BTreeSet<Topic>,
    /// Services whose events are told; empty: those of all, and events that are no service's.
    pub services: BTreeSet<Name>,
    /// What is done.
    pub call: Call,
    /// When an attempt has failed.
    pub timeout: Duration,
    /// Attempts after the first one.
    pub retries: u16,
    /// Events begun in a minute, after as many at once.
    pub rate: u32,
    /// Events that may wait.
    pub queue: u32,
}

/// A kind of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Verdicts about backends, and what holds them back.
    Health,
    /// Orders of a person, and drains that end.
    Drain,
    /// Who gets a service's new flows.
    Failover,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Runs a command.
    Command(ExecCheck),
    /// Posts to a server.
    Webhook(Webhook),
}

/// Where events are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Path and query, beginning with `/`. It may hold a secret, and is not told.
    pub path: String,
    /// `https`: whom to trust, and who we are.
    pub tls: Option<TlsCheck>,
}

/// A server's name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, looked up for each attempt.
    Name(String),
}

impl Webhook {
    /// The host and, unless it is the scheme's own, the port: as in a `Host` header.
    pub fn authority(&self) -> String {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        match self.port == usual {
            true => self.host.to_string(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The whole URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// As in a URL: addresses of IPv6 in brackets.
impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What is told and done, without secrets: `/usr/local/bin/page`, `https://example.org`.
impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(command) => command.command.display().fmt(f),
            Self::Webhook(webhook) if webhook.tls.is_some() => {
                write!(f, "https://{}", webhook.authority())
            }
            Self::Webhook(webhook) => write!(f, "http://{}", webhook.authority()),
        }
    }
}
