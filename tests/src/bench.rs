//! The packet-path benchmark: what a packet costs in the compiled data plane, run by
//! `BPF_PROG_TEST_RUN`, as a multiple of one kernel hash lookup of the same run.
//!
//! This file says what is measured; `bench/` measures it. Each case proves that it takes the path it
//! names before it is timed, and its counters must account for every packet after.

pub mod baseline;
pub mod floods;
pub mod machine;
pub mod plot;
pub mod prove;
pub mod results;
pub mod rig;
pub mod rounds;
pub mod run;
pub mod scale;
pub mod table;
pub mod world;

use lb_common::{Family, Forwarding, Protocol, limits};
use lb_ebpf::bench::Shape;

/// What arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Packets of flows that have an entry.
    Known,
    /// The first packet of a flow (TCP: a SYN) that has no entry.
    New,
    /// Packets to an address that is no service's.
    NotOurs,
}

impl Traffic {
    /// For curves.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::New => "SYN new",
            Self::NotOurs => "not ours",
        }
    }
}

/// One row of the benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Unique; what `--only` looks for and the baseline knows it by.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Of the backends' addresses.
    pub outer: Family,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub forwarding: Forwarding,
    /// What arrives.
    pub traffic: Traffic,
    /// Flows in turn.
    pub flows: u64,
    /// The flow table has its default size, however few the flows.
    pub default_table: bool,
    /// Services in turn.
    pub services: u32,
    /// Backends of each service.
    pub backends: u32,
    /// Slots of each service's ring.
    pub ring: u32,
    /// The goal as a multiple of one hash lookup, if there is one.
    pub goal: Option<f64>,
}

/// The most packets in one timed run.
const MOST_PACKETS: u64 = 1 << 21;
/// The slots of every row's ring: as many as the best peer was measured with.
const RING: u32 = 65_537;

impl Case {
    /// Where its packets' fields lie.
    pub fn shape(&self) -> Shape {
        match (self.family, self.protocol) {
            (Family::V4, Protocol::Tcp) => Shape::V4Tcp,
            (Family::V4, _) => Shape::V4Udp,
            (Family::V6, Protocol::Tcp) => Shape::V6Tcp,
            (Family::V6, _) => Shape::V6Udp,
        }
    }

    /// Packets of a timed run when nothing else asks for more or fewer: every flow once if that is not
    /// too long, and no flow twice if each is to be new.
    pub fn packets(&self, asked: u64) -> u64 {
        match self.needs_empty_table() {
            true => self.flows.min(MOST_PACKETS),
            false => asked.max(self.flows.min(MOST_PACKETS)),
        }
    }

    /// New flows in turn, which are new once only.
    pub fn needs_empty_table(&self) -> bool {
        self.traffic == Traffic::New && self.flows > 1
    }

    /// Whether the floor `flow_line` can be taken of it.
    pub fn has_flow_lines(&self) -> bool {
        self.flows > 1 && !self.shape().is_v6()
    }

    /// Entries for flows of `fullnat`: four times as many, so that each finds a place in the first candidates.
    pub fn nat_flows(&self) -> u32 {
        let entries = match self.forwarding {
            Forwarding::Fullnat => self.flows.saturating_mul(4).next_power_of_two(),
            _ => 0,
        };
        u32::try_from(entries.max(limits::NAT_FLOWS.min)).unwrap_or(u32::MAX)
    }

    /// Sets of its flow table: entries for twice the flows, which is the load that the table is rated for. Only
    /// the cases of one flow and of the default table have the default size: how large the table is costs
    /// nothing, but how much of it the flows touch does.
    pub fn flow_sets(&self) -> u32 {
        let rated = self.flows.saturating_mul(2).next_power_of_two();
        let entries = match self.default_table || self.flows == 1 {
            true => rated.max(limits::FLOWS.default),
            false => rated.max(limits::FLOWS.min),
        };
        u32::try_from(entries / 8).unwrap_or(u32::MAX)
    }
}

/// 64 k.
const SOME: u64 = 1 << 16;
/// 1 M.
const MANY: u64 = 1 << 20;

