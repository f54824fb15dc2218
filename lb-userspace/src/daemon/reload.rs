//! Applying a changed configuration file: all of it, or nothing.
//!
//! The file is read and judged by a thread of its own, one reload after the other. Its new ids, if
//! it has any, go to disk while the running configuration stays in force with all its verdicts and orders;
//! only then does it take effect, in one step.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::interfaces::summary;
use super::owner::Owner;
use super::saver::{PATIENCE, Reply, Waiter};
use super::startup;
use crate::apart;
use crate::api::{Done, Refused};
use crate::config::shrink;
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::{Config, DaemonConfig};

/// Somebody wants the file applied.
pub(super) struct Asked {
    /// A configuration that is drastically smaller is meant.
    pub(super) allow_shrink: bool,
    /// `None`: a signal, which is answered in the log.
    pub(super) reply: Option<Reply>,
}

/// The file was read.
pub(super) struct Loaded {
    file: Result<Arc<Config>, String>,
}

/// A configuration whose ids are being written to disk.
struct Pending {
    /// Tells it from others before it.
    number: u64,
    file: Arc<Config>,
    asked: Asked,
    since: u64,
}

/// Where reloads stand.
pub(super) struct Reloads {
    loaded: mpsc::UnboundedSender<Loaded>,
    /// Whose file is being read.
    loading: Option<Asked>,
    waiting: VecDeque<Asked>,
    pending: Option<Pending>,
    number: u64,
}

impl Reloads {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Loaded>) {
        let (loaded, queue) = mpsc::unbounded_channel();
        let reloads = Self {
            loaded,
            loading: None,
            waiting: VecDeque::new(),
            pending: None,
            number: 0,
        };
        (reloads, queue)
    }
}

fn answer(asked: Asked, outcome: Result<String, String>) {
    // Also when somebody is told: who reads the log later asks what became of it.
    if let Err(error) = &outcome {
        tracing::error!("reload refused: {error}");
    }
    match (asked.reply, outcome) {
        (Some(reply), outcome) => {
            let outcome = outcome
                .map(|message| Done { message })
                .map_err(|error| Refused { error });
            drop(reply.send(outcome));
        }
        (None, Ok(done)) => tracing::info!("reload: {done}"),
        (None, Err(_)) => {}
    }
}

