//! Reads how the handshakes of backends go, and tells the state whom packets make suspects of: see [`crate::passive`].
//!
//! A task reads the counters and judges them, on a thread of its own since there may be many, and hands no more than suspects to the
//! owner. It rests for at least nineteen times the processor time that this takes: waits for a CPU, of which a busy machine has many, make looks
//! no rarer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::owner::Owner;
use crate::apart::{NoThread, on_thread};
use crate::dataplane::bpf::Reader;
use crate::event::{Event, Record};
use crate::health::nanos;
use crate::health::runner::now_ns;
use crate::model::{BackendKey, Config, Name};
use crate::passive::rarity::Rarity;
use crate::passive::{EVERY, Evidence, Pool, Watch};

/// Who is to be watched.
#[derive(Debug)]
pub(super) enum Order {
    /// These and no others.
    Watch {
        pools: BTreeMap<Name, Pool>,
        names: BTreeMap<u32, BackendKey>,
        away: BTreeSet<u32>,
    },
    /// One of them serves from now on, or does not.
    Serves(u32, bool),
}

/// What a look has found.
#[derive(Debug)]
pub(super) struct Look {
    /// When.
    at: u64,
    /// Processor time.
    took: Duration,
    suspects: Vec<(BackendKey, Evidence)>,
}

/// What the owner knows of those that are watched.
#[derive(Debug)]
pub(super) struct Suspects {
    /// They are those of this configuration.
    of: Option<Arc<Config>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Suspects {
    /// Nobody is watched; and what tells [`watch`] whom to watch.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (orders, wanted) = mpsc::unbounded_channel();
        (Self { of: None, orders }, wanted)
    }

    fn order(&self, order: Order) {
        // A task that has ended is noticed elsewhere.
        let _ended = self.orders.send(order);
    }
}

/// What is known of all who are watched.
#[derive(Debug, Default)]
struct Known {
    watch: Watch,
    names: BTreeMap<u32, BackendKey>,
}

impl Known {
    fn obey(&mut self, order: Order) {
        match order {
            Order::Watch { pools, names, away } => {
                self.watch.set_pools(pools, away);
                self.names = names;
            }
            Order::Serves(id, serves) => self.watch.set_serving(id, serves),
        }
    }

    fn look(&mut self, reader: &Reader) -> Look {
        let began = worked();
        let counts = reader.all_handshakes(self.watch.members());
        let at = now_ns();
        let found = self.watch.look(at, &counts).into_iter();
        let suspects = found.filter_map(|(_, id, why)| Some((self.names.get(&id)?.clone(), why)));
        let suspects = suspects.collect();
        Look {
            at,
            took: worked().saturating_sub(began),
            suspects,
        }
    }
}

/// Processor time of this thread. The clock exists on every Linux.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Reads and judges until it is cancelled, or nobody listens.
pub(super) async fn watch(
    reader: Reader,
    mut orders: mpsc::UnboundedReceiver<Order>,
    looks: mpsc::Sender<Look>,
    cancel: CancellationToken,
) {
    let watching = async {
        let mut known = Known::default();
        let mut rarity = Rarity::default();
        let mut next = Instant::now();
        let mut last: Option<u64> = None;
        loop {
            if known.watch.members().is_empty() {
                last = None;
                match orders.recv().await {
                    Some(order) => known.obey(order),
                    // With the owner goes whom to watch.
                    None => break,
                }
                continue;
            }
            tokio::time::sleep_until(next).await;
            let began = Instant::now();
            while let Ok(order) = orders.try_recv() {
                known.obey(order);
            }
            let reader = reader.clone();
            let looking = on_thread("look", move || {
                let look = known.look(&reader);
                (known, look)
            });
            let (back, look) = looking.await.unwrap_or_else(NoThread::here);
            known = back;
            let took = look.took;
            let rest = took.saturating_mul(19);
            let rest = rest.max(Duration::from_nanos(EVERY).saturating_sub(began.elapsed()));
            next = Instant::now().checked_add(rest).unwrap_or(began);
            let window = known.watch.shortest_window();
            if let (Some(last), Some(window)) = (last.replace(look.at), window)
                && rarity.note(look.at.saturating_sub(last), window)
            {
                say_rare(known.watch.members().len(), took, rest, window);
            }
            if !look.suspects.is_empty() && looks.send(look).await.is_err() {
                break;
            }
        }
    };
    cancel.run_until_cancelled(watching).await;
    // Else its end would be taken for a fault.
    cancel.cancelled().await;
}

fn say_rare(backends: usize, took: Duration, rest: Duration, window: u64) {
    let (took, apart) = (nanos(took), nanos(rest.saturating_add(took)));
    let [took, apart, window] = [took, apart, window].map(|time| time / 1_000_000);
    tracing::warn!(
        "a look at the handshakes of {backends} backends takes {took} ms, so looks are {apart} ms apart, and two of them do not fit \
         into a passive-window of {window} ms: passive checks look back on two looks in its place, and find later who fails; a longer \
         passive-window says the same, passive = false for some services makes looks cheaper"
    );
}

impl Owner<'_> {
    /// Watches the backends of the configuration in force.
    pub(super) fn watch_backends(&mut self) {
        let config = self.config();
        let of = &self.suspects.of;
        if of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &config)) {
            return;
        }
        let state = self.parts.reconciler.state();
        let (pools, names) = state.watched();
        let away = names.iter().filter(|(_, key)| !state.serves(key));
        let away = away.map(|(id, _)| *id).collect();
        self.suspects.order(Order::Watch { pools, names, away });
        self.suspects.of = Some(config);
    }

    /// Those that are watched may serve no more, or again.
    pub(super) fn note_serving(&self, record: &Record) {
        let (Record::Health { backend, .. } | Record::Admin { backend, .. }) = record else {
            return;
        };
        let state = self.parts.reconciler.state();
        if let Some(id) = state.watched_id(backend) {
            let serves = state.serves(backend);
            self.suspects.order(Order::Serves(id, serves));
        }
    }

    /// Packets have made suspects.
    pub(super) fn look_at_handshakes(&mut self, look: Look) -> anyhow::Result<()> {
        let Look { at, suspects, .. } = look;
        let state = self.parts.reconciler.state();
        match suspects.iter().any(|(key, _)| state.may_rise(at, key)) {
            true => self.take(vec![(at, Event::Suspected { suspects })]),
            false => Ok(()),
        }
    }
}
