//! Reads how the handshakes of backends go, and tells the state whom packets make suspects of: see [`crate::passive`].
//!
//! A task reads the counters, on a thread of its own since there may be many, and hands each look to the owner. It rests for at least
//! nineteen times as long as a look takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::owner::Owner;
use crate::dataplane::bpf::Reader;
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::{BackendKey, Config};
use crate::passive::{Counts, EVERY, Watch};

/// A look at all backends that are watched.
#[derive(Debug)]
pub(super) struct Look {
    /// When.
    at: u64,
    /// By BackendId.
    counts: BTreeMap<u32, Counts>,
}

/// What the owner knows of suspects.
#[derive(Debug)]
pub(super) struct Suspects {
    watch: Watch,
    /// Of this configuration.
    of: Option<Arc<Config>>,
    names: BTreeMap<u32, BackendKey>,
    ids: watch::Sender<Arc<Vec<u32>>>,
}

impl Suspects {
    /// Nobody is watched; and what tells [`watch`] whom to read.
    pub(super) fn new() -> (Self, watch::Receiver<Arc<Vec<u32>>>) {
        let (ids, looking) = watch::channel(Arc::default());
        let suspects = Self {
            watch: Watch::default(),
            of: None,
            names: BTreeMap::new(),
            ids,
        };
        (suspects, looking)
    }
}

/// Reads until it is cancelled, or nobody listens.
pub(super) async fn watch(
    reader: Reader,
    mut ids: watch::Receiver<Arc<Vec<u32>>>,
    looks: mpsc::Sender<Look>,
    cancel: CancellationToken,
) {
    let reading = async {
        let mut next = Instant::now();
        loop {
            let wanted = Arc::clone(&ids.borrow_and_update());
            if wanted.is_empty() {
                // With the owner goes whom to read.
                if ids.changed().await.is_err() {
                    break;
                }
                continue;
            }
            tokio::time::sleep_until(next).await;
            let began = Instant::now();
            let reader = reader.clone();
            let read = tokio::task::spawn_blocking(move || Look {
                counts: reader.all_handshakes(&wanted),
                at: now_ns(),
            });
            let Ok(look) = read.await else {
                break;
            };
            let rest = began.elapsed().saturating_mul(19);
            let rest = rest.max(Duration::from_nanos(EVERY).saturating_sub(began.elapsed()));
            next = Instant::now().checked_add(rest).unwrap_or(began);
            if looks.send(look).await.is_err() {
                break;
            }
        }
    };
    cancel.run_until_cancelled(reading).await;
    // Else its end would be taken for a fault.
    cancel.cancelled().await;
}

impl Owner<'_> {
    /// Watches the backends of the configuration in force.
    pub(super) fn watch_backends(&mut self) {
        let config = self.config();
        let suspects = &mut self.suspects;
        if suspects
            .of
            .as_ref()
            .is_some_and(|of| Arc::ptr_eq(of, &config))
        {
            return;
        }
        let (pools, names) = self.parts.reconciler.state().watched();
        suspects.watch.set_pools(pools);
        suspects
            .ids
            .send_replace(Arc::new(suspects.watch.members()));
        suspects.names = names;
        suspects.of = Some(config);
    }

    /// Handshakes have been counted.
    pub(super) fn look_at_handshakes(&mut self, look: &Look) -> anyhow::Result<()> {
        let found = self.suspects.watch.look(look.at, &look.counts);
        let state = self.parts.reconciler.state();
        let events = found.into_iter().filter_map(|(_, id, evidence)| {
            let backend = self.suspects.names.get(&id)?.clone();
            let told = state.may_suspect(look.at, &backend);
            told.then_some((look.at, Event::Suspected { backend, evidence }))
        });
        let events: Vec<(u64, Event)> = events.collect();
        match events.is_empty() {
            true => Ok(()),
            false => self.take(events),
        }
    }
}
