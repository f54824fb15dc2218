//! What became of the events of hooks.

use super::{Labels, Page};
use crate::status::{Hook, Status};

/// The series of each hook; none where there are no hooks.
pub(super) fn write(page: &mut Page<'_>, status: &Status) {
    if status.hooks.is_empty() {
        return;
    }
    let rows = |value: fn(&Hook) -> u64| {
        let labels = |hook: &Hook| Labels(vec![("hook", hook.name.clone())]);
        status.hooks.iter().map(move |h| (labels(h), value(h)))
    };
    page.counter("hook_sent", "Events told to the hook", rows(|h| h.sent));
    page.counter(
        "hook_failed",
        "Events given up after all attempts to tell them",
        rows(|h| h.failed),
    );
    page.counter(
        "hook_dropped",
        "Events dropped because too many waited",
        rows(|h| h.dropped),
    );
    page.gauge(
        "hook_waiting",
        "Events not told yet",
        rows(|h| h.waiting).map(|(l, n)| (l, i64::try_from(n).unwrap_or(i64::MAX))),
    );
}
