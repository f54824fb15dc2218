//! Runs the lab: network, servers, balancer, load, faults, screen.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::screen::{Screen, View};
use super::{Observed, Outcome, Phase};
use crate::capture::{Capture, Frame};
use crate::daemon::{Config, Daemon, Status};
use crate::decap;
use crate::load::{Bounds, Long, Report, Request, Storm, Udp};
use crate::server::Server;
use crate::stalls::Stalls;
use crate::topology::{
    self, FAMILIES, Shape, Topology, backend_mac, client, interrupted, take_over_interrupts,
};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The network.
    pub shape: Shape,
    /// Time under load, until the end; `None`: thirty seconds of events, then until Ctrl-C.
    pub duration: Option<Duration>,
    /// Print one JSON object as the last line, and everything else on standard error.
    pub json: bool,
    /// HTTP requests a second.
    pub rate: u32,
}

/// Length of the events when no duration is given.
const EVENTS: Duration = Duration::from_secs(30);
/// Between two looks at the status.
const REFRESH: Duration = Duration::from_millis(500);
const LONG_CONNECTIONS: usize = 30;
const UDP_FLOWS: usize = 12;

/// Runs end by themselves after this time, whoever forgets them.
const LONGEST: Duration = Duration::from_secs(3600);

/// Everything that runs. Dropped from top to bottom: the load first, the network last.
struct Lab {
    http: Storm,
    long: Long,
    udp: Udp,
    capture: Capture,
    stalls: Stalls,
    daemon: Daemon,
    _servers: Vec<Server>,
    topology: Topology,
    /// Answers and failures taken from `http` so far.
    report: Report,
    begin: Instant,
    start_to_first_answer: Duration,
}

/// When the events were.
struct Events {
    kill: Instant,
    drained: Instant,
    returned: Instant,
    new_flows_while_drained: u64,
}

