//! What a run measured, in numbers: what `--json` prints, and what the table is made from.

use serde::{Deserialize, Serialize};

use super::{Candidate, run::Samples};
use crate::bench::{machine::Machine, results::Summary};

/// The goal for Fairlead's packet rate, as a multiple of a MAC swap's.
pub const GOAL_OF_MAC_SWAP: f64 = 0.8;
/// The same, as a multiple of that of nftables DNAT.
pub const GOAL_OF_NFTABLES: f64 = 5.0;

/// One figure over the rounds, and what it is beside those of others in the same round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The figure itself.
    pub value: Summary,
    /// As a multiple of the MAC swap's; only packets have one.
    pub by_mac_swap: Option<Summary>,
    /// As a multiple of that of nftables DNAT.
    pub by_nftables: Summary,
}

/// One candidate; `None`: it does not take this kind of load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub candidate: Candidate,
    /// UDP packets of 64 bytes per second, all on one CPU.
    pub packets_per_second: Option<Figure>,
    /// Of all that were sent in all rounds, the share that did not come back.
    pub packets_lost: Option<f64>,
    /// TCP connections per second: connect, 1 KiB there and back, close.
    pub connections_per_second: Option<Figure>,
    /// p99 of a light second client meanwhile, in microseconds.
    pub connections_p99_us: Option<Summary>,
    /// Bits per second from client to backend.
    pub bits_per_second: Option<Figure>,
    /// p99 of a light second client meanwhile, in microseconds.
    pub bits_p99_us: Option<Summary>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What it ran on.
    pub machine: Machine,
    /// CPUs that it might use.
    pub cpus: usize,
    /// Rounds.
    pub rounds: u32,
    /// Packets sent to a candidate in a round.
    pub packets: u64,
    /// Their flows, in turn.
    pub flows: u64,
    /// Of each phase of connections and of bulk data.
    pub seconds: f64,
    /// Threads of the client that makes connections as fast as they are answered.
    pub clients: usize,
    /// Connections per second of the light second client.
    pub light_per_second: u32,
    /// By candidate.
    pub rows: Vec<Row>,
}

impl Row {
    /// Of all candidates; the samples are in the same order.
    pub fn all(candidates: &[Candidate], samples: &[Samples]) -> Vec<Self> {
        let of = |wanted: Candidate| {
            let at = candidates.iter().position(|one| *one == wanted);
            at.and_then(|at| samples.get(at))
        };
        let (floor, peer) = (of(Candidate::MacSwap), of(Candidate::Nftables));
        let both = candidates.iter().zip(samples);
        both.map(|(candidate, samples)| {
            let figure = |kind: fn(&Samples) -> &Vec<f64>| {
                figure(kind(samples), floor.map(kind), peer.map(kind))
            };
            Self {
                candidate: *candidate,
                packets_per_second: figure(|s| &s.packets),
                packets_lost: mean(&samples.lost),
                connections_per_second: figure(|s| &s.connections),
                connections_p99_us: summary(&samples.connections_p99),
                bits_per_second: figure(|s| &s.bulk),
                bits_p99_us: summary(&samples.bulk_p99),
            }
        })
        .collect()
    }
}

/// Every round sends as many.
fn mean(shares: &[f64]) -> Option<f64> {
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

fn summary(values: &[f64]) -> Option<Summary> {
    (!values.is_empty()).then(|| Summary::of(values))
}

fn figure(values: &[f64], floor: Option<&Vec<f64>>, peer: Option<&Vec<f64>>) -> Option<Figure> {
    // Round by round: what drifts has drifted for both.
    let by = |others: Option<&Vec<f64>>| {
        let both = values.iter().zip(others?);
        summary(&both.map(|(value, other)| value / other).collect::<Vec<_>>())
    };
    Some(Figure {
        value: summary(values)?,
        by_mac_swap: by(floor),
        by_nftables: by(peer)?,
    })
}
