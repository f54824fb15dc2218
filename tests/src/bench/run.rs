//! A whole run: rigs for every case and object, proofs, rounds, results.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, ensure};
use lb_ebpf::fixture::world::Ends;

use super::{
    Case, Traffic, floor_case,
    machine::Machine,
    prove,
    results::{FloorResults, Measured, Object, Point, Results, Row},
    rig::Rig,
    rounds::{self, Floors, Samples},
    scale::Axis,
};
use crate::kernel::object;

/// A compiled data plane to be measured.
pub struct Subject {
    /// Its path, or "built".
    pub name: String,
    /// The object.
    pub bytes: Vec<u8>,
    /// It belongs to this library: whatever differs is an error.
    pub is_ours: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of the table.
    pub rounds: u32,
    /// Rounds of each curve.
    pub scale_rounds: u32,
}

/// What measures a list of cases.
pub struct Runner<'a> {
    /// The objects, in the order of all results.
    pub subjects: &'a [Subject],
    /// The compiled driver and floors.
    pub driver: &'a [u8],
    /// The interfaces of [`super::rig::in_namespace`].
    pub ends: Ends,
    /// Packets of a single-flow path in a round.
    pub packets: u64,
}

impl Runner<'_> {
    /// Measures the table, and the curves when they are asked for.
    pub fn run(&self, cases: &[Case], effort: Effort, with_scale: bool) -> Result<Results> {
        let (floors, measured) = self.measure(cases, effort.rounds, "the table")?;
        let rows = cases.iter().zip(measured);
        let rows = rows
            .map(|(case, measured)| Row::of(case, measured))
            .collect();
        let mut scale = Vec::new();
        if with_scale {
            for axis in Axis::ALL {
                scale.extend(self.curve(axis, effort.scale_rounds)?);
            }
        }
        Ok(Results {
            machine: Machine::this()?,
            objects: self.objects()?,
            rounds: effort.rounds,
            packets: self.packets,
            floors: FloorResults::of(&floors),
            rows,
            scale,
        })
    }

    /// What grows along one axis.
    fn curve(&self, axis: Axis, rounds: u32) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        let mut cases = Vec::new();
        for traffic in [Traffic::Known, Traffic::New] {
            for value in axis.values() {
                cases.push(axis.case(*value, traffic));
                points.push((*value, traffic));
            }
        }
        let (_, measured) = self.measure(&cases, rounds, &format!("as {axis} grow"))?;
        let points = points.into_iter().zip(measured);
        let point = |((value, traffic), measured): ((u32, Traffic), _)| Point {
            axis,
            traffic: traffic.label().to_owned(),
            value,
            measured,
        };
        Ok(points.map(point).collect())
    }

    /// Proves every case and runs the rounds: the floors, and by case what each object measured.
    pub fn measure(
        &self,
        cases: &[Case],
        rounds: u32,
        what: &str,
    ) -> Result<(Floors, Vec<Vec<Measured>>)> {
        let mut rigs = Vec::new();
        for case in cases {
            progress(&format!("{what}: prepare and prove '{}'", case.name));
            for subject in self.subjects {
                rigs.push((self.rig(case, subject)?, Samples::default()));
            }
        }
        let first = self.subjects.first().context("no object to measure")?;
        let mut floor_rig = Rig::new(&first.bytes, self.driver, &floor_case(), self.ends)?;
        let mut floors = Floors::default();
        for number in 1..=rounds {
            progress(&format!("{what}: round {number} of {rounds}"));
            rounds::round(&mut floor_rig, &mut rigs, self.packets, &mut floors)?;
        }
        progress("");
        let by_case = rigs.chunks(self.subjects.len());
        let measured = by_case.map(|rigs| {
            let samples = rigs.iter().map(|(_, samples)| samples);
            let first = samples.clone().next();
            samples
                .enumerate()
                .map(|(number, samples)| Measured::of(samples, first.filter(|_| number > 0)))
                .collect()
        });
        Ok((floors, measured.collect()))
    }

    /// The rig of a case and an object, proven.
    fn rig(&self, case: &Case, subject: &Subject) -> Result<Rig> {
        let what = || format!("'{}' with the object {}", case.name, subject.name);
        let mut rig = Rig::new(&subject.bytes, self.driver, case, self.ends).with_context(what)?;
        if let Some(difference) = prove::prove(&mut rig).with_context(what)? {
            let both = format!(
                "{}: the kernel and the library differ: {difference}",
                what()
            );
            ensure!(!subject.is_ours, both);
            progress("");
            eprintln!("{both}");
        }
        Ok(rig)
    }

    fn objects(&self) -> Result<Vec<Object>> {
        let object = |subject: &Subject| {
            let bytes: u64 = object::functions(&subject.bytes)?
                .iter()
                .map(|(_, size)| size)
                .sum();
            let rig = Rig::new(&subject.bytes, self.driver, &floor_case(), self.ends)?;
            Ok(Object {
                name: subject.name.clone(),
                instructions: bytes / 8,
                verified: rig.verified,
            })
        };
        self.subjects.iter().map(object).collect()
    }
}

/// Shows what is going on, in one line of a terminal.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Nothing depends on it.
        drop(write!(stderr, "\r\x1b[K{text}"));
    }
}
