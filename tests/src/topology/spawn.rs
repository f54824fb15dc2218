//! Child processes inside a namespace that cannot outlive the lab.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends (prctl(2)), so one thread, which
//! lives as long as the process, does all the forking.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Namespace;

type Answer = Sender<std::io::Result<Child>>;

fn forker() -> Sender<(Command, Answer)> {
    static FORKER: OnceLock<Mutex<Sender<(Command, Answer)>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = channel::<(Command, Answer)>();
        std::thread::Builder::new()
            .name("forker".to_owned())
            .spawn(move || {
                for (mut command, answer) in receiver {
                    // The asker may be gone; then the child is not wanted either.
                    if let Err(unwanted) = answer.send(command.spawn())
                        && let Ok(mut child) = unwanted.0
                    {
                        drop(child.kill());
                        drop(child.wait());
                    }
                }
            })
            .expect("start the forking thread");
        Mutex::new(sender)
    };
    FORKER
        .get_or_init(start)
        .lock()
        .expect("the forking thread's sender")
        .clone()
}

/// A child; killed and reaped when dropped.
pub struct Process {
    child: Child,
    what: String,
}

impl Namespace {
    /// Starts a command inside the namespace.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        let what = format!("{:?} in {}", command.get_program(), self.name());
        let namespace: OwnedFd = self
            .fd()
            .try_clone_to_owned()
            .context("duplicate a namespace's descriptor")?;
        // SAFETY: only system calls that are safe between fork and exec, on a descriptor that the
        // closure owns.
        unsafe {
            command.pre_exec(move || {
                let failed = |result| match result {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                };
                failed(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET))?;
                failed(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))
            });
        }
        let (answer, result) = channel();
        forker()
            .send((command, answer))
            .ok()
            .context("the forking thread is gone")?;
        let child = result.recv().context("the forking thread is gone")?;
        Ok(Process {
            child: child.with_context(|| format!("start {what}"))?,
            what,
        })
    }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), signal)
            .with_context(|| format!("send {signal} to {}", self.what))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.what))
    }

    /// True when it ended, reaped or not.
    pub fn has_ended(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let state = waitid(Id::Pid(Pid::from_raw(self.pid() as i32)), flags);
        !matches!(state, Ok(WaitStatus::StillAlive))
    }

    /// Waits for its end.
    pub fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} is still running after {at_most:?}", self.what);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
