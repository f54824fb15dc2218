//! The flow table against a plain map from flows to what is known of them, with time that does not wrap.
//!
//! The model knows nothing of words, sets and tags. It says which backend a packet must reach, what its flow's
//! rank and age are then, and which entries a new flow may push out. After every event the table must
//! hold exactly the model's entries.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use std::collections::BTreeMap;

use lb_common::{
    DropReason, Epoch, FlowHash, FlowRank, FlowWord, Permissions,
    counter::Global,
    flow::{EPOCH_SHIFT, IDLE_AFTER},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    fixture::{
        START,
        cast::PLAIN,
        world::{BackendSpec, Change, Ends, Side},
    },
    mem::{self, MemFrame, MemTables},
    pipeline, schedule,
    tables::CacheLine,
    verdict::Action,
};

/// Backends of the TCP service; as many again are the UDP service's.
const BACKENDS: u32 = 4;
/// Epochs without a packet after which a UDP flow is a new one.
const UDP_IDLE: u64 = 4;
/// The control plane walks the table at least once in this many epochs (103 s).
const SWEEP_WITHIN: u64 = 6;

/// Ports of flows that come often, and of those that are a flood.
const FEW: core::ops::Range<u16> = 1000..1010;
const MANY: core::ops::Range<u16> = 2000..2040;

/// A flow: its client's port, and whether it is UDP.
type Flow = (u16, bool);

#[derive(Clone, Debug)]
enum Event {
    /// A packet with these TCP flags; of UDP with none.
    Packet(Flow, &'static str),
    /// Epochs go by.
    Wait(u64),
    /// The control plane writes down who is idle, and frees the entries of backends that are gone.
    Sweep,
    /// What a backend may do.
    Permissions(u32, u8),
    /// The ring of TCP, or of UDP, which has other backends in the same places.
    Ring(bool, Vec<u32>),
    /// A backend is gone (false), or there is one with its number again.
    Used(u32, bool),
    /// Its next hop is resolved.
    Resolved(u32, bool),
}

/// What the model knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    backend: u32,
    /// Epochs that it was seen in: 1, 2, or 3 for more.
    proof: u8,
    closing: bool,
    /// Written down as idle.
    idle: bool,
    /// When it was last seen, or written down, in epochs from the beginning.
    last: u64,
}

/// How ready an entry is to go, the readiest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Kept,
    Finished(u64),
    Second(u64),
    First(u64),
    Closing(u64),
    Idle,
    Free,
}

impl Known {
    fn class(&self, now: u64) -> Class {
        let age = self.age(now);
        match (self.proof, self.closing) {
            _ if self.idle || age > u64::from(IDLE_AFTER) => Class::Idle,
            (3, true) if age >= 4 => Class::Finished(age),
            (3, _) => Class::Kept,
            (_, true) => Class::Closing(age),
            (2, false) => Class::Second(age),
            (_, false) => Class::First(age),
        }
    }

    fn rank(&self) -> FlowRank {
        match (self.idle, self.proof, self.closing) {
            (true, ..) => FlowRank::Idle,
            (_, 1, false) => FlowRank::Probation,
            (_, 2, false) => FlowRank::Probation2,
            (_, _, false) => FlowRank::Proven,
            (_, 1, true) => FlowRank::ClosingProbation,
            (_, 2, true) => FlowRank::ClosingProbation2,
            (_, _, true) => FlowRank::ClosingProven,
        }
    }

    fn see(&mut self, now: u64, closes: bool) {
        // How long ago an entry was written down as idle is not kept: its stamp wraps, and may then read as
        // one of a clock that is an epoch ahead.
        if self.idle {
            let turn = (now + 1 - self.last) / 16 * 16;
            self.last += turn;
        }
        let later = now > self.last;
        self.proof = match self.idle {
            true => 1 + u8::from(later),
            false => (self.proof + u8::from(later)).min(3),
        };
        // Within its epoch a close stays one: the other side's last ACK is no revival.
        self.closing = closes || self.closing && !later;
        (self.idle, self.last) = (false, now.max(self.last));
    }

    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.last)
    }
}

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    To(u32),
    Refused(DropReason),
}

struct Model {
    flows: BTreeMap<Flow, Known>,
    now: u64,
    swept: u64,
    rings: [Vec<u32>; 2],
    permissions: Vec<Permissions>,
    used: Vec<bool>,
    resolved: Vec<bool>,
    untracked: u64,
    evicted: u64,
}

