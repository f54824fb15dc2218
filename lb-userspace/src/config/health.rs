//! Reads `[service.health]`. Pure.

mod agent;
mod datagram;
mod dns;
mod exec;
mod full_size;
mod http;
mod kind;
mod passive;
mod tls;

pub(super) use agent::SOURCES;
pub(super) use dns::{RCODES, TYPES};
pub(super) use exec::check as exec_check;
pub(super) use full_size::is_meant as full_size_is_meant;
#[cfg(test)]
pub(super) use tls::CA;
pub(super) use tls::check as tls_check;

use std::num::NonZeroU16;
use std::time::Duration;

use toml::de::DeValue;

use super::codes;
use super::keys;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::value;
use crate::model::{Aim, Check, Damping, HealthPolicy, Protocol};

pub(super) const TARGETS: &[(&str, Aim)] = &[("vip", Aim::Vip), ("backend", Aim::Backend)];

/// Shortest and longest time between two probes.
const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3600);

/// Window and back-off of damping.
const DAMPING: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);

/// The checks of a service that says nothing about them.
pub(super) fn default_policy() -> HealthPolicy {
    HealthPolicy {
        check: Check::Tcp,
        port: None,
        target: None,
        full_size: None,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        jitter: Duration::from_millis(100),
        rise: NonZeroU16::MIN.saturating_add(1),
        fall: NonZeroU16::MIN.saturating_add(2),
        trust_at_start: false,
        damping: Damping::default(),
        passive: None,
        agent: None,
    }
}

/// The service's checks have a key for a port.
pub(super) fn has_port(reader: &Reader<'_, '_>) -> bool {
    match reader.get("health").map(|found| found.get_ref()) {
        Some(DeValue::Table(table)) => table.contains_key("port"),
        _ => false,
    }
}

/// The checks of a service; where something is wrong, the default, and a note.
pub(super) fn of_service(
    reader: &Reader<'_, '_>,
    protocol: Option<Protocol>,
    notes: &mut Notes<'_>,
) -> HealthPolicy {
    let Some((key, found)) = reader.entry("health") else {
        return default_policy();
    };
    let DeValue::Table(table) = found.get_ref() else {
        reader.wrong_type("health", "a table", found, notes);
        return default_policy();
    };
    let path = format!("{}health.", reader.path);
    let health = Reader::new(&keys::HEALTH, table, found.span(), path, notes);
    let policy = policy(&health, protocol, notes);
    if policy.check == Check::None {
        let span = health.get("type").map_or(key, |v| v.span());
        let message = "the backends of this service are not checked".to_owned();
        notes.add(Note::new(
            &codes::NO_CHECK,
            &span,
            &health.name("type"),
            message,
        ));
    }
    policy
}

/// `[service.health]`; where something is wrong, the default, and a note.
fn policy(
    reader: &Reader<'_, '_>,
    protocol: Option<Protocol>,
    notes: &mut Notes<'_>,
) -> HealthPolicy {
    let default = default_policy();
    let check = kind::check(reader, notes);
    let agent = agent::weight(reader, &check, notes);
    let full_size = full_size::of_checks(reader, &check, notes);
    let passive = passive::policy(reader, &check, protocol, notes);
    let (interval, timeout, jitter) = timings(reader, &default, notes);
    let fast = reader.duration("fast-interval", *INTERVAL.start()..=interval, notes);
    let fall = threshold(reader, "fall", default.fall, notes);
    if fall.get() == 1
        && check != Check::None
        && let Some(found) = reader.get("fall")
    {
        let message = "one bad probe takes a backend out".to_owned();
        notes.add(Note::new(
            &codes::FALL_ONE,
            &found.span(),
            &reader.name("fall"),
            message,
        ));
    }
    HealthPolicy {
        check,
        port: port(reader, notes).map(|at| at.value),
        target: reader.word("target", TARGETS, notes).map(|at| at.value),
        full_size,
        interval,
        fast_interval: fast.map_or(interval, |at| at.value),
        timeout,
        jitter,
        rise: threshold(reader, "rise", default.rise, notes),
        fall,
        trust_at_start: reader.boolean("trust-at-start", notes).unwrap_or(false),
        damping: damping(reader, notes),
        passive,
        agent,
    }
}

