//! Reads `[service.health]`. Pure.

use std::num::NonZeroU16;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::value;
use crate::model::{Check, HealthPolicy, HttpCheck};

/// Shortest and longest time between two probes.
const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3600);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Http,
}

const KINDS: &[(&str, Kind)] = &[
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("none", Kind::None),
];
const HTTP_KEYS: &[&str] = &["method", "path", "host", "expect-status", "expect-body"];
const PROBE_KEYS: &[&str] = &[
    "port",
    "interval",
    "timeout",
    "jitter",
    "rise",
    "fall",
    "trust-at-start",
];

/// The checks of a service that says nothing about them.
pub(super) fn default_policy() -> HealthPolicy {
    HealthPolicy {
        check: Check::Tcp,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        jitter: Duration::from_millis(100),
        rise: NonZeroU16::MIN.saturating_add(1),
        fall: NonZeroU16::MIN.saturating_add(2),
        trust_at_start: false,
    }
}

/// `[service.health]`; where something is wrong, the default, and a note.
pub(super) fn policy(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> HealthPolicy {
    let default = default_policy();
    let kind = match reader.get("type") {
        None => Some(Kind::Tcp),
        Some(_) => reader.word("type", KINDS, notes).map(|at| at.value),
    };
    let check = http(reader, notes);
    let check = match kind {
        Some(Kind::Http) => Check::Http(check),
        Some(Kind::None) => {
            let why = "`type` is \"none\"";
            let help = "remove it, or set `type` to \"tcp\" or \"http\"";
            reader.without_effect(HTTP_KEYS, why, help, notes);
            reader.without_effect(PROBE_KEYS, why, help, notes);
            Check::None
        }
        Some(Kind::Tcp) => {
            let why = "the check is a TCP connection";
            let help = "add `type = \"http\"`, or remove the key";
            reader.without_effect(HTTP_KEYS, why, help, notes);
            Check::Tcp
        }
        None => Check::Tcp,
    };
    let (interval, timeout, jitter) = timings(reader, &default, notes);
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
        interval,
        timeout,
        jitter,
        rise: threshold(reader, "rise", default.rise, notes),
        fall,
        trust_at_start: reader.boolean("trust-at-start", notes).unwrap_or(false),
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

fn http(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> HttpCheck {
    let method = http_method(reader, notes);
    let expect_body = body(reader, notes);
    if method == "HEAD" {
        let why = "the answer to HEAD has no body";
        reader.without_effect(
            &["expect-body"],
            why,
            "use `method = \"GET\"`, or remove the key",
            notes,
        );
    }
    HttpCheck {
        path: http_path(reader, notes),
        host: host(reader, notes),
        expect_status: statuses(reader, notes),
        method,
        expect_body,
    }
}

fn http_method(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> String {
    let Some(text) = reader.string("method", notes) else {
        return "GET".to_owned();
    };
    if let Some(fault) = value::method_fault(text.value) {
        let message = format!(
            "{} is not a method for checks: {fault}",
            value::quote_text(text.value)
        );
        let note = Note::new(
            &codes::BAD_METHOD,
            &text.span,
            &reader.name("method"),
            message,
        );
        let upper = text.value.trim().to_uppercase();
        notes.add(if value::method_fault(&upper).is_none() {
            note.help(format!("did you mean \"{upper}\"?"))
                .suggest(format!("\"{upper}\""))
        } else {
            note
        });
    }
    text.value.to_owned()
}

fn http_path(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> String {
    let Some(text) = reader.string("path", notes) else {
        return "/".to_owned();
    };
    if let Some(fault) = value::path_fault(text.value) {
        let message = format!("{} is not a path: {fault}", value::quote_text(text.value));
        let note = Note::new(&codes::BAD_PATH, &text.span, &reader.name("path"), message);
        notes.add(match path_meant(text.value) {
            Some(meant) => note
                .help(format!("did you mean \"{meant}\"?"))
                .suggest(format!("\"{meant}\"")),
            None => note,
        });
    }
    text.value.to_owned()
}

/// The path of a URL, or the text with a slash before it, or with its spaces encoded.
fn path_meant(text: &str) -> Option<String> {
    let text = text.trim();
    let path = match text.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => text,
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let meant = format!("{slash}{}", path.replace(' ', "%20"));
    let quiet = !meant.contains(['"', '\\']);
    (quiet && value::path_fault(&meant).is_none()).then_some(meant)
}

fn host(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    let text = reader.string("host", notes)?;
    if let Some(fault) = value::host_fault(text.value) {
        let message = format!("{} is not a host: {fault}", value::quote_text(text.value));
        let note = Note::new(&codes::BAD_TEXT, &text.span, &reader.name("host"), message);
        notes
            .add(note.help("write a host such as \"www.example.org\" or \"www.example.org:8080\""));
    }
    Some(text.value.to_owned())
}

fn body(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    let text = reader.string("expect-body", notes)?;
    if text.value.is_empty() || text.value.len() > 1024 {
        let message = format!("`expect-body` has {} bytes", text.value.len());
        let note = Note::new(
            &codes::BAD_TEXT,
            &text.span,
            &reader.name("expect-body"),
            message,
        );
        notes.add(
            note.help("give a text of 1 to 1024 bytes, or remove the key to accept every body"),
        );
    }
    Some(text.value.to_owned())
}

fn statuses(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<(u16, u16)> {
    const KEY: &str = "expect-status";
    let default = vec![(200, 299)];
    let Some(found) = reader.get(KEY) else {
        return default;
    };
    let items: Vec<&Spanned<DeValue<'_>>> = match found.get_ref() {
        DeValue::Array(list) => list.iter().collect(),
        _ => vec![found],
    };
    if items.is_empty() {
        let message = "`expect-status` is empty, so that no answer would be good".to_owned();
        let note = Note::new(
            &codes::BAD_STATUS,
            &found.span(),
            &reader.name(KEY),
            message,
        );
        notes.add(note.suggest("[\"200-299\"]"));
    }
    let mut ranges = Vec::new();
    for item in items {
        let text = match item.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            _ => {
                reader.wrong_type(KEY, "a status, a range or a list of them", item, notes);
                continue;
            }
        };
        match value::status(&text) {
            Ok(range) => ranges.push(range),
            Err((fault, meant)) => {
                let message = format!(
                    "{} is not a status or a range: {fault}",
                    value::quote_text(&text)
                );
                let note = Note::new(&codes::BAD_STATUS, &item.span(), &reader.name(KEY), message);
                notes.add(match meant {
                    Some(meant) => note.help(format!("did you mean {meant}?")).suggest(meant),
                    None => note,
                });
            }
        }
    }
    if ranges.is_empty() {
        default
    } else {
        value::joined(ranges)
    }
}
