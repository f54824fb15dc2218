//! The one text that stands for a configuration: every value written out, everything in the order
//! of names. It is itself a valid file (the state directory's `last-good.toml`), and its hash is
//! the revision. Pure.

mod failover;
mod health;
mod hook;
mod scheduling;

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::daemon::{WHEN_DEADS, xdp_mode_word};
use super::quic::SPREADS;
use super::service::{ADMINS, ALL_DOWNS, DRAINS, FORWARDINGS, MID_STREAMS, ON_DOWNS, PROTOCOLS};
use super::value::duration;
use super::{idle, nat_idle};
use crate::model::{
    Backend, Config, FITTING_MSS, Forwarding, OuterTtl, Prefix, Protocol, Service, WhenDead,
};

/// The canonical form; parsing it gives an equal configuration.
pub fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_config(&mut out, config);
    out
}

/// First eight bytes of the SHA-256 of the canonical form, as a big-endian number.
pub fn revision(config: &Config) -> u64 {
    let hash = Sha256::digest(to_toml(config).as_bytes());
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(hash) {
        *to = from;
    }
    u64::from_be_bytes(first)
}

fn write_config(out: &mut String, config: &Config) -> std::fmt::Result {
    let daemon = &config.daemon;
    writeln!(out, "[daemon]")?;
    let mut interfaces: Vec<&String> = daemon.interfaces.iter().collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    let interfaces: Vec<String> = interfaces.iter().map(|i| text(i)).collect();
    writeln!(out, "interfaces = [{}]", interfaces.join(", "))?;
    writeln!(
        out,
        "state-dir = {}",
        text(&daemon.state_dir.to_string_lossy())
    )?;
    writeln!(out, "run-dir = {}", text(&daemon.run_dir.to_string_lossy()))?;
    writeln!(out, "bpffs = {}", text(&daemon.bpffs.to_string_lossy()))?;
    writeln!(out, "xdp-mode = {}", text(xdp_mode_word(daemon.xdp_mode)))?;
    let metrics = daemon.metrics.map_or("off".to_owned(), |at| at.to_string());
    writeln!(out, "metrics = {}", text(&metrics))?;
    writeln!(out, "echo-per-second = {}", daemon.echo_per_second)?;
    writeln!(
        out,
        "new-flows-per-second = {}",
        daemon.new_flows_per_second
    )?;
    let rate = daemon.icmp_errors_per_second;
    writeln!(out, "icmp-errors-per-second = {rate}")?;
    writeln!(out, "resets-per-second = {}", daemon.resets_per_second)?;
    write_prefixes(out, "tunnel-source", &daemon.tunnel_source)?;
    writeln!(out, "check-marks = {:#x}", daemon.check_marks)?;
    match daemon.check_networks.as_deref() {
        // Other than no list, it allows nothing.
        Some([]) => writeln!(out, "check-networks = []")?,
        networks => write_prefixes(out, "check-networks", networks.unwrap_or_default())?,
    }
    write_prefixes(out, "nat-source", &daemon.nat_source)?;
    writeln!(out, "nat-ports = {}", text(&daemon.nat_ports.to_string()))?;
    nat_idle::write(out, daemon)?;
    writeln!(out, "when-dead = {}", word(WHEN_DEADS, daemon.when_dead))?;
    if daemon.when_dead != WhenDead::Forward {
        writeln!(out, "dead-after = {}", text(&duration(daemon.dead_after)))?;
    }
    writeln!(out, "velocity-percent = {}", daemon.velocity_percent)?;
    writeln!(
        out,
        "velocity-window = {}",
        text(&duration(daemon.velocity_window))
    )?;
    let limits = &config.limits;
    writeln!(out, "\n[limits]")?;
    writeln!(out, "flows = {}", limits.flows)?;
    writeln!(out, "services = {}", limits.services)?;
    writeln!(out, "backends = {}", limits.backends)?;
    writeln!(out, "ring-slots = {}", limits.ring_slots)?;
    writeln!(out, "next-hops = {}", limits.next_hops)?;
    writeln!(out, "source-ranges = {}", limits.source_ranges)?;
    writeln!(out, "nat-flows = {}", limits.nat_flows)?;
    writeln!(out, "affinities = {}", limits.affinities)?;
    for hook in config.hooks.values() {
        hook::write(out, hook)?;
    }
    for service in config.services.values() {
        write_service(out, service)?;
    }
    Ok(())
}

