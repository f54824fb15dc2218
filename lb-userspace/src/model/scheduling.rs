//! How a service's new flows spread, and which of them are kept together.

use std::num::NonZeroU16;

use lb_common::{Family, Fields, Pick, Scheduling};
use serde::{Deserialize, Serialize};

use super::{Protocol, Service};

/// How new flows spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Weighted Maglev hashing (NSDI'16).
    Maglev,
    /// The same of the client's address alone.
    SourceHash,
    /// Each to anybody, by weight.
    Random,
    /// One after the other, whatever their weights.
    RoundRobin,
    /// One after the other, by weight.
    WeightedRoundRobin,
    /// As `Maglev`, with weights that follow how long checks take.
    LeastResponseTime,
    /// Each to the one of two, named by chance and weight, that has fewer flows for its weight.
    LeastConnections,
}

impl Scheduler {
    /// All of them, by the word for each.
    pub const ALL: &[(&'static str, Self)] = &[
        ("maglev", Self::Maglev),
        ("source-hash", Self::SourceHash),
        ("random", Self::Random),
        ("round-robin", Self::RoundRobin),
        ("weighted-round-robin", Self::WeightedRoundRobin),
        ("least-response-time", Self::LeastResponseTime),
        ("least-connections", Self::LeastConnections),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, scheduler)| *scheduler == self);
        found.map_or("", |(word, _)| word)
    }

    /// The backend is the one that a hash names, of fields that the operator may choose.
    pub const fn hashes_fields(self) -> bool {
        matches!(self, Self::Maglev | Self::LeastResponseTime)
    }

    /// The backend is the one that a hash names.
    pub const fn is_hash(self) -> bool {
        self.hashes_fields() || matches!(self, Self::SourceHash)
    }
}

/// Seconds as the data plane counts them, of 2^30 ns each: at least as long.
fn ticks(seconds: NonZeroU16) -> u16 {
    let nanos = u64::from(seconds.get()).saturating_mul(1_000_000_000);
    u16::try_from(nanos.div_ceil(1 << 30)).unwrap_or(u16::MAX)
}

/// Which flows are kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Together {
    /// Of `maglev` and `least-response-time`: the fields that are hashed.
    pub hash_fields: Fields,
    /// Bits of the client's address that count, where it is looked at without its port; `None`: all.
    pub client_prefix: Option<u8>,
    /// Seconds for which a client stays with its backend after its last new flow; `None`: it does not.
    pub affinity: Option<NonZeroU16>,
}

impl Together {
    /// Each flow by itself.
    pub const NONE: Self = Self {
        hash_fields: Fields::All,
        client_prefix: None,
        affinity: None,
    };

    /// What is hashed under a scheduler, or kept together.
    pub const fn fields(&self, scheduler: Scheduler) -> Fields {
        match scheduler {
            Scheduler::SourceHash => Fields::Client,
            Scheduler::Maglev | Scheduler::LeastResponseTime
                if !matches!(self.hash_fields, Fields::All) =>
            {
                self.hash_fields
            }
            _ if self.affinity.is_some() => Fields::Service,
            _ => Fields::All,
        }
    }

    /// As the maps have it, for clients of a family.
    pub fn scheduling(&self, scheduler: Scheduler, family: Family) -> Scheduling {
        let fields = self.fields(scheduler);
        let bits = match (self.client_prefix, family) {
            (None, _) => 0,
            (Some(bits), Family::V4) => bits.saturating_add(96),
            (Some(bits), Family::V6) => bits,
        };
        let pick = match (scheduler, fields) {
            (Scheduler::Random, _) => Pick::Random,
            (Scheduler::LeastConnections, _) => Pick::Least,
            (Scheduler::RoundRobin | Scheduler::WeightedRoundRobin, _) => Pick::Turn,
            (_, Fields::All) => Pick::Flow,
            _ => Pick::Fields,
        };
        Scheduling {
            pick,
            fields,
            client_bits: if fields == Fields::All { 0 } else { bits },
            affinity: self.affinity.map_or(0, ticks),
        }
    }
}

impl Service {
    /// How long its backends take to answer a SYN is measured by the data plane, which sees the answers and is asked for it.
    pub fn times_handshakes(&self) -> bool {
        self.scheduler == Scheduler::LeastResponseTime
            && self.protocol == Protocol::Tcp
            && self.forwarding.translates()
    }
}
