//! Applying a changed configuration file: all of it, or nothing.

use std::sync::Arc;

use super::owner::Owner;
use super::startup;
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::Config;

impl Owner<'_> {
    /// Applies the file; on an error nothing has changed.
    pub(super) fn reload(&mut self, allow_shrink: bool) -> Result<String, String> {
        let running = self.config();
        let outcome = startup::load(&self.parts.config_file, Some(&running), allow_shrink)
            .and_then(|config| self.replace(&running, config));
        self.parts.config_error = outcome.as_ref().err().cloned();
        self.keep_last_good();
        outcome
    }

    fn replace(&mut self, running: &Config, config: Arc<Config>) -> Result<String, String> {
        let needs_restart = config.daemon.state_dir != running.daemon.state_dir
            || config.daemon.run_dir != running.daemon.run_dir
            || config.daemon.bpffs != running.daemon.bpffs
            || config.daemon.metrics != running.daemon.metrics
            || config.daemon.interfaces != running.daemon.interfaces
            || config.daemon.xdp_mode != running.daemon.xdp_mode
            || config.limits != running.limits;
        let event = Event::Config(Arc::clone(&config));
        let folded = self.parts.reconciler.fold([(now_ns(), event)]);
        if let Some((_, error)) = folded.refused.first() {
            return Err(error.to_string());
        }
        self.must_save(&folded.effects);
        self.write().map_err(|e| e.to_string())?;
        self.carry_out(folded.effects);
        if self.parts.reconciler.state().config().revision != config.revision {
            return Err("the state could not be saved: see the log; nothing changed".to_owned());
        }
        if !self.written {
            return Err(
                "it was accepted, but the maps could not be written: see the log; it is tried again"
                    .to_owned(),
            );
        }
        let backends: usize = config.services.values().map(|s| s.backends.len()).sum();
        let restart = match needs_restart {
            true => {
                "; changes of [limits] and of state-dir, run-dir, bpffs, metrics, interfaces and xdp-mode wait for a restart of the daemon, which does not disturb forwarding"
            }
            false => "",
        };
        Ok(format!(
            "configuration {:016x} applied: {} services, {backends} backends{restart}",
            config.revision,
            config.services.len()
        ))
    }

    pub(super) fn keep_last_good(&self) {
        if self.parts.config_error.is_none()
            && let Err(error) = startup::keep(&self.config())
        {
            tracing::error!(%error, "the last good configuration could not be kept");
        }
    }
}
