//! What survives a restart, and how a state begins from it and from what the maps hold.
//!
//! Three sources, in this order. The configuration says who there is. The maps say what is
//! true of forwarding: live ids, ways, interfaces; nothing of it may change because a
//! daemon started. The file says what the maps cannot: ids at rest, orders of people, last verdicts.
//! When file and maps disagree about an id, the maps are right, and it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::HashKey;
use serde::{Deserialize, Serialize};

use super::admin::Drain;
use super::changes::Unsaved;
use super::configure::numbered;
use super::outage::Outage;
use super::{Dirty, State, StateError, record};
use crate::dataplane::Actual;
use crate::desired;
use crate::event::{Effect, Record};
use crate::ids::hops::{HopKey, Hops, NOWHERE};
use crate::ids::{Ids, Sizes};
use crate::model::{AdminState, BackendKey, Config, Health, Name, Route};
use crate::tiers::Loads;
use crate::velocity::{Limit, Velocity};

/// The document on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistent {
    /// When it was made, nanoseconds since boot. A later boot has an earlier time, or none can tell.
    pub saved_at: u64,
    /// Who has which number.
    pub ids: Ids,
    /// What people said at run time.
    pub orders: BTreeMap<BackendKey, Order>,
    /// Last verdicts: they hold until probes say otherwise (RELIABILITY.md P11).
    pub verdicts: BTreeMap<BackendKey, Verdict>,
    /// What the tiers of services carry that do not return flows by themselves.
    #[serde(default)]
    pub loads: BTreeMap<Name, Loads>,
    /// VIPs for which enough backends were healthy once; `None`: nobody noted it.
    #[serde(default)]
    pub live_vips: Option<BTreeSet<IpAddr>>,
    /// Backends that came with a new service of a live VIP, and of whose health nothing was known yet.
    #[serde(default)]
    pub trusted: BTreeSet<BackendKey>,
}

/// An order of a person, and what it or an outage has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// `None`: as configured.
    pub said: Option<AdminState>,
    /// The drain, if one is under way.
    pub drain: Option<Drain>,
    /// The outage, if flows stay in one.
    #[serde(default)]
    pub outage: Option<Outage>,
}

/// A last verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What counted.
    pub health: Health,
    /// Since when, nanoseconds since boot.
    pub since: u64,
    /// Why.
    pub reason: Arc<str>,
}

/// What a state begins from.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Who there is.
    pub config: Arc<Config>,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// Secret key of all rings.
    pub ring_key: HashKey,
    /// The file; `None`: there is none.
    pub persistent: Option<Persistent>,
    /// The maps; `None`: they are new and empty.
    pub actual: Option<&'a Actual>,
}

impl State {
    /// The state to begin with, and all effects that others need to begin.
    pub fn start(now: u64, start: Start<'_>) -> Result<(Self, Vec<Effect>), StateError> {
        let mut effects = Vec::new();
        let persistent = start.persistent.unwrap_or_default();
        let actual = start.actual.filter(|actual| !is_empty(actual));
        let mut ids = adopt_ids(&persistent, &start.config, actual, &mut effects);
        numbered(&mut ids, &start.config, start.sizes, now)?;
        if actual.is_none() {
            ids.counters_began_anew();
        }
        let daemon = &start.config.daemon;
        let limit = Limit::new(daemon.velocity_percent, daemon.velocity_window);
        let mut state = Self {
            sizes: start.sizes,
            ring_key: start.ring_key,
            ids,
            hops: Hops::default(),
            backends: BTreeMap::new(),
            draining: BTreeSet::new(),
            outages: BTreeSet::new(),
            outage_due: 0,
            shares: BTreeMap::new(),
            warming: BTreeMap::new(),
            leaning: BTreeMap::new(),
            limited: Vec::new(),
            live_vips: BTreeSet::new(),
            claims: BTreeSet::new(),
            velocity: Velocity::new(limit),
            looked_up_to: None,
            routes: BTreeMap::new(),
            leaving: BTreeMap::new(),
            links: BTreeMap::new(),
            also_attached: BTreeSet::new(),
            adopted: BTreeMap::new(),
            departed: BTreeMap::new(),
            running: None,
            barred: BTreeMap::new(),
            egress_changed: false,
            narrow: BTreeMap::new(),
            devices: BTreeMap::new(),
            sharing: BTreeSet::new(),
            at: BTreeMap::new(),
            flows: BTreeMap::new(),
            open: BTreeMap::new(),
            dirty: Dirty::default(),
            unsaved: Unsaved::All,
            config: start.config,
        };
        if let Some(actual) = actual {
            state.adopt_ways(actual);
        }
        let config = Arc::clone(&state.config);
        // Nothing is known of anybody yet, so nothing ends.
        let _over = state.keep_backends(now, &config, &BTreeSet::new());
        state.keep_ways();
        state.restore_orders(now, &persistent);
        state.restore_loads(&persistent.loads);
        state.set_all_pools();
        // Where nothing is forwarded yet, everybody has to prove himself.
        if actual.is_some() {
            state.restore_verdicts(now, &persistent);
        }
        let decisions = state.velocity.tick(now);
        state.decided(now, decisions, &mut effects);
        super::persist(&mut effects);
        state.restore_vips(&persistent, actual);
        state.mark_all();
        state.look_at_room(&mut effects);
        state.settle(now, &mut effects);
        effects.retain(|effect| !matches!(effect, Effect::Claim(_)));
        effects.extend(state.announcements());
        Ok((state, effects))
    }

