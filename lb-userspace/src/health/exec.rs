//! The probe by a command: good when it ends with 0. The first line of its output is the reason when it does not.
//!
//! It runs without a shell, in a process group of its own and with nothing of ours: no descriptor but its input (empty
//! for a probe) and one pipe for output and errors, no environment but whom it is about, no way to more privileges, and another
//! user if one is configured. When it has ended, or at the timeout, the whole group is killed; a command that leaves its
//! group (setsid(2)) is beyond that. It is not reaped before the group is killed, so that the group's number cannot be
//! somebody else's by then.

mod child;
mod refused;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal as Kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout_at};

use super::hearing::Hearing;
use super::tcp::deadline;
use super::verdict::{bad, failed, timed_out, void};
use crate::apart::on_thread;
use crate::model::{AgentSource, ExecCheck, ProbeVerdict, Target};

/// The most bytes of output that are read; whatever a command prints beyond is lost.
const BYTES: usize = 64 * 1024;
/// Between two looks at output beyond that: 6 MB a second are thrown away at most.
const PAUSE: Duration = Duration::from_millis(10);

/// The most bytes of the first line that are kept.
const LINE: usize = 256;

/// The environment of a command.
pub(crate) type Environment = Vec<(&'static str, String)>;

/// Probes the target.
pub async fn probe(target: &Target, check: &ExecCheck, hearing: &mut Hearing) -> ProbeVerdict {
    let about = vec![
        ("FAIRLEAD_SERVICE", target.backend.service.to_string()),
        ("FAIRLEAD_BACKEND", target.backend.backend.to_string()),
        ("FAIRLEAD_ADDRESS", target.address.to_string()),
        ("FAIRLEAD_PORT", target.port.to_string()),
    ];
    let before = refused::refused();
    let verdict = match run(check, about, Vec::new(), target.timeout).await {
        Ok(ended) => {
            hearing.hear(AgentSource::Line, &ended.line);
            ended.verdict()
        }
        Err(verdict) => verdict,
    };
    match verdict {
        ProbeVerdict::Bad(why) if refused::refused() > before => void(&format!(
            "no process was left for the command or others (raise TasksMax of the service, or pids.max): {why}"
        )),
        verdict => verdict,
    }
}

/// Runs a command to its end, with this environment and input (less than a page).
pub(crate) async fn run(
    command: &ExecCheck,
    environment: Environment,
    input: Vec<u8>,
    timeout: Duration,
) -> Result<Ended, ProbeVerdict> {
    let deadline = deadline(timeout);
    // Before the start, so that no end is missed.
    let children = signal(SignalKind::child()).map_err(|error| failed("start", &error))?;
    let wanted = command.clone();
    // Looking up a user and fork(2) may take their time.
    let starting = on_thread("command", move || {
        // Whoever drops it, kills it: this probe may have been abandoned meanwhile.
        child::start(&wanted, environment, &input)
            .map(|(child, output)| (Group(Some(child)), output))
    });
    let (group, output) = match timeout_at(deadline, starting).await {
        Ok(Ok(Ok(both))) => both,
        Ok(Ok(Err(why))) => return Err(void(&why)),
        Ok(Err(undone)) => return Err(void(&format!("start: {undone}"))),
        Err(_) => return Err(void("start: this host took longer than the timeout")),
    };
    let mut running =
        Running::new(group, output, children).map_err(|error| failed("start", &error))?;
    match timeout_at(deadline, running.ended()).await {
        Ok(Ok(status)) => Ok(Ended {
            status,
            line: running.line,
        }),
        Ok(Err(error)) => Err(failed("wait", &error)),
        Err(_) => Err(timed_out("command", timeout)),
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    /// The first line of its output.
    line: Vec<u8>,
}

impl Ended {
    /// Good with 0.
    pub(crate) fn verdict(&self) -> ProbeVerdict {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(0), _) => return ProbeVerdict::Good,
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => self.status.to_string(),
        };
        let said = String::from_utf8_lossy(&self.line);
        match said.trim() {
            "" => bad(&how),
            said => bad(&format!("{how}: {said}")),
        }
    }
}

