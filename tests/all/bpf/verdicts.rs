//! How long it takes from a verdict to the word in the kernel's map that packets read next, and to the
//! ring behind it, by the number of backends.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData};
use lb_common::{BackendEntry, HashKey};
use lb_userspace::config;
use lb_userspace::dataplane::Dataplane;
use lb_userspace::dataplane::bpf::{Bpf, Settings};
use lb_userspace::event::Event;
use lb_userspace::health::runner::now_ns;
use lb_userspace::model::{BackendKey, Link, ProbeResult, ProbeVerdict, Route};
use lb_userspace::reconcile::Reconciler;

use super::room::{Room, ifindex, in_room};

/// Verdicts that are timed.
const VERDICTS: usize = 200;

/// Services with backends that are trusted at start, and the room they need.
fn text(services: usize, backends: usize, ring: usize) -> String {
    let total = services * backends;
    let slots = (services * 2 * (ring + 1)).next_power_of_two();
    let mut text = format!(
        "[daemon]\ninterfaces = [\"v0\"]\n[limits]\nflows = 4096\nservices = {}\nbackends = {}\nring-slots = {slots}\nnext-hops = {}\n",
        services.max(8),
        total + 64,
        total + 64,
    );
    for service in 0..services {
        write!(text, "[[service]]\nname = \"s{service}\"\naddress = \"192.0.2.1\"\nport = {}\nprotocol = \"tcp\"\nforwarding = \"dnat\"\nring-size = {ring}\n[service.health]\ntrust-at-start = true\nfall = 1\n", service + 1).unwrap();
        for backend in 0..backends {
            let n = service * backends + backend;
            let (a, b, c) = (n / 62_500, n / 250 % 250, n % 250 + 1);
            write!(
                text,
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.{a}.{b}.{c}\"\n"
            )
            .unwrap();
        }
    }
    text
}

struct Bench {
    reconciler: Reconciler<Bpf>,
    backends: Array<MapData, [u8; size_of::<BackendEntry>()]>,
}

impl Bench {
    fn new(room: &Room, services: usize, backends: usize, ring: usize) -> Self {
        let outcome = config::parse("bench.toml", &text(services, backends, ring));
        let errors: Vec<_> = outcome.errors().collect();
        assert!(errors.is_empty(), "{:?}", errors.first());
        let config = std::sync::Arc::new(outcome.config.clone().unwrap());
        let settings = Settings {
            limits: config.limits,
            ..room.settings()
        };
        let (bpf, _) = Bpf::open(&settings).unwrap();
        let key = HashKey([5, 6]);
        let (mut reconciler, _) =
            Reconciler::adopt(now_ns(), bpf, config.clone(), key, None).unwrap();
        let interface = ifindex("v0");
        let link = Event::Link(Link {
            ifindex: interface,
            name: "v0".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            ..Link::default()
        });
        let ways = config.keyed_backends().map(|(_, backend)| Event::Route {
            address: backend.address,
            route: Route::Resolved {
                ifindex: interface,
                source: [2, 0, 0, 0, 0, 1],
                destination: [2, 0, 0, 0, 1, 1],
            },
        });
        let events: Vec<_> = std::iter::once(link).chain(ways).collect();
        let folded = reconciler.fold(events.into_iter().map(|event| (now_ns(), event)));
        assert!(folded.refused.is_empty(), "{:?}", folded.refused);
        reconciler.saved();
        reconciler.write_full(&now_ns).unwrap();
        let data = MapData::from_pin(room.pins().join("backends")).unwrap();
        let backends = aya::maps::Map::Array(data).try_into().unwrap();
        Self {
            reconciler,
            backends,
        }
    }

    /// What the kernel has of a backend.
    fn entry(&self, id: u32) -> BackendEntry {
        bytemuck::pod_read_unaligned(&self.backends.get(&id, 0).unwrap())
    }

    /// A probe ends; how long until the words are written, and how many operations that took.
    fn probe(&mut self, backend: &BackendKey, good: bool) -> (Duration, usize) {
        let at = now_ns();
        let verdict = match good {
            true => ProbeVerdict::Good,
            false => ProbeVerdict::Bad("refused".to_owned()),
        };
        let result = ProbeResult {
            extra: false,
            scheduled: at,
            started: at,
            ended: at,
            verdict,
        };
        let event = Event::Probe {
            backend: backend.clone(),
            result,
        };
        let began = Instant::now();
        self.reconciler.fold([(at, event)]);
        let ops = self.reconciler.write_fast(&now_ns).unwrap().ops;
        (began.elapsed(), ops)
    }

    fn run(&mut self) -> [Vec<Duration>; 2] {
        let ids: Vec<(BackendKey, u32)> = {
            let ids = self.reconciler.state().ids();
            ids.backends().map(|(key, b)| (key.clone(), b.id)).collect()
        };
        // Spread over all of them.
        let step = ids.len() / VERDICTS;
        let witness = ids.last().unwrap().0.clone();
        let (mut words, mut rings) = (Vec::new(), Vec::new());
        for (key, id) in ids.iter().step_by(step).take(VERDICTS) {
            assert!(self.entry(*id).permissions.may_take_new());
            // So that not all that was heard lately was bad.
            self.probe(&witness, true);
            let (took, ops) = self.probe(key, false);
            let entry = self.entry(*id);
            assert!(!entry.permissions.may_take_new(), "{key} in the kernel");
            assert_eq!(ops, 1, "{key}");
            words.push(took);
            let began = Instant::now();
            let done = self.reconciler.write_full(&now_ns).unwrap();
            rings.push(began.elapsed());
            assert_eq!(done.ops, 2, "a ring and its switch");
        }
        assert_eq!(words.len(), VERDICTS);
        [words, rings]
    }
}

/// Prints and gives the median.
fn figure(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    // Not captured by the test harness: this is a figure to be read.
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "figure: {what}: median {:?}, p99 {:?}, worst {:?} of {} (this build)",
        at(50),
        at(99),
        times.last().unwrap(),
        times.len()
    )
    .unwrap();
    at(50)
}

/// So many services of 1,000 backends with rings of so many slots; the median may be `at_most`.
#[track_caller]
fn check(services: usize, ring: usize, at_most: Duration) {
    in_room(|room| {
        let mut bench = Bench::new(room, services, 1000, ring);
        let [words, rings] = bench.run();
        let total = services * 1000;
        let what = format!("verdict to word in the kernel, {total} backends");
        let median = figure(&what, words);
        figure(
            &format!("the ring of {ring} slots behind it, {total} backends"),
            rings,
        );
        assert!(median <= at_most, "{median:?}");
        // What it believes is what is there.
        let before = bench.reconciler.dataplane().actual().unwrap();
        bench.reconciler.distrust();
        assert_eq!(bench.reconciler.write_full(&now_ns).unwrap().ops, 0);
        assert_eq!(bench.reconciler.dataplane().actual().unwrap(), before);
    });
}

/// One after the other, so that neither disturbs the other's figures. The bounds hold in a debug build on a
/// busy machine.
#[test]
fn a_verdict_is_in_the_kernel_at_once_at_a_thousand_backends_and_at_a_hundred_thousand() {
    check(1, 16_381, Duration::from_millis(1));
    check(100, 4093, Duration::from_millis(2));
}
