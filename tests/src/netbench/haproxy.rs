//! HAProxy from the distribution, as a TCP proxy with the defaults that it comes with.

use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bed::SET_UP;
use crate::topology::{Family, Process, Topology, backend, vip};

/// Starts it at the balancer, with the first VIP and these ports; it listens when this returns.
pub(super) fn start(topology: &Topology, ports: &[u16]) -> Result<Process> {
    let home = topology.directory();
    let config = home.join("haproxy.cfg");
    fs::write(&config, configuration(topology.shape().backends, ports))
        .with_context(|| format!("write {}", config.display()))?;
    let log = home.join("haproxy.log");
    let errors = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new("haproxy");
    // In the foreground, as one process.
    command
        .arg("-db")
        .arg("-f")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(errors.try_clone()?)
        .stderr(errors);
    let mut process = topology
        .spawn_in("lb", command)
        .context("is haproxy installed? (try: apt-get install haproxy)")?;
    let deadline = Instant::now() + SET_UP;
    for port in ports {
        let address = SocketAddr::from((vip(Family::V4, 0), *port));
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
        while topology.run_in("lb", connect).is_err() {
            if let Some(status) = process.ended()? {
                let log = fs::read_to_string(&log).unwrap_or_default();
                bail!("haproxy ended at its start: {status}\n{log}");
            }
            if Instant::now() > deadline {
                bail!("haproxy does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(process)
}

/// Round robin over all backends, no checks, no log; threads and splicing are as HAProxy decides.
fn configuration(backends: u8, ports: &[u16]) -> String {
    let mut text = String::from(
        "global
    maxconn 4000
defaults
    mode tcp
    balance roundrobin
    timeout connect 5s
    timeout client 30s
    timeout server 30s
",
    );
    for port in ports {
        let _ = writeln!(
            text,
            "listen port{port}\n    bind {}:{port}",
            vip(Family::V4, 0)
        );
        for n in 1..=backends {
            let _ = writeln!(text, "    server b{n} {}:{port}", backend(Family::V4, n));
        }
    }
    text
}
