//! A candidate under full load, and a light second client beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::bed::Bed;
use super::bulk;
use crate::load::{Bounds, Report, Request, Storm};
use crate::server::ECHO_PORT;

/// Threads of the client that makes full load, for every candidate.
pub const CLIENTS: usize = 16;
/// Connections that carry bulk data at once.
pub const BULK_CONNECTIONS: usize = 6;
/// Connections per second of the light client.
pub const LIGHT_PER_SECOND: u32 = 200;
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
pub fn connections(bed: &Bed, time: Duration) -> Result<Loaded> {
    with_light_client(bed, time, || {
        let bounds = Bounds {
            concurrency: CLIENTS,
            count: u64::MAX,
            time,
            per_second: None,
        };
        let targets = bed.targets(ECHO_PORT);
        let begin = Instant::now();
        let report = Storm::run(bed.topology(), &targets, Request::Echo, bounds)?;
        let seconds = begin.elapsed().as_secs_f64();
        all_answered(bed, &report)?;
        Ok(report.answered.len() as f64 / seconds)
    })
}

/// As many bytes as go through.
pub fn bulk(bed: &Bed, time: Duration) -> Result<Loaded> {
    with_light_client(bed, time, || {
        let targets = bed.targets(bulk::PORT);
        bulk::bits_per_second(bed.topology(), &targets, BULK_CONNECTIONS, time)
            .with_context(|| format!("bulk data through {}", bed.candidate.name()))
    })
}

fn with_light_client(
    bed: &Bed,
    time: Duration,
    full: impl FnOnce() -> Result<f64>,
) -> Result<Loaded> {
    let bounds = Bounds {
        concurrency: LIGHT_CLIENTS,
        count: u64::MAX,
        // It is stopped with the load.
        time: time.saturating_mul(4) + Duration::from_secs(10),
        per_second: Some(LIGHT_PER_SECOND),
    };
    let targets = bed.targets(ECHO_PORT);
    let light = Storm::start(bed.topology(), &targets, Request::Echo, bounds)?;
    let rate = full()?;
    let report = light.stop();
    all_answered(bed, &report)?;
    // Half: a client that falls behind its rate would show the latency of a lighter load.
    let wanted = f64::from(LIGHT_PER_SECOND) * time.as_secs_f64() / 2.0;
    ensure!(
        report.total() as f64 >= wanted,
        "the light client made {} connections in {time:?}, not the {LIGHT_PER_SECOND} per second that it should",
        report.total()
    );
    Ok(Loaded {
        rate,
        p99_us: p99(&report)?,
    })
}

/// One in a thousand may fail under full load (late counts); more, and the candidate does not carry it.
fn all_answered(bed: &Bed, report: &Report) -> Result<()> {
    ensure!(
        report.failures.len() * 1000 <= report.total() && !report.answered.is_empty(),
        "{} under full load: {report}",
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
