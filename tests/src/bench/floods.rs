//! Floods from millions of sources upon a table of the real size, while proven flows live in it.
//!
//! The table has a TCP and a UDP service at one VIP. [`cost`] measures what a flood costs the flows that were
//! there before; that it moves none of them is `tests/all/flood.rs`'s business.

use std::fmt;

use anyhow::{Context, Result, ensure};
use lb_common::{
    EndpointKey, EndpointKind, Family, FlowHash, FlowRank, FlowWord, Forwarding, Protocol,
    counter::{self, PerBackend},
    hash::FlowTuple,
};
use lb_ebpf::{
    bench::{MAX_FLOWS, Plan, V6_BYTES},
    fixture::world::{Ends, address},
    mem::{Endpoint, MemTables},
};

use super::{
    Case, Traffic,
    results::Summary,
    rig::{Rig, Target},
    world,
};
use crate::kernel::Kernel;

/// Flows that live: the numbers from 0 on.
pub const PROVEN: u64 = 100_000;
/// Sources of each flood: ten for every entry of the table.
pub const SOURCES: u64 = 10 << 20;
/// Backends of the TCP service; the UDP service has as many after them.
pub const BACKENDS: u32 = 100;
/// Offset of the TCP flags in a frame of IPv4.
const FLAGS: usize = 47;

/// What each packet of a flood is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a connection.
    Syn,
    /// The second segment of a handshake that nobody began.
    SynAck,
    /// From the middle of a connection that is none.
    Ack,
    /// Cuts a connection.
    Rst,
    /// Ends a connection.
    Fin,
    /// A datagram.
    Udp,
}

impl Kind {
    const fn flags(self) -> u8 {
        match self {
            Self::Syn => 0x02,
            Self::SynAck => 0x12,
            Self::Ack | Self::Udp => 0x10,
            Self::Rst => 0x04,
            Self::Fin => 0x11,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syn => "SYN",
            Self::SynAck => "SYN+ACK",
            Self::Ack => "ACK",
            Self::Rst => "RST",
            Self::Fin => "FIN",
            Self::Udp => "UDP",
        })
    }
}

fn case(protocol: Protocol) -> Case {
    Case {
        name: format!("flood of {protocol:?}"),
        family: Family::V4,
        outer: Family::V4,
        protocol,
        forwarding: Forwarding::L2dsr,
        traffic: Traffic::Known,
        flows: PROVEN,
        default_table: true,
        services: 1,
        backends: BACKENDS,
        ring: super::RING,
        goal: None,
    }
}

/// Maps of the default size with both services.
fn tables(ends: &Ends) -> Result<MemTables> {
    let both = Case {
        services: 2,
        ..case(Protocol::Tcp)
    };
    let mut tables = world::tables(&both, ends)?;
    let [tcp, udp, ..] = &mut tables.services[..] else {
        anyhow::bail!("two services expected");
    };
    (udp.address, udp.protocol, udp.idle_epochs) = (tcp.address, Protocol::Udp as u8, 4);
    let vip = world::vip(Family::V4, 0);
    let key = |port, protocol| EndpointKey {
        address: address(vip),
        port,
        protocol,
    };
    let port = vip.port().to_be_bytes();
    let endpoints = [
        (key(port, Protocol::Tcp as u8), EndpointKind::Vip, 0),
        (key(port, Protocol::Udp as u8), EndpointKind::Vip, 1),
        (key([0, 0], 0), EndpointKind::VipAddress, 0),
    ];
    let endpoints = endpoints.map(|(key, kind, index)| Endpoint { key, kind, index });
    tables
        .publish_endpoints(&endpoints)
        .ok()
        .context("no seed places the endpoints")?;
    Ok(tables)
}

