//! The gRPC project's own server (its C core, from Python), with the health checking protocol.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::program::{End, Program, Start};
use crate::topology::Topology;

/// The interpreter that Debian's packages are made for; another on PATH would not find them.
const PYTHON: &str = "/usr/bin/python3";

/// A running server; ended when dropped.
pub struct Grpc {
    _program: Program,
    status: PathBuf,
}

/// How it is reached, and what it has.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Where it speaks gRPC.
    pub port: u16,
    /// Where it does so over TLS.
    pub tls_port: u16,
    /// The only service that it knows; at most 127 bytes.
    pub service: &'a str,
    /// PEM files of its certificate and key.
    pub identity: (&'a Path, &'a Path),
}

impl Grpc {
    /// Starts it in a host; it answers, and its service serves, when this returns.
    pub fn start(topology: &Topology, host: &str, settings: Settings<'_>) -> Result<Self> {
        let home = topology.directory().join(format!("grpc-{host}"));
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let (status, log) = (home.join("status"), home.join("log"));
        set(&status, true)?;
        let errors = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(PYTHON);
        // Isolated: nothing from the folder or the environment that it is started in.
        command.args(["-I", "-c", include_str!("grpc.py")]);
        command.args([settings.port.to_string(), settings.tls_port.to_string()]);
        command.arg(settings.service).arg(&status);
        command.arg(settings.identity.0).arg(settings.identity.1);
        command.stderr(errors);
        let start = Start {
            command,
            port: settings.port,
            log,
            package: "python3-grpcio",
            end: End::Kill,
        };
        Ok(Self {
            _program: Program::start(topology, host, start)?,
            status,
        })
    }

    /// Whether its service serves, from the next question on.
    pub fn set_serving(&self, serving: bool) -> Result<()> {
        set(&self.status, serving)
    }
}

/// In one step: the server may be reading it.
fn set(file: &Path, serving: bool) -> Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, if serving { "1" } else { "2" })
        .and_then(|()| fs::rename(&next, file))
        .with_context(|| format!("write {}", file.display()))
}
