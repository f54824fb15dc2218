//! `[service.health]` in the canonical form. Pure.

use std::fmt::{Result, Write};

use super::{text, word};
use crate::config::health::{RCODES, SOURCES, TARGETS, TYPES, full_size_is_meant};
use crate::config::value::duration;
use crate::model::{
    Check, DnsCheck, ExecCheck, GrpcCheck, HealthPolicy, HttpCheck, Protocol, TlsCheck, UdpCheck,
};

/// Writes the table.
pub(super) fn write(out: &mut String, protocol: Protocol, health: &HealthPolicy) -> Result {
    writeln!(out, "\n[service.health]")?;
    writeln!(out, "type = {}", text(health.check.word()))?;
    if health.check == Check::None {
        return Ok(());
    }
    if let Some(port) = health.port {
        writeln!(out, "port = {port}")?;
    }
    if let Some(aim) = health.target {
        writeln!(out, "target = {}", word(TARGETS, aim))?;
    }
    match health.full_size {
        Some(bytes) => writeln!(out, "full-size = {bytes}")?,
        None if full_size_is_meant(&health.check) => writeln!(out, "full-size = false")?,
        None => {}
    }
    let mut time = |key: &str, value| writeln!(out, "{key} = {}", text(&duration(value)));
    time("interval", health.interval)?;
    time("fast-interval", health.fast_interval)?;
    time("timeout", health.timeout)?;
    time("jitter", health.jitter)?;
    let damping = &health.damping;
    if damping.changes > 0 {
        time("damping-window", damping.window)?;
        time("damping-hold", damping.hold)?;
        time("damping-hold-max", damping.hold_max)?;
    }
    if let Some(passive) = &health.passive {
        time("passive-window", passive.window)?;
        writeln!(out, "passive-handshakes = {}", passive.least)?;
        writeln!(out, "passive-percent = {}", passive.percent)?;
    }
    if protocol == Protocol::Tcp {
        writeln!(out, "passive = {}", health.passive.is_some())?;
    }
    writeln!(out, "damping = {}", damping.changes)?;
    writeln!(out, "rise = {}", health.rise)?;
    writeln!(out, "fall = {}", health.fall)?;
    writeln!(out, "trust-at-start = {}", health.trust_at_start)?;
    if let Some(agent) = &health.agent {
        writeln!(out, "agent-weight = {}", word(SOURCES, agent.source))?;
        writeln!(out, "agent-weight-min = {}", agent.least)?;
        writeln!(out, "agent-weight-max = {}", agent.most)?;
        writeln!(out, "agent-weight-step = {}", agent.step)?;
    }
    match &health.check {
        Check::None | Check::Tcp | Check::Icmp => Ok(()),
        Check::Tls(check) => tls(out, check),
        Check::Http(check) => http(out, check),
        Check::Https(check, with) => http(out, check).and_then(|()| tls(out, with)),
        Check::Http2(check, with) => {
            http(out, check).and_then(|()| optional_tls(out, with.as_ref()))
        }
        Check::Grpc(check, with) => {
            grpc(out, check).and_then(|()| optional_tls(out, with.as_ref()))
        }
        Check::Udp(check) => udp(out, check),
        Check::Dns(check) => dns(out, check),
        Check::Exec(check) => exec(out, check),
    }
}

fn http(out: &mut String, check: &HttpCheck) -> Result {
    writeln!(out, "method = {}", text(&check.method))?;
    writeln!(out, "path = {}", text(&check.path))?;
    if let Some(host) = &check.host {
        writeln!(out, "host = {}", text(host))?;
    }
    let range = |(low, high): &(u16, u16)| text(&format!("{low}-{high}"));
    let ranges: Vec<String> = check.expect_status.iter().map(range).collect();
    writeln!(out, "expect-status = [{}]", ranges.join(", "))?;
    if let Some(body) = &check.expect_body {
        writeln!(out, "expect-body = {}", text(body))?;
    }
    Ok(())
}

fn optional_tls(out: &mut String, check: Option<&TlsCheck>) -> Result {
    writeln!(out, "tls = {}", check.is_some())?;
    check.map_or(Ok(()), |check| tls(out, check))
}

fn tls(out: &mut String, check: &TlsCheck) -> Result {
    if let Some(name) = &check.server_name {
        writeln!(out, "server-name = {}", text(name))?;
    }
    writeln!(out, "verify = {}", check.verify)?;
    files(out, check)?;
    let warn = text(&duration(check.warn_before_expiry));
    writeln!(out, "warn-before-expiry = {warn}")
}

/// Whom a TLS client trusts, and who it is.
pub(super) fn files(out: &mut String, check: &TlsCheck) -> Result {
    let path = |path: &std::path::Path| text(&path.to_string_lossy());
    if check.verify {
        writeln!(out, "ca = {}", path(&check.ca))?;
    }
    if let Some((certificate, key)) = &check.client {
        writeln!(out, "client-certificate = {}", path(certificate))?;
        writeln!(out, "client-key = {}", path(key))?;
    }
    Ok(())
}

fn grpc(out: &mut String, check: &GrpcCheck) -> Result {
    if let Some(host) = &check.host {
        writeln!(out, "host = {}", text(host))?;
    }
    writeln!(out, "grpc-service = {}", text(&check.service))
}

fn udp(out: &mut String, check: &UdpCheck) -> Result {
    let hex = |bytes: &[u8]| {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text(&digits)
    };
    writeln!(out, "send-hex = {}", hex(&check.send))?;
    if check.expect.is_empty() {
        return Ok(());
    }
    writeln!(out, "expect-hex = {}", hex(&check.expect))
}

fn dns(out: &mut String, check: &DnsCheck) -> Result {
    writeln!(out, "query = {}", text(&check.name))?;
    writeln!(out, "query-type = {}", word(TYPES, check.kind))?;
    writeln!(out, "expect-rcode = {}", word(RCODES, check.rcode))?;
    if let Some(address) = check.address {
        writeln!(out, "expect-address = {}", text(&address.to_string()))?;
    }
    let transport = if check.tcp { "tcp" } else { "udp" };
    writeln!(out, "transport = {}", text(transport))
}

/// Writes a command and who runs it.
pub(super) fn exec(out: &mut String, check: &ExecCheck) -> Result {
    let program = text(&check.command.to_string_lossy());
    let words: Vec<String> = std::iter::once(program)
        .chain(check.arguments.iter().map(|word| text(word)))
        .collect();
    writeln!(out, "command = [{}]", words.join(", "))?;
    if let Some(user) = &check.user {
        writeln!(out, "user = {}", text(user))?;
    }
    Ok(())
}