/// A list of prefixes, if there are any.
fn write_prefixes(out: &mut String, key: &str, prefixes: &[Prefix]) -> std::fmt::Result {
    if prefixes.is_empty() {
        return Ok(());
    }
    let prefixes: Vec<String> = prefixes.iter().map(|p| text(&p.to_string())).collect();
    writeln!(out, "{key} = [{}]", prefixes.join(", "))
}

fn write_service(out: &mut String, service: &Service) -> std::fmt::Result {
    writeln!(out, "\n[[service]]")?;
    writeln!(out, "name = {}", text(service.name.as_str()))?;
    writeln!(out, "address = {}", text(&service.address.to_string()))?;
    match service.port.single() {
        Some(port) => writeln!(out, "port = {port}")?,
        None => writeln!(out, "port = {}", text(&service.port.to_string()))?,
    }
    writeln!(out, "protocol = {}", word(PROTOCOLS, service.protocol))?;
    writeln!(
        out,
        "forwarding = {}",
        word(FORWARDINGS, service.forwarding)
    )?;
    if service.forwarding.is_tunnel() {
        match service.tunnel_ttl {
            OuterTtl::Fixed(ttl) => writeln!(out, "tunnel-ttl = {ttl}")?,
            OuterTtl::Inherit => writeln!(out, "tunnel-ttl = \"inherit\"")?,
        }
    }
    if service.forwarding == Forwarding::Gue {
        writeln!(out, "gue-port = {}", service.gue_port)?;
        writeln!(out, "gue-variant = {}", service.gue_variant as u8)?;
    }
    if service.client_option != 0 {
        writeln!(out, "client-option = {}", service.client_option)?;
    }
    scheduling::write(out, service)?;
    if let Some(size) = service.ring_size {
        writeln!(out, "ring-size = {size}")?;
    }
    idle::write(out, service)?;
    if matches!(service.protocol, Protocol::Tcp | Protocol::Any) {
        writeln!(
            out,
            "mid-stream = {}",
            word(MID_STREAMS, service.mid_stream)
        )?;
    }
    match service.mss {
        0 => {}
        FITTING_MSS => writeln!(out, "mss = \"clamp\"")?,
        mss => writeln!(out, "mss = {mss}")?,
    }
    if service.protocol == Protocol::Udp {
        writeln!(out, "udp-spread = {}", word(SPREADS, service.spread))?;
    }
    if !service.config_ids.is_empty() {
        let ids: Vec<String> = service.config_ids.iter().map(|id| id.to_string()).collect();
        writeln!(out, "quic-config-ids = [{}]", ids.join(", "))?;
    }
    write_prefixes(out, "allow", &service.sources.allow)?;
    write_prefixes(out, "deny", &service.sources.deny)?;
    writeln!(out, "drain-policy = {}", word(DRAINS, service.drain))?;
    writeln!(out, "on-down = {}", word(ON_DOWNS, service.on_down))?;
    writeln!(out, "all-down = {}", word(ALL_DOWNS, service.all_down))?;
    failover::write(out, service)?;
    if let Some(interface) = &service.claim {
        writeln!(out, "claim = {}", text(interface))?;
    }
    health::write(out, service.protocol, &service.health)?;
    for backend in service.backends.values() {
        write_backend(out, backend)?;
    }
    Ok(())
}

fn write_backend(out: &mut String, backend: &Backend) -> std::fmt::Result {
    writeln!(out, "\n[[service.backend]]")?;
    writeln!(out, "name = {}", text(backend.name.as_str()))?;
    writeln!(out, "address = {}", text(&backend.address.to_string()))?;
    if let Some(port) = backend.port {
        writeln!(out, "port = {port}")?;
    }
    writeln!(out, "weight = {}", backend.weight)?;
    failover::write_backend(out, backend)?;
    writeln!(out, "admin = {}", word(ADMINS, backend.admin))?;
    match &backend.server_id {
        Some(id) => writeln!(out, "server-id = {}", text(&id.to_string())),
        None => Ok(()),
    }
}

fn word<T: PartialEq>(words: &[(&str, T)], value: T) -> String {
    let found = words.iter().find(|(_, v)| *v == value);
    text(found.map_or("", |(w, _)| w))
}

/// A basic string of TOML 1.0.
pub(super) fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
