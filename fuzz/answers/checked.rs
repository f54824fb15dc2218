//! What holds of every verdict, whatever the target said.

use lb_userspace::health::verdict::REASON_BYTES;
use lb_userspace::model::ProbeVerdict;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

/// What comes of a check of bytes in memory.
pub(super) fn wait<T>(check: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(check))
}

/// Whatever a target says is good or bad, and never the fault of our own host; the reason is short and plain.
#[track_caller]
pub(super) fn verdict(verdict: &ProbeVerdict) {
    let reason = match verdict {
        ProbeVerdict::Good => return,
        ProbeVerdict::Bad(reason) => reason,
        ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_) | ProbeVerdict::Void(_) => {
            panic!("{verdict:?}")
        }
    };
    assert!(
        !reason.is_empty() && reason.len() <= REASON_BYTES,
        "{reason}"
    );
    assert!(!reason.contains(char::is_control), "{reason:?}");
}
