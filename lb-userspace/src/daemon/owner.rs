//! The loop that owns the state: everything that happens comes in by a channel, one thing at a time,
//! and everything that follows goes out from here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::answers::Answers;
use super::departures::Departure;
use super::loads::Loads;
use super::losses::Losses;
use super::passive;
use super::probing::Probing;
use super::reload::{Asked, Reloads};
use super::report::Reports;
use super::saver::{self, Saver};
use super::signals::Signals;
use super::sweeper::Sweeper;
use crate::announce::{self, claimer};
use crate::api::server::Request;
use crate::dataplane::DataplaneError;
use crate::dataplane::bpf::{Bpf, Reader};
use crate::desired;
use crate::event::{Effect, Event};
use crate::health::runner::{Runner, now_ns};
use crate::hooks::runner::Hooks;
use crate::metrics::Timings;
use crate::model::{BackendKey, Config, ProbeResult, ProbeVerdict, XdpMode};
use crate::neigh::follower;
use crate::reconcile::{ReconcileError, Reconciler, Written};
use crate::status;

/// Between two looks at deadlines, the flow table and the pins.
const BEAT: Duration = Duration::from_millis(50);
/// Between two looks at whether pins are still there, in beats.
const PIN_BEATS: u64 = 10;
/// Between two signs of life for the data plane, in beats.
const ALIVE_BEATS: u64 = 10;
/// How long the end of the daemon waits for the last changes to be on disk.
const LAST_SAVE: Duration = Duration::from_secs(2);
/// Events taken in before their effects are written.
const BURST: usize = 1024;

/// What the owner is made of.
pub(super) struct Parts<'a> {
    pub(super) reconciler: Reconciler<Bpf>,
    pub(super) runner: &'a Runner,
    pub(super) follower: &'a follower::Handle,
    pub(super) claimer: &'a claimer::Handle,
    pub(super) timings: Timings,
    pub(super) config_file: PathBuf,
    pub(super) config_error: Option<String>,
    /// The mode in the configuration that ran last.
    pub(super) mode_before: Option<XdpMode>,
    /// VIPs that may be claimed on interfaces that are about to be left.
    pub(super) claimed: BTreeSet<(String, IpAddr)>,
    /// Something was forwarded before this daemon began.
    pub(super) adopted: bool,
    pub(super) started: u64,
}

/// Where what happens comes in.
pub(super) struct Queues {
    pub(super) events: mpsc::Receiver<(u64, Event)>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) reports: mpsc::Receiver<(u64, announce::Report)>,
    pub(super) signals: Signals,
    pub(super) saves: mpsc::UnboundedReceiver<saver::Outcome>,
    pub(super) loads: mpsc::UnboundedReceiver<super::reload::Loaded>,
    pub(super) looks: mpsc::Receiver<passive::Look>,
}

/// The owner.
pub(super) struct Owner<'a> {
    pub(super) parts: Parts<'a>,
    pub(super) reader: Reader,
    pub(super) sweeper: Sweeper,
    pub(super) loads: Loads,
    pub(super) reports: Reports,
    /// The last write went well.
    pub(super) written: bool,
    pub(super) saver: Saver,
    pub(super) reloads: Reloads,
    /// Until the first image is written: what is to be done then.
    beginning: Option<Vec<Effect>>,
    /// Some ids' counters have not been read yet.
    pub(super) new_ids: bool,
    /// How many writes of numbers in use are waited for.
    pub(super) numbers: u32,
    /// Interfaces, as last looked at.
    pub(super) attachments: Vec<status::Attachment>,
    /// They were looked at since the state was told where the program runs.
    pub(super) attached: bool,
    /// What checks need in the kernel.
    pub(super) probing: Probing,
    /// Who counts what is lost behind the data plane.
    pub(super) losses: Losses,
    /// Interfaces that are to be left.
    pub(super) departures: Vec<Departure>,
    pub(super) hooks: Hooks,
    pub(super) suspects: passive::Suspects,
    pub(super) answers: Answers,
    beats: u64,
}

impl<'a> Owner<'a> {
    pub(super) fn new(
        mut parts: Parts<'a>,
        saver: Saver,
        reloads: Reloads,
        hooks: Hooks,
        suspects: passive::Suspects,
    ) -> Self {
        let reader = parts.reconciler.dataplane().reader();
        let sweeper = Sweeper::new(reader.clone());
        let attachments = Vec::new();
        Self {
            parts,
            reader,
            sweeper,
            loads: Loads::default(),
            reports: Reports::default(),
            written: false,
            saver,
            reloads,
            beginning: None,
            new_ids: true,
            numbers: 0,
            attachments,
            attached: false,
            probing: Probing::default(),
            losses: Losses::default(),
            departures: Vec::new(),
            hooks,
            suspects,
            answers: Answers::default(),
            beats: 0,
        }
    }

