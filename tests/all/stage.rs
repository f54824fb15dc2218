//! A network with servers and a balancer that forwards: where every end-to-end test begins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use lb_common::HashKey;
use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::decap;
use lb_tests::load::{Bounds, Report, Request, Storm, retransmissions};
use lb_tests::server::Server;
pub(crate) use lb_tests::stalls::Stalls;
use lb_tests::topology::{Arms, Forwarding, Shape, Topology};
use lb_userspace::dataplane::bpf::{Bpf, BpfError, Opening, Settings};
use lb_userspace::model::Limits;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

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

/// HTTP in both families.
pub(crate) const WEB: [&str; 2] = ["web4", "web6"];
/// TCP echo in both families.
pub(crate) const ECHO: [&str; 2] = ["echo4", "echo6"];
/// UDP echo in both families.
pub(crate) const UDP: [&str; 2] = ["udp4", "udp6"];

/// Dropped from top to bottom.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) servers: Vec<Server>,
    pub(crate) topology: Topology,
    _pin: Pin,
    _turn: Turn,
}

/// The test's thread, and all threads that it starts, on one CPU, for steadiness: each test on
/// another.
pub(crate) struct Pin {
    cpu: usize,
    before: CpuSet,
}

/// Tests by CPU.
static PINNED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

impl Pin {
    fn this_thread() -> Self {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let mut pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = (0..CpuSet::count()).filter(|&cpu| before.is_set(cpu).unwrap_or(false));
        let cpu = allowed
            .min_by_key(|cpu| pinned.get(cpu).copied().unwrap_or(0))
            .expect("a CPU to run on");
        *pinned.entry(cpu).or_default() += 1;
        let mut one = CpuSet::new();
        one.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        Self { cpu, before }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        *pinned.entry(self.cpu).or_default() -= 1;
        if let Err(error) = sched_setaffinity(Pid::from_raw(0), &self.before) {
            eprintln!("give a test's thread its CPUs back: {error}");
        }
    }
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

    /// As [`Self::with_processes`], with no other balancer beside it.
    pub(crate) fn alone_with_processes(shape: Shape) -> Self {
        Self::build(Turn::alone(), shape, Server::processes, |config| config)
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

    fn build(
        turn: Turn,
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        let pin = Pin::this_thread();
        let topology = Topology::build(shape).unwrap();
        decap::attach_if_tunnelled(&topology).unwrap();
        let servers = servers(&topology).unwrap();
        let config = change(Config::lab(&topology));
        let daemon = Daemon::start_up(&topology, config).unwrap();
        Self {
            daemon,
            servers,
            topology,
            _pin: pin,
            _turn: turn,
        }
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
            },
            flow_key: HashKey([word(&seeds["flow"][0]), word(&seeds["flow"][1])]),
            seed_id: word(&seeds["id"]),
            debug_log: false,
            object,
        };
        self.topology.run_in("lb", || Bpf::open(&settings))
    }

    /// Ends a test: the conservation law holds, and the maps were never at odds with each other.
    #[track_caller]
    pub(crate) fn end(self) {
        self.daemon.check_conservation().unwrap();
        let drops = self.daemon.status().unwrap().data_plane.drops;
        assert_eq!(drops["map_inconsistent"], 0, "{drops:?}");
    }
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
