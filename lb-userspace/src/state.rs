//! Everything the control plane knows, with one owner: [`State`]. Pure: events and the time go in,
//! effects come out, and `desired` reads from it what the maps should hold.
//!
//! Nothing here depends on the order of a file or on a hash map's: the same events at the same times give the same
//! state. Which health changes take effect is `velocity`'s decision, which numbers are given
//! `ids`'s, what a backend may do [`permission`]'s.

pub mod admin;
pub mod changes;
mod configure;
mod devices;
mod egress;
mod members;
pub mod outage;
pub mod permission;
pub mod persistent;
mod probe;
mod reports;
mod returns;
mod room;
pub mod share;
mod suspects;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
pub mod view;
pub mod way;
mod why;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::{Device, HashKey, Permissions};

use crate::agent::Agent;
use crate::event::{Effect, Event, Record};
use crate::health::Tracker;
use crate::ids::hops::Hops;
use crate::ids::{Exhausted, Ids, Sizes};
use crate::latency::Pace;
use crate::model::{
    AdminState, AttachMode, Backend, BackendKey, Config, Health, Link, Name, Route, Service,
};
use crate::passive::suspicion::Suspicion;
use crate::plan::endpoints::PlacementError;
use crate::velocity::Velocity;
use admin::{AdminError, Drain};
use changes::Unsaved;
use egress::Bar;
use outage::Outage;
use permission::{Facts, permissions};
use share::{FailbackError, Share};

/// Why an event was refused. The state is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Limits.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The endpoint table.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// Two services with one address, port and protocol.
    #[error("configure services '{first}' and '{second}': both are at {endpoint} (change one)")]
    DuplicateVip {
        /// One.
        first: Name,
        /// The other.
        second: Name,
        /// Where both are.
        endpoint: String,
    },
    /// A person's order.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A person's order about a service.
    #[error(transparent)]
    Failback(#[from] FailbackError),
}

/// What is known about a backend besides the configuration.
#[derive(Clone, Debug)]
struct BackendState {
    tracker: Tracker,
    /// When and why the health that counts last changed; nanoseconds since boot.
    since: u64,
    reason: Arc<str>,
    /// What a person said at run time, if it is not what the configuration says.
    said: Option<AdminState>,
    /// Set while draining.
    drain: Option<Drain>,
    /// Set while it is lost and its flows stay.
    outage: Option<Outage>,
    /// Its relative share of new flows; 0: none.
    weight: u32,
    /// Since when it might take flows, if it may; nanoseconds since boot.
    ready_since: Option<u64>,
    /// It has as many open flows as it may have, or had, and too few have ended since.
    full: bool,
    /// What it says about its load.
    agent: Agent,
    /// How long its checks and its answers to SYNs take, for `least-response-time`.
    pace: Pace,
    /// What packets say against it.
    suspicion: Suspicion,
    /// It came with a new service of a live VIP: it serves until its checks say otherwise.
    trusted: bool,
}

/// Everything that is known.
#[derive(Clone, Debug)]
pub struct State {
    config: Arc<Config>,
    sizes: Sizes,
    ring_key: HashKey,
    ids: Ids,
    hops: Hops,
    backends: BTreeMap<BackendKey, BackendState>,
    /// Those of them with a drain: deadlines are looked at many times a second.
    draining: BTreeSet<BackendKey>,
    /// Those of them with an outage that is not over.
    outages: BTreeSet<BackendKey>,
    /// When the next of their deadlines is, nanoseconds since boot.
    outage_due: u64,
    /// Who serves each service.
    shares: BTreeMap<Name, Share>,
    /// Services with backends that warm up, and when the next step is due.
    warming: BTreeMap<Name, u64>,
    /// Services whose agents want other shares than they have: when the next step is due, and whose.
    leaning: BTreeMap<Name, (u64, BTreeSet<Name>)>,
    /// Backends with a limit of flows.
    limited: Vec<BackendKey>,
    /// VIPs that are claimed, or would be if they are to be: enough backends were healthy once.
    live_vips: BTreeSet<IpAddr>,
    /// The claims that were told last.
    claims: BTreeSet<(String, IpAddr)>,
    velocity: Velocity,
    /// The suspect at which the last look at them had to stop.
    looked_up_to: Option<BackendKey>,
    routes: BTreeMap<IpAddr, Route>,
    /// How many ways leave by each interface; none with 0.
    leaving: BTreeMap<u32, usize>,
    /// All that there are: a reload may name any of them.
    links: BTreeMap<u32, Link>,
    /// Interfaces that a reload is adding or taking away.
    also_attached: BTreeSet<String>,
    /// Interfaces that the maps name and netlink has not spoken of yet, after a restart.
    adopted: BTreeMap<u32, Device>,
    /// Interfaces that left a bond, and which.
    departed: BTreeMap<u32, u32>,
    /// Interfaces that run the program, and how; `None`: nobody has looked yet.
    running: Option<BTreeMap<u32, AttachMode>>,
    /// Interfaces that ways leave by and that no packet can be sent by; from `running`, `links` and `leaving`.
    barred: BTreeMap<u32, Bar>,
    /// One of these has changed since.
    egress_changed: bool,
    /// Backends of IPv6 services to which too little fits, by service.
    narrow: BTreeMap<Name, BTreeSet<Name>>,
    /// Interfaces packets may leave by; from `links` and `routes`.
    devices: BTreeMap<u32, Device>,
    /// Services one of whose servers stands behind another one too.
    sharing: BTreeSet<Name>,
    /// Who stands at an address.
    at: BTreeMap<IpAddr, Vec<BackendKey>>,
    flows: BTreeMap<u32, u64>,
    /// Those of them that are open.
    open: BTreeMap<u32, u64>,
    dirty: Dirty,
    unsaved: Unsaved,
}

