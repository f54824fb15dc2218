//! Many short connections from the client, bounded in number, in time and, if wanted, in rate.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{LATE, Report, Request, short};
use crate::topology::Topology;

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time.
    pub concurrency: usize,
    /// Connections in all.
    pub count: u64,
    /// No new one after this time.
    pub time: Duration,
    /// New ones in a second; `None`: as fast as they are answered.
    pub per_second: Option<u32>,
    /// How long one may take. Clients that wait longer than a second send a lost SYN again.
    pub patience: Duration,
}

impl Bounds {
    /// A number of connections as fast as they are answered, within a minute.
    pub fn count(count: u64) -> Self {
        Self {
            concurrency: 16,
            count,
            time: Duration::from_secs(60),
            per_second: None,
            patience: LATE,
        }
    }

    /// Connections at a rate until stopped, for at most two minutes. Enough workers that a dead
    /// backend, whose connections take [`LATE`] to fail, does not slow the others down.
    pub fn rate(per_second: u32) -> Self {
        let concurrency = usize::try_from(per_second).unwrap_or(64).clamp(4, 200);
        let time = Duration::from_secs(120);
        Self {
            concurrency,
            count: u64::MAX,
            time,
            per_second: Some(per_second),
            patience: LATE,
        }
    }
}

/// Running load. Stopped when dropped.
pub struct Storm {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    targets: Vec<SocketAddr>,
    request: Request,
    bounds: Bounds,
    begin: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    reports: Vec<Mutex<Report>>,
}

impl Storm {
    /// Starts short connections from the client, to each target in turn.
    pub fn start(
        topology: &Topology,
        targets: &[SocketAddr],
        request: Request,
        bounds: Bounds,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            targets: targets.to_vec(),
            request,
            bounds,
            begin: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            reports: (0..bounds.concurrency).map(|_| Mutex::default()).collect(),
        });
        let mut storm = Self {
            shared: shared.clone(),
            workers: vec![],
        };
        for index in 0..bounds.concurrency {
            let shared = shared.clone();
            storm
                .workers
                .push(client_thread(topology, move || shared.work(index))?);
        }
        Ok(storm)
    }

    /// Starts, waits until the bounds are reached, and returns what came of it.
    pub fn run(
        topology: &Topology,
        targets: &[SocketAddr],
        request: Request,
        bounds: Bounds,
    ) -> Result<Report> {
        Ok(Self::start(topology, targets, request, bounds)?.wait())
    }

    /// Answers and failures until now, without stopping; takes them away from the final report.
    pub fn take(&self) -> Report {
        let mut all = Report::default();
        for report in &self.shared.reports {
            all.merge(std::mem::take(
                &mut *report.lock().expect("a worker's report"),
            ));
        }
        all
    }

    /// Connections begun until now.
    pub fn begun(&self) -> u64 {
        self.shared
            .next
            .load(Ordering::Relaxed)
            .min(self.shared.bounds.count)
    }

    /// Ends it: connections under way are finished.
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until the bounds are reached.
    pub fn wait(mut self) -> Report {
        join(&mut self.workers);
        self.take()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        join(&mut self.workers);
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let Some(report) = self.reports.get(index) else {
            return;
        };
        let end = self.begin + self.bounds.time;
        loop {
            let ticket = self.next.fetch_add(1, Ordering::Relaxed);
            if ticket >= self.bounds.count || !self.wait_for(ticket, end) {
                return;
            }
            let target = self.targets[(ticket % self.targets.len() as u64) as usize];
            let result = short::connect(target, &self.request, ticket, self.bounds.patience);
            let mut report = report.lock().expect("a worker's report");
            match result {
                Ok(sample) => report.answered.push(sample),
                Err(failure) => report.failures.push(failure),
            }
        }
    }

    /// Waits until a connection is due; false when there is to be none.
    fn wait_for(&self, ticket: u64, end: Instant) -> bool {
        let mut now = Instant::now();
        if let Some(per_second) = self.bounds.per_second {
            let nanos = ticket.saturating_mul(1_000_000_000) / u64::from(per_second.max(1));
            let due = self.begin + Duration::from_nanos(nanos);
            while now < due && now < end && !self.stop.load(Ordering::Relaxed) {
                std::thread::sleep((due - now).min(Duration::from_millis(20)));
                now = Instant::now();
            }
        }
        now < end && !self.stop.load(Ordering::Relaxed)
    }
}

/// A thread in the client's namespace, with a small stack: there may be a thousand.
pub(super) fn client_thread(
    topology: &Topology,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let namespace = topology.namespace("client").clone();
    std::thread::Builder::new()
        .name("load".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            namespace.enter().expect("enter the client's namespace");
            drop(namespace);
            work();
        })
        .context("start a load thread")
}

pub(super) fn join(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.drain(..) {
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("a load thread panicked");
        }
    }
}
