//! A network with servers and a balancer that forwards: where every end-to-end test begins.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use lb_common::HashKey;
use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::decap;
use lb_tests::law::{Excused, Meter, Reading};
use lb_tests::load::{Bounds, Report, Request, Storm, retransmissions};
use lb_tests::server::Server;
pub(crate) use lb_tests::stalls::Stalls;
use lb_tests::topology::{Arms, FAMILIES, Forwarding, Shape, Topology, backend};
use lb_userspace::dataplane::bpf::{Bpf, BpfError, Opening, Settings};
use lb_userspace::model::Limits;

/// Every way that packets can take.
pub(crate) const SHAPES: [Shape; 6] = [
    Shape {
        backends: 3,
        arms: Arms::Two,
        forwarding: Forwarding::Dnat,
    },
    Shape {
        backends: 3,
        arms: Arms::One,
        forwarding: Forwarding::Dnat,
    },
    Shape {
        backends: 3,
        arms: Arms::Two,
        forwarding: Forwarding::L2dsr,
    },
    Shape {
        backends: 3,
        arms: Arms::One,
        forwarding: Forwarding::L2dsr,
    },
    Shape {
        backends: 3,
        arms: Arms::Two,
        forwarding: Forwarding::Ipip,
    },
    Shape {
        backends: 3,
        arms: Arms::One,
        forwarding: Forwarding::Ipip,
    },
];

/// Both ways of `fullnat`. No route leads from a backend to a client.
pub(crate) const FULLNAT: [Shape; 2] = [
    Shape {
        backends: 3,
        arms: Arms::Two,
        forwarding: Forwarding::Fullnat,
    },
    Shape {
        backends: 3,
        arms: Arms::One,
        forwarding: Forwarding::Fullnat,
    },
];

/// HTTP in both families.
pub(crate) const WEB: [&str; 2] = ["web4", "web6"];
/// TCP echo in both families.
pub(crate) const ECHO: [&str; 2] = ["echo4", "echo6"];
/// UDP echo in both families.
pub(crate) const UDP: [&str; 2] = ["udp4", "udp6"];

/// Segments that a client may send again although nothing was lost, of thousands of connections on a machine that is late
/// for other tests' sake. What was lost the conservation law tells at the end.
pub(crate) const SENT_AGAIN: u64 = 3;

/// Dropped from top to bottom.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) servers: Vec<Server>,
    meter: Meter,
    /// What was counted before the data plane.
    base: Reading,
    /// Packets that the driver counted before the data plane was there.
    early: u64,
    pub(crate) topology: Topology,
    _turn: Turn,
}

/// Whether other tests with a balancer run beside this one.
pub(crate) enum Turn {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

static TURNS: RwLock<()> = RwLock::new(());

impl Turn {
    /// Beside others.
    pub(crate) fn shared() -> Self {
        let guard = TURNS.read().unwrap_or_else(PoisonError::into_inner);
        Self::Shared { _guard: guard }
    }

    /// Alone: for what measures time.
    pub(crate) fn alone() -> Self {
        let guard = TURNS.write().unwrap_or_else(PoisonError::into_inner);
        Self::Alone { _guard: guard }
    }
}

impl Stage {
    /// Servers as threads, all backends up.
    pub(crate) fn new(shape: Shape) -> Self {
        Self::with(shape, Server::threads, |config| config)
    }

    /// As [`Self::new`], with no other balancer beside it.
    pub(crate) fn alone(shape: Shape) -> Self {
        Self::build(Turn::alone(), shape, Server::threads, |config| config)
    }

    /// Servers as processes, which can be killed and frozen.
    pub(crate) fn with_processes(shape: Shape) -> Self {
        Self::with(shape, Server::processes, |config| config)
    }

    /// As [`Self::with`], with no other balancer beside it.
    pub(crate) fn alone_with(
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        Self::build(Turn::alone(), shape, servers, change)
    }

    /// With other servers and another configuration.
    pub(crate) fn with(
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        Self::build(Turn::shared(), shape, servers, change)
    }

    /// As [`Self::with`], for services that need to know the topology.
    pub(crate) fn with_topology(
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config, &Topology) -> Config,
    ) -> Self {
        Self::build_with(Turn::shared(), shape, servers, change)
    }

    fn build(
        turn: Turn,
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        Self::build_with(turn, shape, servers, |config, _| change(config))
    }

