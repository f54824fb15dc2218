//! The network benchmark: packets, connections and bytes through a balancer in a network of namespaces, for
//! each candidate on the same topology in the same run.
//!
//! This file says what is measured; `netbench/` measures it. Packets are made by the kernel itself
//! (`BPF_PROG_TEST_RUN` with live frames) at the switch port that faces the balancer, and counted where they come back:
//! the rate is what one CPU carries, generator, veth, balancer and counter together. Each candidate
//! proves that it forwards before it is measured.

pub mod bed;
pub mod bulk;
pub mod haproxy;
pub mod load;
pub mod results;
pub mod run;
pub mod start;
pub mod table;
pub mod wire;

use serde::{Deserialize, Serialize};

use crate::topology::{Arms, Forwarding, Shape};

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidate {
    /// An XDP program that exchanges both MAC addresses: the floor of packets.
    MacSwap,
    /// The kernel routes; nobody balances: the floor of connections.
    Routing,
    /// The kernel's own address translation (nft_nat).
    Nftables,
    /// A proxy in user space, `mode tcp`.
    Haproxy,
    /// Fairlead, `forwarding = "dnat"`.
    Dnat,
    /// Fairlead, `forwarding = "l2dsr"`.
    L2dsr,
}

impl Candidate {
    /// All, in the order in which they are measured and shown.
    pub const ALL: [Self; 6] = [
        Self::MacSwap,
        Self::Routing,
        Self::Nftables,
        Self::Haproxy,
        Self::Dnat,
        Self::L2dsr,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MacSwap => "MAC swap (XDP)",
            Self::Routing => "kernel routing",
            Self::Nftables => "nftables DNAT",
            Self::Haproxy => "HAProxy tcp",
            Self::Dnat => "Fairlead dnat",
            Self::L2dsr => "Fairlead l2dsr",
        }
    }

    /// It forwards single packets.
    pub const fn takes_packets(self) -> bool {
        !matches!(self, Self::Haproxy)
    }

    /// It forwards to servers that answer.
    pub const fn takes_connections(self) -> bool {
        !matches!(self, Self::MacSwap)
    }

    /// It is Fairlead.
    pub const fn is_fairlead(self) -> bool {
        matches!(self, Self::Dnat | Self::L2dsr)
    }

    /// The network: one balancer with one interface, three backends.
    pub const fn shape(self) -> Shape {
        Shape {
            backends: 3,
            arms: Arms::One,
            forwarding: match self {
                Self::L2dsr => Forwarding::L2dsr,
                _ => Forwarding::Dnat,
            },
        }
    }
}
