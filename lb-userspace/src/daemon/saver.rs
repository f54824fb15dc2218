//! Has the files saved, and says who waited for them. Nothing here waits for the disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::startup;
use crate::api::{Done, Refused};
use crate::dataplane::bpf::Reader;
use crate::health::runner::now_ns;
use crate::ids::Ids;
use crate::metrics::Timings;
use crate::model::Config;
use crate::saving::writer::{Owned, Writer};
use crate::saving::{Ended, Saving};
use crate::state::changes::Changes;
use crate::state::persistent::Persistent;
use crate::status::Storage;
use crate::store::{self, disk::DiskError};

/// How long somebody who gave an order waits for the disk before he is told that it hangs: 5 s.
pub(super) const PATIENCE: u64 = 5_000_000_000;

/// The way back to whoever gave an order.
pub(super) type Reply = oneshot::Sender<Result<Done, Refused>>;

/// Who waits for the state to be on disk.
pub(super) enum Waiter {
    /// An order that is in effect: its answer.
    Order(Reply, Done),
    /// The reload with this number, which has reserved ids.
    Reservation(u64),
    /// Numbers that are in use and in no map yet.
    Numbers,
}

/// An order that is in effect, but that a restart would forget.
pub(super) fn not_saved(done: &Done, why: &str) -> Refused {
    let error = format!(
        "{} and in effect, but not on disk ({why}): a restart of the daemon before it is would forget it; it is saved as soon as the disk takes it",
        done.message
    );
    Refused { error }
}

/// Which file a write was of.
#[derive(Clone, Copy, Debug)]
enum File {
    State,
    LastGood,
}

/// A write that has ended.
pub(super) struct Outcome {
    file: File,
    result: Result<(), DiskError>,
}

/// The files of the state directory.
pub(super) struct Saver {
    writer: Writer,
    state_file: PathBuf,
    last_good_file: PathBuf,
    outcomes: mpsc::UnboundedSender<Outcome>,
    pub(super) state: Saving<Waiter>,
    last_good: Saving<()>,
    good: Option<Arc<Config>>,
    /// The state's document as it was last written, but for ids. Only the thread that writes looks at it.
    document: Arc<Mutex<Persistent>>,
    told_late: bool,
    told_failed: bool,
}

/// The thread that writes, while this daemon owns the maps. The receiver hears of its end.
pub(super) fn writer(
    reader: Reader,
    timings: Timings,
) -> std::io::Result<(Writer, oneshot::Receiver<()>)> {
    // The files are the owner's, as the maps are.
    let files = Owned(move || reader.is_owner());
    Writer::spawn(files, move |took: Duration, succeeded| {
        timings.stored(took.as_secs_f64(), succeeded);
    })
}

impl Saver {
    pub(super) fn new(
        writer: Writer,
        state_dir: &Path,
    ) -> (Self, mpsc::UnboundedReceiver<Outcome>) {
        let (outcomes, queue) = mpsc::unbounded_channel();
        let saver = Self {
            writer,
            state_file: super::state_file(state_dir),
            last_good_file: startup::last_good(state_dir),
            outcomes,
            state: Saving::default(),
            last_good: Saving::default(),
            good: None,
            document: Arc::default(),
            told_late: false,
            told_failed: false,
        };
        (saver, queue)
    }

    /// Keeps a configuration for a start at which the file cannot be used.
    pub(super) fn keep_last_good(&mut self, config: Arc<Config>) {
        self.good = Some(config);
        self.last_good.changed(now_ns());
    }

    /// Begins the writes that are due. `changes` gives what has changed of the state's document up to now.
    pub(super) fn begin(&mut self, changes: impl FnOnce(u64) -> Changes) {
        let now = now_ns();
        if self.state.begin(now) {
            let changes = changes(now);
            let document = Arc::clone(&self.document);
            let content = move || {
                let mut document = document.lock().unwrap_or_else(PoisonError::into_inner);
                document.take(changes);
                let content = store::encode(&*document);
                // Shared with the owner, who would have to copy them before the next change.
                document.ids = Ids::default();
                content
            };
            let told = self.told(File::State);
            self.writer.write(&self.state_file, Box::new(content), told);
        }
        if let Some(config) = self.good.clone()
            && self.last_good.begin(now)
        {
            let content = move || Ok(crate::config::to_toml(&config).into_bytes());
            let told = self.told(File::LastGood);
            self.writer
                .write(&self.last_good_file, Box::new(content), told);
        }
    }

    /// A write of a file of ours is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.state.is_writing() || self.last_good.is_writing()
    }

    fn told(&self, file: File) -> Box<dyn FnOnce(Result<(), DiskError>) + Send> {
        let outcomes = self.outcomes.clone();
        Box::new(move |result| {
            // The owner may be gone.
            drop(outcomes.send(Outcome { file, result }));
        })
    }

    /// Takes in how a write ended; who waited for the state, and why it failed if it did.
    pub(super) fn ended(&mut self, outcome: Outcome) -> (Ended<Waiter>, Option<String>) {
        let now = now_ns();
        let error = outcome.result.err().map(|error| error.to_string());
        let none = Ended {
            saved: Vec::new(),
            failed: Vec::new(),
        };
        let ended = match outcome.file {
            File::State => self.state.ended(now, error.is_none()),
            File::LastGood => {
                self.last_good.ended(now, error.is_none());
                none
            }
        };
        self.tell(error.as_deref());
        (ended, error)
    }

    /// Says what is wrong with the disk when it begins and when it ends, and answers those who
    /// have waited for too long.
    pub(super) fn look(&mut self) {
        let now = now_ns();
        let disk = self.writer.disk();
        if let (Some(trouble), Some(_), false) = (disk.trouble(now), disk.late(now), self.told_late)
        {
            tracing::error!(
                "{trouble}; forwarding, verdicts and drains go on; orders and new backends wait for it"
            );
            self.told_late = true;
        }
        for waiter in self.state.overdue(now) {
            if let Waiter::Order(reply, done) = waiter {
                let why = disk.trouble(now);
                let why = why.unwrap_or_else(|| "the disk is slow".to_owned());
                drop(reply.send(Err(not_saved(&done, &why))));
            }
        }
    }

    fn tell(&mut self, error: Option<&str>) {
        let failed = self.writer.disk().failed;
        match error {
            Some(error) if !self.told_failed => {
                tracing::error!(%error, "the state could not be saved; forwarding goes on; it is tried again every second");
                self.told_failed = true;
            }
            None if (self.told_failed && failed.is_empty()) || self.told_late => {
                tracing::info!("the disk takes writes again");
                (self.told_failed, self.told_late) = (false, false);
            }
            _ => {}
        }
    }

    /// For `status` and metrics.
    pub(super) fn storage(&self) -> Storage {
        let now = now_ns();
        let disk = self.writer.disk();
        Storage {
            trouble: disk.trouble(now),
            late_ms: disk.late(now).unwrap_or(0) / 1_000_000,
            unsaved_ms: self.state.unsaved_for(now) / 1_000_000,
        }
    }
}
