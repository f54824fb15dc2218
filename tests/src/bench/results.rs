//! What a run measured, in numbers: what `--json` prints, and what the table and the plot are made from.

use serde::{Deserialize, Serialize};

use super::{
    Case,
    machine::Machine,
    rounds::{Floors, Samples},
    scale::Axis,
};

/// A compiled data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its path, or "built" for the one that was built together with the benchmark.
    pub name: String,
    /// Instructions in all of its functions.
    pub instructions: u64,
    /// Instructions that the verifier followed.
    pub verified: u32,
}

/// Median, minimum and spread of one figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one, or the mean of the two middle ones.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// From the first quartile to the third, as a share of the median: half of all rounds lie within.
    pub spread: f64,
}

/// What one object made of one case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Nanoseconds a packet, net of null.
    pub nanos: Summary,
    /// The same as a multiple of the hash lookups just before and after.
    pub multiple: Summary,
    /// Nanoseconds of this object by those of the first one, of which the same round's stand just before.
    pub by_first: Option<Summary>,
    /// What one load from another line of the flow table for each flow costs by itself, as a multiple of the
    /// same lookups; only with many flows.
    pub line: Option<Summary>,
    /// New flows that found no room in the table, as a share of all packets.
    pub untracked: f64,
    /// The same of those that pushed another flow out.
    pub evicted: f64,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Flows in turn.
    pub flows: u64,
    /// The goal as a multiple of one hash lookup, if there is one.
    pub goal: Option<f64>,
    /// By object, in their order.
    pub measured: Vec<Measured>,
}

/// One point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What grows.
    pub axis: Axis,
    /// What arrives: "known" or "new".
    pub traffic: String,
    /// How much there is of it.
    pub value: u32,
    /// What it costs, by object.
    pub measured: Vec<Measured>,
}

/// The floors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorResults {
    /// Nanoseconds a packet of the null program, the driver included.
    pub null: Summary,
    /// Net of null.
    pub mac_swap: Summary,
    /// Net of null.
    pub grow: Summary,
    /// Net of null.
    pub hash_lookup: Summary,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What it ran on.
    pub machine: Machine,
    /// What was measured.
    pub objects: Vec<Object>,
    /// Rounds of the table.
    pub rounds: u32,
    /// Packets of a single-flow path in a round.
    pub packets: u64,
    /// The floors of the table's rounds.
    pub floors: FloorResults,
    /// The table.
    pub rows: Vec<Row>,
    /// The curves; empty unless they were asked for.
    pub scale: Vec<Point>,
}

/// The value below which this share of a sorted series lies, between its neighbours in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (low, high) = (position.floor(), position.ceil());
    let (a, b) = (sorted[low as usize], sorted[high as usize]);
    a + (b - a) * (position - low)
}

impl Summary {
    /// Of a series that is not empty.
    pub fn of(series: &[f64]) -> Self {
        let mut sorted = series.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = quantile(&sorted, 0.5);
        Self {
            median,
            min: sorted[0],
            spread: (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / median.abs(),
        }
    }
}

impl Measured {
    /// Of a case's samples, and of the first object's unless they are these.
    pub fn of(samples: &Samples, first: Option<&Samples>) -> Self {
        let net = samples.net();
        let ratio = |series: &[f64], unit: &[f64]| {
            let both = series.iter().zip(unit);
            Summary::of(&both.map(|(value, unit)| value / unit).collect::<Vec<_>>())
        };
        let by = |unit: &[f64]| ratio(&net, unit);
        let line = (!samples.line.is_empty()).then(|| ratio(&samples.line, &samples.hash));
        let all = samples.packets as f64;
        Self {
            nanos: Summary::of(&net),
            multiple: by(&samples.hash),
            by_first: first.map(|first| by(&first.net())),
            line,
            untracked: samples.untracked as f64 / all,
            evicted: samples.evicted as f64 / all,
        }
    }
}

impl Row {
    /// Of a case that was measured.
    pub fn of(case: &Case, measured: Vec<Measured>) -> Self {
        Self {
            name: case.name.clone(),
            flows: case.flows,
            goal: case.goal,
            measured,
        }
    }

    /// True when caches decide: such rows repeat less well.
    pub fn has_many_flows(&self) -> bool {
        self.flows > 1
    }
}

impl FloorResults {
    /// Of the rounds.
    pub fn of(floors: &Floors) -> Self {
        Self {
            null: Summary::of(&floors.null),
            mac_swap: Summary::of(&floors.mac_swap),
            grow: Summary::of(&floors.grow),
            hash_lookup: Summary::of(&floors.hash_lookup),
        }
    }
}
