//! As many random packets as asked through the library, the oracle and, if asked, the compiled program.
//!
//! Packets come in cases, which have numbers: a number says everything about a case.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::DropReason;
use lb_ebpf::fixture::world::Ends;
use lb_oracle::{
    case::{self, Case, Difference},
    generate, shrink,
    tally::{Shape, Tally},
};

use crate::kernel::{cases::Cases, in_namespace};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Packets at least; the last case may have some more.
    pub packets: u64,
    /// Number of the first case.
    pub first: u64,
    /// The compiled program, too.
    pub kernel: bool,
    /// Threads; the compiled program has one.
    pub threads: usize,
    /// Time between two lines of progress.
    pub progress: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Cases that were run.
    pub cases: u64,
    /// What became of their packets.
    pub tally: Tally,
    /// Cases that the compiled program was run for with less room before the frame than usual.
    pub cramped: u64,
    /// How long it took.
    pub took: Duration,
    /// The first case that failed, as people read it.
    pub failure: Option<String>,
}

/// Runs one case through everything.
fn run_case(case: &Case, kernel: Option<&mut Cases>) -> Result<Result<Tally, Difference>> {
    let ran = case::run(case);
    if let (Ok(_), Some(kernel)) = (&ran, kernel)
        && let Some(difference) = kernel.run(case)?
    {
        return Ok(Err(difference));
    }
    Ok(ran)
}

/// Makes a case that fails smaller, and says how to run it again.
fn explain(number: u64, kernel: &mut Option<Cases>) -> String {
    let mut fails = |case: &Case| matches!(run_case(case, kernel.as_mut()), Ok(Err(_)));
    let small = shrink::shrink(&generate::numbered(number), &mut fails);
    let option = if kernel.is_some() { " --kernel" } else { "" };
    let what = match run_case(&small, kernel.as_mut()) {
        Ok(Err(difference)) => difference.to_string(),
        Ok(Ok(_)) => "it does not fail again".into(),
        Err(error) => format!("{error:#}"),
    };
    format!(
        "case {number}, made smaller: {what}\n{small:#?}\n\
         to run it again: cargo xtask soak --first {number} --packets 1{option}"
    )
}

/// What threads share.
struct Shared {
    soak: Soak,
    began: Instant,
    next: AtomicU64,
    packets: AtomicU64,
    cramped: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.packets.load(Ordering::Relaxed) >= self.soak.packets
    }

    /// Runs cases until it is over.
    fn work(&self, mut kernel: Option<Cases>) -> Result<(Tally, Option<String>)> {
        let mut tally = Tally::default();
        while !self.is_over() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            match run_case(&generate::numbered(number), kernel.as_mut())? {
                Ok(ran) => {
                    self.packets.fetch_add(ran.packets, Ordering::Relaxed);
                    tally.add(&ran);
                }
                Err(_) => {
                    self.stop.store(true, Ordering::Relaxed);
                    return Ok((tally, Some(explain(number, &mut kernel))));
                }
            }
        }
        let cramped = kernel.map_or(0, |kernel| kernel.cramped);
        self.cramped.fetch_add(cramped, Ordering::Relaxed);
        Ok((tally, None))
    }

    /// Work in a network namespace with the compiled program.
    fn work_with_kernel(&self) -> Result<(Tally, Option<String>)> {
        in_namespace(|ends: Ends| self.work(Some(Cases::load(ends)?)))?
    }

    fn line(&self) -> String {
        let packets = self.packets.load(Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        format!(
            "{packets} of {} packets in {seconds:.0} s, {:.0} a second; next case {next}",
            self.soak.packets,
            packets as f64 / seconds
        )
    }
}

/// Runs cases until there are enough packets or one fails. Lines of progress go to `out`.
pub fn run(soak: Soak, out: &mut (dyn std::io::Write + Send)) -> Result<Report> {
    let shared = Shared {
        soak,
        began: Instant::now(),
        next: AtomicU64::new(soak.first),
        packets: AtomicU64::new(0),
        cramped: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let threads = if soak.kernel { 1 } else { soak.threads.max(1) };
    let results = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| match soak.kernel {
                    true => shared.work_with_kernel(),
                    false => shared.work(None),
                })
            })
            .collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::park_timeout(Duration::from_millis(20));
            if told.elapsed() >= soak.progress {
                told = Instant::now();
                // Progress that nobody reads is no reason to stop.
                let _ = writeln!(out, "{}", shared.line());
            }
        }
        let join = |worker: thread::ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect::<Vec<Result<_>>>()
    });
    let mut report = Report {
        cases: shared.next.load(Ordering::Relaxed) - soak.first,
        tally: Tally::default(),
        cramped: shared.cramped.load(Ordering::Relaxed),
        took: shared.began.elapsed(),
        failure: None,
    };
    for result in results {
        let (tally, failure) = result?;
        report.tally.add(&tally);
        report.failure = report.failure.or(failure);
    }
    Ok(report)
}

impl Report {
    /// Some lines for people.
    pub fn text(&self) -> String {
        let Tally {
            packets,
            fates: [pass, tx, redirect, drop],
            resized,
            messages,
            ..
        } = self.tally;
        let mut text = format!(
            "{packets} packets in {} cases, {:.1} s: {pass} passed, {tx} sent, {redirect} redirected, {drop} dropped; \
             {messages} answers and ICMP errors relayed, {resized} of another length; {} cases of the compiled program with less room before frames\n",
            self.cases,
            self.took.as_secs_f64(),
            self.cramped
        );
        for reason in DropReason::ALL {
            let count = self.tally.drops.get(*reason as usize).unwrap_or(&0);
            let _ = writeln!(text, "  dropped {:<22} {count}", reason.label());
        }
        for shape in Shape::ALL {
            let count = self.tally.shapes.get(shape as usize).unwrap_or(&0);
            let _ = writeln!(text, "  met {:<26} {count}", format!("{shape:?}"));
        }
        text
    }
}