fn damping(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Damping {
    const HOLD_MAX: &str = "damping-hold-max";
    let default = Damping::default();
    let changes = reader.integer("damping", 0..=1000, notes);
    let changes = changes.and_then(|at| u16::try_from(at.value).ok());
    if reader.get("damping").is_none() || changes == Some(0) {
        let keys = &["damping-window", "damping-hold", HOLD_MAX];
        let help = "set `damping` to a number of changes such as 4, or remove the key";
        reader.without_effect(keys, "nothing is damped", help, notes);
        return default;
    }
    let window = reader.duration("damping-window", DAMPING, notes);
    let hold = reader.duration("damping-hold", DAMPING, notes);
    let hold = hold.map_or(default.hold, |at| at.value);
    // The default bound is never below what was given.
    let hold_max = match reader.duration(HOLD_MAX, hold..=*DAMPING.end(), notes) {
        Some(at) => at.value,
        None => default.hold_max.max(hold),
    };
    Damping {
        changes: changes.unwrap_or(default.changes),
        window: window.map_or(default.window, |at| at.value),
        hold,
        hold_max,
    }
}

/// A port.
pub(super) fn port(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<NonZeroU16>> {
    let at = reader.integer("port", 1..=65_535, notes)?;
    let value = u16::try_from(at.value).ok().and_then(NonZeroU16::new)?;
    Some(At {
        value,
        span: at.span,
    })
}

fn threshold(
    reader: &Reader<'_, '_>,
    key: &str,
    default: NonZeroU16,
    notes: &mut Notes<'_>,
) -> NonZeroU16 {
    let at = reader.integer(key, 1..=1000, notes);
    at.and_then(|at| u16::try_from(at.value).ok())
        .and_then(NonZeroU16::new)
        .unwrap_or(default)
}

/// Interval, timeout and jitter. The default timeout shrinks with the interval.
fn timings(
    reader: &Reader<'_, '_>,
    default: &HealthPolicy,
    notes: &mut Notes<'_>,
) -> (Duration, Duration, Duration) {
    let given = reader.duration("interval", INTERVAL, notes);
    let usable = given.is_some() || reader.get("interval").is_none();
    let interval = given.as_ref().map_or(default.interval, |at| at.value);
    let longest = Duration::from_millis(1)..=Duration::from_secs(3600);
    let timeout = reader.duration("timeout", longest, notes);
    if let Some(at) = timeout.as_ref().filter(|at| usable && at.value > interval) {
        let (wait, every) = (value::duration(at.value), value::duration(interval));
        let message = format!("the timeout, {wait}, is longer than the interval, {every}");
        let note = Note::new(
            &codes::TIMEOUT_OVER_INTERVAL,
            &at.span,
            &reader.name("timeout"),
            message,
        )
        .help(format!(
            "make the timeout at most \"{every}\", or the interval longer"
        ))
        .suggest(format!("\"{every}\""));
        notes.add(match &given {
            Some(at) => note.label(&at.span, "the interval"),
            None => note.help(format!("make the timeout at most \"{every}\" (the default interval), or set a longer interval")),
        });
    }
    let timeout = timeout.map_or(default.timeout.min(interval), |at| at.value);
    let jitter = jitter(reader, interval, usable, notes);
    (interval, timeout, jitter)
}

fn jitter(
    reader: &Reader<'_, '_>,
    interval: Duration,
    usable: bool,
    notes: &mut Notes<'_>,
) -> Duration {
    const KEY: &str = "jitter";
    let tenth = interval.checked_div(10).unwrap_or_default();
    let Some(found) = reader.get(KEY) else {
        return tenth;
    };
    let share = match found.get_ref() {
        DeValue::String(text) => text.strip_suffix('%'),
        _ => None,
    };
    let (jitter, span) = match share {
        Some(number) => match number.trim().parse::<u32>() {
            Ok(percent) => {
                let whole = interval.saturating_mul(percent);
                (whole.checked_div(100).unwrap_or_default(), found.span())
            }
            Err(_) => {
                let message = "`jitter` is not a share: a whole number must stand before the `%`";
                let note = Note::new(
                    &codes::BAD_DURATION,
                    &found.span(),
                    &reader.name(KEY),
                    message.to_owned(),
                );
                notes.add(
                    note.help("write a share such as \"10%\", or a duration such as \"100ms\""),
                );
                return tenth;
            }
        },
        None => match reader.duration(KEY, Duration::ZERO..=Duration::from_secs(3600), notes) {
            Some(at) => (at.value, at.span),
            None => return tenth,
        },
    };
    if usable && jitter >= interval {
        let meant = value::duration(tenth);
        let message = format!(
            "the jitter, {}, is not shorter than the interval, {}",
            value::duration(jitter),
            value::duration(interval)
        );
        let note = Note::new(
            &codes::JITTER_OVER_INTERVAL,
            &span,
            &reader.name(KEY),
            message,
        );
        notes.add(note.suggest(format!("\"{meant}\"")));
    }
    jitter
}
