//! Three servers behind the balancer, and the one that fails and is mended again and again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::results::Kill;
use super::{Checks, Effort, Fault};
use crate::capture::{Capture, Frame};
use crate::daemon::{Config, Daemon};
use crate::load::{Bounds, Request, Storm};
use crate::server::{Config as ServerConfig, HTTP_PORT, Health, Server};
use crate::stalls::Stalls;
use crate::topology::{Family, Shape, Topology, backend_mac, client, vip};

/// Everything here is IPv4.
const FAMILY: Family = Family::V4;
/// The service, by its name in [`Config::lab`].
const SERVICE: &str = "web4";
/// The server that fails, as its host is called, and its place among them.
const VICTIM: (&str, u8) = ("b1", 1);
/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that the victim's kernel holds for it before its queue is full: as few as are not many at once.
const SHORT_QUEUE: i32 = 16;
/// New flows that the victim gets before it fails, and all servers after the victim is down.
const BEFORE_AND_AFTER: u64 = 20;

/// Dropped from top to bottom; the topology ends every process in it.
pub struct Bed {
    daemon: Daemon,
    servers: Vec<Server>,
    stalls: Stalls,
    target: SocketAddr,
    effort: Effort,
    topology: Topology,
}

impl Bed {
    /// Builds the network; all servers are up.
    pub fn build(effort: &Effort) -> Result<Self> {
        let topology = Topology::build(Shape {
            forwarding: effort.way.forwarding(),
            ..Shape::default()
        })?;
        let servers = Server::processes(&topology)?;
        let mut config = Config::lab(&topology);
        config.services.retain(|service| service.name == SERVICE);
        for service in &mut config.services {
            service.health = effort.health();
            // Else ports that come again stay with the backends of their last connections, and the victim, which has been down, gets
            // few of them.
            service.extra += "\ntcp-closing-idle = \"1s\"";
        }
        let target = config.service(SERVICE).target();
        Ok(Self {
            daemon: Daemon::start_up(&topology, config)?,
            servers,
            stalls: Stalls::watch(),
            target,
            effort: *effort,
            topology,
        })
    }

    /// Has the victim fail under load, `phase` after the load has come to it, and mends it: it is up when this returns.
    pub fn kill(&mut self, fault: Fault, phase: Duration) -> Result<Kill> {
        if fault == Fault::QueueFull {
            self.restart_with(SHORT_QUEUE)?;
        }
        let capture = Capture::start(
            self.topology.namespace("switch"),
            self.topology.shape().back_port(),
            backend_mac(VICTIM.1),
        )?;
        let load = Storm::start(
            &self.topology,
            &[self.target],
            Request::Http("/"),
            self.bounds(),
        )?;
        wait_until("new flows come to the victim", || {
            new_flows(&capture).count() as u64 >= BEFORE_AND_AFTER
        })?;
        std::thread::sleep(phase);
        let moment = Instant::now();
        self.strike(fault)?;
        // So long nobody asks the daemon anything, which would cost what is measured its CPU.
        std::thread::sleep(self.effort.goal().saturating_sub(moment.elapsed()));
        self.wait_for("down", PATIENCE)?;
        let by_packets = self.is_by_packets(fault)?;
        let begun = load.begun();
        wait_until("more flows are begun", || {
            load.begun() >= begun + 3 * BEFORE_AND_AFTER
        })?;
        let report = load.stop();
        let late = self.stalls.worst_since(moment);
        ensure!(
            capture.lost()? == 0,
            "the capture of what the victim gets missed frames: this machine is too busy"
        );
        let astray: Vec<Frame> = new_flows(&capture).filter(|f| f.at >= moment).collect();
        let Some(last) = astray.last() else {
            bail!(
                "no new flow went to the victim after its fault: with more of them this can be measured"
            );
        };
        let later = report.failures.iter().filter(|f| f.started > last.at);
        let kill = Kill {
            failover_ms: milliseconds(last.at - moment),
            flows: astray.len() as u64,
            failed_later: later.count() as u64,
            late_ms: milliseconds(late),
            by_packets,
        };
        self.mend(fault)?;
        self.return_up()?;
        Ok(kill)
    }

    /// Enough clients that those who wait for the victim do not slow the others down.
    fn bounds(&self) -> Bounds {
        let bounds = Bounds::rate(self.effort.per_second);
        Bounds {
            patience: self.effort.patience(),
            concurrency: match self.effort.checks {
                Checks::Active => bounds.concurrency,
                Checks::Passive => 2 * bounds.concurrency,
            },
            ..bounds
        }
    }

