//! The table and its model side by side, over any sequence of events.

use super::*;

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
        (udp.protocol, udp.idle_epochs) = (lb_common::Protocol::Udp, UDP_IDLE as u32);
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
        let mut frame = MemFrame::new(kind.request(flow.0, flags, b"").bytes(), Ends::HOST.client);
        let verdict = mem::process(&mut frame, &self.tables, self.at());
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
            opening: flags == "S",
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
        1 => (backend(), prop_oneof![3 => Just(Permissions::ALL.0), 1 => 0..3_u8, 1 => Just(Permissions::KEEP | Permissions::DOWN)])
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
