//! Forwards what the program logs through aya-log to tracing. Off by default, and then the
//! verifier has removed every trace of it.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::BpfError;

/// Speaks `log`, which is what aya-log knows, to tracing.
#[derive(Debug)]
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (target, message) = (record.target(), record.args());
        match record.level() {
            Level::Error => tracing::error!(target: "fairlead::bpf", at = target, "{message}"),
            Level::Warn => tracing::warn!(target: "fairlead::bpf", at = target, "{message}"),
            Level::Info => tracing::info!(target: "fairlead::bpf", at = target, "{message}"),
            Level::Debug => tracing::debug!(target: "fairlead::bpf", at = target, "{message}"),
            Level::Trace => tracing::trace!(target: "fairlead::bpf", at = target, "{message}"),
        }
    }

    fn flush(&self) {}
}

/// The program's log, not yet read.
pub struct DebugLog {
    logger: EbpfLogger<ToTracing>,
}

impl std::fmt::Debug for DebugLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DebugLog")
    }
}

impl DebugLog {
    pub(crate) fn new(object: &mut Ebpf) -> Result<Self, BpfError> {
        EbpfLogger::init_with_logger(object, ToTracing)
            .map(|logger| Self { logger })
            .map_err(|error| BpfError::Object {
                why: format!("the program has no log: {error}"),
            })
    }

    /// Forwards until the task is dropped. Needs a tokio runtime with I/O.
    pub async fn forward(self) -> std::io::Result<()> {
        // SAFETY: the logger owns the descriptor of its ring buffer, always returns that one, and lives
        // inside the `AsyncFd` until it is dropped.
        let mut log = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE) }?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
