//! `type`, and which keys mean something with it. Pure.

use super::{datagram, dns, exec, http, tls};
use crate::config::notes::Notes;
use crate::config::reader::Reader;
use crate::model::{Check, GrpcCheck};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Tls,
    Http,
    Https,
    Http2,
    Grpc,
    Udp,
    Dns,
    Icmp,
    Exec,
}

use Kind::{Dns, Exec, Grpc, Http, Http2, Https, Icmp, Tcp, Tls, Udp};

const KINDS: &[(&str, Kind)] = &[
    ("tcp", Tcp),
    ("tls", Tls),
    ("http", Http),
    ("https", Https),
    ("http2", Http2),
    ("grpc", Grpc),
    ("udp", Udp),
    ("dns", Dns),
    ("icmp", Icmp),
    ("exec", Exec),
    ("none", Kind::None),
];

/// Keys, and the types that they mean something to.
const OWNERS: &[(&[&str], &[Kind])] = &[
    (
        &["method", "path", "expect-status", "expect-body"],
        &[Http, Https, Http2],
    ),
    (&["host"], &[Http, Https, Http2, Grpc]),
    (&["tls"], &[Http2, Grpc]),
    (tls::KEYS, &[Tls, Https, Http2, Grpc]),
    (&["grpc-service"], &[Grpc]),
    (&["send", "send-hex", "expect", "expect-hex"], &[Udp]),
    (
        &[
            "query",
            "query-type",
            "expect-rcode",
            "expect-address",
            "transport",
        ],
        &[Dns],
    ),
    (&["command", "user"], &[Exec]),
    (&["full-size"], &[Http, Https, Http2, Grpc, Icmp]),
    (&["target"], &[Tcp, Tls, Http, Https, Http2, Grpc, Udp, Dns]),
    (
        &[
            "agent-weight",
            "agent-weight-min",
            "agent-weight-max",
            "agent-weight-step",
        ],
        &[Tcp, Http, Https, Exec],
    ),
    (
        &["port"],
        &[Tcp, Tls, Http, Https, Http2, Grpc, Udp, Dns, Exec],
    ),
    (
        &[
            "interval",
            "fast-interval",
            "timeout",
            "jitter",
            "rise",
            "fall",
            "trust-at-start",
            "damping",
            "damping-window",
            "damping-hold",
            "damping-hold-max",
            "passive",
            "passive-handshakes",
            "passive-percent",
            "passive-window",
        ],
        &[Tcp, Tls, Http, Https, Http2, Grpc, Udp, Dns, Icmp, Exec],
    ),
];

/// The check; where something is wrong, a note.
pub(super) fn check(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Check {
    let kind = match reader.get("type") {
        None => Some(Tcp),
        Some(_) => reader.word("type", KINDS, notes).map(|at| at.value),
    };
    let Some(kind) = kind else {
        return Check::Tcp;
    };
    useless(kind, reader, notes);
    match kind {
        Kind::None => Check::None,
        Tcp => Check::Tcp,
        Tls => Check::Tls(tls::check(reader, notes)),
        Http => Check::Http(http::check(reader, notes)),
        Https => Check::Https(http::check(reader, notes), tls::check(reader, notes)),
        Http2 => Check::Http2(http::check(reader, notes), tls::optional(reader, notes)),
        Grpc => Check::Grpc(grpc(reader, notes), tls::optional(reader, notes)),
        Udp => Check::Udp(datagram::check(reader, notes)),
        Dns => Check::Dns(dns::check(reader, notes)),
        Icmp => Check::Icmp,
        Exec => Check::Exec(exec::check(reader, notes)),
    }
}

/// Notes keys that mean nothing to this type.
fn useless(kind: Kind, reader: &Reader<'_, '_>, notes: &mut Notes<'_>) {
    let word = |kind: &Kind| {
        let found = KINDS.iter().find(|(_, k)| k == kind);
        format!("\"{}\"", found.map_or("", |(word, _)| word))
    };
    for (keys, owners) in OWNERS {
        if owners.contains(&kind) {
            continue;
        }
        let why = format!("`type` is {}", word(&kind));
        // With many, the usual two stand for all.
        let usual = [Tcp, Http].into_iter().filter(|kind| owners.contains(kind));
        let few: Vec<Kind> = match owners.len() {
            ..=4 => owners.to_vec(),
            _ => usual.collect(),
        };
        let words: Vec<String> = few.iter().map(word).collect();
        let help = format!("remove it, or set `type` to {}", words.join(" or "));
        reader.without_effect(keys, &why, &help, notes);
    }
}

fn grpc(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> GrpcCheck {
    let host = http::host(reader, notes);
    let Some(service) = reader.string("grpc-service", notes) else {
        return GrpcCheck {
            service: String::new(),
            host,
        };
    };
    tls::text(reader, "grpc-service", 0..=255, "my.package.Service", notes);
    GrpcCheck {
        service: service.value.to_owned(),
        host,
    }
}