/// The driver's plan for packets of a kind.
pub fn plan(kind: Kind) -> Plan {
    if kind == Kind::Udp {
        return Plan {
            flows: MAX_FLOWS,
            ..world::plan(&case(Protocol::Udp), 1)
        };
    }
    let mut plan = world::plan(&case(Protocol::Tcp), 1);
    let template: &mut [u8; V6_BYTES] = bytemuck::cast_mut(&mut plan.template);
    let word = |template: &[u8]| u16::from_ne_bytes([template[FLAGS - 1], template[FLAGS]]);
    let old = word(template);
    template[FLAGS] = kind.flags();
    // RFC 1624, equation 3, before the last complement.
    plan.sum += u64::from(!old) + u64::from(word(template));
    plan.flows = MAX_FLOWS;
    plan
}

/// A flow's first segment, or one from the middle.
pub fn frame(opens: bool, flow: u64) -> Vec<u8> {
    let traffic = match opens {
        true => Traffic::New,
        false => Traffic::Known,
    };
    let case = Case {
        traffic,
        ..case(Protocol::Tcp)
    };
    world::frame(&case, flow)
}

/// Where a flow must stand in the table, and its tag.
fn hash(tables: &MemTables, flow: u64) -> FlowHash {
    let (client, vip) = (world::client(Family::V4, flow), world::vip(Family::V4, 0));
    let tuple = FlowTuple {
        client: address(client),
        vip: address(vip),
        client_port: client.port().to_be_bytes(),
        vip_port: vip.port().to_be_bytes(),
        protocol: Protocol::Tcp as u8,
    };
    tuple.hash(&tables.control.multipliers)
}

/// The compiled data plane with proven flows in its table.
pub struct Field {
    /// The program and the driver.
    pub rig: Rig,
    /// Hashes of the proven flows.
    hashes: Vec<FlowHash>,
}

impl Field {
    /// Loads both objects and lets the flows begin. To be called in [`super::rig::in_namespace`].
    pub fn new(object: &[u8], driver: &[u8], ends: Ends) -> Result<Self> {
        let tables = tables(&ends)?;
        let hashes = (0..PROVEN).map(|flow| hash(&tables, flow)).collect();
        let mut rig = Rig::over(object, driver, &case(Protocol::Tcp), tables, ends)?;
        rig.plan = plan(Kind::Ack);
        let mut field = Self { rig, hashes };
        field.run(Kind::Syn, 0, PROVEN)?;
        field.prove()?;
        Ok(field)
    }

    /// The kernel's clock cannot be set, and three epochs are a minute: every entry gets the rank that
    /// it would have then.
    fn prove(&mut self) -> Result<()> {
        let mut lines = self.rig.kernel().flows()?;
        for word in lines.iter_mut().flatten() {
            let entry = FlowWord(*word);
            if entry.is_live() {
                let (tag, id) = (entry.tag(), entry.backend_id());
                *word = FlowWord::new(tag, id, FlowRank::Proven, entry.epoch()).0;
            }
        }
        self.rig.kernel().write_flows(&lines)
    }

    /// Sends a packet of a kind in each of so many flows from one on; nanoseconds a packet.
    pub fn run(&mut self, kind: Kind, first: u64, packets: u64) -> Result<f64> {
        self.rig.plan = plan(kind);
        self.rig.time(Target::DataPlane, first, packets)
    }

    /// The backend of every proven flow, as the table has it; an error if one has no entry.
    pub fn mapping(&mut self) -> Result<Vec<u32>> {
        let control = self.rig.tables.control;
        let lines = self.rig.kernel().flows()?;
        let find = |(flow, hash): (u64, &FlowHash)| {
            let sets = hash.sets(control.flow_mask, control.flow_base_bits);
            [sets.first, sets.second]
                .iter()
                .flat_map(|set| lines[*set as usize])
                .map(FlowWord)
                .find(|word| word.matches(sets.tag))
                .map(FlowWord::backend_id)
                .with_context(|| format!("flow {flow} has no entry"))
        };
        (0..).zip(&self.hashes).map(find).collect()
    }

