//! Puts long answers into words, out of everybody's way. With 100,000 backends that takes a fifth of a second, in which
//! neither the owner of the state nor a probe may wait for a thread or a CPU.

use std::thread::Builder;

use rustix::process::{getpriority_process, setpriority_process};

use crate::apart::{NoThread, prepared};

/// The niceness of threads that put answers into words: a tenth of the share of a CPU that the others have.
const NICENESS: i32 = 10;

/// Does it on a thread of its own, which gives way to all other threads of the daemon; here, if no thread can be started, for
/// whoever asks then asks what is wrong.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = Builder::new().name("answer".to_owned());
    let done = prepared(thread, become_nicer, work).await;
    done.unwrap_or_else(NoThread::here)
}

fn become_nicer() {
    // On Linux, of this thread alone (setpriority(2), "C library/kernel differences"). Everybody may become nicer.
    let nice = getpriority_process(None).map_or(NICENESS, |own| own.max(NICENESS));
    if let Err(error) = setpriority_process(None, nice) {
        tracing::warn!(%error, "set the niceness of a thread that answers; it goes on without");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_done_by_a_nicer_thread_and_nobody_else_becomes_nicer() {
        let before = getpriority_process(None).unwrap();
        let there = aside(|| getpriority_process(None).unwrap()).await;
        assert_eq!(there, before.max(NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
