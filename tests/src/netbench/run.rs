//! The rounds: each runs every candidate once, so that what drifts, drifts for all.

use std::time::Duration;

use anyhow::{Context, Result};

use super::bed::Bed;
use super::results::{Results, Row};
use super::wire::{CHUNK, LARGEST};
use super::{Candidate, load};
use crate::bench::machine::Machine;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds.
    pub rounds: u32,
    /// Packets of a burst, about: see [`Self::burst`].
    pub packets: u64,
    /// Flows in turn.
    pub flows: u64,
    /// Of one phase of connections, and of one of bulk data.
    pub time: Duration,
    /// Threads of the client that makes connections as fast as they are answered.
    pub clients: usize,
    /// Connections per second of the light second client.
    pub light_per_second: u32,
}

impl Effort {
    /// A multiple of what can be sent at once, so that the clock is read at the end.
    pub fn burst(&self) -> u64 {
        self.packets
            .clamp(CHUNK, LARGEST)
            .next_multiple_of(CHUNK)
            .min(LARGEST)
    }
}

/// What each round measured of one candidate; a kind that it does not take stays empty.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Packets per second.
    pub packets: Vec<f64>,
    /// Packets that did not come back, as a share of those sent.
    pub lost: Vec<f64>,
    /// Connections per second.
    pub connections: Vec<f64>,
    /// p99 of the light client beside them, in microseconds.
    pub connections_p99: Vec<f64>,
    /// Bits per second.
    pub bulk: Vec<f64>,
    /// p99 of the light client beside them, in microseconds.
    pub bulk_p99: Vec<f64>,
}

/// Sets all candidates up, has them prove themselves, and measures. `say` hears what is being done.
pub fn run(effort: &Effort, mut say: impl FnMut(&str)) -> Result<Results> {
    let mut beds = Vec::new();
    for candidate in Candidate::ALL {
        say(&format!("setting up {}", candidate.name()));
        let mut bed = Bed::build(candidate)?;
        bed.prove()?;
        beds.push(bed);
    }
    let mut samples = vec![Samples::default(); beds.len()];
    for round in 1..=effort.rounds {
        say(&format!("round {round} of {}", effort.rounds));
        for (bed, into) in beds.iter_mut().zip(&mut samples) {
            packets(bed, effort, into)?;
        }
        for (bed, into) in beds.iter().zip(&mut samples) {
            connections(bed, effort, into)?;
        }
        for (bed, into) in beds.iter().zip(&mut samples) {
            bulk(bed, effort, into)?;
        }
    }
    for bed in &mut beds {
        bed.check()
            .with_context(|| format!("{} after all load", bed.candidate.name()))?;
    }
    let rows = Row::all(&Candidate::ALL, &samples);
    Ok(Results {
        machine: Machine::this()?,
        cpus: std::thread::available_parallelism()?.get(),
        rounds: effort.rounds,
        packets: effort.burst(),
        flows: effort.flows,
        seconds: effort.time.as_secs_f64(),
        clients: effort.clients,
        light_per_second: effort.light_per_second,
        rows,
    })
}

fn packets(bed: &mut Bed, effort: &Effort, into: &mut Samples) -> Result<()> {
    if !bed.candidate.takes_packets() {
        return Ok(());
    }
    // Every flow once: entries and caches are warm.
    bed.burst(effort.flows, effort.flows.next_multiple_of(CHUNK))?;
    let burst = bed.burst(effort.flows, effort.burst())?;
    into.packets.push(burst.rate());
    into.lost
        .push(1.0 - burst.arrived as f64 / burst.sent as f64);
    Ok(())
}

fn connections(bed: &Bed, effort: &Effort, into: &mut Samples) -> Result<()> {
    if bed.candidate.takes_connections() {
        let loaded = load::connections(bed, effort)?;
        into.connections.push(loaded.rate);
        into.connections_p99.push(loaded.p99_us);
    }
    Ok(())
}

fn bulk(bed: &Bed, effort: &Effort, into: &mut Samples) -> Result<()> {
    if bed.candidate.takes_connections() {
        let loaded = load::bulk(bed, effort)?;
        into.bulk.push(loaded.rate);
        into.bulk_p99.push(loaded.p99_us);
    }
    Ok(())
}
