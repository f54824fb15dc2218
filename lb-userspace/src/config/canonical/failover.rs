//! What is said about who may get flows. Part of `canonical`.

use std::fmt::Write;

use super::super::failover::{CURVES, FAILBACKS};
use super::super::value::duration;
use super::{text, word};
use crate::model::{Backend, Service, Tier};

pub(super) fn write(out: &mut String, service: &Service) -> std::fmt::Result {
    let failover = &service.failover;
    if let Some(deadline) = service.drain_deadline {
        writeln!(out, "drain-deadline = {}", text(&duration(deadline)))?;
    }
    if let Some(deadline) = service.on_down_deadline {
        writeln!(out, "on-down-deadline = {}", text(&duration(deadline)))?;
    }
    writeln!(out, "panic-threshold = {}", failover.panic_threshold)?;
    writeln!(out, "overprovisioning = {}", failover.overprovisioning)?;
    let slow = failover.slow_start;
    if !slow.duration.is_zero() {
        writeln!(out, "slow-start = {}", text(&duration(slow.duration)))?;
        writeln!(out, "slow-start-curve = {}", word(CURVES, slow.curve))?;
    }
    if service.claim.is_some() {
        writeln!(out, "min-healthy = {}", failover.min_healthy)?;
    }
    writeln!(out, "failback = {}", word(FAILBACKS, failover.failback))
}

pub(super) fn write_backend(out: &mut String, backend: &Backend) -> std::fmt::Result {
    match backend.tier {
        Tier::Number(number) => writeln!(out, "tier = {number}")?,
        Tier::Sorry => writeln!(out, "tier = \"sorry\"")?,
    }
    match backend.max_connections {
        Some(most) => writeln!(out, "max-connections = {most}"),
        None => Ok(()),
    }
}
