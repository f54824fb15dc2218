//! The timed rounds: each round runs every case once, so that what drifts, drifts for all.

use anyhow::{Context, Result};
use lb_common::counter::Global;

use super::{
    prove,
    rig::{Counted, Rig, Target},
};

/// Packets that run before those that are timed.
const WARM: u64 = 20_000;
/// The most times that a table is emptied and filled again in one round.
const MOST_PASSES: u64 = 10;

/// What each round measured of one rig, in ns per packet.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The data plane, the driver included.
    pub gross: Vec<f64>,
    /// The null program with the same packets.
    pub null: Vec<f64>,
    /// One hash lookup, net of null, just before and just after.
    pub hash: Vec<f64>,
    /// One load from another line of the flow table for each flow, net of null; only with many flows.
    pub line: Vec<f64>,
    /// Packets through the data plane in all timed runs.
    pub packets: u64,
    /// New flows that found no room in the table among them.
    pub untracked: u64,
    /// Entries that timed new flows pushed out.
    pub evicted: u64,
}

impl Samples {
    /// Net of null, round by round.
    pub fn net(&self) -> Vec<f64> {
        let both = self.gross.iter().zip(&self.null);
        both.map(|(gross, null)| gross - null).collect()
    }
}

/// What was measured of the floors, in ns per packet.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    /// The null program and the driver: what everything is net of.
    pub null: Vec<f64>,
    /// Both MAC addresses exchanged, net of null.
    pub mac_swap: Vec<f64>,
    /// Room for an IPv4 header made before the packet, net of null.
    pub grow: Vec<f64>,
    /// One lookup in a kernel hash map, net of null.
    pub hash_lookup: Vec<f64>,
}

/// One round of all cases. Between any two of them stands a hash lookup: what slows the machine down for a second
/// slows a case and its unit alike.
pub fn round(
    floor_rig: &mut Rig,
    rigs: &mut [(Rig, Samples)],
    packets: u64,
    floors: &mut Floors,
) -> Result<()> {
    let null = floor_rig.time(Target::Null, 0, packets)?;
    let mac_swap = floor_rig.time(Target::MacSwap, 0, packets)?;
    floors.mac_swap.push(mac_swap - null);
    let grow = floor_rig.time(Target::Grow, 0, packets)?;
    floors.grow.push(grow - null);
    let short = packets.div_ceil(4);
    let mut before = hash_lookup(floor_rig, short, floors)?;
    for (rig, samples) in rigs {
        case(rig, packets, samples)?;
        let after = hash_lookup(floor_rig, short, floors)?;
        samples.hash.push((before + after) / 2.0);
        before = after;
    }
    Ok(())
}

/// The unit of all multiples, on a rig of [`super::floor_case`].
fn hash_lookup(rig: &mut Rig, packets: u64, into: &mut Floors) -> Result<f64> {
    let null = rig.time(Target::Null, 0, packets)?;
    let hash_lookup = rig.time(Target::HashLookup, 0, packets)? - null;
    into.null.push(null);
    into.hash_lookup.push(hash_lookup);
    Ok(hash_lookup)
}

/// One round of a case: null, then the data plane, whose counters must account for every packet.
fn case(rig: &mut Rig, asked: u64, into: &mut Samples) -> Result<()> {
    let packets = rig.case.packets(asked);
    let null = rig.time(Target::Null, 0, packets)?;
    let gross = match rig.case.needs_empty_table() {
        true => {
            let passes = asked.div_ceil(packets).clamp(1, MOST_PASSES);
            let mut nanos = 0.0;
            for _ in 0..passes {
                nanos += new_flows(rig, packets, into)?;
            }
            nanos / passes as f64
        }
        false => {
            // The same flows first: what other cases pushed out of the caches is back, and no entry is refreshed
            // only because this case had to wait for its turn.
            rig.time(Target::DataPlane, 0, WARM.max(rig.case.flows.min(packets)))?;
            accounted(rig, 0, packets, into)?
        }
    };
    if rig.case.has_flow_lines() {
        rig.time(Target::FlowLine, 0, packets)?;
        let line = rig.time(Target::FlowLine, 0, packets)?;
        into.line.push(line - null);
    }
    into.null.push(null);
    into.gross.push(gross);
    Ok(())
}

/// The last of a case's flows are timed, in a table that the others have just filled.
fn new_flows(rig: &mut Rig, packets: u64, into: &mut Samples) -> Result<f64> {
    rig.clear_flows()?;
    let others = rig.case.flows - packets;
    if others > 0 {
        rig.time(Target::DataPlane, 0, others)?;
    }
    accounted(rig, others, packets, into)
}

fn accounted(rig: &mut Rig, first: u64, packets: u64, into: &mut Samples) -> Result<f64> {
    let before: Counted = rig.counted()?;
    let nanos = rig.time(Target::DataPlane, first, packets)?;
    let change = rig.counted()?.since(&before);
    prove::accounts(&rig.case, &change, packets).context("after a timed run")?;
    into.packets += packets;
    into.untracked += change.global(Global::Untracked);
    into.evicted += change.global(Global::Evicted);
    Ok(nanos)
}