/// Every row, in the order in which they are shown.
pub fn cases() -> Vec<Case> {
    use Family::{V4, V6};
    use Forwarding::{Dnat, Fullnat, Gue, Ipip, L2dsr};
    use Protocol::{Tcp, Udp};
    use Traffic::{Known, New, NotOurs};
    vec![
        row(Ipip, V4, Tcp, Known, 1, Some(1.0)),
        row(Ipip, V4, Tcp, New, 1, Some(1.5)),
        row(Ipip, V4, Udp, Known, 1, Some(1.1)),
        row(Ipip, V6, Tcp, Known, 1, Some(1.1)),
        row(Ipip, V4, Tcp, Known, SOME, Some(2.0)),
        in_default_table(row(Ipip, V4, Tcp, Known, SOME, None)),
        row(Ipip, V4, Tcp, Known, MANY, Some(3.5)),
        row(Ipip, V4, Tcp, New, MANY, Some(4.0)),
        row(Ipip, V4, Udp, Known, MANY, Some(3.5)),
        row(L2dsr, V4, Tcp, Known, 1, Some(1.0)),
        row(L2dsr, V4, Tcp, New, 1, None),
        row(L2dsr, V4, Udp, Known, 1, None),
        row(L2dsr, V6, Tcp, Known, 1, Some(1.0)),
        row(L2dsr, V4, Tcp, Known, SOME, None),
        row(L2dsr, V4, Tcp, Known, MANY, None),
        row(L2dsr, V4, Tcp, New, MANY, None),
        row(L2dsr, V4, Udp, Known, MANY, None),
        row(Dnat, V4, Tcp, Known, 1, Some(1.0)),
        row(Dnat, V4, Tcp, New, 1, None),
        row(Dnat, V4, Udp, Known, 1, None),
        row(Dnat, V6, Tcp, Known, 1, Some(1.0)),
        row(Dnat, V4, Tcp, Known, MANY, None),
        row(Fullnat, V4, Tcp, Known, 1, None),
        row(Fullnat, V4, Udp, Known, 1, None),
        row(Fullnat, V6, Tcp, Known, 1, None),
        row(Fullnat, V4, Tcp, Known, SOME, None),
        over(V6, row(Ipip, V4, Tcp, Known, 1, None)),
        row(Gue, V4, Tcp, Known, 1, None),
        row(Gue, V6, Tcp, Known, 1, None),
        row(L2dsr, V4, Tcp, NotOurs, 1, Some(0.4)),
    ]
}

/// The case that floors are measured with: one flow, IPv4, TCP.
pub fn floor_case() -> Case {
    use Forwarding::L2dsr;
    row(L2dsr, Family::V4, Protocol::Tcp, Traffic::Known, 1, None)
}

/// The same in a flow table of the default size.
fn in_default_table(case: Case) -> Case {
    Case {
        name: format!("{}, default table", case.name),
        default_table: true,
        ..case
    }
}

/// The same with the other family outside.
fn over(outer: Family, case: Case) -> Case {
    let version = match outer {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    Case {
        name: format!("{} over {version}", case.name),
        outer,
        ..case
    }
}

/// One service with a hundred backends.
fn row(
    forwarding: Forwarding,
    family: Family,
    protocol: Protocol,
    traffic: Traffic,
    flows: u64,
    goal: Option<f64>,
) -> Case {
    let way = match traffic {
        // How services forward does not matter to it.
        Traffic::NotOurs => "pass",
        _ => match forwarding {
            Forwarding::Dnat => "dnat",
            Forwarding::L2dsr => "l2dsr",
            Forwarding::Ipip => "ipip",
            Forwarding::Gue => "gue",
            Forwarding::Fullnat => "fullnat",
        },
    };
    let family_name = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let what = match (protocol, traffic) {
        (Protocol::Tcp, Traffic::Known) => "TCP known",
        (Protocol::Tcp, Traffic::New) => "TCP SYN new",
        (Protocol::Tcp, Traffic::NotOurs) => "TCP not ours",
        (_, Traffic::Known) => "UDP known",
        (_, Traffic::New) => "UDP new",
        (_, Traffic::NotOurs) => "UDP not ours",
    };
    let in_turn = match flows {
        1 => String::new(),
        n if n % (1 << 20) == 0 => format!(", {} M flows", n >> 20),
        n => format!(", {} k flows", n >> 10),
    };
    Case {
        name: format!("{way} {family_name} {what}{in_turn}"),
        family,
        outer: family,
        protocol,
        forwarding,
        traffic,
        flows,
        default_table: false,
        services: 1,
        backends: 100,
        ring: RING,
        goal,
    }
}