impl Model {
    fn new() -> Self {
        let count = BACKENDS as usize * 2;
        Self {
            flows: BTreeMap::new(),
            now: 0,
            swept: 0,
            rings: [(0..BACKENDS).collect(), (BACKENDS..2 * BACKENDS).collect()],
            permissions: vec![Permissions(Permissions::ALL.0); count],
            used: vec![true; count],
            resolved: vec![true; count],
            untracked: 0,
            evicted: 0,
        }
    }

    /// Whom the ring gives a new flow.
    fn schedule(&self, flow: Flow, hash: FlowHash) -> Fate {
        let ring = &self.rings[usize::from(flow.1)];
        let takes = |id: &u32| {
            let id = *id as usize;
            self.used[id] && self.permissions[id].may_take_new()
        };
        let tried = (0..schedule::ATTEMPTS)
            .map(|attempt| ring[hash.ring_slot(ring.len() as u32, attempt) as usize])
            .find(takes);
        match tried {
            None => Fate::Refused(DropReason::NoBackend),
            Some(id) if !self.resolved[id as usize] => Fate::Refused(DropReason::NextHopUnresolved),
            Some(id) => Fate::To(id),
        }
    }

    /// True when a known flow is scheduled again.
    fn is_rescheduled(&self, flow: Flow, known: &Known, flags: &str) -> bool {
        let id = known.backend as usize;
        let leaves = !self.used[id] || !self.permissions[id].may_keep();
        let reopened = flags == "S" && known.closing && !self.permissions[id].may_take_new();
        let silent = flow.1 && (known.idle || known.age(self.now) > UDP_IDLE);
        leaves || reopened || silent
    }

    /// A packet of a flow that has an entry.
    fn meet(&mut self, flow: Flow, hash: FlowHash, flags: &str) -> Fate {
        let known = self.flows[&flow];
        let closes = flags.contains(['F', 'R']);
        if self.is_rescheduled(flow, &known, flags) {
            let Fate::To(backend) = self.schedule(flow, hash) else {
                return self.schedule(flow, hash);
            };
            let id = known.backend as usize;
            let moved = !self.used[id] || !self.permissions[id].may_keep();
            let proof = match known.rank() == FlowRank::Proven && moved {
                true => 3,
                false => 1,
            };
            let new = Known {
                backend,
                proof,
                closing: closes,
                idle: false,
                last: self.now,
            };
            self.flows.insert(flow, new);
            return Fate::To(backend);
        }
        let mut seen = known;
        seen.see(self.now, closes);
        self.flows.insert(flow, seen);
        match self.resolved[known.backend as usize] {
            true => Fate::To(known.backend),
            false => Fate::Refused(DropReason::NextHopUnresolved),
        }
    }
}

/// The table that the model is held against.
struct Twin {
    model: Model,
    tables: MemTables,
    /// Of every flow that comes.
    hashes: BTreeMap<Flow, FlowHash>,
}

/// Where an entry stands: set and way.
type Place = (usize, usize);

impl Twin {
    fn new() -> Self {
        let mut world = PLAIN.l2dsr().world(2 * BACKENDS, &[0, 1, 2, 3]);
        let mut udp = world.services[0].clone();
        (udp.protocol, udp.idle_epochs) = (lb_common::Protocol::Udp, UDP_IDLE as u16);
        udp.ring = (BACKENDS..2 * BACKENDS).collect();
        world.services.push(udp);
        for (id, backend) in world.backends.iter_mut().enumerate() {
            let backend: &mut BackendSpec = backend;
            backend.service = id as u32 / BACKENDS;
            backend.side = Side::Backend;
        }
        let tables = world.tables(&Ends::HOST);
        let hash = |(port, udp): Flow| {
            let tuple = world.services[usize::from(udp)].tuple(PLAIN.client(port));
            ((port, udp), tuple.hash(&tables.control.multipliers))
        };
        let ports = FEW.chain(MANY);
        Self {
            model: Model::new(),
            hashes: ports
                .flat_map(|port| [hash((port, false)), hash((port, true))])
                .collect(),
            tables,
        }
    }

    fn at(&self) -> u64 {
        START + (self.model.now << EPOCH_SHIFT)
    }

    fn hash(&self, flow: Flow) -> FlowHash {
        self.hashes[&flow]
    }

    fn words(&self) -> Vec<FlowWord> {
        mem::words(&self.tables.flows)
            .into_iter()
            .flatten()
            .map(FlowWord)
            .collect()
    }

