//! A state in a small world: what may each backend do after what happened?

mod changes;
mod egress;
mod failover;
mod members;
mod orders;
mod outage;
mod reports;
mod returns;
mod room;
mod suspects;
mod why;

use std::collections::BTreeMap;

use lb_common::{HashKey, Permissions};

use super::persistent::{Persistent, Start};
use super::view::Surroundings;
use super::*;
use crate::dataplane::Actual;
use crate::desired;
use crate::event::Cause;
use crate::fixture::world::link;
use crate::fixture::{config, ip, key, name};
use crate::model::{AdminState, Check, DrainPolicy, OnDown, ProbeResult, ProbeVerdict};
use crate::status::Counters;

const SECOND: u64 = 1_000_000_000;
const NONE: u8 = 0;
const NEW: u8 = Permissions::NEW;
const KEEP: u8 = Permissions::KEEP;
const ALL: u8 = NEW | KEEP;
/// What is left to one that is down.
const STAY: u8 = KEEP | Permissions::DOWN;

const WEB: &str = "web 192.0.2.1:80 a=10.0.0.1:80 b=10.0.0.2:80";

/// A state and its clock.
struct Sim {
    state: State,
    now: u64,
    effects: Vec<Effect>,
}

fn start(config: Arc<Config>, persistent: Option<Persistent>, now: u64) -> Sim {
    start_from(config, persistent, None, now)
}

fn start_from(
    config: Arc<Config>,
    persistent: Option<Persistent>,
    actual: Option<&Actual>,
    now: u64,
) -> Sim {
    let sizes = Sizes::from(&config.limits);
    let start = Start {
        config,
        sizes,
        ring_key: HashKey([1, 2]),
        persistent,
        actual,
    };
    let (state, effects) = State::start(now, start).unwrap();
    Sim {
        state,
        now,
        effects,
    }
}

/// All interfaces up, all addresses reachable, all verdicts good.
fn running(config: Arc<Config>) -> Sim {
    let mut sim = start(config, None, SECOND);
    sim.connect();
    let all: Vec<BackendKey> = sim.state.backends.keys().cloned().collect();
    for backend in &all {
        sim.probe(&backend.to_string(), true, 2);
    }
    sim.effects.clear();
    sim
}

impl Sim {
    fn event(&mut self, event: Event) {
        self.now += SECOND / 10;
        let effects = self.state.handle(self.now, event).unwrap();
        self.effects.extend(effects);
    }

    fn connect(&mut self) {
        self.event(Event::Link(link(1, true)));
        let addresses: Vec<IpAddr> = self.state.at.keys().copied().collect();
        for address in addresses {
            self.route(address, 1, 7);
        }
    }

    fn route(&mut self, address: IpAddr, ifindex: u32, mac: u8) {
        self.event(Event::Route {
            address,
            route: Route::Resolved {
                ifindex,
                source: [2, 0, 0, 0, 0, 1],
                destination: [2, 0, 0, 0, 0, mac],
            },
        });
    }

    fn probe(&mut self, backend: &str, good: bool, times: usize) {
        for _ in 0..times {
            let verdict = match good {
                true => ProbeVerdict::Good,
                false => ProbeVerdict::Bad("connection refused".to_owned()),
            };
            let at = self.now + SECOND / 10;
            self.event(Event::Probe {
                backend: key(backend),
                result: ProbeResult {
                    extra: false,
                    scheduled: at,
                    started: at,
                    ended: at,
                    verdict,
                },
            });
        }
    }

    fn admin(&mut self, backend: &str, state: AdminState, deadline: Option<u64>) {
        self.event(Event::Admin {
            backend: key(backend),
            state,
            deadline,
        });
    }

    fn flows(&mut self, flows: &[(&str, u64)]) {
        let ids = |b: &str| self.state.ids.backend(&key(b)).unwrap().id;
        let by_backend: BTreeMap<u32, u64> = flows.iter().map(|(b, n)| (ids(b), *n)).collect();
        self.event(Event::FlowsCounted {
            began: self.now + 1,
            open: by_backend.clone(),
            by_backend,
        });
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
        self.event(Event::Tick);
    }

    /// Through the disk, with everything that is not on it forgotten.
    /// Starts again with the file and, where `maps` says so, with the maps as they were.
    fn again(&self, config: Arc<Config>, now: u64, maps: bool) -> Sim {
        let bytes = crate::store::encode(&self.state.persistent(self.now)).unwrap();
        let actual = maps.then(|| Actual {
            image: desired::image(&self.state, &mut desired::Rings::default()),
            generation: 0,
            live_half: BTreeMap::new(),
            source_half: BTreeMap::new(),
            stray_sources: BTreeSet::new(),
            header: bytemuck::Zeroable::zeroed(),
        });
        let file = crate::store::decode(&bytes).unwrap();
        start_from(config, Some(file), actual.as_ref(), now)
    }