impl Owner<'_> {
    /// Has the file read.
    pub(super) fn reload(&mut self, asked: Asked) {
        if !self.begun() {
            let why = "the daemon is starting: its first ids are not on disk yet (see 'fairlead status'); nothing changed";
            return answer(asked, Err(why.to_owned()));
        }
        self.reloads.waiting.push_back(asked);
        self.load_next();
    }

    fn load_next(&mut self) {
        if self.reloads.loading.is_some() {
            return;
        }
        let Some(asked) = self.reloads.waiting.pop_front() else {
            return;
        };
        let path = self.parts.config_file.clone();
        let loaded = self.reloads.loaded.clone();
        let load = move || {
            let file = startup::load(&path);
            // The owner may be gone.
            drop(loaded.send(Loaded { file }));
        };
        // Not a task: the file may be on a disk that hangs, and the end of the daemon must not wait for it.
        match std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(load)
        {
            Ok(_) => self.reloads.loading = Some(asked),
            Err(error) => {
                let why = apart::no_thread(&error);
                answer(asked, Err(format!("read the file: {why}; nothing changed")));
            }
        }
    }

    /// The file was read: apply it, or have its ids saved first.
    pub(super) fn loaded(&mut self, loaded: Loaded) -> anyhow::Result<()> {
        let Some(asked) = self.reloads.loading.take() else {
            return Ok(());
        };
        let Loaded { file } = loaded;
        let running = self.config();
        let guarded = file.and_then(|file| {
            let guard = (!asked.allow_shrink).then(|| shrink::shrink(&running, &file));
            match guard.flatten() {
                Some(shrink) => Err(shrink.to_string()),
                None => Ok(file),
            }
        });
        match guarded {
            Ok(file) => self.accept(file, asked)?,
            Err(error) => self.refuse(asked, error),
        }
        self.load_next();
        Ok(())
    }

    fn refuse(&mut self, asked: Asked, error: String) {
        self.parts.config_error = Some(error.clone());
        answer(asked, Err(error));
    }

    fn accept(&mut self, file: Arc<Config>, asked: Asked) -> anyhow::Result<()> {
        if let Some(earlier) = self.reloads.pending.take() {
            let why = "a later reload took its place while its ids were not on disk yet";
            answer(earlier.asked, Err(why.to_owned()));
        }
        let now = now_ns();
        let wanted = self.wanted(&file);
        let reserved = self.parts.reconciler.reserve(now, &wanted);
        self.reloads.number = self.reloads.number.saturating_add(1);
        let pending = Pending {
            number: self.reloads.number,
            file,
            asked,
            since: now,
        };
        match reserved {
            Err(error) => {
                self.refuse(pending.asked, error.to_string());
                Ok(())
            }
            Ok(false) => self.put_in_force(pending),
            Ok(true) => {
                self.wait_for_reservation(pending);
                Ok(())
            }
        }
    }

    fn wait_for_reservation(&mut self, pending: Pending) {
        self.saver.state.changed(now_ns());
        let waiter = Waiter::Reservation(pending.number);
        // It was just changed: there is something to wait for.
        drop(self.saver.state.wait(None, waiter));
        self.reloads.pending = Some(pending);
    }

    /// The ids of a configuration are on disk, or could not be written.
    pub(super) fn reservation_ended(
        &mut self,
        number: u64,
        error: Option<&str>,
    ) -> anyhow::Result<()> {
        let current = |pending: &mut Pending| pending.number == number;
        let Some(pending) = self.reloads.pending.take_if(current) else {
            return Ok(());
        };
        match error {
            None => {
                let wanted = self.wanted(&pending.file);
                match self.parts.reconciler.reservation_saved(now_ns(), &wanted) {
                    Ok(true) => return self.put_in_force(pending),
                    Ok(false) => self.wait_for_reservation(pending),
                    Err(error) => self.refuse(pending.asked, error.to_string()),
                }
                Ok(())
            }
            Some(error) => {
                self.parts.reconciler.give_up_reservation();
                let why = format!("its new ids could not be saved, nothing changed: {error}");
                self.refuse(pending.asked, why);
                Ok(())
            }
        }
    }

    /// Tells whoever asked for a configuration that its ids do not get to the disk.
    pub(super) fn look_at_reload(&mut self) {
        let now = now_ns();
        let Some(pending) = &mut self.reloads.pending else {
            return;
        };
        if now.saturating_sub(pending.since) < PATIENCE {
            return;
        }
        let trouble = self.saver.storage().trouble;
        let why = format!(
            "accepted, but its new ids are not on disk yet ({}): it takes effect as soon as they are",
            trouble.unwrap_or_else(|| "the disk is slow".to_owned())
        );
        if let Some(reply) = pending.asked.reply.take() {
            let error = why.clone();
            drop(reply.send(Err(Refused { error })));
        }
        self.parts.config_error = Some(why);
    }

    /// The configuration that a file leads to. Where the daemon's files are and how large the maps stays:
    /// half of such a change would be worse than none.
    fn wanted(&self, file: &Config) -> Arc<Config> {
        let running = self.config();
        let DaemonConfig {
            state_dir,
            run_dir,
            bpffs,
            metrics,
            ..
        } = running.daemon.clone();
        let daemon = DaemonConfig {
            state_dir,
            run_dir,
            bpffs,
            metrics,
            ..file.daemon.clone()
        };
        Arc::new(Config {
            daemon,
            limits: running.limits,
            ..file.clone()
        })
    }

    fn put_in_force(&mut self, pending: Pending) -> anyhow::Result<()> {
        let Pending { file, asked, .. } = pending;
        let config = self.wanted(&file);
        let needs_restart = file.daemon != config.daemon || file.limits != config.limits;
        let changed = match self.attach_new(&config.daemon)? {
            Ok(changed) => changed,
            Err(error) => {
                self.parts.reconciler.give_up_reservation();
                self.refuse(asked, error);
                return Ok(());
            }
        };
        // New interfaces are known before the ways that leave by them.
        self.take(Vec::new())?;
        let left = self.part_from(&config.daemon);
        let event = Event::Config(Arc::clone(&config));
        let folded = self.parts.reconciler.fold([(now_ns(), event)]);
        if let Some((_, error)) = folded.refused.first() {
            self.parts.reconciler.give_up_reservation();
            let otherwise = self.take_back(changed)?;
            self.refuse(asked, format!("{error}; {}", summary(&otherwise)));
            return Ok(());
        }
        self.hooks.configure(&config.hooks);
        self.new_ids = true;
        self.must_save(&folded.effects);
        self.write()?;
        self.carry_out(folded.effects);
        self.depart(left);
        self.take(Vec::new())?;
        if !self.written {
            let why = "it was accepted, but the maps could not be written: see the log; it is tried again";
            self.refuse(asked, why.to_owned());
            return Ok(());
        }
        self.parts.config_error = None;
        self.saver.keep_last_good(file);
        let backends: usize = config.services.values().map(|s| s.backends.len()).sum();
        let restart = match needs_restart {
            true => {
                "; directories and metrics wait for a restart of the daemon, which does not disturb forwarding, [limits] for 'fairlead unload' and a start"
            }
            false => "",
        };
        let done = format!(
            "configuration {:016x} applied: {} services, {backends} backends{restart}",
            config.revision,
            config.services.len()
        );
        answer(asked, Ok(done));
        Ok(())
    }
}