    /// Every entry of the table with the flow that it must belong to.
    fn entries(&self) -> BTreeMap<Flow, (Place, FlowWord)> {
        let mut entries = BTreeMap::new();
        let words = self.words();
        for flow in self.model.flows.keys() {
            let tag = self.tag(*flow);
            for (place, word) in words.iter().copied().enumerate() {
                if word.matches(tag) {
                    let twice = entries.insert(*flow, ((place / 8, place % 8), word));
                    assert_eq!(twice, None, "{flow:?} has two entries");
                }
            }
        }
        entries
    }

    fn tag(&self, flow: Flow) -> u64 {
        self.hash(flow).sets(1, 1).tag
    }

    /// Sends a packet; what became of it.
    fn send(&self, flow: Flow, flags: &'static str) -> Fate {
        let kind = match flow.1 {
            true => PLAIN.l2dsr().udp(),
            false => PLAIN.l2dsr(),
        };
        let mut frame = MemFrame {
            bytes: kind.request(flow.0, flags, b"").bytes(),
            ifindex: Ends::HOST.client,
        };
        let verdict = pipeline::process(&mut frame, &self.tables, self.at());
        match (verdict.action, verdict.reason()) {
            (Action::Redirect, _) => Fate::To(u32::from(frame.bytes[5])),
            (_, Some(reason)) => Fate::Refused(reason),
            other => panic!("{other:?}"),
        }
    }

    fn packet(&mut self, flow: Flow, flags: &'static str) {
        let hash = self.hash(flow);
        if self.model.flows.contains_key(&flow) {
            let expected = self.model.meet(flow, hash, flags);
            assert_eq!(self.send(flow, flags), expected, "known {flow:?}, {flags}");
            return;
        }
        let before = self.entries();
        let expected = self.model.schedule(flow, hash);
        assert_eq!(self.send(flow, flags), expected, "new {flow:?}, {flags}");
        if let Fate::To(backend) = expected {
            self.place(flow, flags, backend, &before);
        }
    }

    /// Where a new flow was placed, and whether it might.
    fn place(
        &mut self,
        flow: Flow,
        flags: &str,
        backend: u32,
        before: &BTreeMap<Flow, (Place, FlowWord)>,
    ) {
        let classes: BTreeMap<Place, (Flow, Class)> = before
            .iter()
            .map(|(flow, (place, _))| {
                (
                    *place,
                    (*flow, self.model.flows[flow].class(self.model.now)),
                )
            })
            .collect();
        let of = |place: &Place| classes.get(place).map_or(Class::Free, |(_, class)| *class);
        // The lower half is for handshakes, but for free and idle places.
        let may_take = |place: &Place| {
            let class = of(place);
            class != Class::Kept
                && (flags == "S" && !flow.1 || place.1 >= 4 || class >= Class::Idle)
        };
        let readiest = (0..16)
            .map(|number| (number / 8, number % 8))
            .filter(|place| may_take(place))
            .map(|place| of(&place))
            .max();
        let tag = self.tag(flow);
        let position = self.words().iter().position(|word| word.matches(tag));
        let Some(place) = position.map(|number| (number / 8, number % 8)) else {
            assert_eq!(readiest, None, "{flow:?} has no entry, but there was room");
            self.model.untracked += 1;
            return;
        };
        assert!(
            may_take(&place),
            "{flow:?}, {flags}, took {place:?}: {:?}",
            of(&place)
        );
        assert_eq!(
            Some(of(&place)),
            readiest,
            "{flow:?}, {flags}, took {place:?}"
        );
        if let Some((victim, class)) = classes.get(&place) {
            self.model.flows.remove(victim);
            self.model.evicted += u64::from(*class < Class::Idle);
        }
        let new = Known {
            backend,
            proof: 1,
            closing: flags.contains(['F', 'R']),
            idle: false,
            last: self.model.now,
        };
        self.model.flows.insert(flow, new);
    }