    fn restarted(&self, config: Arc<Config>, now: u64) -> Sim {
        self.again(config, now, true)
    }

    fn records(&mut self) -> Vec<Record> {
        let record = |effect| match effect {
            Effect::Record(record) => Some(record),
            _ => None,
        };
        self.effects.drain(..).filter_map(record).collect()
    }

    #[track_caller]
    fn check(&self, expected: &[(&str, u8)]) {
        for (backend, permissions) in expected {
            let word = self.state.word(&key(backend)).unwrap();
            assert_eq!(word.permissions.0, *permissions, "{backend}");
        }
    }
}

/// The configuration `WEB` with one thing changed.
fn web(change: impl FnOnce(&mut crate::model::Service)) -> Arc<Config> {
    let mut config = (*config(WEB)).clone();
    change(config.services.get_mut(&name("web")).unwrap());
    crate::fixture::with_services(config.services)
}

#[test]
fn a_new_backend_takes_no_flows_until_it_is_proven_and_reachable() {
    let mut sim = start(config(WEB), None, SECOND);
    sim.check(&[("web/a", NONE)]);
    sim.connect();
    sim.check(&[("web/a", KEEP)]);
    sim.probe("web/a", true, 1);
    sim.check(&[("web/a", KEEP)]);
    sim.probe("web/a", true, 1);
    sim.check(&[("web/a", ALL), ("web/b", KEEP)]);
    sim.probe("web/a", false, 1);
    sim.check(&[("web/a", ALL)]);
}

#[test]
fn a_trusted_or_unchecked_backend_takes_flows_as_soon_as_it_is_reachable() {
    let trusted = web(|s| s.health.trust_at_start = true);
    let unchecked = web(|s| s.health.check = Check::None);
    for config in [trusted, unchecked] {
        let mut sim = start(config, None, SECOND);
        sim.check(&[("web/a", NONE)]);
        sim.connect();
        sim.check(&[("web/a", ALL), ("web/b", ALL)]);
    }
}

#[test]
fn a_dead_backend_loses_its_flows_or_keeps_them_by_policy() {
    for (policy, left) in [(OnDown::Migrate, NONE), (OnDown::Keep, STAY)] {
        let mut sim = running(web(|s| s.on_down = policy));
        sim.probe("web/a", false, 1);
        sim.probe("web/b", true, 1);
        sim.check(&[("web/a", ALL)]);
        sim.probe("web/a", false, 1);
        sim.check(&[("web/a", left), ("web/b", ALL)]);
        let told = sim.records().into_iter().find_map(|record| match record {
            Record::Health {
                backend,
                to,
                reason,
                ..
            } => Some((backend, to, reason)),
            _ => None,
        });
        let (backend, to, reason) = told.unwrap();
        assert_eq!((backend, to), (key("web/a"), Health::Down));
        assert!(reason.contains("connection refused"), "{reason}");
        sim.probe("web/a", true, 2);
        sim.check(&[("web/a", ALL)]);
    }
}

#[test]
fn an_unreachable_backend_takes_no_flows_though_probes_succeed() {
    let mut sim = running(config(WEB));
    sim.event(Event::Route {
        address: ip("10.0.0.1"),
        route: Route::Unresolved("neighbour failed".to_owned()),
    });
    sim.check(&[("web/a", NONE), ("web/b", ALL)]);
    let way = sim.state.way(ip("10.0.0.1"));
    assert_eq!(way.resolved, Err("neighbour failed".to_owned()));
    sim.route(ip("10.0.0.1"), 1, 9);
    sim.check(&[("web/a", ALL)]);
    assert_eq!(
        sim.state.way(ip("10.0.0.1")).index,
        way.index,
        "one store each way"
    );
    sim.event(Event::Link(link(1, false)));
    sim.check(&[("web/a", NONE), ("web/b", NONE)]);
    sim.event(Event::Link(link(1, true)));
    sim.check(&[("web/a", ALL), ("web/b", ALL)]);
    sim.event(Event::LinkGone { ifindex: 1 });
    sim.check(&[("web/a", NONE)]);
}

#[test]
fn two_interfaces_in_one_slot_are_told_and_the_smaller_index_works() {
    let mut sim = running(config(WEB));
    let mut other = link(1, true);
    other.ifindex = 4097;
    other.name = "wan".to_owned();
    sim.event(Event::Link(other));
    sim.route(ip("10.0.0.2"), 4097, 7);
    sim.check(&[("web/a", ALL), ("web/b", NONE)]);
    let reason = sim.state.way(ip("10.0.0.2")).resolved.unwrap_err();
    assert!(
        reason.contains("4097") && reason.contains("slot"),
        "{reason}"
    );
}

