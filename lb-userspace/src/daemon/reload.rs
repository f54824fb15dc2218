//! Applying a changed configuration file: all of it, or nothing.

use std::sync::Arc;

use super::owner::Owner;
use super::startup;
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::{Config, DaemonConfig};

impl Owner<'_> {
    /// Applies the file; on an error nothing has changed.
    pub(super) fn reload(&mut self, allow_shrink: bool) -> Result<String, String> {
        let running = self.config();
        let loaded = startup::load(&self.parts.config_file, Some(&running), allow_shrink);
        let outcome = match &loaded {
            Ok(file) => self.replace(&running, file),
            Err(error) => Err(error.clone()),
        };
        self.parts.config_error = outcome.as_ref().err().cloned();
        if let Ok(file) = &loaded {
            self.keep_last_good(file);
        }
        outcome
    }

    /// Services change at once. Where the daemon's files are and which interfaces it is attached to stays
    /// until it is started again: half of such a change would be worse than none.
    fn replace(&mut self, running: &Config, file: &Config) -> Result<String, String> {
        let daemon = DaemonConfig {
            echo_per_second: file.daemon.echo_per_second,
            new_flows_per_second: file.daemon.new_flows_per_second,
            icmp_errors_per_second: file.daemon.icmp_errors_per_second,
            tunnel_source: file.daemon.tunnel_source.clone(),
            velocity_percent: file.daemon.velocity_percent,
            velocity_window: file.daemon.velocity_window,
            ..running.daemon.clone()
        };
        let needs_restart = file.daemon != daemon || file.limits != running.limits;
        let config = Arc::new(Config {
            daemon,
            limits: running.limits,
            ..file.clone()
        });
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
                "; directories, interfaces and metrics wait for a restart of the daemon, which does not disturb forwarding, [limits] and xdp-mode for 'fairlead unload' and a start"
            }
            false => "",
        };
        Ok(format!(
            "configuration {:016x} applied: {} services, {backends} backends{restart}",
            config.revision,
            config.services.len()
        ))
    }

    /// Keeps `file` for a start at which the file cannot be used, unless it was refused.
    pub(super) fn keep_last_good(&self, file: &Config) {
        if self.parts.config_error.is_none()
            && let Err(error) = startup::keep(file, &self.config().daemon.state_dir)
        {
            tracing::error!(%error, "the last good configuration could not be kept");
        }
    }
}