    /// The whole document.
    pub fn persistent(&self, now: u64) -> Persistent {
        let order = |(key, backend): (&BackendKey, &super::BackendState)| {
            Some((key.clone(), Order::of(backend)?))
        };
        // Both are in the order of names, and know the same backends.
        let mut healths = self.velocity.all_applied().peekable();
        let verdict = |(key, backend): (&BackendKey, &super::BackendState)| {
            let name = (&key.service, &key.backend);
            while healths.next_if(|(known, _)| *known < name).is_some() {}
            let (_, health) = healths.next_if(|(known, _)| *known == name)?;
            Some((key.clone(), Verdict::of(backend, health)?))
        };
        Persistent {
            saved_at: now,
            ids: self.ids.clone(),
            orders: self.backends.iter().filter_map(order).collect(),
            verdicts: self.backends.iter().filter_map(verdict).collect(),
            loads: self.held_loads(),
            live_vips: Some(self.live_vips.clone()),
            trusted: self.trusted_keys(),
        }
    }

    /// As [`Persistent::trusted`].
    pub(super) fn trusted_keys(&self) -> BTreeSet<BackendKey> {
        let is_open = |(key, known): &(&BackendKey, &super::BackendState)| {
            known.trusted && self.health(key) == Health::Unknown
        };
        let open = self.backends.iter().filter(is_open);
        open.map(|(key, _)| key.clone()).collect()
    }

    /// Ways and interfaces as the maps have them, until netlink says otherwise.
    fn adopt_ways(&mut self, actual: &Actual) {
        let mut hops: BTreeMap<HopKey, u32> = BTreeMap::new();
        for entry in actual.image.backends.values() {
            let Some(hop) = actual.image.next_hops.get(&entry.next_hop) else {
                continue;
            };
            if entry.next_hop == NOWHERE {
                continue;
            }
            let address = desired::ip(lb_common::Address(entry.address));
            let same = (address, u32::MIN)..=(address, u32::MAX);
            if hops.range(same).next().is_some() {
                continue;
            }
            hops.insert((address, hop.ifindex), entry.next_hop);
            if hop.resolved == 1 {
                let route = Route::Resolved {
                    ifindex: hop.ifindex,
                    source: hop.source,
                    destination: hop.destination,
                };
                self.routes.insert(address, route);
            }
        }
        self.hops = Hops::adopt(hops, actual.image.next_hops.keys().copied());
        self.adopted = actual
            .image
            .devices
            .values()
            .filter(|device| device.ifindex != 0)
            .map(|device| (device.ifindex, *device))
            .collect();
        // What leads to VLANs stays where it is.
        self.devices = actual.image.devices.clone();
    }

    fn restore_orders(&mut self, now: u64, persistent: &Persistent) {
        for (key, order) in &persistent.orders {
            let Some((_, configured)) = self.config.backend(key) else {
                continue;
            };
            let base = configured.admin;
            if let Some(backend) = self.backends.get_mut(key) {
                backend.said = order.said.filter(|said| *said != base);
            }
            self.begin_or_end_drain(now, key, None);
            let drain = order.drain.map(|drain| moved_clock(drain, persistent, now));
            if let Some(backend) = self.backends.get_mut(key)
                && backend.drain.is_some()
            {
                backend.drain = drain.or(backend.drain);
            }
            if let Some(outage) = order.outage {
                self.restore_outage(now, key, outage.moved_clock(persistent, now));
            }
        }
    }

    fn restore_verdicts(&mut self, now: u64, persistent: &Persistent) {
        for (key, verdict) in &persistent.verdicts {
            // A verdict about another address is no verdict about this one.
            let same = |ids: &Ids| ids.backend(key).map(|b| (b.address, b.port));
            if same(&persistent.ids) != same(&self.ids) {
                continue;
            }
            let Some(backend) = self.backends.get_mut(key) else {
                continue;
            };
            backend.since = verdict.since.min(now);
            backend.reason = format!("before the restart: {}", strip(&verdict.reason)).into();
            // A return before the restart is no new one, and who was on the way goes on.
            if verdict.health == Health::Up {
                backend.ready_since = Some(backend.since);
            }
            self.restore_verdict(key, verdict.health);
        }
        for key in &persistent.trusted {
            let same = |ids: &Ids| ids.backend(key).map(|b| (b.address, b.port));
            if same(&persistent.ids) == same(&self.ids)
                && let Some(backend) = self.backends.get_mut(key)
            {
                backend.trusted = true;
                self.set_pool(&key.service);
            }
        }
    }
}

/// Nothing is in the maps.
fn is_empty(actual: &Actual) -> bool {
    actual.image.backends.is_empty()
        && actual.image.services.is_empty()
        && actual.image.endpoints.is_empty()
}

/// The reason without the words of earlier restarts.
fn strip(reason: &str) -> &str {
    reason.trim_start_matches("before the restart: ")
}

/// A drain after the clock began anew: what was left of its time is left.
fn moved_clock(drain: Drain, persistent: &Persistent, now: u64) -> Drain {
    if persistent.saved_at <= now {
        return drain;
    }
    let left = |deadline: u64| now.saturating_add(deadline.saturating_sub(persistent.saved_at));
    Drain {
        since: now,
        deadline: drain.deadline.map(left),
        ..drain
    }
}

/// The file's ids where they agree with the maps, else the maps'.
fn adopt_ids(
    persistent: &Persistent,
    config: &Config,
    actual: Option<&Actual>,
    effects: &mut Vec<Effect>,
) -> Ids {
    let mut ids = persistent.ids.clone();
    ids.restart_rests();
    let Some(actual) = actual else {
        return ids;
    };
    match ids.contradiction(&actual.image) {
        None => ids,
        Some(reason) => {
            let (ids, adopted) = Ids::adopt(config, &actual.image);
            record(
                effects,
                Record::Adopted {
                    what: format!(
                        "the state file does not agree with the maps ({reason}): ids were taken from the maps, {adopted} backends keep theirs"
                    ),
                },
            );
            ids
        }
    }
}