#[test]
fn interfaces_that_a_reload_adds_or_leaves_stand_in_the_maps_meanwhile() {
    let mut sim = running(config(WEB));
    let mut other = link(2, true);
    other.name = "wan".to_owned();
    sim.event(Event::Link(other));
    let named = |sim: &Sim| -> Vec<u32> {
        let devices = sim.state.devices().values();
        devices.map(|d| d.ifindex).collect()
    };
    let recorded = |sim: &Sim| sim.effects.iter().any(|e| matches!(e, Effect::Record(_)));
    assert_eq!(named(&sim), [1], "nobody sends by it");
    assert!(!recorded(&sim), "nor need anybody know: {:?}", sim.effects);
    sim.event(Event::AlsoAttached(["wan".to_owned()].into()));
    assert_eq!(named(&sim), [1, 2]);
    let mut next = (**sim.state.config()).clone();
    next.daemon.interfaces = vec!["wan".to_owned()];
    let gone = ["lan".to_owned()];
    sim.event(Event::AlsoAttached(gone.into()));
    sim.event(Event::Config(next.into()));
    let told = Effect::Interfaces(vec!["wan".to_owned()]);
    assert!(sim.effects.contains(&told), "{:?}", sim.effects);
    assert_eq!(named(&sim), [1, 2]);
    // A way still leaves by the old one.
    sim.event(Event::AlsoAttached(BTreeSet::new()));
    assert_eq!(named(&sim), [1, 2]);
    sim.route(ip("10.0.0.1"), 2, 7);
    sim.route(ip("10.0.0.2"), 2, 7);
    assert_eq!(named(&sim), [2]);
}

#[test]
fn when_all_are_down_the_service_fails_open_or_closed_by_policy() {
    use crate::model::AllDown;
    for (policy, then) in [(AllDown::FailOpen, ALL), (AllDown::FailClosed, NONE)] {
        let mut sim = running(web(|s| s.all_down = policy));
        // Nobody answers for as long as it takes to be believed.
        for _ in 0..60 {
            sim.probe("web/a", false, 1);
            sim.probe("web/b", false, 1);
            sim.pass(1);
        }
        assert_eq!(sim.state.health(&key("web/a")), Health::Down);
        assert_eq!(sim.state.health(&key("web/b")), Health::Down);
        sim.check(&[("web/a", then), ("web/b", then)]);
        assert_eq!(
            sim.state.failed_open(&name("web")),
            policy == AllDown::FailOpen
        );
        sim.probe("web/a", true, 2);
        sim.check(&[("web/a", ALL), ("web/b", NONE)]);
        assert!(!sim.state.failed_open(&name("web")));
    }
}

#[test]
fn the_last_verdict_holds_over_a_restart_until_probes_say_otherwise() {
    let mut sim = running(config(WEB));
    sim.probe("web/a", false, 1);
    sim.probe("web/b", true, 1);
    sim.probe("web/a", false, 1);
    let mut sim = sim.restarted(config(WEB), sim.now + SECOND);
    assert_eq!(sim.state.health(&key("web/a")), Health::Down);
    assert_eq!(sim.state.health(&key("web/b")), Health::Up);
    sim.connect();
    sim.check(&[("web/a", NONE), ("web/b", ALL)]);
    let reason = &sim.state.backends[&key("web/a")].reason;
    assert!(
        reason.starts_with("before the restart: bad probes"),
        "{reason}"
    );
    sim.probe("web/a", true, 2);
    sim.check(&[("web/a", ALL)]);
    // Without maps nothing is forwarded that a daemon could disturb: everybody has to prove himself.
    let rebooted = sim.again(config(WEB), sim.now + SECOND, false);
    assert_eq!(rebooted.state.health(&key("web/b")), Health::Unknown);
    // Another address is another server: nothing is known of it.
    let moved = WEB.replace("10.0.0.2", "10.0.0.22");
    let sim = sim.restarted(config(&moved), sim.now + SECOND);
    assert_eq!(sim.state.health(&key("web/b")), Health::Unknown);
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let mut sim = running(config(WEB));
    let before = format!("{:?}", sim.state);
    let twice = format!("{WEB}\n web2 192.0.2.1:80 a=10.0.0.1:80");
    let many: String = (0..17)
        .map(|n| format!("s{n} 192.0.2.{n}:80 a=10.0.0.1:80\n"))
        .collect();
    let shared: String = (1..6)
        .map(|n| format!("s{n} 192.0.2.{n}:80 a=10.0.0.1:80\n"))
        .collect();
    for (text, words) in [
        (twice, "services 'web' and 'web2'"),
        (many, "limit 'services'"),
        (shared, "it stands in 5 services"),
    ] {
        let event = Event::Config(config(&text));
        let error = sim.state.handle(sim.now, event).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(format!("{:?}", sim.state), before);
    }
}

