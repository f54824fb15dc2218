//! Checks through the real path, as the daemon sees them: the programs in the kernel exist while some check needs them, stand on
//! the interfaces that run the data plane, and where they cannot, that is told, checks do without, and it is tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_common::probe::ProbePath;

use crate::dataplane::bpf::BpfError;
use crate::dataplane::bpf::probe::{Holder, ProbePrograms};
use crate::embedded;
use crate::health::runner::Runner;
use crate::model::{DaemonConfig, Target};

/// Between two attempts to load the programs.
const AGAIN: Duration = Duration::from_secs(10);

/// What checks need in the kernel.
#[derive(Default)]
pub(super) struct Probing {
    programs: Option<(u32, ProbePrograms)>,
    /// What becomes of packets with marks, by mark - the first.
    paths: BTreeMap<u32, ProbePath>,
    /// When the programs could not be had, or not told the paths.
    failed: Option<Instant>,
    /// Why checks cannot go to VIPs, as last told.
    why: Option<String>,
}

impl Probing {
    /// Has these targets probed.
    pub(super) fn probe(
        &mut self,
        targets: Vec<Target>,
        daemon: &DaemonConfig,
        vlans: Vec<String>,
        runner: &Runner,
    ) {
        let first = daemon.check_marks;
        let paths = targets.iter().filter_map(|t| t.real_path.as_ref());
        self.paths = paths.map(|p| (p.mark ^ first, p.path)).collect();
        if self.programs.as_ref().is_none_or(|(at, _)| *at != first) || self.paths.is_empty() {
            self.programs = None;
        }
        self.failed = None;
        self.prepare(first, runner);
        self.keep(daemon, vlans, runner);
        runner.set_targets(targets);
    }

    fn prepare(&mut self, first: u32, runner: &Runner) {
        match self.prepared(first) {
            Ok(()) => self.failed = None,
            Err(error) => {
                self.failed = Some(Instant::now());
                self.tell(Some(error.to_string()), runner);
            }
        }
    }

    fn prepared(&mut self, first: u32) -> Result<(), BpfError> {
        if self.paths.is_empty() {
            return Ok(());
        }
        let (_, programs) = match &mut self.programs {
            Some(programs) => programs,
            empty => empty.insert((
                first,
                ProbePrograms::load(embedded::PROBE, first, Holder::best()?)?,
            )),
        };
        programs.set_paths(&self.paths)
    }

    /// Looks after the programs and the interfaces. `vlans`: those on the daemon's, where packets have no tags yet.
    pub(super) fn keep(&mut self, daemon: &DaemonConfig, vlans: Vec<String>, runner: &Runner) {
        if self.failed.is_some_and(|at| at.elapsed() >= AGAIN) {
            self.prepare(daemon.check_marks, runner);
        }
        let (None, Some((_, programs))) = (self.failed, &mut self.programs) else {
            return;
        };
        let interfaces = [daemon.interfaces.clone(), vlans].concat();
        let failed = programs.keep_on(&interfaces);
        let failed = failed
            .into_iter()
            .map(|(interface, error)| format!("attach to {interface}: {error}"));
        let why = failed.reduce(|all, one| format!("{all}; {one}"));
        self.tell(why, runner);
    }

    fn tell(&mut self, why: Option<String>, runner: &Runner) {
        if self.why == why {
            return;
        }
        match &why {
            Some(why) => tracing::error!(
                "checks cannot go to VIPs: {why} (they go to backends' own addresses, unless `target = \"vip\"` says otherwise: then they are void)"
            ),
            None => tracing::info!("checks go to VIPs again"),
        }
        runner.set_no_real_path(why.clone());
        self.why = why;
    }
}