    /// True if what packets showed has found the fault. Where there is a goal for passive checks they must have: else something else
    /// would have been measured.
    fn is_by_packets(&self, fault: Fault) -> Result<bool> {
        let Effort { checks, .. } = self.effort;
        let status = self.daemon.status()?;
        let reason = &status.backend(&victim()).reason;
        let by_packets = reason.contains("checked at once");
        let must_be = checks == Checks::Passive && Effort::has_goal(checks, fault);
        ensure!(
            by_packets || !must_be,
            "the victim is down, though not for what packets showed: {reason}"
        );
        Ok(by_packets)
    }

    /// The victim begins anew, and holds so many connections until it accepts them.
    fn restart_with(&mut self, backlog: i32) -> Result<()> {
        let config = ServerConfig {
            backlog,
            ..ServerConfig::backend(&self.topology, VICTIM.1)
        };
        let victim = self.victim()?;
        victim.kill();
        victim.start(&config)
    }

    /// Waits until the victim is up. Where its turns are seldom, a check that differs by a millisecond is put in the
    /// configuration: changed checks are made at once, and from then on the turns are as before.
    fn return_up(&mut self) -> Result<()> {
        if self.effort.checks == Checks::Active {
            return self.wait_for("up", PATIENCE);
        }
        let begin = Instant::now();
        loop {
            let mut config = self.daemon.config().clone();
            for service in &mut config.services {
                let more = service.health.interval_ms == self.effort.interval_ms;
                service.health.interval_ms = self.effort.interval_ms + u64::from(more);
            }
            self.daemon.reload(config)?;
            let outcome = self.wait_for("up", Duration::from_secs(1));
            if outcome.is_ok() || begin.elapsed() > PATIENCE {
                return outcome;
            }
        }
    }

    /// Checks what must hold at the end: packets are conserved.
    pub fn check(&self) -> Result<()> {
        self.daemon.check_conservation()
    }

    fn wait_for(&self, health: &str, patience: Duration) -> Result<()> {
        let key = victim();
        let what = format!("{key} is {health}");
        self.daemon
            .wait_until(&what, patience, |s| s.backend(&key).health == health)?;
        Ok(())
    }

    fn victim(&mut self) -> Result<&mut Server> {
        let mut servers = self.servers.iter_mut();
        let found = servers.find(|server| server.name == VICTIM.0);
        found.context("the victim is not among the servers")
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::PowerCut => self.topology.cut_power(VICTIM.0, "eth0"),
            Fault::Killed => {
                self.victim()?.kill();
                Ok(())
            }
            Fault::Stopped | Fault::QueueFull => self.victim()?.freeze(),
            Fault::Firewall => self.topology.nft(VICTIM.0, &firewall()),
            Fault::RepliesLost => self.topology.nft(VICTIM.0, &replies_lost()),
            Fault::WrongAnswer => self.victim()?.set_health(&Health {
                status: 503,
                ..Health::default()
            }),
        }
    }

    fn mend(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::PowerCut => self.topology.restore_power(VICTIM.0, "eth0"),
            Fault::Killed | Fault::QueueFull => self.restart_with(ServerConfig::BACKLOG),
            Fault::Stopped => self.victim()?.thaw(),
            Fault::Firewall | Fault::RepliesLost => {
                self.topology.nft(VICTIM.0, "delete table inet fault")
            }
            Fault::WrongAnswer => self.victim()?.set_health(&Health::default()),
        }
    }
}

/// The victim, as the daemon calls it.
fn victim() -> String {
    format!("{SERVICE}/{}", VICTIM.0)
}

/// The first packets of clients' connections to the victim, by time.
fn new_flows(capture: &Capture) -> impl Iterator<Item = Frame> {
    let frames = capture.frames().into_iter();
    frames.filter(|f| f.is_syn() && f.source == client(FAMILY))
}

/// For `nft -f`: what comes to the server's port is dropped in silence.
fn firewall() -> String {
    format!(
        "table inet fault {{ chain in {{ type filter hook input priority 0;
    tcp dport {HTTP_PORT} drop
    }}
}}"
    )
}

/// For `nft -f`: what the server says from the VIP is lost.
fn replies_lost() -> String {
    format!(
        "table inet fault {{ chain out {{ type filter hook output priority 0;
    ip saddr {} drop
    }}
}}",
        vip(FAMILY, 0)
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn wait_until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !condition() {
        ensure!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
