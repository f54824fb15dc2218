//! Work that may block, on a thread of its own: [`on_thread`]. Where no thread can be started, the work comes back undone, and whoever
//! wanted it done decides: the daemon neither ends for that nor waits for a thread to come. (tokio's own pool panics then.) I/O.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// The log says at most once in this time that there is no thread.
const AGAIN: Duration = Duration::from_secs(60);

/// No thread could be started for this work, which was not begun.
pub(crate) struct NoThread<F> {
    work: F,
    error: io::Error,
}

impl<F> NoThread<F> {
    /// Does it here, where it blocks the caller.
    pub(crate) fn here<T>(self) -> T
    where
        F: FnOnce() -> T,
    {
        (self.work)()
    }
}

impl<F> fmt::Display for NoThread<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&no_thread(&self.error))
    }
}

/// The words for it, with what to do.
pub(crate) fn no_thread(error: &io::Error) -> String {
    format!(
        "no thread can be started: {error} (raise TasksMax of the service, pids.max of its container, or kernel.threads-max)"
    )
}

/// Does it on a thread of this name (15 bytes at most), which ends with it. Whoever stops waiting leaves it to its end.
pub(crate) async fn on_thread<T, F>(name: &str, work: F) -> Result<T, NoThread<F>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    prepared(Builder::new().name(name.to_owned()), || (), work).await
}

/// The same, on a thread that does something about itself before.
pub(crate) async fn prepared<T, F>(
    thread: Builder,
    prepare: fn(),
    work: F,
) -> Result<T, NoThread<F>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (told, answer) = oneshot::channel();
    // Threads that cannot be started lose what was given to them.
    let handed = Arc::new(Mutex::new(Some(work)));
    let taken = Arc::clone(&handed);
    let take = |work: &Mutex<Option<F>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let started = thread.spawn(move || {
        prepare();
        if let Some(work) = take(&taken) {
            // Nobody may be waiting any more.
            drop(told.send(work()));
        }
    });
    let error = match started {
        Ok(thread) => match answer.await {
            Ok(done) => return Ok(done),
            // It told nothing, so it panicked.
            Err(_) => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => io::Error::other("it ended without a word"),
            },
        },
        Err(error) => error,
    };
    say(&error);
    match take(&handed) {
        Some(work) => Err(NoThread { work, error }),
        // A thread had it, and told nothing of it: there is no such thread, as was just seen.
        None => std::future::pending().await,
    }
}

fn say(error: &io::Error) {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_none_or(|said| said.elapsed() >= AGAIN) {
        *said = Some(Instant::now());
        tracing::warn!("{}; checks by commands are void", no_thread(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that no machine has room for.
    fn too_large() -> Builder {
        Builder::new().stack_size(1 << 60)
    }

    #[tokio::test]
    async fn work_is_done_on_a_thread_of_that_name() {
        let name = || std::thread::current().name().map(str::to_owned);
        let there = on_thread("other", name).await;
        assert_eq!(there.ok().unwrap().as_deref(), Some("other"));
    }

    #[tokio::test]
    async fn without_a_thread_it_comes_back_undone_and_can_be_done_here() {
        let here = std::thread::current().id();
        let mut done = 0;
        for _ in 0..3 {
            let own = String::from("own");
            let work = move || (own.len(), std::thread::current().id());
            let prepare = || panic!("nothing is prepared here");
            let undone = prepared(too_large(), prepare, work).await.err().unwrap();
            let words = undone.to_string();
            assert!(words.starts_with("no thread can be started: "), "{words}");
            assert!(words.contains("TasksMax"), "{words}");
            assert_eq!(undone.here(), (3, here));
            done += 1;
        }
        assert_eq!(done, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "a word of its own")]
    async fn its_panic_is_the_callers() {
        drop(on_thread("panics", || panic!("a word of its own")).await);
    }

    #[tokio::test]
    async fn who_does_not_wait_leaves_it_to_its_end() {
        let (told, ended) = std::sync::mpsc::channel();
        let waiting = on_thread("slow", move || {
            std::thread::sleep(Duration::from_millis(50));
            told.send(()).unwrap();
        });
        let waited = tokio::time::timeout(Duration::from_millis(1), waiting).await;
        assert!(waited.is_err());
        ended.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
