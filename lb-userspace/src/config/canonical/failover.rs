//! What is said about who may get flows. Part of `canonical`.

use std::fmt::Write;

use super::super::failover::FAILBACKS;
use super::word;
use crate::model::{Failover, Tier};

pub(super) fn write(out: &mut String, failover: &Failover) -> std::fmt::Result {
    writeln!(out, "panic-threshold = {}", failover.panic_threshold)?;
    writeln!(out, "overprovisioning = {}", failover.overprovisioning)?;
    writeln!(out, "failback = {}", word(FAILBACKS, failover.failback))
}

pub(super) fn write_tier(out: &mut String, tier: Tier) -> std::fmt::Result {
    match tier {
        Tier::Number(number) => writeln!(out, "tier = {number}"),
        Tier::Sorry => writeln!(out, "tier = \"sorry\""),
    }
}
