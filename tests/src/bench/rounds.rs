//! The timed rounds: each round runs every case once, so that what drifts, drifts for all.

use anyhow::{Context, Result};
use lb_common::counter::Global;

use super::{
    prove,
    rig::{Counted, Rig, Target},
};

/// Packets that run before the clock starts, for caches and branch predictors.
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

/// What each round measured of the floors, in ns per packet.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    /// The null program and the driver: what everything is net of.
    pub null: Vec<f64>,
    /// Both MAC addresses exchanged, net of null.
    pub mac_swap: Vec<f64>,
    /// One lookup in a kernel hash map, net of null.
    pub hash_lookup: Vec<f64>,
}

/// A target over packets from flow 0 on, warm.
fn warm(rig: &mut Rig, target: Target, packets: u64) -> Result<f64> {
    rig.time(target, 0, WARM)?;
    rig.time(target, 0, packets)
}

/// One round of the floors, on a rig of [`super::floor_case`].
pub fn floors(rig: &mut Rig, packets: u64, into: &mut Floors) -> Result<()> {
    let null = warm(rig, Target::Null, packets)?;
    let mac_swap = warm(rig, Target::MacSwap, packets)?;
    let hash_lookup = warm(rig, Target::HashLookup, packets)?;
    into.null.push(null);
    into.mac_swap.push(mac_swap - null);
    into.hash_lookup.push(hash_lookup - null);
    Ok(())
}

/// One round of a case: null, then the data plane, whose counters must account for every packet.
pub fn case(rig: &mut Rig, asked: u64, into: &mut Samples) -> Result<()> {
    let packets = rig.case.packets(asked);
    let null = warm(rig, Target::Null, packets)?;
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
            // Every flow once: what other cases pushed out of the caches is back, and no entry is refreshed
            // only because this case had to wait for its turn.
            let flows = rig.case.flows;
            rig.time(Target::DataPlane, 0, WARM.max(flows))?;
            accounted(rig, 0, packets, into)?
        }
    };
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
