//! The one thread that may still do all that the process was started with. Capabilities belong to threads: so all others can
//! be made without, while this one prepares the start, which takes more than what comes later. It ends with that.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

type Work = Box<dyn FnOnce() + Send>;

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub struct Preparer {
    work: Sender<Work>,
    thread: JoinHandle<()>,
}

impl Preparer {
    /// Starts it with what this thread may do.
    pub(super) fn start() -> io::Result<Self> {
        let (work, orders) = channel::<Work>();
        let thread = Builder::new().name("start".to_owned()).spawn(move || {
            if let Ok(work) = orders.recv() {
                work();
            }
        })?;
        Ok(Self { work, thread })
    }

    /// Has it do this, and waits for its end.
    pub fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (told, result) = channel();
        // Whoever is to be told waits below.
        let work = Box::new(move || drop(told.send(work())));
        let gone = || io::Error::other("the thread that prepares the start has ended");
        self.work.send(work).map_err(|_| gone())?;
        let result = result.recv().map_err(|_| gone())?;
        // It panics in no way that this process outlives.
        drop(self.thread.join());
        Ok(result)
    }
}
