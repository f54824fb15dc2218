//! A network with servers and a balancer that forwards: where every end-to-end test begins.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Daemon, Status};
use lb_tests::load::{Bounds, Report, Request, Storm, retransmissions};
use lb_tests::server::Server;
use lb_tests::topology::{Arms, Forwarding, Shape, Topology};

/// Every way that packets can take.
pub(crate) const SHAPES: [Shape; 4] = [
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
}

impl Stage {
    /// Servers as threads, all backends up.
    pub(crate) fn new(shape: Shape) -> Self {
        Self::with(shape, Server::threads, |config| config)
    }

    /// Servers as processes, which can be killed and frozen.
    pub(crate) fn with_processes(shape: Shape) -> Self {
        Self::with(shape, Server::processes, |config| config)
    }

    /// With other servers and another configuration.
    pub(crate) fn with(
        shape: Shape,
        servers: impl FnOnce(&Topology) -> anyhow::Result<Vec<Server>>,
        change: impl FnOnce(Config) -> Config,
    ) -> Self {
        let topology = Topology::build(shape).unwrap();
        let servers = servers(&topology).unwrap();
        let config = change(Config::lab(&topology));
        let daemon = Daemon::start_up(&topology, config).unwrap();
        Self {
            daemon,
            servers,
            topology,
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

    /// Ends a test: the conservation law holds.
    #[track_caller]
    pub(crate) fn end(self) {
        self.daemon.check_conservation().unwrap();
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
