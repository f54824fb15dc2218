//! Many health checks at once: what processor time the program needs for them, and how late they begin, alone and beside
//! targets that answer nobody.
//!
//! The targets are TCP connections through the network of the lab, as those of an operator's are: the kernel's work for
//! both ends of the wire that falls into a system call of the program is counted as the program's.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::limits;
use lb_userspace::maglev;
use lb_userspace::model::{ProbeResult, ProbeVerdict};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use super::{Effort, Goal, Row};
use crate::daemon::{Config, Daemon};
use crate::topology::{Arms, Family, Forwarding, Shape, Topology, backend};

const SHAPE: Shape = Shape {
    arms: Arms::Two,
    forwarding: Forwarding::Dnat,
    backends: 3,
};
/// Backends of a service.
const POOL: usize = 10;
/// Where checks knock.
const OPEN: u16 = 9000;
/// Where those of one service in [`SHARE`] knock, which in the end nobody answers.
const SILENT: u16 = 9001;
const SHARE: usize = 10;
/// Longer than the first round of all of them takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// One core.
const CORE: Goal = Goal::Time(Duration::from_secs(1));
/// What is later than this may make a round void.
const LATE: Goal = Goal::Time(Duration::from_millis(50));

/// A port that accepts and closes; ended when dropped.
struct Door {
    socket: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(topology: &Topology, n: u8, port: u16) -> Result<Self> {
        let address = SocketAddr::new(backend(Family::V4, n), port);
        let listen = || -> std::io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&address.into())?;
            socket.listen(4096)?;
            Ok(socket)
        };
        let socket = topology.namespace(&format!("b{n}")).run(listen);
        let socket = socket.with_context(|| format!("listen at {address}"))?;
        let listening = socket.try_clone().context("share a listening socket")?;
        let thread = std::thread::spawn(move || while listening.accept().is_ok() {});
        Ok(Self {
            socket,
            thread: Some(thread),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Whoever waits in accept(2) is told.
        let _ended = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// All that is measured.
pub fn run(effort: &Effort, tell: impl Fn(&str)) -> Result<Vec<Row>> {
    tell("checks");
    allow_descriptors()?;
    let topology = Topology::build(SHAPE)?;
    let doors = (1..=SHAPE.backends).flat_map(|n| [OPEN, SILENT].map(|port| (n, port)));
    let doors: Result<Vec<Door>> = doors
        .map(|(n, port)| Door::open(&topology, n, port))
        .collect();
    let doors = doors?;
    let mut daemon = Daemon::prepare(&topology, Config::lab(&topology))?;
    let services = effort.targets.div_ceil(POOL);
    daemon.write_config(&many(services, &daemon.config().toml(daemon.home()))?)?;
    daemon.spawn()?;
    daemon.wait_until("all targets are up", PATIENCE, |s| s.all_are("up"))?;
    let targets = services * POOL;
    let mut rows = measure(
        &mut daemon,
        effort,
        &format!("{targets} TCP checks a second"),
    )?;

    tell("checks beside silent targets");
    for n in 1..=SHAPE.backends {
        let rules = format!(
            "table inet silent {{\nchain in {{\ntype filter hook input priority 0;\ntcp dport {SILENT} drop\n}}\n}}"
        );
        topology.nft(&format!("b{n}"), &rules)?;
    }
    let silent = services.div_ceil(SHARE) * POOL;
    wait_for_silence(&daemon, silent)?;
    let what = format!("the same, {silent} of them silent");
    rows.extend(measure(&mut daemon, effort, &what)?);
    daemon.stop()?;
    daemon.unload()?;
    drop(doors);
    Ok(rows)
}

/// This process, and the daemon after it, may have as many descriptors as the system lets them: with the usual 1,024, a
/// thousand silent targets would take all turns.
fn allow_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

/// Services of TCP checks once a second at the three backends, under many ports.
fn many(services: usize, base: &str) -> Result<String> {
    let (daemon, _) = base
        .split_once("[limits]")
        .context("the lab's configuration has no [limits]")?;
    let ring = maglev::ring_size(POOL).next_multiple_of(2) as usize;
    let mut text = format!(
        "{daemon}[limits]\nservices = {services}\nbackends = {}\nring-slots = {}\n",
        services * POOL,
        (services * 2 * ring).max(limits::RING_SLOTS.min as usize)
    );
    for service in 0..services {
        let (a, b) = (service / 250, service % 250 + 1);
        let port = match service % SHARE {
            0 => SILENT,
            _ => OPEN,
        };
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\naddress = \"198.18.{a}.{b}\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"dnat\"\n[service.health]\ntype = \"tcp\"\nport = {port}\ninterval = \"1s\"\ntimeout = \"500ms\"\n"
        )?;
        for n in 0..POOL {
            let number = service * POOL + n;
            let address = backend(Family::V4, (number % 3 + 1) as u8);
            let port = number / 3 + 10_000;
            write!(
                text,
                "[[service.backend]]\nname = \"b{n}\"\naddress = \"{address}\"\nport = {port}\n"
            )?;
        }
    }
    Ok(text)
}

/// The last ten results of each target.
fn results(daemon: &Daemon) -> Result<Vec<Vec<ProbeResult>>> {
    let told = daemon.cli(&["status", "--json"])?.succeeded()?;
    let status: lb_userspace::status::Status =
        serde_json::from_str(&told.stdout).context("understand the status")?;
    let backends = status.services.into_iter().flat_map(|s| s.backends);
    Ok(backends.map(|backend| backend.last_results).collect())
}

fn is_good(result: &ProbeResult) -> bool {
    matches!(result.verdict, ProbeVerdict::Good)
}

/// Until so many targets have answered nothing for all that is remembered of them.
fn wait_for_silence(daemon: &Daemon, silent: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let quiet = |last: &&Vec<ProbeResult>| !last.iter().any(is_good);
        if results(daemon)?.iter().filter(quiet).count() >= silent {
            return Ok(());
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "not {silent} targets were silent within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Since boot, or of a process.
fn read(clock: ClockId) -> Result<Duration> {
    let time: TimeSpec = clock_gettime(clock).context("read a clock")?;
    Ok(Duration::from(time))
}

/// Processor time second by second, and then how late the last rounds began.
fn measure(daemon: &mut Daemon, effort: &Effort, what: &str) -> Result<Vec<Row>> {
    let process = i32::try_from(daemon.process()?.pid()).context("a process number")?;
    let clock = clock_getcpuclockid(Pid::from_raw(process)).context("the clock of the daemon")?;
    let began = read(ClockId::CLOCK_MONOTONIC)?;
    let (mut used, mut waits) = (Vec::new(), Vec::new());
    let (mut worked, mut at) = (read(clock)?, Instant::now());
    let mut waited = daemon.waited_for_cpu()?;
    for _ in 0..effort.seconds {
        std::thread::sleep(Duration::from_secs(1));
        let (now, took) = (read(clock)?, at.elapsed());
        at = Instant::now();
        used.push((now - worked).div_f64(took.as_secs_f64()));
        worked = now;
        let now = daemon.waited_for_cpu()?;
        // A thread that has ended takes its waits with it.
        waits.push(now.saturating_sub(waited).div_f64(took.as_secs_f64()));
        waited = now;
    }
    let began = u64::try_from(began.as_nanos()).context("since boot")?;
    let rounds = results(daemon)?.into_iter().flatten();
    let here = rounds.filter(|r| r.scheduled >= began && is_good(r));
    let mut late: Vec<Duration> = here
        .map(|r| Duration::from_nanos(r.started.saturating_sub(r.scheduled)))
        .collect();
    late.sort_unstable();
    let most = late
        .get(late.len().saturating_sub(1) * 99 / 100)
        .copied()
        .context("no target was checked")?;
    Ok(vec![
        Row::times(format!("processor time a second, {what}"), used, CORE),
        Row::times("  waits for a CPU that others have", waits, Goal::None),
        Row::times("  how late a check of one that answers begins", late, LATE),
        Row::times("  99 of 100 begin within", vec![most], LATE),
    ])
}
