//! What gets lost behind the data plane, as the daemon tells it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_common::losses::Loss;

use crate::dataplane::bpf::losses::{LossPrograms, Lost};
use crate::embedded;
use crate::status::{self, Losses as Told};

/// Between two attempts to load the programs.
const AGAIN: Duration = Duration::from_secs(60);

/// Who counts.
#[derive(Default)]
pub(super) struct Losses {
    programs: Option<LossPrograms>,
    /// When the programs could not be had, and why.
    failed: Option<(Instant, String)>,
}

impl Losses {
    /// Has the programs loaded, or tries again after a while.
    pub(super) fn keep(&mut self) {
        let soon = |(at, _): &(Instant, String)| at.elapsed() < AGAIN;
        if self.programs.is_some() || self.failed.as_ref().is_some_and(soon) {
            return;
        }
        match LossPrograms::load(embedded::LOSSES) {
            Ok(programs) => (self.programs, self.failed) = (Some(programs), None),
            Err(error) => {
                let why = error.to_string();
                if self
                    .failed
                    .as_ref()
                    .is_none_or(|(_, before)| *before != why)
                {
                    tracing::warn!(
                        "packets that the kernel or a driver loses behind the program are not counted: {why}"
                    );
                }
                self.failed = Some((Instant::now(), why));
            }
        }
    }

    /// What was lost so far, with each kind of loss at each attached interface.
    /// `is_ours`: by an interface of this name packets come or leave; what others lose is theirs.
    pub(super) fn told(
        &self,
        attachments: &[status::Attachment],
        is_ours: impl Fn(&str) -> bool,
    ) -> Told {
        let Some(programs) = &self.programs else {
            let failed = self.failed.as_ref().map(|(_, why)| why.clone());
            return Told {
                lost: all(Vec::new(), attachments),
                trouble: Some(failed.unwrap_or_else(|| "the daemon has not begun yet".to_owned())),
            };
        };
        match programs.read() {
            Ok(mut lost) => {
                lost.retain(|lost| is_ours(&lost.interface));
                Told {
                    lost: all(lost, attachments),
                    trouble: None,
                }
            }
            Err(error) => Told {
                lost: all(Vec::new(), attachments),
                trouble: Some(error.to_string()),
            },
        }
    }
}

fn all(lost: Vec<Lost>, attachments: &[status::Attachment]) -> Vec<status::Lost> {
    let none = attachments
        .iter()
        .flat_map(|a| Loss::ALL.map(|loss| ((a.interface.clone(), loss), 0)));
    let mut all: BTreeMap<(String, Loss), u64> = none.collect();
    for Lost {
        interface,
        loss,
        packets,
    } in lost
    {
        let count = all.entry((interface, loss)).or_default();
        *count = count.saturating_add(packets);
    }
    all.into_iter()
        .map(|((interface, loss), packets)| status::Lost {
            interface,
            how: loss.label().to_owned(),
            packets,
        })
        .collect()
}
