//! The timed rounds: each round runs every case once, so that what drifts, drifts for all.

use anyhow::{Context, Result};
use lb_common::counter::Global;

use super::{
    Traffic, prove,
    rig::{Rig, Target},
};

/// Packets that run before the clock starts, for caches and branch predictors.
const WARM: u64 = 5_000;

/// What each round measured of one rig, in ns per packet.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The data plane, the driver included.
    pub gross: Vec<f64>,
    /// The null program with the same packets.
    pub null: Vec<f64>,
    /// New flows that found no room in the table, of all timed ones.
    pub untracked: u64,
    /// Entries that timed new flows pushed out.
    pub evicted: u64,
}

impl Samples {
    /// Net of null, round by round.
    pub fn net(&self) -> Vec<f64> {
        self.gross
            .iter()
            .zip(&self.null)
            .map(|(a, b)| a - b)
            .collect()
    }
}

/// What each round measured of the floors, net of null, in ns per packet.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    /// The null program alone, the driver included.
    pub null: Vec<f64>,
    /// Both MAC addresses exchanged.
    pub mac_swap: Vec<f64>,
    /// One lookup in a kernel hash map.
    pub hash_lookup: Vec<f64>,
}

fn per_packet(nanos: u64, packets: u64) -> f64 {
    nanos as f64 / packets as f64
}

/// Times one target of a rig.
fn timed(rig: &mut Rig, target: Target, packets: u64) -> Result<f64> {
    Ok(per_packet(rig.time(target, packets)?, packets))
}

/// One round of the floors, on a rig of one IPv4 TCP flow.
pub fn floors(rig: &mut Rig, packets: u64, into: &mut Floors) -> Result<()> {
    rig.time(Target::Null, WARM)?;
    let null = timed(rig, Target::Null, packets)?;
    rig.time(Target::MacSwap, WARM)?;
    let mac_swap = timed(rig, Target::MacSwap, packets)?;
    rig.time(Target::HashLookup, WARM)?;
    let hash_lookup = timed(rig, Target::HashLookup, packets)?;
    into.null.push(null);
    into.mac_swap.push(mac_swap - null);
    into.hash_lookup.push(hash_lookup - null);
    if std::env::var_os("GROSS").is_some() {
        eprintln!("GROSS null {null:.1} mac {mac_swap:.1} hash {hash_lookup:.1}");
    }
    Ok(())
}

/// One round of a case: null, then the data plane, whose counters must account for every packet.
pub fn case(rig: &mut Rig, single: u64, into: &mut Samples) -> Result<()> {
    let packets = rig.case.packets(single);
    rig.time(Target::Null, WARM)?;
    let null = timed(rig, Target::Null, packets)?;
    if rig.needs_clear_table() {
        rig.clear_flows()?;
    } else {
        // Every flow once: what other cases pushed out of the caches is back, and no entry is refreshed
        // only because this case had to wait for its turn.
        rig.time(Target::DataPlane, WARM.max(rig.case.flows))?;
    }
    let before = rig.counted()?;
    let gross = timed(rig, Target::DataPlane, packets)?;
    let change = rig.counted()?.since(&before);
    let allowed = match rig.case.traffic {
        Traffic::New if rig.case.flows > 1 => packets,
        _ => 0,
    };
    prove::accounts(&rig.case, &change, packets, allowed).context("after a timed run")?;
    into.untracked += change.global(Global::Untracked);
    into.evicted += change.global(Global::Evicted);
    into.null.push(null);
    into.gross.push(gross);
    Ok(())
}