    /// Every entry of a flow in a table's lines.
    pub fn entries(&self, flow: u64, lines: &[[u64; 8]]) -> Vec<FlowWord> {
        let control = &self.rig.tables.control;
        let sets = hash(&self.rig.tables, flow).sets(control.flow_mask, control.flow_base_bits);
        [sets.first, sets.second]
            .iter()
            .flat_map(|set| lines[*set as usize])
            .map(FlowWord)
            .filter(|word| word.matches(sets.tag))
            .collect()
    }

    /// Writes what the control plane owns once more, as [`Rig::tables`] has it now.
    pub fn configure(&mut self) -> Result<()> {
        self.rig.configure()
    }

    /// One of the counters of every backend of TCP.
    pub fn per_backend(&mut self, which: PerBackend) -> Result<Vec<u64>> {
        let lines = self.rig.counter_lines()?;
        let backends = lines.iter().skip(counter::BACKEND_LINE as usize);
        let of_tcp = backends.take(BACKENDS as usize);
        Ok(of_tcp.map(|line| line[which as usize]).collect())
    }

    /// The program and its maps.
    pub fn kernel(&mut self) -> &mut Kernel {
        self.rig.kernel()
    }
}

/// What a packet of an established flow costs while one thing or another goes on.
pub struct Costs(Vec<(String, Summary)>);

/// Packets of a turn: of the flood, then of established flows.
const TURN: u64 = 4096;
/// Turns of a round.
const TURNS: u64 = 32;

/// Measures what floods cost established flows, and what their own packets cost.
pub fn cost(object: &[u8], driver: &[u8], ends: Ends, rounds: u32) -> Result<Costs> {
    let mut calm = Field::new(object, driver, ends)?;
    let mut full = Field::new(object, driver, ends)?;
    let before = full.mapping()?;
    full.run(Kind::Syn, PROVEN, SOURCES)?;
    let names = [
        "established flows in turn, no flood",
        "the same, table full of a SYN flood",
        "the same, between turns of a SYN flood",
        "the same, between turns of a UDP flood",
        "SYN flood, into a full table",
        "ACK flood, into a full table",
        "UDP flood, into a full table",
    ];
    let mut samples = vec![Vec::new(); names.len()];
    let mut next = PROVEN + SOURCES;
    for _ in 0..rounds {
        let null = calm.rig.time(Target::Null, 0, PROVEN)?;
        let mut figures = vec![calm.settled(PROVEN)?, full.settled(PROVEN)?];
        for kind in [Kind::Syn, Kind::Udp] {
            let mut nanos = 0.0;
            for turn in 0..TURNS {
                full.run(kind, next, TURN)?;
                next += TURN;
                nanos += full.run(Kind::Ack, turn * TURN % (PROVEN - TURN), TURN)?;
            }
            figures.push(nanos / TURNS as f64);
        }
        for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
            figures.push(full.run(kind, next, PROVEN)?);
            next += PROVEN;
        }
        for (series, nanos) in samples.iter_mut().zip(figures) {
            series.push(nanos - null);
        }
    }
    ensure!(
        full.mapping()? == before,
        "a flow moved while it was measured"
    );
    let names = names.map(str::to_owned).into_iter();
    Ok(Costs(
        names
            .zip(samples.iter().map(|series| Summary::of(series)))
            .collect(),
    ))
}

impl Field {
    /// Packets of established flows after a turn of them that is not timed.
    fn settled(&mut self, packets: u64) -> Result<f64> {
        self.run(Kind::Ack, 0, packets)?;
        self.run(Kind::Ack, 0, packets)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.0.first().map_or(1.0, |(_, summary)| summary.median);
        writeln!(f, "{PROVEN} established flows; ns a packet, net of null")?;
        for (name, summary) in &self.0 {
            writeln!(
                f,
                "{name:<44}{:>8.1}{:>8.1}{:>7.1}%{:>7.2} x",
                summary.median,
                summary.min,
                summary.spread * 100.0,
                summary.median / unit
            )?;
        }
        Ok(())
    }
}
