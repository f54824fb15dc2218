//! A running `fairlead` in the balancer's namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Config, DataPlane, Status};
use crate::topology::{Namespace, Process, Topology};

/// Longer than any command of the CLI takes.
const LONGEST_COMMAND: Duration = Duration::from_secs(90);

/// A daemon with files of its own; killed when dropped. What it pinned goes with its bpffs, when
/// the topology is dropped. On a panic it prints its log and its last status.
pub struct Daemon {
    namespace: Namespace,
    home: PathBuf,
    process: Option<Process>,
    config: Config,
}

/// What a command of the CLI answered.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit status; `None`: killed by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Daemon {
    /// Starts a daemon and waits until it forwards.
    pub fn start(topology: &Topology, config: Config) -> Result<Self> {
        let mut daemon = Self::prepare(topology, config)?;
        daemon.spawn()?;
        daemon.wait_until("it is ready", Duration::from_secs(20), |status| {
            status.ready
        })?;
        Ok(daemon)
    }

    /// Starts a daemon and waits until every backend is up.
    pub fn start_up(topology: &Topology, config: Config) -> Result<Self> {
        let daemon = Self::start(topology, config)?;
        daemon.wait_until("all backends are up", Duration::from_secs(20), |s| {
            s.all_are("up")
        })?;
        Ok(daemon)
    }

    /// Makes the files, without starting anything.
    pub fn prepare(topology: &Topology, config: Config) -> Result<Self> {
        Self::prepare_at(topology, "lb", config)
    }

    /// The same for a balancer at another host.
    pub fn prepare_at(topology: &Topology, host: &str, config: Config) -> Result<Self> {
        let home = topology.directory().join(match host {
            "lb" => "fairlead".to_owned(),
            other => format!("fairlead-{other}"),
        });
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let namespace = topology.namespace(host).clone();
        let daemon = Self {
            namespace,
            home,
            process: None,
            config,
        };
        daemon.write_config(&daemon.config.toml(&daemon.home))?;
        Ok(daemon)
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = self.command()?;
        command.arg("run").arg("--config").arg(self.config_file());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(self.namespace.spawn(command)?);
        Ok(())
    }

    /// The daemon's process, to signal it.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the daemon does not run")
    }

    /// How long its threads, together, were ready to run and waited for a CPU (schedstat of
    /// Documentation/scheduler/sched-stats.rst): what a bound on its time must allow for.
    pub fn waited_for_cpu(&self) -> Result<Duration> {
        let process = self.process.as_ref().context("the daemon does not run")?;
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", process.pid()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"));
            let text = text.context("the kernel says nothing about waits (CONFIG_SCHED_INFO)")?;
            let waited = text.split(' ').nth(1).context("schedstat has one field")?;
            nanos += waited.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The configuration it was given last.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where its state, socket and pins are.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.home.join("fairlead.toml")
    }

    /// What it logged, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Replaces the configuration file in one step, and applies nothing.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let next = self.home.join("fairlead.toml.next");
        fs::write(&next, text).with_context(|| format!("write {}", next.display()))?;
        fs::rename(&next, self.config_file()).context("replace the configuration file")
    }

    /// Writes a configuration and has it applied by `fairlead reload`.
    pub fn reload(&mut self, config: Config) -> Result<()> {
        self.write_config(&config.toml(&self.home))?;
        self.config = config;
        self.cli(&["reload"])?.succeeded()?;
        Ok(())
    }

    /// SIGKILL. The data plane goes on.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.kill();
        Ok(())
    }

    /// SIGTERM, and waits for the end. The data plane goes on.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(Duration::from_secs(10))?;
        if !status.success() {
            bail!(
                "the daemon ended with {status} after SIGTERM\n{}",
                self.log()
            );
        }
        Ok(())
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`]; it is ready when this returns.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until("it is ready again", Duration::from_secs(20), |status| {
            status.ready
        })?;
        Ok(())
    }

    /// SIGHUP: read the configuration file again.
    pub fn hang_up(&self) -> Result<()> {
        let process = self.process.as_ref().context("the daemon does not run")?;
        process.signal(Signal::SIGHUP)
    }

    /// Takes the data plane away.
    pub fn unload(&self) -> Result<()> {
        let file = self.config_file();
        let file = file.to_str().context("a path that is not UTF-8")?;
        self.cli(&["unload", "--config", file])?.succeeded()?;
        Ok(())
    }

    /// Runs a command of the CLI against this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command()?;
        command
            .arg("--socket")
            .arg(self.home.join("run/fairlead.sock"))
            .args(arguments);
        self.output(command)
    }

    /// Runs the binary in the balancer's namespace without a socket of ours.
    pub fn bare_cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command()?;
        command.args(arguments);
        self.output(command)
    }

    fn output(&self, mut command: Command) -> Result<Output> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = self.namespace.spawn(command)?;
        let (stdout, stderr) = (process.child().stdout.take(), process.child().stderr.take());
        let (out, errors) = (
            std::thread::spawn(move || read(stdout)),
            std::thread::spawn(move || read(stderr)),
        );
        // Killed after that, so that both pipes end.
        let status = process.wait(LONGEST_COMMAND);
        drop(process);
        let stdout = out.join().expect("read standard output")?;
        let stderr = errors.join().expect("read standard error")?;
        let status = status.with_context(|| format!("{stdout}{stderr}"))?;
        Ok(Output {
            code: status.code(),
            stdout,
            stderr,
        })
    }

    fn command(&self) -> Result<Command> {
        Ok(Command::new(fairlead_binary()?))
    }

    /// `fairlead status --json`.
    pub fn status(&self) -> Result<Status> {
        let output = self.cli(&["status", "--json"])?.succeeded()?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("understand the status {}", output.stdout))
    }

    /// Waits until the status fulfils a condition.
    pub fn wait_until(
        &self,
        what: &str,
        at_most: Duration,
        condition: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + at_most;
        loop {
            let last = match self.status() {
                Ok(status) if condition(&status) => return Ok(status),
                Ok(status) => format!("{status:#?}"),
                Err(e) => format!("{e:#}"),
            };
            let gone = self
                .process
                .as_ref()
                .is_none_or(|process| process.has_ended());
            if gone || Instant::now() > deadline {
                let why = if gone {
                    "it ended".to_owned()
                } else {
                    format!("{at_most:?} passed")
                };
                bail!(
                    "waited until {what}, but {why}; its status: {last}; its log:\n{}",
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The counters of the data plane when the load has ended. Those of several CPUs are not read
    /// at one moment, so a packet under way may be missing: they are read again, for a short time,
    /// until they add up.
    pub fn counters_at_rest(&self) -> Result<DataPlane> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let counters = self.status()?.data_plane;
            if counters.conserved() || Instant::now() > deadline {
                return Ok(counters);
            }
        }
    }

    /// Checks the conservation law; every test with a balancer ends with it.
    pub fn check_conservation(&self) -> Result<()> {
        let counters = self.counters_at_rest()?;
        if !counters.conserved() {
            bail!("packets are not conserved: {counters:?}");
        }
        Ok(())
    }
}

impl Output {
    /// An error with both outputs unless the exit status is 0.
    pub fn succeeded(self) -> Result<Self> {
        match self.code {
            Some(0) => Ok(self),
            code => bail!(
                "fairlead ended with {code:?}\n{}{}",
                self.stdout,
                self.stderr
            ),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.home.display(), self.log());
            if self.process.is_some() {
                match self.cli(&["status", "--json"]) {
                    Ok(output) => eprintln!("--- status:\n{}{}", output.stdout, output.stderr),
                    Err(e) => eprintln!("--- no status: {e:#}"),
                }
            }
        }
    }
}

fn read(pipe: Option<impl std::io::Read>) -> Result<String> {
    let mut text = String::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_string(&mut text)
            .context("read from fairlead")?;
    }
    Ok(text)
}

/// The daemon's binary: `FAIRLEAD_BIN`, or the one that cargo built beside the running program.
pub fn fairlead_binary() -> Result<PathBuf> {
    crate::server::binary("FAIRLEAD_BIN", "fairlead")
}
