//! How late the machine is: a thread that wants to run every millisecond notes when it could not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Notes how late the machine is: what a bound on time must allow for, since it says nothing about
/// the balancer.
pub struct Stalls {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Instant, Duration)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    /// Begins to watch.
    pub fn watch() -> Self {
        const STEP: Duration = Duration::from_millis(1);
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let thread = std::thread::spawn({
            let (stop, seen): (_, Arc<Mutex<Vec<_>>>) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    std::thread::sleep(STEP);
                    let late = begin.elapsed().saturating_sub(STEP);
                    // What is less does not matter, and a lab may run for an hour.
                    if late >= STEP {
                        seen.lock().expect("what was seen").push((begin, late));
                    }
                }
            }
        });
        Self {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// The longest that a thread which was due had to wait since then.
    pub fn worst_since(&self, from: Instant) -> Duration {
        self.worst_between(from, Instant::now())
    }

    /// The same until a later moment.
    pub fn worst_between(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.seen.lock().expect("what was seen");
        let within = seen.iter().filter(|(at, _)| from <= *at && *at < to);
        within.map(|(_, late)| *late).max().unwrap_or_default()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
