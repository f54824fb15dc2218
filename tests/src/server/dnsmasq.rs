//! dnsmasq from the distribution: a name server that we did not write.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::program::{End, Program, Start};
use crate::topology::Topology;

/// The port of DNS.
const PORT: u16 = 53;

/// A running dnsmasq on UDP and TCP port 53; ended when dropped. It has an answer for the names that it was given and
/// refuses all others.
pub struct Dnsmasq {
    program: Program,
    names: PathBuf,
}

impl Dnsmasq {
    /// Starts it in a host; it answers when this returns.
    pub fn start(topology: &Topology, host: &str, names: &[(&str, IpAddr)]) -> Result<Self> {
        let home = topology.directory().join(format!("dnsmasq-{host}"));
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let (file, log) = (home.join("names"), home.join("log"));
        write(&file, names)?;
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file",
        ]);
        command.arg(format!("--addn-hosts={}", file.display()));
        command.arg(format!("--log-facility={}", log.display()));
        let start = Start {
            command,
            port: PORT,
            log,
            package: "dnsmasq-base",
            end: End::Kill,
        };
        Ok(Self {
            program: Program::start(topology, host, start)?,
            names: file,
        })
    }

    /// Has these names from now on, and no other.
    pub fn serve(&self, names: &[(&str, IpAddr)]) -> Result<()> {
        write(&self.names, names)?;
        self.program.read_again()
    }
}

/// As hosts(5).
fn write(file: &PathBuf, names: &[(&str, IpAddr)]) -> Result<()> {
    let lines = names.iter().map(|(name, at)| format!("{at} {name}\n"));
    fs::write(file, lines.collect::<String>()).with_context(|| format!("write {}", file.display()))
}