/// What changed since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services all of whose backends' words may differ.
    pub services: BTreeSet<Name>,
    /// Single backends whose words may differ.
    pub backends: BTreeSet<BackendKey>,
    /// Addresses whose next hop may differ.
    pub hops: BTreeSet<IpAddr>,
    /// Services, endpoints or devices may differ.
    pub image: bool,
}

impl Dirty {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.backends.is_empty() && self.hops.is_empty() && !self.image
    }

    /// Adds other changes.
    pub fn add(&mut self, other: &Self) {
        self.append(other.clone());
    }

    /// Adds other changes, usually few.
    fn append(&mut self, other: Self) {
        self.services.extend(other.services);
        self.backends.extend(other.backends);
        self.hops.extend(other.hops);
        self.image |= other.image;
    }
}

/// The part of a backend's entry that changes while it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it may do.
    pub permissions: Permissions,
    /// Index into `next_hops`.
    pub next_hop: u32,
}

impl State {
    /// Takes an event in. On an error nothing has changed.
    pub fn handle(&mut self, now: u64, event: Event) -> Result<Vec<Effect>, StateError> {
        // What follows for whole pools follows from this event alone: a burst must not look at the same
        // pools again and again.
        let earlier = std::mem::take(&mut self.dirty);
        let outcome = self.take(now, event);
        let new = std::mem::replace(&mut self.dirty, earlier);
        self.dirty.append(new);
        outcome
    }

