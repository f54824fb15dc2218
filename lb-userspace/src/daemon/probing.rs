//! Checks through the real path, as the daemon sees them: the programs in the kernel exist while some check needs them, stand on
//! the interfaces that run the data plane, and where they cannot, checks of VIPs are void.

use std::collections::BTreeMap;

use crate::dataplane::bpf::BpfError;
use crate::dataplane::bpf::probe::{Holder, ProbePrograms};
use crate::embedded;
use crate::health::runner::Runner;
use crate::model::{DaemonConfig, Target};

/// What checks need in the kernel.
#[derive(Default)]
pub(super) struct Probing {
    programs: Option<(u32, ProbePrograms)>,
    /// Why checks cannot go to VIPs, as last told.
    why: Option<String>,
}

impl Probing {
    /// Has these targets probed.
    pub(super) fn probe(&mut self, targets: Vec<Target>, daemon: &DaemonConfig, runner: &Runner) {
        let first = daemon.check_marks;
        let paths = targets.iter().filter_map(|t| t.real_path.as_ref());
        let paths: BTreeMap<_, _> = paths.map(|p| (p.mark ^ first, p.path)).collect();
        if self.programs.as_ref().is_none_or(|(at, _)| *at != first) || paths.is_empty() {
            self.programs = None;
        }
        let prepared = match paths.is_empty() {
            true => Ok(()),
            false => self.prepare(first).and_then(|()| match &mut self.programs {
                Some((_, programs)) => programs.set_paths(&paths),
                None => Ok(()),
            }),
        };
        match prepared {
            Ok(()) => self.keep(daemon, runner),
            Err(error) => self.tell(Some(error.to_string()), runner),
        }
        runner.set_targets(targets);
    }

    fn prepare(&mut self, first: u32) -> Result<(), BpfError> {
        if self.programs.is_none() {
            let programs = ProbePrograms::load(embedded::PROBE, first, Holder::best()?)?;
            self.programs = Some((first, programs));
        }
        Ok(())
    }

    /// Looks after the interfaces.
    pub(super) fn keep(&mut self, daemon: &DaemonConfig, runner: &Runner) {
        let Some((_, programs)) = &mut self.programs else {
            return;
        };
        let failed = programs.keep_on(&daemon.interfaces);
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
                "checks cannot go to VIPs, and are void: {why} (with `target = \"backend\"` they go to backends' own addresses)"
            ),
            None => tracing::info!("checks go to VIPs again"),
        }
        runner.set_no_real_path(why.clone());
        self.why = why;
    }
}