    fn build_with(
        turn: Turn,
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config, &Topology) -> Config,
    ) -> Self {
        let topology = Topology::build(shape).unwrap();
        decap::attach_if_tunnelled(&topology).unwrap();
        let meter = Meter::start(&topology).unwrap();
        let base = meter.read(&topology).unwrap();
        let servers = servers(&topology).unwrap();
        let config = change(Config::lab(&topology), &topology);
        let daemon = Daemon::start_up(&topology, config).unwrap();
        let mut stage = Self {
            daemon,
            servers,
            meter,
            base,
            early: 0,
            topology,
            _turn: turn,
        };
        stage.note_early();
        stage
    }

    /// Notes how many packets the driver counted before it had the program. Probes go on meanwhile: what the data
    /// plane counted before the driver was read leaves too much, what it counted after too little, until a probe
    /// fell into neither gap.
    fn note_early(&mut self) {
        let rx = || self.daemon.status().unwrap().data_plane.rx;
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut least, mut most) = (0, u64::MAX);
        while least != most {
            let before = rx();
            let driver = self.reading().driver_packets();
            let after = rx();
            assert!(
                driver >= before,
                "the data plane counts {before}, the driver {driver}"
            );
            most = most.min(driver - before);
            least = least.max(driver.saturating_sub(after));
            assert!(
                Instant::now() < deadline,
                "the driver counted {least} to {most} packets before it had the program"
            );
        }
        self.early = least;
    }

    pub(crate) fn targets(&self, names: &[&str]) -> Vec<SocketAddr> {
        self.daemon.config().targets(names)
    }

    /// Connections as fast as they are answered.
    pub(crate) fn storm(&self, names: &[&str], count: u64) -> Report {
        let request = if names[0].starts_with("web") {
            Request::Http("/")
        } else {
            Request::Echo
        };
        Storm::run(
            &self.topology,
            &self.targets(names),
            request,
            Bounds::count(count),
        )
        .unwrap()
    }

    /// Connections at a rate until stopped.
    pub(crate) fn load(&self, names: &[&str], per_second: u32) -> Storm {
        let request = if names[0].starts_with("web") {
            Request::Http("/")
        } else {
            Request::Echo
        };
        let bounds = Bounds::rate(per_second);
        Storm::start(&self.topology, &self.targets(names), request, bounds).unwrap()
    }

    /// TCP segments that the client sent again.
    pub(crate) fn retransmissions(&self) -> u64 {
        retransmissions(self.topology.namespace("client")).unwrap()
    }

    /// Waits for a status; fails with the daemon's log.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        self.daemon
            .wait_until(what, Duration::from_secs(15), condition)
            .unwrap()
    }

    /// Waits until the backend has this health in all services; how long it took.
    #[track_caller]
    pub(crate) fn wait_for_health(&self, backend: &str, health: &str) -> Duration {
        let begin = Instant::now();
        self.wait(&format!("{backend} is {health}"), |status| {
            let services = status.services.iter();
            let mut all = services.flat_map(|s| s.backends.iter().filter(|b| b.name == backend));
            all.all(|b| b.health == health)
        });
        begin.elapsed()
    }

    /// Runs a command of the CLI that must succeed, once for each service.
    #[track_caller]
    pub(crate) fn for_each_service(&self, verb: &str, backend: &str) {
        for service in &self.daemon.config().services {
            let key = format!("{}/{backend}", service.name);
            self.daemon.cli(&[verb, &key]).unwrap().succeeded().unwrap();
        }
    }

    /// Waits until the next hop of every backend is known; how long it took.
    #[track_caller]
    pub(crate) fn wait_for_routes(&self) -> Duration {
        let begin = Instant::now();
        let device = self.topology.shape().balancer_back_device();
        let known = format!("{device} ");
        self.wait("every next hop is known", |status| {
            let mut backends = status.services.iter().flat_map(|s| &s.backends);
            backends.all(|b| b.route.starts_with(&known))
        });
        begin.elapsed()
    }

    /// Waits until the balancer's kernel has a usable entry for every backend.
    #[track_caller]
    pub(crate) fn wait_for_neighbours(&self) {
        let device = self.topology.shape().balancer_back_device();
        let backends = 1..=self.topology.shape().backends;
        let wanted: Vec<_> = backends
            .flat_map(|n| FAMILIES.map(|family| backend(family, n)))
            .collect();
        wait_until("every neighbour is known", Duration::from_secs(5), || {
            let known = self.topology.neighbours("lb", device).unwrap();
            wanted.iter().all(|address| known.contains(address))
        });
    }

    /// The kernel's index of every backend.
    pub(crate) fn ids(&self) -> Vec<(String, u32)> {
        let status = self.daemon.status().unwrap();
        let services = status.services.iter();
        let backends = services.flat_map(|s| s.backends.iter().map(move |b| (&s.name, b)));
        backends
            .map(|(service, b)| (format!("{service}/{}", b.name), b.id))
            .collect()
    }

    /// Where the maps are pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        let version = lb_common::header::LAYOUT_VERSION;
        self.daemon.home().join(format!("bpf/v{version}"))
    }

    /// Takes the data plane over as another daemon with the same keys would, past the lock.
    pub(crate) fn take_over(&self, object: &'static [u8]) -> Result<(Bpf, Opening), BpfError> {
        let home = self.daemon.home();
        let text = std::fs::read_to_string(home.join("state/seeds.json")).unwrap();
        // A line with a checksum comes before.
        let json = &text[text.find('{').unwrap()..];
        let seeds: serde_json::Value = serde_json::from_str(json).unwrap();
        let word = |value: &serde_json::Value| value.as_u64().unwrap();
        let settings = Settings {
            bpffs: home.join("bpf"),
            run_dir: home.join("run-of-another"),
            // Only for maps that it would make; it finds some.
            limits: Limits {
                flows: 1 << 20,
                services: 4096,
                backends: 16_384,
                ring_slots: 1 << 22,
                next_hops: 16_384,
                source_ranges: 16_384,
                nat_flows: 1 << 10,
                affinities: 64,
            },
            flow_key: HashKey([word(&seeds["flow"][0]), word(&seeds["flow"][1])]),
            seed_id: word(&seeds["id"]),
            debug_log: false,
            object,
        };
        self.topology.run_in("lb", || Bpf::open(&settings))
    }

    /// Counts at an interface that was made anew, too.
    pub(crate) fn count_again(&mut self, host: &str, device: &str) {
        self.meter
            .watch_again(&self.topology, host, device)
            .unwrap();
    }

    /// Does what sends frames past the data plane, which are left out of the counts. No other traffic
    /// may run meanwhile.
    pub(crate) fn uncounted(&mut self, work: impl FnOnce(&Self)) {
        let before = self.meter.read(&self.topology).unwrap();
        work(self);
        let after = self.meter.read(&self.topology).unwrap();
        self.base.leave_out(&before, &after);
    }

    /// What hosts and the balancer's ports counted so far, of the traffic.
    pub(crate) fn reading(&self) -> Reading {
        self.meter.read(&self.topology).unwrap().since(&self.base)
    }

    /// Checks the conservation law at rest, all counters together.
    #[track_caller]
    pub(crate) fn check_law(&self) {
        self.check_law_but(Excused::default());
    }

    /// They are not read at one moment, and probes go on: they are read again, for a short time,
    /// until they agree.
    #[track_caller]
    fn check_law_but(&self, excused: Excused) {
        let excused = Excused {
            early: self.early,
            ..excused
        };
        let deadline = Instant::now() + Duration::from_secs(15);
        let plane = || self.daemon.status().unwrap().data_plane;
        // How much more the driver has counted than the data plane, by all looks together: as in `note_early`.
        let (mut least, mut most) = (0, u64::MAX);
        loop {
            let mut before = plane();
            let reading = self.reading();
            if reading.check(&before, excused).is_ok() {
                return;
            }
            let after = plane();
            let driver = reading.driver_packets();
            most = most.min(driver.saturating_sub(before.rx));
            least = least.max(driver.saturating_sub(after.rx));
            if Instant::now() < deadline {
                continue;
            }
            // On a machine this busy there are probes between any two looks, which pass.
            if (least..=most).contains(&excused.early) {
                let between = driver.saturating_sub(excused.early + before.rx);
                before.rx += between;
                before.pass += between;
            }
            let checked = reading.check(&before, excused);
            checked.unwrap_or_else(|violation| panic!("{least} to {most} early: {violation}"));
            return;
        }
    }

    /// Takes the data plane away, with its counters: check the law before.
    #[track_caller]
    pub(crate) fn unload(&mut self) {
        self.daemon.unload().unwrap();
        self.base = self.meter.read(&self.topology).unwrap();
    }

    /// Makes the data plane anew after [`Self::unload`].
    #[track_caller]
    pub(crate) fn load_again(&mut self) {
        self.daemon.restart().unwrap();
        self.wait("all backends are up", |status| status.all_are("up"));
        self.note_early();
    }

    /// Ends a test: the conservation law holds, and the maps were never at odds with each other.
    #[track_caller]
    pub(crate) fn end(self) {
        self.end_but(Excused::default());
    }

    /// [`Self::end`] of a test in which packets vanish that nobody drops.
    #[track_caller]
    pub(crate) fn end_but(self, excused: Excused) {
        self.check_law_but(excused);
        let drops = self.daemon.status().unwrap().data_plane.drops;
        assert_eq!(drops["map_inconsistent"], 0, "{drops:?}");
    }
}

/// Says a measured value, which is there to be read and so not captured by the test harness.
macro_rules! figure {
    ($($words:tt)*) => {{
        use std::io::Write;
        let mut stderr = std::io::stderr();
        writeln!(stderr, "figure: {}", format_args!($($words)*)).unwrap()
    }};
}
pub(crate) use figure;

/// True with FAIRLEAD_LONG=1 in the environment: what repeats or lasts does so longer.
pub(crate) fn long() -> bool {
    std::env::var_os("FAIRLEAD_LONG").is_some()
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, at_most: Duration, condition: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < at_most, "not within {at_most:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    begin.elapsed()
}
