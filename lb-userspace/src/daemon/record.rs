//! What happened, as lines of the log; and who else is told.

use super::owner::Owner;
use crate::event::Record;
use crate::model::Health;

impl Owner<'_> {
    /// The log, the hooks, and those who watch packets.
    pub(super) fn tell(&mut self, record: &Record) {
        self.note_serving(record);
        log(record);
        self.hooks
            .tell(record, self.parts.reconciler.state().config());
    }
}

/// Logs a record: fields as in metrics and JSON.
fn log(record: &Record) {
    match record {
        Record::Health {
            backend,
            from,
            to: Health::Up,
            reason,
        } => {
            tracing::info!(service = %backend.service, backend = %backend.backend, ?from, to = ?Health::Up, %reason, "health changed");
        }
        Record::Health {
            backend,
            from,
            to,
            reason,
        } => {
            tracing::warn!(service = %backend.service, backend = %backend.backend, ?from, ?to, %reason, "health changed");
        }
        Record::Held { backend, reason } => {
            tracing::warn!(service = %backend.service, backend = %backend.backend, %reason, "health change held back");
        }
        Record::Suspected { backend, reason } => {
            tracing::warn!(service = %backend.service, backend = %backend.backend, %reason, "suspected by its packets");
        }
        Record::Warned {
            backend,
            warning: Some(warning),
        } => {
            tracing::warn!(service = %backend.service, backend = %backend.backend, %warning, "something of it expires");
        }
        Record::Warned {
            backend,
            warning: None,
        } => {
            tracing::info!(service = %backend.service, backend = %backend.backend, "nothing of it expires soon any more");
        }
        Record::Agent { backend, reason } => {
            tracing::warn!(service = %backend.service, backend = %backend.backend, %reason, "what its agent says is ignored");
        }
        Record::CheckerSuspect {
            suspected: true,
            reason,
        } => {
            tracing::error!(%reason, "all probes fail at once: the checker is suspected");
        }
        Record::CheckerSuspect {
            suspected: false,
            reason,
        } => {
            tracing::info!(%reason, "the checker is trusted again");
        }
        Record::ProbeVoid { backend, reason } => {
            tracing::debug!(service = %backend.service, backend = %backend.backend, %reason, "probe void");
        }
        Record::Admin { backend, from, to } => {
            tracing::info!(service = %backend.service, backend = %backend.backend, ?from, ?to, "admin state changed");
        }
        Record::Drained {
            backend,
            left,
            cause,
        } => {
            tracing::info!(service = %backend.service, backend = %backend.backend, left, ?cause, "drained");
        }
        Record::Failover { service, from, to } => {
            tracing::warn!(%service, %from, %to, "new flows go to others");
        }
        Record::Route { address, route } => {
            tracing::info!(%address, %route, "way to backend changed")
        }
        Record::Link { name, what } => tracing::info!(interface = %name, "{what}"),
        Record::Barred {
            interface,
            reason: Some(reason),
        } => tracing::error!(%interface, %reason, "no packet can be sent this way"),
        Record::Barred {
            interface,
            reason: None,
        } => tracing::info!(%interface, "packets can be sent this way again"),
        Record::Narrow {
            service,
            trouble: Some(trouble),
        } => tracing::warn!(%service, "{trouble}"),
        Record::Narrow {
            service,
            trouble: None,
        } => tracing::info!(%service, "clients' packets of all sizes fit again"),
        Record::Adopted { what } => tracing::warn!("adopted from the maps: {what}"),
        Record::Config {
            revision,
            services,
            backends,
        } => {
            tracing::info!(%revision, services, backends, "configuration applied");
        }
    }
}
