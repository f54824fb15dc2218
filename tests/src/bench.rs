//! The packet-path benchmark: what a packet costs in the compiled data plane, run by
//! `BPF_PROG_TEST_RUN`, as a multiple of one kernel hash lookup of the same run.
//!
//! This file says what is measured; `bench/` measures it. Each case proves that it takes the path it
//! names before it is timed, and its counters must account for every packet after.

pub mod prove;
pub mod report;
pub mod rig;
pub mod rounds;
pub mod world;

use lb_common::{Family, Forwarding, Protocol};
use lb_ebpf::bench::Shape;

/// What arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Packets of flows that have an entry.
    Known,
    /// The first packet of a flow (TCP: SYN), whose entry was freed just before.
    New,
    /// Packets to an address that is no service's.
    NotOurs,
}

/// One row of the benchmark.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique; what `--only` looks for.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub forwarding: Forwarding,
    /// What arrives.
    pub traffic: Traffic,
    /// Flows in turn.
    pub flows: u64,
    /// The goal as a multiple of one hash lookup, if there is one.
    pub goal: Option<f64>,
}

impl Case {
    /// Where its packets' fields lie.
    pub fn shape(&self) -> Shape {
        match (self.family, self.protocol) {
            (Family::V4, Protocol::Tcp) => Shape::V4Tcp,
            (Family::V4, Protocol::Udp) => Shape::V4Udp,
            (Family::V6, Protocol::Tcp) => Shape::V6Tcp,
            (Family::V6, Protocol::Udp) => Shape::V6Udp,
        }
    }

    /// Packets of a timed run, when single-flow cases have this many: at least every flow once, and
    /// exactly once when each may be new only once.
    pub fn packets(&self, single: u64) -> u64 {
        match self.traffic {
            Traffic::New if self.flows > 1 => self.flows,
            _ => single.max(self.flows),
        }
    }

    /// Sets of its flow table: twice the flows, and at least the default size.
    pub fn flow_sets(&self) -> u32 {
        let sets = self.flows.saturating_mul(2).next_power_of_two() / 8;
        u32::try_from(sets)
            .unwrap_or(u32::MAX)
            .max(lb_common::limits::FLOWS.default as u32 / 8)
    }
}

/// 64 k.
const SOME: u64 = 1 << 16;
/// 1 M.
const MANY: u64 = 1 << 20;

/// Every row, in the order in which they are shown.
pub fn cases() -> Vec<Case> {
    use Family::{V4, V6};
    use Protocol::{Tcp, Udp};
    use Traffic::{Known, New, NotOurs};
    let forward = |forwarding: Forwarding| {
        let row = move |family, protocol, traffic, flows, goal| {
            row(forwarding, family, protocol, traffic, flows, goal)
        };
        [
            row(V4, Tcp, Known, 1, Some(1.0)),
            row(V4, Tcp, New, 1, None),
            row(V4, Udp, Known, 1, None),
            row(V6, Tcp, Known, 1, Some(1.0)),
            row(V4, Tcp, Known, SOME, None),
            row(V4, Tcp, Known, MANY, None),
            row(V4, Tcp, New, MANY, None),
            row(V4, Udp, Known, MANY, None),
        ]
    };
    let mut cases = vec![
        row(Forwarding::Ipip, V4, Tcp, Known, 1, Some(1.0)),
        row(Forwarding::Ipip, V4, Tcp, New, 1, Some(1.5)),
        row(Forwarding::Ipip, V4, Udp, Known, 1, Some(1.1)),
        row(Forwarding::Ipip, V6, Tcp, Known, 1, Some(1.1)),
        row(Forwarding::Ipip, V4, Tcp, Known, SOME, Some(2.0)),
        row(Forwarding::Ipip, V4, Tcp, Known, MANY, Some(3.5)),
        row(Forwarding::Ipip, V4, Tcp, New, MANY, Some(4.0)),
        row(Forwarding::Ipip, V4, Udp, Known, MANY, Some(3.5)),
    ];
    cases.extend(forward(Forwarding::L2dsr));
    cases.extend(forward(Forwarding::Dnat));
    cases.push(row(Forwarding::L2dsr, V4, Tcp, NotOurs, 1, Some(0.4)));
    cases
}

fn row(
    forwarding: Forwarding,
    family: Family,
    protocol: Protocol,
    traffic: Traffic,
    flows: u64,
    goal: Option<f64>,
) -> Case {
    let family_name = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let what = match (protocol, traffic) {
        (Protocol::Tcp, Traffic::Known) => "TCP known",
        (Protocol::Tcp, Traffic::New) => "TCP SYN new",
        (Protocol::Tcp, Traffic::NotOurs) => "TCP not ours",
        (Protocol::Udp, Traffic::Known) => "UDP known",
        (Protocol::Udp, Traffic::New) => "UDP new",
        (Protocol::Udp, Traffic::NotOurs) => "UDP not ours",
    };
    let flows_name = match flows {
        1 => String::new(),
        n if n % (1 << 20) == 0 => format!(", {} M flows", n >> 20),
        n => format!(", {} k flows", n >> 10),
    };
    let forwarding_name = format!("{forwarding:?}").to_lowercase();
    let name = match traffic {
        Traffic::NotOurs => format!("{family_name} {what} (pass){flows_name}"),
        _ => format!("{forwarding_name} {family_name} {what}{flows_name}"),
    };
    Case {
        name,
        family,
        protocol,
        forwarding,
        traffic,
        flows,
        goal,
    }
}