    /// Leaves what others still end.
    pub(super) fn end(self) -> Hooks {
        self.hooks
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(self.parts.reconciler.state().config())
    }

    /// The first image has been written.
    pub(super) fn begun(&self) -> bool {
        self.beginning.is_none()
    }

    /// The first image and the first attachment, at once if all ids are on disk. Probes and the search for
    /// ways need not wait for that.
    pub(super) fn begin(&mut self, effects: Vec<Effect>) -> anyhow::Result<()> {
        self.hooks.configure(&self.config().hooks);
        self.keep_not_configured();
        self.note_origins();
        self.must_save(&effects);
        // A VIP is claimed only where packets to it are answered.
        let claims = |effect: &Effect| matches!(effect, Effect::Claim(_));
        let (claims, others) = effects.into_iter().partition(claims);
        self.beginning = Some(claims);
        self.carry_out(others);
        if self.parts.reconciler.is_unsaved() {
            self.wait_for_numbers();
            return Ok(());
        }
        self.go_on_beginning()
    }

    /// Maps before links: packets never meet half of them.
    pub(super) fn go_on_beginning(&mut self) -> anyhow::Result<()> {
        self.write()?;
        anyhow::ensure!(
            self.written,
            "the maps could not be written; nothing was attached or changed"
        );
        self.show_life(now_ns())?;
        let claims = self.beginning.take().unwrap_or_default();
        self.attach_all();
        self.losses.keep();
        self.carry_out(claims);
        self.take(Vec::new())?;
        // When an earlier one runs in place of the file, it is kept already.
        if self.parts.config_error.is_none() {
            self.saver.keep_last_good(self.config());
        }
        self.save();
        Ok(())
    }