    fn sweep(&mut self) {
        let epoch = Epoch::at(self.at());
        let used = self.model.used.clone();
        let look = |word: u64| match FlowWord(word) {
            word if !word.is_live() => word.0,
            word if !used[word.backend_id() as usize] => 0,
            word => word.settled(epoch).unwrap_or(word).0,
        };
        for line in &mut self.tables.flows {
            *line = CacheLine::new(line.words().map(look));
        }
        let now = self.model.now;
        self.model
            .flows
            .retain(|_, known| used[known.backend as usize]);
        for known in self.model.flows.values_mut() {
            if known.class(now) == Class::Idle && !known.idle {
                // Whether it was closing is forgotten with it.
                (known.idle, known.closing, known.last) = (true, false, now);
            }
        }
        self.model.swept = now;
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Packet(flow, flags) => self.packet(*flow, flags),
            Event::Wait(epochs) => {
                for _ in 0..*epochs {
                    self.model.now += 1;
                    if self.model.now - self.model.swept >= SWEEP_WITHIN {
                        self.sweep();
                    }
                }
            }
            Event::Sweep => self.sweep(),
            Event::Permissions(id, permissions) => {
                let id = *id as usize;
                self.model.permissions[id] = Permissions(*permissions);
                self.tables.backends[id].permissions = Permissions(*permissions);
            }
            Event::Ring(udp, ring) => {
                let service = usize::from(*udp);
                let ring: Vec<_> = ring
                    .iter()
                    .map(|id| id + BACKENDS * u32::from(*udp))
                    .collect();
                Change::Ring(service as u32, ring.clone()).apply(&mut self.tables, &Ends::HOST);
                self.model.rings[service] = ring;
            }
            Event::Used(id, used) => {
                let id = *id as usize;
                if *used && !self.model.used[id] {
                    // A number is given away again after a sweep only.
                    self.sweep();
                }
                self.model.used[id] = *used;
                self.tables.backends[id].used = u8::from(*used);
            }
            Event::Resolved(id, resolved) => {
                let id = *id as usize;
                self.model.resolved[id] = *resolved;
                self.tables.next_hops[id].resolved = u16::from(*resolved);
            }
        }
    }

    /// The table holds what the model knows, nothing else, where it can be found.
    fn check(&self) {
        let epoch = Epoch::at(self.at());
        let entries = self.entries();
        for (flow, known) in &self.model.flows {
            let (place, word) = entries
                .get(flow)
                .unwrap_or_else(|| panic!("{flow:?} is lost"));
            let found = (word.backend_id(), word.rank(), u64::from(word.age(epoch)));
            let age = match known.idle {
                true => found.2,
                false => known.age(self.model.now),
            };
            let expected = (known.backend, known.rank(), age);
            assert_eq!(found, expected, "{flow:?} at {place:?}");
        }
        let live = self.words().iter().filter(|word| word.is_live()).count();
        assert_eq!(live, self.model.flows.len(), "entries of nobody");
        let totals = self.tables.totals();
        assert_eq!(
            totals.global[Global::Untracked as usize],
            self.model.untracked
        );
        assert_eq!(totals.global[Global::Evicted as usize], self.model.evicted);
        assert!(mem::conserves(&totals));
    }
}

fn packet(ports: impl Strategy<Value = u16>) -> impl Strategy<Value = Event> {
    let flags = prop_oneof![
        4 => Just("S"),
        4 => Just("A"),
        1 => Just("SA"),
        1 => Just("FA"),
        1 => Just("R"),
        1 => Just("")
    ];
    (ports, prop::bool::weighted(0.25), flags)
        .prop_map(|(port, udp, flags)| Event::Packet((port, udp), if udp { "" } else { flags }))
}

/// Time goes on, and the control plane works.
fn change() -> impl Strategy<Value = Event> {
    let backend = || 0..2 * BACKENDS;
    prop_oneof![
        8 => prop_oneof![6 => Just(1_u64), 1 => 2..30_u64].prop_map(Event::Wait),
        1 => Just(Event::Sweep),
        1 => (backend(), prop_oneof![3 => Just(3_u8), 1 => 0..3_u8])
            .prop_map(|(id, permissions)| Event::Permissions(id, permissions)),
        1 => (any::<bool>(), vec(0..BACKENDS, 1..8)).prop_map(|(udp, ring)| Event::Ring(udp, ring)),
        2 => (backend(), prop::bool::weighted(0.7)).prop_map(|(id, used)| Event::Used(id, used)),
        1 => (backend(), prop::bool::weighted(0.8))
            .prop_map(|(id, resolved)| Event::Resolved(id, resolved)),
    ]
}

/// A table that is mostly full, and one that is mostly empty and has gaps.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let crowd = prop_oneof![3 => FEW, 2 => MANY];
    let crowded = prop_oneof![3 => packet(crowd), 1 => change()];
    let sparse = prop_oneof![1 => packet(FEW.start..FEW.start + 5), 1 => change()];
    prop_oneof![vec(crowded, 1..400), vec(sparse, 1..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_table_holds_what_a_plain_map_would(events in events()) {
        let mut twin = Twin::new();
        for event in &events {
            twin.happen(event);
            twin.check();
        }
    }
}
