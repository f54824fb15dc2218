//! Reads `[daemon]` and `[limits]`. Pure.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use lb_common::probe::MARKS;
use lb_common::{affinity, limits};
use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::tunnel;
use super::value;
use super::{nat, nat_idle, networks};
use crate::model::{DaemonConfig, Limits, WhenDead, XdpMode};

/// More than any machine has that forwards; with far more, two would have one slot of `redirects`.
const INTERFACES: usize = 256;

/// The first mark that is kept for checks, if nothing is said: bits that no well-known tool masks.
const CHECK_MARKS: u32 = 0x4600_0000;

const XDP_MODES: &[(&str, XdpMode)] = &[
    ("native", XdpMode::Native),
    ("generic", XdpMode::Generic),
    ("native-or-generic", XdpMode::NativeOrGeneric),
];

pub(super) const WHEN_DEADS: &[(&str, WhenDead)] = &[
    ("forward", WhenDead::Forward),
    ("pass", WhenDead::Pass),
    ("drop", WhenDead::Drop),
];

/// The word for a mode.
pub(super) fn xdp_mode_word(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
        XdpMode::NativeOrGeneric => "native-or-generic",
    }
}

/// `[daemon]`; where something is wrong, the default, and a note.
pub(super) fn daemon(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> DaemonConfig {
    let mut rate = |key: &str, highest: u64, default: u32| {
        let at = reader.integer(key, 0..=highest, notes);
        at.and_then(|at| u32::try_from(at.value).ok())
            .unwrap_or(default)
    };
    let echo_per_second = rate("echo-per-second", 10_000_000, 1000);
    let new_flows_per_second = rate("new-flows-per-second", u32::MAX.into(), 1_000_000);
    let icmp_errors_per_second = rate("icmp-errors-per-second", 10_000_000, 1000);
    let resets_per_second = rate("resets-per-second", 10_000_000, 10_000);
    let percent = reader.integer("velocity-percent", 1..=100, notes);
    let window = Duration::from_millis(100)..=Duration::from_secs(86_400);
    let window = reader.duration("velocity-window", window, notes);
    let mode = reader.word("xdp-mode", XDP_MODES, notes);
    let when_dead = reader.word("when-dead", WHEN_DEADS, notes);
    let when_dead = when_dead.map_or(WhenDead::Forward, |at| at.value);
    if when_dead == WhenDead::Forward {
        let why = "forwarding goes on without a daemon (`when-dead`)";
        reader.without_effect(&["dead-after"], why, "remove the key", notes);
    }
    let dead_after = Duration::from_secs(2)..=Duration::from_secs(86_400);
    let dead_after = reader.duration("dead-after", dead_after, notes);
    DaemonConfig {
        state_dir: directory(reader, "state-dir", "/var/lib/fairlead", notes),
        run_dir: directory(reader, "run-dir", "/run/fairlead", notes),
        bpffs: directory(reader, "bpffs", "/sys/fs/bpf/fairlead", notes),
        interfaces: interfaces(reader, notes),
        xdp_mode: mode.map_or(XdpMode::Native, |at| at.value),
        metrics: metrics(reader, notes),
        echo_per_second,
        new_flows_per_second,
        icmp_errors_per_second,
        resets_per_second,
        tunnel_source: tunnel::sources(reader, notes),
        check_marks: check_marks(reader, notes),
        check_networks: networks::of_daemon(reader, notes),
        nat_source: nat::sources(reader, notes),
        nat_ports: nat::ports(reader, notes),
        nat_idle: nat_idle::of_daemon(reader, notes),
        when_dead,
        dead_after: dead_after.map_or(Duration::from_secs(10), |at| at.value),
        velocity_percent: percent
            .and_then(|at| u8::try_from(at.value).ok())
            .unwrap_or(50),
        velocity_window: window.map_or(Duration::from_secs(10), |at| at.value),
    }
}

/// The first of as many marks as there are in the low half of a word.
fn check_marks(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> u32 {
    const KEY: &str = "check-marks";
    let range = u64::from(MARKS)..=u64::from(u32::MAX - (MARKS - 1));
    let Some(at) = reader.integer(KEY, range, notes) else {
        return CHECK_MARKS;
    };
    let mark = u32::try_from(at.value).unwrap_or(CHECK_MARKS);
    if mark & (MARKS - 1) == 0 {
        return mark;
    }
    let message = format!("`{KEY}` is {mark:#x}, which is no multiple of 0x10000");
    let note = Note::new(&codes::UNEVEN_MARKS, &at.span, &reader.name(KEY), message);
    notes.add(note.suggest(format!("{:#x}", mark & !(MARKS - 1))));
    CHECK_MARKS
}

fn directory(reader: &Reader<'_, '_>, key: &str, default: &str, notes: &mut Notes<'_>) -> PathBuf {
    let Some(text) = reader.string(key, notes) else {
        return PathBuf::from(default);
    };
    let path = Path::new(text.value);
    let absolute = path.is_absolute()
        && !text.value.contains('\0')
        && !path.components().any(|c| c == Component::ParentDir);
    if !absolute {
        let message = format!(
            "`{key}` is {}, which is not absolute",
            value::quote_text(text.value)
        );
        let note = Note::new(&codes::BAD_PATHNAME, &text.span, &reader.name(key), message);
        notes.add(note.help(format!(
            "begin with `/` and go without `..`; the default is \"{default}\""
        )));
    }
    path.to_path_buf()
}

fn interfaces(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<String> {
    const KEY: &str = "interfaces";
    reader.require(KEY, notes);
    let Some(found) = reader.get(KEY) else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(KEY, "a list", found, notes);
        return Vec::new();
    };
    if list.is_empty() {
        let message = "`interfaces` is empty".to_owned();
        notes.add(Note::new(
            &codes::NO_INTERFACE,
            &found.span(),
            &reader.name(KEY),
            message,
        ));
    }
    if list.len() > INTERFACES {
        let message = format!("{} interfaces; there can be {INTERFACES}", list.len());
        let note = Note::new(&codes::TOO_MANY, &found.span(), &reader.name(KEY), message);
        notes.add(note.help("name the interfaces that clients and backends are reached through"));
    }
    let mut names: Vec<At<String>> = Vec::new();
    for item in list.iter() {
        let DeValue::String(text) = item.get_ref() else {
            reader.wrong_type(KEY, "a list of texts", item, notes);
            continue;
        };
        let (name, span) = (text.as_ref(), item.span());
        if let Some(fault) = value::interface_fault(name) {
            let message = format!(
                "{} cannot be an interface: {fault}",
                value::quote_text(name)
            );
            notes.add(Note::new(
                &codes::BAD_INTERFACE,
                &span,
                &reader.name(KEY),
                message,
            ));
        } else if let Some(first) = names.iter().find(|n| n.value == name) {
            let message = format!("interface {} is named twice", value::quote_text(name));
            let note = Note::new(
                &codes::DUPLICATE_INTERFACE,
                &span,
                &reader.name(KEY),
                message,
            );
            notes.add(note.label(&first.span, "first here"));
        } else if names.len() < INTERFACES {
            names.push(At {
                value: name.to_owned(),
                span,
            });
        }
    }
    let mut names: Vec<String> = names.into_iter().map(|n| n.value).collect();
    names.sort_unstable();
    names
}

fn metrics(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<SocketAddr> {
    const KEY: &str = "metrics";
    const DEFAULT: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9460);
    let Some(text) = reader.string(KEY, notes) else {
        return Some(DEFAULT);
    };
    if text.value == "off" {
        return None;
    }
    match text.value.parse::<SocketAddr>() {
        Ok(at) if at.port() != 0 => {
            if !at.ip().is_loopback() {
                let message = format!("metrics at {at} can be read from other machines");
                notes.add(Note::new(
                    &codes::METRICS_OPEN,
                    &text.span,
                    &reader.name(KEY),
                    message,
                ));
            }
            Some(at)
        }
        _ => {
            let message = format!(
                "`metrics` is {}, which is not an address with a port",
                value::quote_text(text.value)
            );
            let note = Note::new(&codes::BAD_METRICS, &text.span, &reader.name(KEY), message);
            notes.add(match metrics_meant(text.value) {
                Some(meant) => note.help(format!("did you mean {meant}?")).suggest(meant),
                None => note,
            });
            Some(DEFAULT)
        }
    }
}

fn metrics_meant(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Some(format!("\"{}\"", SocketAddr::new(address, 9460)));
    }
    let port = text.trim_start_matches("localhost").trim_start_matches(':');
    let port = port.parse::<u16>().ok().filter(|p| *p != 0);
    match (port, text.to_lowercase().as_str()) {
        (Some(port), _) => Some(format!("\"127.0.0.1:{port}\"")),
        (None, "none" | "no" | "false" | "disabled" | "") => Some("\"off\"".to_owned()),
        _ => None,
    }
}

/// The limits without `[limits]`.
pub(super) fn default_limits() -> Limits {
    let number = |l: &limits::Limit| u32::try_from(l.default).unwrap_or(u32::MAX);
    Limits {
        flows: number(&limits::FLOWS),
        services: number(&limits::SERVICES),
        backends: number(&limits::BACKENDS),
        ring_slots: number(&limits::RING_SLOTS),
        next_hops: number(&limits::NEXT_HOPS),
        source_ranges: number(&limits::SOURCE_RANGES),
        // Also where there is no `nat-source`: maps keep their size, and a reload may add it.
        nat_flows: number(&limits::NAT_FLOWS),
        affinities: number(&limits::AFFINITIES),
    }
}

/// `[limits]`.
pub(super) fn limits(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Limits {
    let default = default_limits();
    let mut read = |limit: &limits::Limit, default: u32| {
        let at = reader.integer(limit.name, limit.min..=limit.max, notes);
        let value = at.as_ref().and_then(|at| u32::try_from(at.value).ok());
        (value.unwrap_or(default), at.map(|at| at.span))
    };
    let (flows, flows_span) = read(&limits::FLOWS, default.flows);
    let (nat_flows, nat_span) = read(&limits::NAT_FLOWS, default.nat_flows);
    let (ring_slots, ring_span) = read(&limits::RING_SLOTS, default.ring_slots);
    let (affinities, _) = read(&limits::AFFINITIES, default.affinities);
    let read = Limits {
        flows,
        ring_slots,
        services: read(&limits::SERVICES, default.services).0,
        backends: read(&limits::BACKENDS, default.backends).0,
        next_hops: read(&limits::NEXT_HOPS, default.next_hops).0,
        source_ranges: read(&limits::SOURCE_RANGES, default.source_ranges).0,
        nat_flows,
        affinities: affinities.next_multiple_of(affinity::WAYS),
    };
    for (name, value, span) in [
        (limits::FLOWS.name, flows, flows_span),
        (limits::NAT_FLOWS.name, nat_flows, nat_span),
    ] {
        let Some(span) = span.filter(|_| !value.is_power_of_two()) else {
            continue;
        };
        let next = value.next_power_of_two();
        let message = format!("`{name}` is {value}, which is not a power of two");
        let note = Note::new(&codes::BAD_SIZE, &span, &reader.name(name), message);
        notes.add(
            note.help(format!("the next power of two is {next}"))
                .suggest(next.to_string()),
        );
    }
    if let Some(span) = ring_span.filter(|_| ring_slots % 2 != 0) {
        let next = ring_slots.saturating_add(1);
        let message = format!("`ring-slots` is {ring_slots}, which is odd");
        let note = Note::new(&codes::BAD_SIZE, &span, &reader.name("ring-slots"), message);
        notes.add(
            note.help(format!("the next even number is {next}"))
                .suggest(next.to_string()),
        );
    }
    read
}
