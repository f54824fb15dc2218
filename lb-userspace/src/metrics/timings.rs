//! Distributions and counts that the daemon feeds: what is not in a [`crate::status::Status`].

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::{Labels, service_labels};
use crate::reconcile::Written;

/// What is not in [`Status`]: distributions, which live as long as the daemon.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Seconds a probe took, by service.
    pub(super) check: Family<Labels, Histogram, fn() -> Histogram>,
    /// Seconds by which probes began late, void ones among them.
    pub(super) late: Histogram,
    /// Seconds from the state to the operations that the maps need.
    pub(super) plan: Histogram,
    /// Seconds to run these operations.
    pub(super) apply: Histogram,
    /// Seconds to write a file of the state directory.
    pub(super) store: Histogram,
    /// Such writes that failed.
    pub(super) store_failures: Counter,
    /// Operations applied.
    pub(super) operations: Counter,
    /// Probe rounds that were void.
    pub(super) void: Family<Labels, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
    ])
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            check: Family::new_with_constructor(seconds as fn() -> Histogram),
            late: seconds(),
            plan: seconds(),
            apply: seconds(),
            store: seconds(),
            store_failures: Counter::default(),
            operations: Counter::default(),
            void: Family::default(),
        }
    }
}

impl Timings {
    /// A probe of a backend of this service took this long.
    pub fn checked(&self, service: &str, seconds: f64) {
        self.check
            .get_or_create(&service_labels(service))
            .observe(seconds);
    }

    /// A probe began so much later than planned.
    pub fn began_late(&self, seconds: f64) {
        self.late.observe(seconds);
    }

    /// A probe round of this service said nothing.
    pub fn void(&self, service: &str) {
        self.void.get_or_create(&service_labels(service)).inc();
    }

    /// A file of the state directory was written, or could not be.
    pub fn stored(&self, seconds: f64, succeeded: bool) {
        self.store.observe(seconds);
        if !succeeded {
            self.store_failures.inc();
        }
    }

    /// A plan was computed and applied.
    pub fn written(&self, done: &Written) {
        self.plan
            .observe(Duration::from_nanos(done.planned).as_secs_f64());
        self.apply
            .observe(Duration::from_nanos(done.applied).as_secs_f64());
        self.operations
            .inc_by(u64::try_from(done.ops).unwrap_or(u64::MAX));
    }
}