/// Runs the lab. Success: everything that was promised held, or it was interrupted before its end.
pub fn run(options: &Options) -> Result<ExitCode> {
    topology::require_root()?;
    take_over_interrupts();
    let mut screen = Screen::new(options.json);
    screen.say("making the network: a client, a balancer, backends with HTTP servers");
    let mut lab = Lab::start(options, &screen)?;
    let Some(events) = lab.play(options.duration.unwrap_or(EVENTS), &mut screen)? else {
        screen.say("interrupted before the end: nothing is judged, everything is removed");
        return Ok(ExitCode::SUCCESS);
    };
    if options.duration.is_none() {
        lab.wait_for_interrupt(&mut screen)?;
    }
    let health = lab.daemon.config().service("web4").health.clone();
    let outcome = Outcome::judge(&lab.finish(events)?, &health, options.shape.backends);
    screen.finish(&outcome)?;
    Ok(if outcome.held() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Lab {
    fn start(options: &Options, screen: &Screen) -> Result<Self> {
        let topology = Topology::build(options.shape)?;
        decap::attach_if_tunnelled(&topology)?;
        let servers = Server::processes(&topology)?;
        let prefix = topology.prefix();
        screen.say(&format!(
            "try in another terminal: ip netns exec {prefix}-client curl http://10.10.0.100/"
        ));
        let config = Config::lab(&topology);
        let (web, echo) = (
            config.targets(&["web4", "web6"]),
            config.targets(&["echo4", "echo6"]),
        );
        let udp = config.targets(&["udp4", "udp6"]);
        screen.say("starting fairlead");
        let started = Instant::now();
        let daemon = Daemon::start(&topology, config)?;
        wait_for_answer(&topology, &web)?;
        let start_to_first_answer = started.elapsed();
        let all_up = |status: &Status| status.all_are("up");
        daemon.wait_until("all backends are up", Duration::from_secs(20), all_up)?;
        let port = options.shape.back_port();
        let capture = Capture::start(topology.namespace("switch"), port, backend_mac(1))?;
        let interval = Duration::from_millis(100);
        let bounds = Bounds {
            time: LONGEST,
            ..Bounds::rate(options.rate)
        };
        Ok(Self {
            long: Long::start(&topology, &echo, LONG_CONNECTIONS, LONGEST)?,
            udp: Udp::start(&topology, &udp, UDP_FLOWS, interval, LONGEST)?,
            begin: Instant::now(),
            http: Storm::start(&topology, &web, Request::Http("/"), bounds)?,
            capture,
            stalls: Stalls::watch(),
            daemon,
            _servers: servers,
            topology,
            report: Report::default(),
            start_to_first_answer,
        })
    }

    /// Plays the events; `None` when it was interrupted.
    fn play(&mut self, length: Duration, screen: &mut Screen) -> Result<Option<Events>> {
        let at = |phase: Phase| self.begin + phase.begins(length);
        let (kill, drain, back) = (at(Phase::PowerCut), at(Phase::Drained), at(Phase::Returned));
        if !self.watch_until(kill, Phase::AllServe, screen)? {
            return Ok(None);
        }
        let kill = Instant::now();
        self.topology.cut_power("b1", "eth0")?;
        if !self.watch_until(drain, Phase::PowerCut, screen)? {
            return Ok(None);
        }
        self.for_every_b2("drain")?;
        let drained = Instant::now();
        let before = self.new_flows_of_b2()?;
        if !self.watch_until(back, Phase::Drained, screen)? {
            return Ok(None);
        }
        let after = self.new_flows_of_b2()?;
        let returned = Instant::now();
        self.topology.restore_power("b1", "eth0")?;
        self.for_every_b2("enable")?;
        if !self.watch_until(self.begin + length, Phase::Returned, screen)? {
            return Ok(None);
        }
        let new_flows_while_drained = after.saturating_sub(before);
        Ok(Some(Events {
            kill,
            drained,
            returned,
            new_flows_while_drained,
        }))
    }

    fn wait_for_interrupt(&mut self, screen: &mut Screen) -> Result<()> {
        screen.say("that was all; it goes on until Ctrl-C");
        self.watch_until(self.begin + LONGEST, Phase::Returned, screen)
            .map(drop)
    }

    /// Shows what happens until a moment; false: interrupted.
    fn watch_until(&mut self, end: Instant, phase: Phase, screen: &mut Screen) -> Result<bool> {
        screen.phase(phase);
        loop {
            let status = self.daemon.status()?;
            self.report.merge(self.http.take());
            screen.show(&View {
                at: Instant::now(),
                elapsed: self.begin.elapsed(),
                phase,
                status: &status,
                requests: self.report.total(),
                failed: self.report.failures.len(),
                long: self.long.living().values().sum(),
            })?;
            let next = end.min(Instant::now() + REFRESH);
            while Instant::now() < next {
                if interrupted() {
                    return Ok(false);
                }
                let rest = next.saturating_duration_since(Instant::now());
                std::thread::sleep(rest.min(Duration::from_millis(20)));
            }
            if Instant::now() >= end {
                return Ok(true);
            }
        }
    }

    fn for_every_b2(&self, verb: &str) -> Result<()> {
        for service in &self.daemon.config().services {
            self.daemon
                .cli(&[verb, &format!("{}/b2", service.name)])?
                .succeeded()?;
        }
        Ok(())
    }

    fn new_flows_of_b2(&self) -> Result<u64> {
        let status = self.daemon.status()?;
        let names = status
            .services
            .iter()
            .map(|service| format!("{}/b2", service.name));
        Ok(names
            .map(|name| status.backend(&name).traffic.new_flows)
            .sum())
    }

    /// Ends the load and reads all that is to be judged; then everything is removed.
    fn finish(mut self, events: Events) -> Result<Observed> {
        let end = Instant::now();
        let long = self.long.stop();
        let udp = self.udp.stop();
        self.report.merge(self.http.stop());
        let of_client = |frame: &Frame| FAMILIES.map(client).contains(&frame.source);
        Ok(Observed {
            begin: self.begin,
            kill: events.kill,
            drained: events.drained,
            returned: events.returned,
            end,
            http: self.report,
            long,
            udp,
            frames_to_b1: self
                .capture
                .frames()
                .into_iter()
                .filter(of_client)
                .collect(),
            frames_missed: self.capture.lost()?,
            new_flows_while_drained: events.new_flows_while_drained,
            data_plane: self.daemon.counters_at_rest()?,
            start_to_first_answer: self.start_to_first_answer,
            machine_late: self
                .stalls
                .worst_between(events.kill, events.kill + Duration::from_secs(1)),
        })
    }
}

/// Asks until somebody answers.
fn wait_for_answer(topology: &Topology, targets: &[std::net::SocketAddr]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let bounds = Bounds {
            concurrency: 1,
            ..Bounds::count(1)
        };
        let report = Storm::run(topology, targets, Request::Http("/"), bounds)?;
        if report.failures.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("no answer through the balancer: {report}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