    fn take(&mut self, now: u64, event: Event) -> Result<Vec<Effect>, StateError> {
        let mut effects = Vec::new();
        match event {
            Event::Config(config) => self.configure(now, config, &mut effects)?,
            Event::Probe { backend, result } => self.probed(now, &backend, &result, &mut effects),
            Event::Suspected { suspects } => self.suspected(now, &suspects, &mut effects),
            Event::Reported { backend, said } => {
                self.reported(now, &backend, said.as_deref(), &mut effects);
            }
            Event::Route { address, route } => self.routed(now, address, route, &mut effects),
            Event::Link(link) => self.linked(link, &mut effects),
            Event::LinkGone { ifindex } => self.unlinked(ifindex, &mut effects),
            Event::AlsoAttached(names) => {
                self.also_attached = names;
                self.refresh_devices();
            }
            Event::Running(running) => self.runs_on(running),
            Event::Admin {
                backend,
                state,
                deadline,
            } => self.order(now, &backend, state, deadline, &mut effects)?,
            Event::FlowsCounted {
                began,
                by_backend,
                open,
            } => {
                self.open = open;
                self.counted(now, began, by_backend, &mut effects);
            }
            Event::Answered { means } => self.timed_answers(now, &means),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.look_at_egress(&mut effects);
        self.look_at_room(&mut effects);
        self.lean(now);
        self.settle(now, &mut effects);
        Ok(effects)
    }

    /// Takes what changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Everything is to be looked at again, after a write failed.
    pub fn mark_all(&mut self) {
        self.dirty.image = true;
        self.dirty.services = self.config.services.keys().cloned().collect();
        self.dirty.hops = self.at.keys().copied().collect();
    }

    /// The maps are as this state wants them.
    pub fn written(&mut self, now: u64) {
        self.ids.written(now);
        self.hops.written(now);
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The numbers in force.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// BackendIds whose counters are to be read and given to [`Self::set_origins`], so that a
    /// backend's counts begin at 0.
    pub fn without_origin(&self) -> Vec<u32> {
        self.ids.without_origin()
    }

    /// Where the counts of new backends begin: absolute counters by BackendId.
    pub fn set_origins(&mut self, lines: &BTreeMap<u32, crate::ids::Lines>) {
        self.ids.set_origins(lines);
    }

    /// The health that counts.
    pub fn health(&self, key: &BackendKey) -> Health {
        self.velocity.applied(key).unwrap_or(Health::Unknown)
    }

    /// What a person says, now or in the configuration.
    pub fn admin(&self, key: &BackendKey) -> Option<AdminState> {
        let (_, configured) = self.config.backend(key)?;
        let said = self.backends.get(key).and_then(|backend| backend.said);
        Some(said.unwrap_or(configured.admin))
    }

    /// The word of a backend; `None` when there is no such backend.
    pub fn word(&self, key: &BackendKey) -> Option<Word> {
        let (service, backend) = self.config.backend(key)?;
        self.word_of(service, backend, key)
    }

    /// The word of a backend that has been looked up: with many, looking up is most of the work.
    pub(crate) fn word_of(
        &self,
        service: &Service,
        backend: &Backend,
        key: &BackendKey,
    ) -> Option<Word> {
        let facts = self.facts(service, backend, key)?;
        Some(Word {
            permissions: match service.sources.is_empty() {
                true => permissions(facts),
                false => permissions(facts).asking(),
            },
            next_hop: self.way(backend.address).index,
        })
    }

    pub(crate) fn ring_key(&self) -> HashKey {
        self.ring_key
    }

    pub(crate) fn devices(&self) -> &BTreeMap<u32, Device> {
        &self.devices
    }

    /// It gets new flows although nothing is known of its health yet.
    fn trusts(&self, service: &Service, key: &BackendKey) -> bool {
        let known = self.backends.get(key);
        service.health.trust_at_start || known.is_some_and(|known| known.trusted)
    }

    fn facts(&self, service: &Service, backend: &Backend, key: &BackendKey) -> Option<Facts> {
        let known = self.backends.get(key)?;
        Some(Facts {
            admin: known.said.unwrap_or(backend.admin),
            past_deadline: known.drain.is_some_and(|drain| drain.acted),
            drain: service.drain,
            health: self.health(key),
            trust_at_start: self.trusts(service, key),
            on_down: service.on_down,
            waits: outage::waits(service, known),
            chosen: known.weight > 0,
            reachable: self.way(backend.address).resolved.is_ok(),
            fail_open: self.failed_open(&key.service),
        })
    }

    fn counted(
        &mut self,
        now: u64,
        began: u64,
        flows: BTreeMap<u32, u64>,
        effects: &mut Vec<Effect>,
    ) {
        self.ids.swept(began, &flows);
        self.flows = flows;
        self.look_at_limits();
        self.end_drains(now, Some(began), effects);
        self.end_outages(now, Some(began), effects);
        self.release(now, effects);
    }

    fn tick(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let decisions = self.velocity.tick(now);
        self.decided(now, decisions, effects);
        self.end_drains(now, None, effects);
        self.end_outages(now, None, effects);
        self.release(now, effects);
    }

    fn release(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if self.ids.release(now) {
            persist(effects);
        }
    }

    /// Those of a backend's flows that are open, at the last sweep.
    pub(crate) fn open_of(&self, key: &BackendKey) -> u64 {
        let id = self.ids.backend(key).map(|backend| backend.id);
        id.and_then(|id| self.open.get(&id)).copied().unwrap_or(0)
    }

    /// Flows of a backend at the last sweep.
    fn flows_of(&self, key: &BackendKey) -> u64 {
        let id = self.ids.backend(key).map(|backend| backend.id);
        id.and_then(|id| self.flows.get(&id)).copied().unwrap_or(0)
    }
}

/// Asks once for the state to be saved.
fn persist(effects: &mut Vec<Effect>) {
    if !effects.contains(&Effect::Persist) {
        effects.push(Effect::Persist);
    }
}

fn record(effects: &mut Vec<Effect>, record: Record) {
    effects.push(Effect::Record(record));
}