#[test]
fn others_are_told_only_what_changed() {
    let mut sim = start(config(WEB), None, SECOND);
    let is_told = |sim: &Sim, kind: fn(&Effect) -> bool| sim.effects.iter().any(kind);
    assert!(is_told(
        &sim,
        |e| matches!(e, Effect::Probe(targets) if targets.len() == 2)
    ));
    assert!(is_told(
        &sim,
        |e| matches!(e, Effect::Follow(ips) if ips.len() == 2)
    ));
    assert!(is_told(&sim, |e| matches!(e, Effect::Claim(_))));
    sim.effects.clear();
    sim.event(Event::Config(web(|s| {
        s.claim = Some("lan".to_owned());
        s.failover.min_healthy = 0;
    })));
    assert!(is_told(
        &sim,
        |e| matches!(e, Effect::Claim(claims) if claims.len() == 1)
    ));
    let quiet = |e: &Effect| matches!(e, Effect::Probe(_) | Effect::Follow(_));
    assert!(!is_told(&sim, quiet));
    sim.effects.clear();
    sim.event(Event::Config(config(&format!("{WEB} c=10.0.0.3:80"))));
    assert!(is_told(
        &sim,
        |e| matches!(e, Effect::Probe(targets) if targets.len() == 3)
    ));
    assert!(is_told(&sim, |e| *e == Effect::Persist));
}

/// The whole status, as the daemon puts it together.
fn told(sim: &Sim, counters: &Counters) -> crate::status::Status {
    let state = &sim.state;
    let mut status = state.status_head(sim.now, Surroundings::default(), counters);
    let services = state.config().services.values();
    status.services = state.status_of(sim.now, services, counters);
    status
}

#[test]
fn status_shows_what_is_known_and_counts_from_where_an_id_began() {
    let mut sim = running(config(WEB));
    sim.admin("web/b", AdminState::Draining, Some(sim.now + 30 * SECOND));
    sim.flows(&[("web/a", 5), ("web/b", 2)]);
    sim.probe("web/a", true, 20);
    let a = sim.state.ids.backend(&key("web/a")).unwrap().id;
    let mut counters = Counters::default();
    counters.totals.global[0] = 70;
    counters.totals.drops[3] = 4;
    counters.backends.insert(a, [10, 2000, 3, 9, 900, 0, 1, 0]);
    counters.handshakes.insert(a, [2, 4, 1, 0, 0, 0, 0, 20]);
    counters.service_drops.insert(0, [1; 32]);
    let status = told(&sim, &counters);
    assert_eq!(
        (status.data_plane.rx, status.data_plane.drops["ip_options"]),
        (70, 4)
    );
    assert_eq!(status.data_plane.flows, 7);
    let service = &status.services[0];
    assert_eq!(
        (service.ring_size, service.drops.len()),
        (61, lb_common::DropReason::ALL.len())
    );
    let [first, second] = &service.backends[..] else {
        panic!("two")
    };
    assert_eq!((first.traffic.packets, first.traffic.live_flows), (10, 5));
    let handshakes = &first.traffic.handshakes;
    assert_eq!((handshakes.begun, handshakes.answered), (3 + 2, 4));
    assert_eq!(first.traffic.new_flows, 3 + 20);
    assert_eq!(first.route, "lan 02:00:00:00:00:07");
    assert!(first.takes_new && first.keeps && !second.takes_new && second.keeps);
    assert_eq!(first.last_results.len(), 10);
    let drain = second.drain.unwrap();
    assert!(!drain.done && drain.left == 2 && drain.deadline_in_ms.unwrap() < 30_000);
    assert_eq!(service.traffic.packets, 10);

    // The same place on the wire under another name is another id, with counts of its own.
    sim.event(Event::Config(config("web 192.0.2.1:80 z=10.0.0.9:80")));
    let z = sim.state.ids.backend(&key("web/z")).unwrap().id;
    assert_eq!(sim.state.without_origin(), vec![z]);
    sim.state
        .set_origins(&BTreeMap::from([(z, ([100; 8], [100; 8]))]));
    counters.backends.insert(z, [107; 8]);
    let status = told(&sim, &counters);
    assert_eq!(status.services[0].backends[0].traffic.packets, 7);
}
