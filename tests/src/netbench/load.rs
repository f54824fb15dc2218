//! A candidate under full load, and a light second client beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::bed::Bed;
use super::bulk;
use super::run::Effort;
use crate::load::{Bounds, LATE, Report, Request, Storm};
use crate::server::ECHO_PORT;

/// Connections that carry bulk data at once.
pub const BULK_CONNECTIONS: usize = 6;
/// Of the light client: more than it ever needs at once, so that an answer that is late delays no other.
const LIGHT_CLIENTS: usize = 32;
/// Latencies are kept in microseconds, with three digits, up to this.
const LONGEST: u64 = 10_000_000;

/// What one phase of full load gave.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Connections, or bits, per second.
    pub rate: f64,
    /// Latency below which 99 of 100 connections of the light client stayed, in microseconds: connect, 1 KiB there
    /// and back.
    pub p99_us: f64,
}

/// New connections as fast as they are answered.
pub fn connections(bed: &Bed, effort: &Effort) -> Result<Loaded> {
    with_light_client(bed, effort, || {
        let bounds = Bounds {
            concurrency: effort.clients,
            count: u64::MAX,
            time: effort.time,
            per_second: None,
            patience: LATE,
        };
        let targets = bed.targets(ECHO_PORT);
        let begin = Instant::now();
        let report = Storm::run(bed.topology(), &targets, Request::Echo, bounds)?;
        let seconds = begin.elapsed().as_secs_f64();
        // Late counts as failed.
        few_failed(bed, "full load", &report, 100)?;
        Ok(report.answered.len() as f64 / seconds)
    })
}

/// As many bytes as go through.
pub fn bulk(bed: &Bed, effort: &Effort) -> Result<Loaded> {
    with_light_client(bed, effort, || {
        let targets = bed.targets(bulk::PORT);
        bulk::bits_per_second(bed.topology(), &targets, BULK_CONNECTIONS, effort.time)
            .with_context(|| format!("bulk data through {}", bed.candidate.name()))
    })
}

fn with_light_client(
    bed: &Bed,
    effort: &Effort,
    full: impl FnOnce() -> Result<f64>,
) -> Result<Loaded> {
    let bounds = Bounds {
        concurrency: LIGHT_CLIENTS,
        count: u64::MAX,
        // It is stopped with the load.
        time: effort.time.saturating_mul(4) + Duration::from_secs(10),
        per_second: Some(effort.light_per_second),
        patience: LATE,
    };
    let targets = bed.targets(ECHO_PORT);
    let light = Storm::start(bed.topology(), &targets, Request::Echo, bounds)?;
    let rate = full()?;
    let report = light.stop();
    // Bulk data fills queues, and a SYN that finds none is sent again a second later: that is what the latency shows.
    few_failed(bed, "a light client beside full load", &report, 10)?;
    // Half: a client that falls behind its rate would show the latency of a lighter load.
    let wanted = f64::from(effort.light_per_second) * effort.time.as_secs_f64() / 2.0;
    ensure!(
        report.total() as f64 >= wanted,
        "the light client made {} connections in {:?}, not the {} per second that it should",
        report.total(),
        effort.time,
        effort.light_per_second
    );
    Ok(Loaded {
        rate,
        p99_us: p99(&report)?,
    })
}

/// At most one in `one_in` may fail; more, and the candidate does not carry the load.
fn few_failed(bed: &Bed, load: &str, report: &Report, one_in: usize) -> Result<()> {
    ensure!(
        report.failures.len() * one_in <= report.total() && !report.answered.is_empty(),
        "{}, {load}: {report}",
        bed.candidate.name()
    );
    Ok(())
}

/// Failures count with the time that they took.
fn p99(report: &Report) -> Result<f64> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST, 3)
        .context("make a histogram of latencies")?;
    let answered = report.answered.iter().map(|sample| sample.took);
    let failed = report.failures.iter().map(|failure| failure.took);
    for took in answered.chain(failed) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
        histogram.saturating_record(micros);
    }
    Ok(histogram.value_at_quantile(0.99) as f64)
}
