//! Tells hooks what happens: one task for each hook, which does one thing at a time. Whoever has an event puts it into
//! queues and never waits: neither for a hook, nor for a task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::message::Message;
use super::{Attempt, Ended, Limits, Next, Queue, command, wants, webhook};
use crate::event::Record;
use crate::health::runner::now_ns;
use crate::health::tls::Clients;
use crate::model::{Call, Config, Hook, Name, ProbeVerdict};
use crate::status;

/// The hooks.
#[derive(Debug)]
pub struct Hooks {
    lines: BTreeMap<Name, Arc<Line>>,
    told: watch::Sender<Vec<Arc<Line>>>,
    task: JoinHandle<()>,
}

/// A hook and its events. The queue outlives a change of the hook.
#[derive(Debug)]
struct Line {
    hook: Hook,
    queue: Arc<Mutex<Queue>>,
    /// An event has come.
    wake: Arc<Notify>,
}

impl Line {
    /// Held for moments only, never over an `await`.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hooks {
    /// Starts it, without hooks. It ends when `cancel` is cancelled, and when it is dropped; what waits then is not told.
    pub fn spawn(cancel: CancellationToken) -> Self {
        let (told, lines) = watch::channel(Vec::new());
        Self {
            lines: BTreeMap::new(),
            told,
            task: tokio::spawn(work(lines, cancel)),
        }
    }

    /// The hooks from now on. Those of the same name keep their events and counts.
    pub fn configure(&mut self, hooks: &BTreeMap<Name, Hook>) {
        let before = std::mem::take(&mut self.lines);
        for (name, hook) in hooks {
            let line = match before.get(name) {
                Some(line) if line.hook == *hook => Arc::clone(line),
                Some(line) => {
                    line.queue().change(Limits::of(hook));
                    Arc::new(Line {
                        hook: hook.clone(),
                        queue: Arc::clone(&line.queue),
                        // Its own: the worker before it must not take its wake-ups.
                        wake: Arc::default(),
                    })
                }
                None => Arc::new(Line {
                    hook: hook.clone(),
                    queue: Arc::new(Mutex::new(Queue::new(Limits::of(hook)))),
                    wake: Arc::default(),
                }),
            };
            self.lines.insert(name.clone(), line);
        }
        for (name, line) in before.iter().filter(|(name, _)| !hooks.contains_key(*name)) {
            say_lost(name, line, "the hook is no longer configured");
        }
        self.told
            .send_replace(self.lines.values().cloned().collect());
    }

    /// Something happened.
    pub fn tell(&self, record: &Record, config: &Config) {
        for line in self.lines.values().filter(|line| wants(&line.hook, record)) {
            let time = SystemTime::now().duration_since(UNIX_EPOCH);
            let message = Message::new(record, config, time.unwrap_or(Duration::ZERO));
            line.queue().push(message);
            line.wake.notify_one();
            say_dropped(line);
        }
    }

    /// How it stands with each.
    pub fn status(&self) -> Vec<status::Hook> {
        let status = |line: &Arc<Line>| {
            let queue = line.queue();
            let counts = queue.counts();
            status::Hook {
                name: line.hook.name.to_string(),
                call: line.hook.call.to_string(),
                sent: counts.sent,
                failed: counts.failed,
                dropped: counts.dropped,
                waiting: u64::try_from(queue.waiting()).unwrap_or(u64::MAX),
                trouble: queue.trouble().map(str::to_owned),
            }
        };
        self.lines.values().map(status).collect()
    }

    /// Waits for the end, which the token given to [`Hooks::spawn`] brings about.
    pub async fn ended(self) -> Result<(), JoinError> {
        for (name, line) in &self.lines {
            say_lost(name, line, "the daemon ends");
        }
        drop(self.told);
        self.task.await
    }
}

fn say_dropped(line: &Line) {
    if let Some(dropped) = line.queue().dropped_unsaid(now_ns()) {
        let hook = &line.hook.name;
        tracing::warn!(%hook, dropped, "events dropped: more than its queue holds are waiting");
    }
}

fn say_lost(hook: &Name, line: &Line, why: &str) {
    let waiting = line.queue().waiting();
    if waiting > 0 {
        tracing::warn!(%hook, waiting, "events not told: {why}");
    }
}

/// Keeps a worker for each hook.
async fn work(mut lines: watch::Receiver<Vec<Arc<Line>>>, cancel: CancellationToken) {
    // The name of this machine, which a receiver of several balancers' events needs.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host: Arc<str> = host.unwrap_or_default().trim().into();
    let clients = Arc::new(Clients::default());
    let mut workers: BTreeMap<Name, (Arc<Line>, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = lines.borrow_and_update().clone();
        let same = |line: &Arc<Line>| wanted.iter().any(|other| Arc::ptr_eq(line, other));
        workers.retain(|_, (line, task)| {
            let stays = same(line);
            if !stays {
                task.abort();
            }
            stays
        });
        for line in wanted {
            let name = line.hook.name.clone();
            workers.entry(name).or_insert_with(|| {
                let worker = worker(Arc::clone(&line), Arc::clone(&host), Arc::clone(&clients));
                let task = tasks.spawn(worker);
                (line, task)
            });
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = lines.changed() => if changed.is_err() { break },
        }
        while tasks.try_join_next().is_some() {}
    }
    // What runs is killed.
    tasks.shutdown().await;
}

/// Tells one hook its events, one after the other.
async fn worker(line: Arc<Line>, host: Arc<str>, clients: Arc<Clients>) {
    let holder = line.queue().begin();
    loop {
        let next = line.queue().next_for(holder, now_ns());
        match next {
            // A wake-up that came before is kept, so none is missed.
            Next::Idle => line.wake.notified().await,
            Next::At(at) => {
                let wait = Duration::from_nanos(at.saturating_sub(now_ns()));
                sleep(wait).await;
            }
            Next::Tell(attempt) => {
                let outcome = tell(&line.hook, &attempt, &host, &clients).await;
                ended(&line, &attempt, outcome);
            }
        }
    }
}

async fn tell(hook: &Hook, attempt: &Attempt, host: &str, clients: &Clients) -> Result<(), String> {
    let (name, message, timeout) = (hook.name.as_str(), &attempt.message, hook.timeout);
    let verdict = match &hook.call {
        Call::Command(command) => command::tell(command, name, message, host, timeout).await,
        Call::Webhook(webhook) => {
            let body = message.json(name, host);
            webhook::tell(webhook, body, attempt, clients, timeout).await
        }
    };
    match verdict {
        ProbeVerdict::Good | ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_) => Ok(()),
        ProbeVerdict::Bad(why) | ProbeVerdict::Void(why) => Err(why),
    }
}

fn ended(line: &Line, attempt: &Attempt, outcome: Result<(), String>) {
    let why = outcome.clone().err().unwrap_or_default();
    let (hook, call) = (&line.hook.name, &line.hook.call);
    let (number, event) = (attempt.message.number, attempt.message.word());
    match line.queue().ended(attempt.number, now_ns(), outcome) {
        Ended::Sent => tracing::info!(%hook, number, %event, "hook told"),
        Ended::Again(wait) => {
            let wait_ms = wait / 1_000_000;
            tracing::warn!(%hook, number, %event, %call, wait_ms, "hook failed, it is tried again: {why}");
        }
        Ended::Failed => {
            tracing::error!(%hook, number, %event, %call, "hook failed, the event is given up: {why}");
        }
        Ended::Stale => {}
    }
    say_dropped(line);
}