/// A command that runs, or has ended and was not reaped. Dropping it kills the group.
struct Running {
    group: Group,
    output: Receiver,
    /// Told when a child, any, has ended.
    children: Signal,
    /// The first line, or what there is of it.
    line: Vec<u8>,
    /// The first line is complete.
    whole: bool,
    /// Bytes that are still looked at.
    left: usize,
    /// Nobody writes any more.
    closed: bool,
}

impl Running {
    fn new(group: Group, output: OwnedFd, children: Signal) -> io::Result<Self> {
        Ok(Self {
            group,
            output: Receiver::from_owned_fd(output)?,
            children,
            line: Vec::new(),
            whole: false,
            left: BYTES,
            closed: false,
        })
    }

    /// Waits for the end; what was printed until then is read, and beyond the bound thrown away: a command that nobody reads
    /// would hang.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        while !self.group.has_ended()? {
            tokio::select! {
                _ = self.children.recv() => {}
                readable = self.output.readable(), if self.left > 0 => {
                    readable?;
                    self.read();
                }
                () = sleep(PAUSE), if self.left == 0 && !self.closed => self.discard(),
            }
        }
        self.drain();
        self.group.end()
    }

    /// Reads what is there.
    fn read(&mut self) {
        let mut piece = [0; 1024];
        match self.output.try_read(&mut piece) {
            Ok(read) => self.take(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.left = 0;
                self.closed = true;
            }
        }
    }

    /// Throws away what is there, a pipe's fill at most.
    fn discard(&mut self) {
        let mut piece = vec![0; BYTES];
        match self.output.try_read(&mut piece) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.closed = true,
        }
    }

    /// Reads what is left after the end, past tokio, which may not have heard of it yet.
    fn drain(&mut self) {
        let mut piece = [0; 1024];
        while self.left > 0 && !self.whole {
            match nix::unistd::read(&self.output, &mut piece) {
                Ok(0) | Err(_) => break,
                Ok(read) => self.take(piece.get(..read).unwrap_or_default()),
            }
        }
    }

    /// Nothing: the output ended.
    fn take(&mut self, piece: &[u8]) {
        self.closed = piece.is_empty();
        self.left = match piece.len() {
            0 => 0,
            read => self.left.saturating_sub(read),
        };
        for byte in piece {
            if self.whole {
                break;
            }
            self.whole = *byte == b'\n' || self.line.len() >= LINE;
            if !self.whole {
                self.line.push(*byte);
            }
        }
    }
}

/// The leader of a process group, not reaped yet. Dropping it kills the group.
struct Group(Option<Child>);

impl Group {
    /// The leader has ended. It is left to be reaped.
    fn has_ended(&self) -> io::Result<bool> {
        let Some(pid) = self.pid() else {
            return Ok(true);
        };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(pid), flags)?;
        Ok(!matches!(status, WaitStatus::StillAlive))
    }

    /// Kills what is left of the group, then reaps the leader, which has ended.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        match self.0.take() {
            Some(mut leader) => leader.wait(),
            None => Err(io::Error::other("it was reaped already")),
        }
    }

    fn pid(&self) -> Option<Pid> {
        let leader = self.0.as_ref()?;
        i32::try_from(leader.id()).ok().map(Pid::from_raw)
    }

    fn kill(&self) {
        if let Some(group) = self.pid() {
            // Nothing is left to kill: as wanted.
            let _gone = killpg(group, Kill::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let Some(mut leader) = self.0.take() else {
            return;
        };
        // At once, nearly always; a process in the middle of I/O may take longer, and nobody must wait for it here.
        if !matches!(leader.try_wait(), Ok(Some(_))) {
            // Without a thread to reap it, it stays a zombie: better than a panic.
            let reaper = std::thread::Builder::new();
            drop(reaper.spawn(move || leader.wait()));
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
