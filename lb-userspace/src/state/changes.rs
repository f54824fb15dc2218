//! What of the document on disk has changed since it was last handed out: with 100,000 backends a copy of all of it
//! takes tens of milliseconds, for which no verdict may wait. Pure.
//!
//! Whoever writes the document keeps it ([`Persistent`]) and brings it up to date with what he is handed
//! ([`Persistent::take`]); the result is what [`State::persistent`] would have given at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::State;
use super::persistent::{Order, Persistent, Verdict};
use crate::ids::Ids;
use crate::model::{BackendKey, Health, Name};
use crate::tiers::Loads;

/// Backends of which the document may say something else than the last one that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unsaved {
    /// All, and some may be gone: after a start or a new configuration.
    All,
    /// These.
    These(BTreeSet<BackendKey>),
}

impl Unsaved {
    /// What the document says of a backend may have changed.
    pub(super) fn add(&mut self, key: &BackendKey) {
        if let Self::These(keys) = self {
            keys.insert(key.clone());
        }
    }
}

/// What makes the document that was handed out last the present one.
#[derive(Clone, Debug)]
pub struct Changes {
    saved_at: u64,
    /// Who has which number: always complete.
    pub ids: Ids,
    /// As [`Persistent::loads`]: always complete.
    loads: BTreeMap<Name, Loads>,
    /// As [`Persistent::live_vips`].
    live_vips: Option<BTreeSet<IpAddr>>,
    /// As [`Persistent::trusted`].
    trusted: BTreeSet<BackendKey>,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    /// Of all backends, in place of what was known.
    All {
        orders: BTreeMap<BackendKey, Order>,
        verdicts: BTreeMap<BackendKey, Verdict>,
    },
    /// Of these backends.
    These(Vec<(BackendKey, Option<Order>, Option<Verdict>)>),
}

impl State {
    /// What has changed since the last call.
    pub fn take_changes(&mut self, now: u64) -> Changes {
        let none = Unsaved::These(BTreeSet::new());
        match std::mem::replace(&mut self.unsaved, none) {
            Unsaved::All => {
                let document = self.persistent(now);
                Changes {
                    saved_at: document.saved_at,
                    ids: document.ids,
                    loads: document.loads,
                    live_vips: document.live_vips,
                    trusted: document.trusted,
                    of: Of::All {
                        orders: document.orders,
                        verdicts: document.verdicts,
                    },
                }
            }
            Unsaved::These(keys) => {
                let known = keys.into_iter().map(|key| {
                    let backend = self.backends.get(&key);
                    let order = backend.and_then(Order::of);
                    let verdict = backend.and_then(|known| Verdict::of(known, self.health(&key)));
                    (key, order, verdict)
                });
                Changes {
                    saved_at: now,
                    of: Of::These(known.collect()),
                    ids: self.ids.clone(),
                    loads: self.held_loads(),
                    live_vips: Some(self.live_vips.clone()),
                    trusted: self.trusted_keys(),
                }
            }
        }
    }
}

impl Order {
    /// The order about a backend, if there is one.
    pub(super) fn of(backend: &super::BackendState) -> Option<Self> {
        let spoken = backend.said.is_some() || backend.drain.is_some() || backend.outage.is_some();
        spoken.then_some(Self {
            said: backend.said,
            drain: backend.drain,
            outage: backend.outage,
        })
    }
}

impl Verdict {
    /// The last verdict about a backend with this health, if there is one.
    pub(super) fn of(backend: &super::BackendState, health: Health) -> Option<Self> {
        (health != Health::Unknown).then(|| Self {
            health,
            since: backend.since,
            reason: std::sync::Arc::clone(&backend.reason),
        })
    }
}

impl Persistent {
    /// Becomes the document that the changes lead to. None may be left out.
    pub fn take(&mut self, changes: Changes) {
        self.saved_at = changes.saved_at;
        self.ids = changes.ids;
        self.loads = changes.loads;
        self.live_vips = changes.live_vips;
        self.trusted = changes.trusted;
        match changes.of {
            Of::All { orders, verdicts } => {
                self.orders = orders;
                self.verdicts = verdicts;
            }
            Of::These(known) => {
                for (key, order, verdict) in known {
                    put(&mut self.orders, &key, order);
                    put(&mut self.verdicts, &key, verdict);
                }
            }
        }
    }
}

fn put<T>(map: &mut BTreeMap<BackendKey, T>, key: &BackendKey, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}
