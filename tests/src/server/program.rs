//! A server that we did not write, as a process in a host.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::topology::{Process, Topology};

/// A running program; ended when dropped.
pub(super) struct Program {
    process: Process,
    end: End,
}

/// How a program is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By SIGKILL: it is one process.
    Kill,
    /// By SIGTERM: it has children, and ends them.
    Ask,
}

/// What to start.
pub(super) struct Start<'a> {
    /// The command line.
    pub(super) command: Command,
    /// A TCP port at which it listens when it is ready.
    pub(super) port: u16,
    /// Where it says what is wrong.
    pub(super) log: PathBuf,
    /// The Debian package that has it.
    pub(super) package: &'a str,
    /// How it will be ended.
    pub(super) end: End,
}

impl Program {
    /// Starts it in a host; it listens when this returns.
    pub(super) fn start(topology: &Topology, host: &str, start: Start<'_>) -> Result<Self> {
        let Start {
            mut command,
            port,
            log,
            package,
            end,
        } = start;
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = topology
            .spawn_in(host, {
                command.stdin(Stdio::null());
                command
            })
            .with_context(|| format!("is {name} installed? (try: apt-get install {package})"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
        while topology.run_in(host, connect).is_err() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = process.ended()? {
                bail!(
                    "{name} ended at its start at {host}: {status} (is {package} installed?)\n{}",
                    said()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{name} does not listen on port {port} at {host}\n{}",
                    said()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { process, end })
    }

    /// Its process.
    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Has it read its files again, as a daemon does after SIGHUP.
    pub(super) fn read_again(&self) -> Result<()> {
        self.process.signal(Signal::SIGHUP)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.end == End::Ask && self.process.signal(Signal::SIGTERM).is_ok() {
            // It is killed afterwards in any case, and its children with the network.
            drop(self.process.wait(Duration::from_secs(10)));
        }
    }
}
