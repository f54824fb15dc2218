//! The decapsulator on the backends of a topology, by `fairlead decap`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lb_common::tunnel::GUE_PORT;
use lb_userspace::dataplane::bpf;
use serde::Deserialize;

use crate::daemon::fairlead_binary;
use crate::topology::{FAMILIES, Topology, VIPS, vip};

/// Where the lab's tunnels come from.
pub const TUNNEL_SOURCES: [&str; 2] = ["10.9.0.0/24", "fd00:9::/112"];

/// What `fairlead decap --show --json` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct Shown {
    /// `attached`, or why not.
    pub state: String,
    /// Packets by what became of them.
    pub packets: BTreeMap<String, u64>,
}

fn pins(topology: &Topology, host: &str) -> PathBuf {
    topology.directory().join(format!("decap-{host}"))
}

/// `fairlead decap` for `eth0` of a backend; standard output.
pub fn command(topology: &Topology, host: &str, arguments: &[&str]) -> Result<String> {
    command_at(topology, host, "eth0", arguments)
}

/// The same for another interface.
pub fn command_at(
    topology: &Topology,
    host: &str,
    interface: &str,
    arguments: &[&str],
) -> Result<String> {
    let binary = fairlead_binary()?;
    let output = topology
        .run_in(host, || {
            Command::new(binary)
                .args(["decap", "--interface", interface, "--bpffs"])
                .arg(pins(topology, host))
                .args(arguments)
                .output()
        })
        .context("run fairlead decap")?;
    ensure!(
        output.status.success(),
        "fairlead decap {arguments:?} at {host}: {output:?}"
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Puts the decapsulator on every backend, if packets reach them in tunnels.
pub fn attach_if_tunnelled(topology: &Topology) -> Result<()> {
    if !topology.shape().forwarding.is_tunnel() {
        return Ok(());
    }
    (1..=topology.shape().backends).try_for_each(|n| attach(topology, &format!("b{n}")))
}

/// Puts the decapsulator on a backend, or gives the one there the addresses that the backend has now.
pub fn attach(topology: &Topology, host: &str) -> Result<()> {
    attach_in(topology, host, "native").map(drop)
}

/// [`attach`] in an XDP mode; standard output.
pub fn attach_in(topology: &Topology, host: &str, mode: &str) -> Result<String> {
    attach_with(topology, host, mode, GUE_PORT)
}

/// [`attach_in`] with a port where GUE is expected; standard output.
pub fn attach_with(topology: &Topology, host: &str, mode: &str, gue_port: u16) -> Result<String> {
    let port = gue_port.to_string();
    let vips: Vec<String> = FAMILIES
        .into_iter()
        .flat_map(|family| (0..VIPS).map(move |n| vip(family, n).to_string()))
        .collect();
    let mut arguments = vec!["--xdp-mode", mode, "--gue-port", &port];
    for source in TUNNEL_SOURCES {
        arguments.extend(["--source", source]);
    }
    for vip in &vips {
        arguments.extend(["--vip", vip]);
    }
    command(topology, host, &arguments)
}

/// Packets that a backend's decapsulator has dropped, read without a command.
pub fn dropped(topology: &Topology, host: &str) -> Result<u64> {
    let pins = pins(topology, host);
    let shown = topology
        .run_in(host, || bpf::decap::show(&pins, "eth0"))?
        .context("there is no decapsulator")?;
    let dropped = shown.fates.iter().filter(|(fate, _)| !fate.is_passed_on());
    Ok(dropped.map(|(_, count)| count).sum())
}

/// State and counters of a backend's decapsulator.
pub fn show(topology: &Topology, host: &str) -> Result<Shown> {
    let text = command(topology, host, &["--show", "--json"])?;
    serde_json::from_str(&text).with_context(|| format!("read {text:?}"))
}
