//! Probes all targets, each at its time ([`crate::rota`]), and reports the results as events.
//!
//! One task keeps the rota; each probe is a task for as long as it lasts. Permits bound how many
//! are under way. A probe that waits for one keeps its time, so its lateness shows in the result.
//! When the events' channel is full, probes wait with their result in hand and are late with the
//! next one: the state is never flooded, and nothing is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::hearing::Hearing;
use super::peer::Peer;
use super::refusals::Refusals;
use super::tls::Clients;
use super::{dns, exec, grpc, http, http2, https, icmp, real_path, tcp, tls, udp};
use crate::event::Event;
use crate::model::{BackendKey, Check, ProbeResult, ProbeVerdict, Target};
use crate::rota::{Due, Rota, TargetId};

/// Commands that run at once. Each is a process.
pub const COMMANDS: usize = 16;

/// Second checks that are made at once of backends that do not answer as the VIP: they only find words, and the descriptors
/// of a process are bounded ([`super::descriptors`]).
pub const SECOND_CHECKS: usize = 64;

/// What probes share.
#[derive(Debug)]
pub struct Tools {
    /// TLS clients.
    pub clients: Clients,
    /// Permits for commands.
    commands: Semaphore,
    /// Permits for second checks.
    pub(super) second_checks: Semaphore,
    /// Why checks cannot go to a VIP at present; `None`: they can.
    pub(super) no_real_path: watch::Sender<Option<String>>,
    /// Whose servers refuse requests that fill a packet.
    pub(super) refusals: Refusals,
    /// What the data plane has learned of paths; none knows nothing.
    pub(super) paths: OnceLock<Paths>,
}

/// Tells the largest packet that fits the path to a backend in a tunnel, in bytes, by its BackendId; `None`: nothing is known.
pub(super) struct Paths(pub(super) Box<dyn Fn(u32) -> Option<u32> + Send + Sync>);

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paths")
    }
}

impl Tools {
    /// The largest packet that the data plane knows to fit the path to a backend in a tunnel, in bytes.
    pub(super) fn path_to(&self, backend: u32) -> Option<u32> {
        let Paths(tell) = self.paths.get()?;
        tell(backend)
    }
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            clients: Clients::default(),
            commands: Semaphore::new(COMMANDS),
            second_checks: Semaphore::new(SECOND_CHECKS),
            no_real_path: watch::Sender::default(),
            refusals: Refusals::default(),
            paths: OnceLock::new(),
        }
    }
}

/// Where results go, each with the time at which it was seen.
pub type Events = mpsc::Sender<(u64, Event)>;

/// The prober.
#[derive(Debug)]
pub struct Runner {
    targets: watch::Sender<Vec<Target>>,
    hurries: mpsc::UnboundedSender<BackendKey>,
    tools: Arc<Tools>,
    task: JoinHandle<()>,
}