    /// Runs until a signal ends it, or until a newer daemon has taken over.
    pub(super) async fn run(&mut self, mut queues: Queues) -> anyhow::Result<()> {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = queues.signals.terminate.recv() => break,
                _ = queues.signals.interrupt.recv() => break,
                // Before events and requests: neither must keep deadlines from being looked at.
                _ = beat.tick() => self.beat()?,
                Some(outcome) = queues.saves.recv() => self.saved(outcome)?,
                _ = queues.signals.hangup.recv() => {
                    self.reload(Asked { allow_shrink: false, reply: None });
                }
                Some(loaded) = queues.loads.recv() => self.loaded(loaded)?,
                Some(first) = queues.events.recv() => {
                    let mut burst = vec![first];
                    while burst.len() < BURST && let Ok(next) = queues.events.try_recv() {
                        burst.push(next);
                    }
                    self.take(burst)?;
                }
                Some(look) = queues.looks.recv() => self.look_at_handshakes(look)?,
                Some(request) = queues.requests.recv() => self.answer(request)?,
                Some((_, report)) = queues.reports.recv() => self.reported(&report)?,
                // Last: whatever happened meanwhile comes first.
                () = tokio::task::yield_now(), if self.reports.is_busy() => self.report_more(),
            }
            self.save();
        }
        let last = self.save_the_last(&mut queues.saves);
        if tokio::time::timeout(LAST_SAVE, last).await.is_err() {
            tracing::error!(
                "the last changes of the state are not on disk after {LAST_SAVE:?}: the disk hangs"
            );
        }
        Ok(())
    }

    /// A sign of life for the data plane.
    fn show_life(&mut self, now: u64) -> anyhow::Result<()> {
        let until = desired::alive_until(&self.config().daemon, now);
        Ok(self.parts.reconciler.dataplane().stay_alive(until)?)
    }

    fn beat(&mut self) -> anyhow::Result<()> {
        let now = now_ns();
        self.beats = self.beats.wrapping_add(1);
        self.parts.reconciler.dataplane().check_owner()?;
        if self.begun() && self.beats.is_multiple_of(ALIVE_BEATS) {
            self.show_life(now)?;
        }
        let ended = [
            ("netlink follower", self.parts.follower.is_finished()),
            ("VIP claimer", self.parts.claimer.is_finished()),
            ("prober", self.parts.runner.is_finished()),
        ];
        if let Some((task, _)) = ended.iter().find(|(_, finished)| *finished) {
            anyhow::bail!(
                "the {task} ended: without it the maps would grow stale unseen; forwarding goes on as it is, start the daemon again"
            );
        }
        self.watch_backends();
        let mut events = vec![(now, Event::Tick)];
        events.extend(self.count_flows(now)?.map(|event| (now, event)));
        events.extend(self.time_answers(now).map(|event| (now, event)));
        let has_source = !self.config().daemon.nat_source.is_empty();
        self.sweeper.count_nat(now, has_source);
        self.take(events)?;
        // With the rest of the loop at work all the time, still a part each beat.
        self.report_more();
        self.saver.look();
        self.look_at_reload();
        self.look_at_departures()?;
        if self.beats.is_multiple_of(PIN_BEATS) {
            self.keep_pins();
            self.keep_probing();
            self.losses.keep();
        }
        Ok(())
    }

    /// Takes events in, writes what follows, does what else follows.
    pub(super) fn take(&mut self, events: Vec<(u64, Event)>) -> anyhow::Result<()> {
        for (_, event) in &events {
            self.look(event);
        }
        // Before what netlink says of an interface: it may have been attached because of that.
        let when = events.first().map_or_else(now_ns, |(when, _)| *when);
        let running = self.runs_on().map(|event| (when, event));
        let folded = self
            .parts
            .reconciler
            .fold(running.into_iter().chain(events));
        for (_, error) in &folded.refused {
            tracing::error!("{error}");
        }
        self.write_words()?;
        self.must_save(&folded.effects);
        self.write()?;
        self.carry_out(folded.effects);
        Ok(())
    }

    pub(super) fn must_save(&mut self, effects: &[Effect]) {
        if effects.contains(&Effect::Persist) {
            self.saver.state.changed(now_ns());
        }
    }

    /// What an event means outside the state.
    fn look(&mut self, event: &Event) {
        match event {
            Event::Link(link) => self.look_at_link(&link.name),
            Event::Probe { backend, result } => {
                let (timings, service) = (&self.parts.timings, backend.service.as_str());
                let late = Duration::from_nanos(result.started.saturating_sub(result.scheduled));
                timings.began_late(late.as_secs_f64());
                match self.judged(backend, result) {
                    ProbeVerdict::Void(_) => timings.void(service),
                    ProbeVerdict::Good
                    | ProbeVerdict::Warned(_)
                    | ProbeVerdict::Expiring(_)
                    | ProbeVerdict::Bad(_) => {
                        let took = result.ended.saturating_sub(result.started);
                        timings.checked(service, Duration::from_nanos(took).as_secs_f64());
                    }
                }
            }
            _ => {}
        }
    }

    /// What a check says, as the state sees it.
    fn judged(&self, backend: &BackendKey, result: &ProbeResult) -> ProbeVerdict {
        self.parts
            .reconciler
            .state()
            .judged(backend, result)
            .verdict
    }

    /// Tells others what follows.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Probe(targets) => {
                    let (daemon, vlans) = (self.config().daemon.clone(), self.vlans());
                    self.probing
                        .probe(targets, &daemon, vlans, self.parts.runner);
                }
                Effect::ProbeNow(backends) => self.parts.runner.hurry(backends),
                Effect::Follow(addresses) => self.parts.follower.follow(addresses),
                Effect::Interfaces(interfaces) => self.parts.follower.leave_by(interfaces),
                // Before the first image, the last list counts: see `begin`.
                Effect::Claim(claims) => match &mut self.beginning {
                    Some(waiting) => *waiting = vec![Effect::Claim(claims)],
                    None => self.parts.claimer.claim(claims),
                },
                // Done by now: see `must_save`.
                Effect::Persist => {}
                Effect::Record(record) => self.tell(&record),
            }
        }
    }

    /// Writes what backends may do: the words that packets read next.
    pub(super) fn write_words(&mut self) -> anyhow::Result<()> {
        let outcome = self.parts.reconciler.write_fast(&now_ns);
        self.told(outcome)
    }

    /// Brings the maps to what the state wants, unless ids are in use that are not on disk yet.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        self.note_origins();
        if self.parts.reconciler.is_unsaved() {
            if self.numbers == 0 {
                self.wait_for_numbers();
            }
            return Ok(());
        }
        let outcome = self.parts.reconciler.write_full(&now_ns);
        self.told(outcome)
    }

    /// The counts of a new backend begin at 0.
    fn note_origins(&mut self) {
        if !std::mem::take(&mut self.new_ids) {
            return;
        }
        let new = self.parts.reconciler.state().without_origin();
        if new.is_empty() {
            return;
        }
        let lines = new
            .into_iter()
            .map(|id| (id, (self.reader.backend(id), self.reader.handshakes(id))))
            .collect();
        self.parts.reconciler.set_origins(&lines);
        self.saver.state.changed(now_ns());
    }

    fn told(&mut self, outcome: Result<Written, ReconcileError>) -> anyhow::Result<()> {
        match outcome {
            Ok(done) => {
                self.written = true;
                if done.ops > 0 {
                    self.parts.timings.written(&done);
                    let (planned_us, applied_us) = (done.planned / 1000, done.applied / 1000);
                    tracing::debug!(ops = done.ops, planned_us, applied_us, "maps written");
                }
                Ok(())
            }
            Err(ReconcileError::Dataplane(error @ DataplaneError::Fenced { .. })) => {
                Err(error.into())
            }
            Err(error) => {
                if self.written || self.beats == 0 {
                    tracing::error!("{error}; it is tried again");
                }
                self.written = false;
                Ok(())
            }
        }
    }
}
