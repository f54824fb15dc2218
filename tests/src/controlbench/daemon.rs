//! The real program with a large configuration: check, start, orders, memory.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_common::limits;
use lb_userspace::{desired, maglev};

use super::{Effort, Goal, MB, Row, orders};
use crate::daemon::{Config, Daemon, fairlead_binary};
use crate::topology::{Arms, Family, Forwarding, Shape, Topology, backend};

/// Two arms, as most networks have.
const SHAPE: Shape = Shape {
    arms: Arms::Two,
    forwarding: Forwarding::Dnat,
    backends: 3,
};
/// The longest that a start or an order may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// For check, load and apply of the large configuration.
const START: Goal = Goal::Time(Duration::from_secs(3));
/// For the process that does it.
const MEMORY: Goal = Goal::Bytes(300 * MB);
/// From an order to the map that packets read.
const EFFECT: Goal = Goal::Time(Duration::from_millis(2));

/// All that is measured with a daemon.
pub fn run(effort: &Effort, tell: impl Fn(&str)) -> Result<Vec<Row>> {
    let size = format!(
        "{} services x {} backends",
        effort.services, effort.backends
    );
    let topology = Topology::build(SHAPE)?;
    let mut daemon = Daemon::prepare(&topology, Config::lab(&topology))?;
    let text = large(effort, &daemon.config().toml(daemon.home()))?;
    daemon.write_config(&text)?;

    tell("check");
    let mut checks = Vec::new();
    for _ in 0..effort.starts {
        checks.push(check(&daemon.config_file())?);
    }
    let (mut attached, mut own, mut peak) = (Vec::new(), Vec::new(), Vec::new());
    for start in 1..=effort.starts {
        tell(&format!("start {start} of {}", effort.starts));
        attached.push(start_once(&mut daemon)?);
        let id = daemon.process()?.pid();
        own.push(memory(id, "RssAnon")?);
        peak.push(memory(id, "VmHWM")?);
        if start < effort.starts {
            daemon.stop()?;
            daemon.unload()?;
        }
    }
    tell("orders");
    let total = effort.services * effort.backends;
    let step = (total / effort.orders).max(1);
    let who: Vec<_> = (0..total).step_by(step).map(|n| place(effort, n)).collect();
    let (alone, asked) = who.split_at(who.len() / 2);
    let orders = orders::disable(&daemon, alone)?;
    tell("orders while status is asked for");
    let (while_asked, statuses) = orders::while_asked(&daemon, || orders::disable(&daemon, asked))?;
    let last = memory(daemon.process()?.pid(), "RssAnon")?;
    daemon.stop()?;
    daemon.unload()?;
    Ok(vec![
        Row::times(format!("fairlead check, {size}"), checks, Goal::None),
        Row::times(
            format!("fairlead run to attached (check, load, apply), {size}"),
            attached,
            START,
        ),
        Row::bytes("  memory of its own when attached", own, MEMORY),
        Row::bytes(
            "  the most so far, mapped BPF maps and program text included",
            peak,
            Goal::None,
        ),
        Row::bytes(
            "  memory of its own after the orders below",
            vec![last],
            Goal::None,
        ),
        Row::times(
            format!("order to the word that packets read, 1 of {total} backends"),
            orders,
            EFFECT,
        ),
        Row::times(
            "  while somebody asks for the status again and again",
            while_asked,
            EFFECT,
        ),
        Row::times(
            "  and how long he waits for all of it",
            statuses,
            Goal::None,
        ),
    ])
}

/// The daemon's part of `base`, and so many services without checks at 3 addresses and many ports.
fn large(effort: &Effort, base: &str) -> Result<String> {
    let (daemon, _) = base
        .split_once("[limits]")
        .context("the lab's configuration has no [limits]")?;
    let total = effort.services * effort.backends;
    let ring = maglev::ring_size(effort.backends).next_multiple_of(2) as usize;
    let mut text = format!(
        "{daemon}[limits]\nservices = {}\nbackends = {}\nring-slots = {}\n",
        effort.services,
        total,
        (effort.services * 2 * ring).max(limits::RING_SLOTS.min as usize)
    );
    for service in 0..effort.services {
        let (a, b) = (service / 250, service % 250 + 1);
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\naddress = \"198.18.{a}.{b}\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"dnat\"\n[service.health]\ntype = \"none\"\n"
        )?;
        for n in 0..effort.backends {
            let (address, port) = at(service * effort.backends + n);
            write!(
                text,
                "[[service.backend]]\nname = \"b{n}\"\naddress = \"{address}\"\nport = {port}\n"
            )?;
        }
    }
    Ok(text)
}

/// Where a backend is, by its number over all services.
fn at(number: usize) -> (IpAddr, u16) {
    let address = backend(Family::V4, (number % 3 + 1) as u8);
    (address, (number / 3 + 1024) as u16)
}

/// A backend's name, and its address and port as the maps have them.
fn place(effort: &Effort, number: usize) -> (String, [u8; 16], orders::Port) {
    let (service, n) = (number / effort.backends, number % effort.backends);
    let (address, port) = at(number);
    (
        format!("s{service}/b{n}"),
        desired::address(address).0,
        port,
    )
}

/// So many bytes of a process, by a line of its status.
fn memory(pid: u32, line: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let found = text.lines().find_map(|l| l.strip_prefix(line));
    let kib = found.and_then(|rest| {
        rest.trim_matches([':', ' ', '\t', 'k', 'B'])
            .parse::<u64>()
            .ok()
    });
    Ok(kib.with_context(|| format!("{path} has no {line}"))? * 1024)
}

/// `fairlead check`, to its end.
fn check(file: &Path) -> Result<Duration> {
    let mut command = Command::new(fairlead_binary()?);
    command.arg("check").arg(file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status().context("run 'fairlead check'")?;
    let took = began.elapsed();
    ensure!(
        status.success(),
        "the large configuration is refused; see {}",
        file.display()
    );
    Ok(took)
}

/// From the start of the process to the last interface's link.
fn start_once(daemon: &mut Daemon) -> Result<Duration> {
    let lines = |daemon: &Daemon| daemon.log().matches("attached interface=").count();
    let before = lines(daemon);
    let interfaces = daemon.config().interfaces.len();
    let began = Instant::now();
    daemon.spawn()?;
    loop {
        let took = began.elapsed();
        if lines(daemon) >= before + interfaces {
            return Ok(took);
        }
        if let Some(status) = daemon.process()?.ended()? {
            bail!(
                "the daemon ended while it started: {status}\n{}",
                daemon.log()
            );
        }
        ensure!(
            took < PATIENCE,
            "not attached after {took:?}\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