impl Runner {
    /// Starts it, without targets. It ends when `cancel` is cancelled, when nobody receives events
    /// any more, and when it is dropped. `seed` spreads the probes.
    pub fn spawn(events: Events, cancel: CancellationToken, concurrency: usize, seed: u64) -> Self {
        let (sender, targets) = watch::channel(Vec::new());
        let (hurries, hurried) = mpsc::unbounded_channel();
        let tools: Arc<Tools> = Arc::default();
        let work = Work {
            rota: Rota::new(seed),
            permits: Arc::new(Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            tools: Arc::clone(&tools),
            events,
            probes: JoinSet::new(),
            abandon: BTreeMap::new(),
        };
        Self {
            targets: sender,
            hurries,
            tools,
            task: tokio::spawn(work.run(targets, hurried, cancel)),
        }
    }

    /// The complete list of targets. Unchanged ones keep their times; probes of those that
    /// changed or are gone are abandoned. A result that was already sent may still arrive.
    pub fn set_targets(&self, targets: Vec<Target>) {
        self.targets.send_replace(targets);
    }

    /// Targets that are to be probed at once, apart from their turns. (Who asks asks seldom: of one suspect a few times at first, then at most once a second.)
    pub fn hurry(&self, backends: Vec<BackendKey>) {
        for backend in backends {
            // A runner that has ended is noticed elsewhere.
            let _ended = self.hurries.send(backend);
        }
    }

    /// Who tells what the data plane has learned of paths to backends in tunnels, by their BackendIds, from now on. The first one stays.
    pub fn set_paths(&self, tell: impl Fn(u32) -> Option<u32> + Send + Sync + 'static) {
        // There is one data plane as long as the process lives.
        let _first = self.tools.paths.set(Paths(Box::new(tell)));
    }

    /// Why checks cannot go to VIPs at present; `None`: they can.
    pub fn set_no_real_path(&self, why: Option<String>) {
        self.tools.no_real_path.send_replace(why);
    }

    /// It has ended, which it should not before it is cancelled.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the end, which the token given to [`Runner::spawn`] brings about.
    pub async fn ended(self) -> Result<(), JoinError> {
        self.task.await
    }
}

/// The monotonic clock, nanoseconds since boot: the one that the kernel stamps flows with.
pub fn now_ns() -> u64 {
    // The clock exists on every Linux and the argument is valid: there is nothing to fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| super::nanos(Duration::from(time)))
        .unwrap_or(0)
}

struct Work {
    rota: Rota,
    permits: Arc<Semaphore>,
    tools: Arc<Tools>,
    events: Events,
    probes: JoinSet<(TargetId, ProbeResult)>,
    /// Of turns and (true) of extra ones.
    abandon: BTreeMap<(TargetId, bool), AbortHandle>,
}

impl Work {
    async fn run(
        mut self,
        mut targets: watch::Receiver<Vec<Target>>,
        mut hurries: mpsc::UnboundedReceiver<BackendKey>,
        cancel: CancellationToken,
    ) {
        loop {
            let wake = self.rota.next_due().map(instant);
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.events.closed() => break,
                changed = targets.changed() => match changed {
                    Ok(()) => {
                        let wanted = targets.borrow_and_update().clone();
                        self.set_targets(wanted);
                    }
                    Err(_runner_dropped) => break,
                },
                Some(backend) = hurries.recv() => self.rota.hurry(&backend, now_ns()),
                Some(ended) = self.probes.join_next() => {
                    self.ended(ended);
                    while let Some(ended) = self.probes.try_join_next() {
                        self.ended(ended);
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            self.start_due();
        }
        self.probes.shutdown().await;
    }

    fn set_targets(&mut self, targets: Vec<Target>) {
        for id in self.rota.set_targets(targets, now_ns()) {
            for extra in [false, true] {
                if let Some(probe) = self.abandon.remove(&(id, extra)) {
                    probe.abort();
                }
            }
        }
    }

    fn start_due(&mut self) {
        while let Some(due) = self.rota.pop_due(now_ns()) {
            let key = (due.id, due.extra);
            let probe = round(
                due,
                self.permits.clone(),
                self.tools.clone(),
                self.events.clone(),
            );
            self.abandon.insert(key, self.probes.spawn(probe));
        }
    }

    /// Plans the next round. An error means that the probe was abandoned: nothing to plan.
    fn ended(&mut self, ended: Result<(TargetId, ProbeResult), JoinError>) {
        if let Ok((id, result)) = ended {
            self.abandon.remove(&(id, result.extra));
            self.rota.ended(id, &result, now_ns());
        }
    }
}

/// One probe, from the wait for a permit to the report.
async fn round(
    due: Due,
    permits: Arc<Semaphore>,
    tools: Arc<Tools>,
    events: Events,
) -> (TargetId, ProbeResult) {
    let Due {
        id,
        scheduled,
        extra,
        target,
    } = due;
    let mut hearing = Hearing::to(target.agent);
    let result = {
        // First: a command that waits for others takes no permit from other probes. The semaphores are never closed.
        let _command = match &target.check {
            Check::Exec(_) => Some(tools.commands.acquire().await),
            _ => None,
        };
        let _permit = permits.acquire().await;
        let started = now_ns();
        let verdict = match extra && !matches!(target.check, Check::Exec(_)) {
            true => twice(&target, &tools, &mut hearing).await,
            false => probe(&target, &tools, &mut hearing).await,
        };
        ProbeResult {
            scheduled,
            started,
            ended: now_ns(),
            verdict,
            extra,
        }
    };
    let seen = result.ended;
    let good = matches!(
        result.verdict,
        ProbeVerdict::Good | ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_)
    );
    if let Some(said) = hearing.said().filter(|_| good) {
        let backend = target.backend.clone();
        let _told = events.send((seen, Event::Reported { backend, said })).await;
    }
    let event = Event::Probe {
        backend: target.backend,
        result: result.clone(),
    };
    // When nobody listens any more, the runner ends by itself.
    let _told = events.send((seen, event)).await;
    (id, result)
}

/// A check that is made for a suspicion, and decides by itself: a lost packet or two must not. Whoever has said nothing by half of the
/// timeout is asked once more, by another connection; what is good of both counts.
async fn twice(target: &Target, tools: &Tools, hearing: &mut Hearing) -> ProbeVerdict {
    let half = target.timeout.checked_div(2).unwrap_or_default();
    let mut first = Box::pin(probe(target, tools, hearing));
    if let Ok(verdict) = tokio::time::timeout(half, &mut first).await {
        return verdict;
    }
    let again = Target {
        timeout: half,
        ..target.clone()
    };
    let mut unheard = Hearing::to(target.agent);
    let mut second = Box::pin(probe(&again, tools, &mut unheard));
    let is_bad = |verdict: &ProbeVerdict| matches!(verdict, ProbeVerdict::Bad(_));
    tokio::select! {
        verdict = &mut first => match is_bad(&verdict) {
            true => second.await,
            false => verdict,
        },
        verdict = &mut second => match is_bad(&verdict) {
            true => first.await,
            false => verdict,
        },
    }
}

/// Does what the target's check says.
pub async fn probe(target: &Target, tools: &Tools, hearing: &mut Hearing) -> ProbeVerdict {
    real_path::probe(target, tools, hearing).await
}

/// The same, of a peer that stands for the target.
pub(super) async fn check(
    target: &Target,
    peer: Peer,
    tools: &Tools,
    timeout: Duration,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let clients = &tools.clients;
    match &target.check {
        Check::None => ProbeVerdict::Good,
        Check::Tcp => tcp::probe(peer, timeout, hearing).await,
        Check::Tls(check) => tls::probe(peer, check, clients, timeout).await,
        Check::Http(check) => http::probe(peer, check, timeout, hearing).await,
        Check::Https(check, with) => {
            https::probe(peer, check, with, clients, timeout, hearing).await
        }
        Check::Http2(check, with) => {
            http2::probe(peer, check, with.as_ref(), clients, timeout).await
        }
        Check::Grpc(check, with) => grpc::probe(peer, check, with.as_ref(), clients, timeout).await,
        Check::Udp(check) => udp::probe(peer, check, timeout).await,
        Check::Dns(check) => dns::probe(peer, check, timeout).await,
        Check::Icmp => icmp::probe(peer, timeout).await,
        Check::Exec(check) => exec::probe(target, check, hearing).await,
    }
}

/// The instant of a time since boot.
fn instant(at_ns: u64) -> Instant {
    let wait = Duration::from_nanos(at_ns.saturating_sub(now_ns()));
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
