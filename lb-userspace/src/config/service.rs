//! Reads `[[service]]` and `[[service.backend]]`, one at a time; what concerns several of them is
//! in `across`. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::Range;

use lb_common::limits;
use toml::de::{DeTable, DeValue};

use super::across;
use super::aim;
use super::codes;
use super::failover::{self, FailoverDraft};
use super::health;
use super::notes::{At, Note, Notes};
use super::quic::{self, QuicDraft, ServerIdDraft};
use super::reader::Reader;
use super::scheduling::{self, SchedulingDraft};
use super::sources::{self, SourcesDraft};
use super::tunnel::{self, TunnelDraft};
use super::{
    idle::{self, IdleDraft},
    keys, mss,
};
use super::{value, vip};
use crate::model::{
    AdminState, AllDown, DrainPolicy, Forwarding, HealthPolicy, MidStream, Name, OnDown, Ports,
    Prefix, Protocol, Tier,
};

pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("sctp", Protocol::Sctp),
    ("any", Protocol::Any),
];
pub(super) const FORWARDINGS: &[(&str, Forwarding)] = &[
    ("dnat", Forwarding::Dnat),
    ("l2dsr", Forwarding::L2dsr),
    ("ipip", Forwarding::Ipip),
    ("gue", Forwarding::Gue),
    ("fullnat", Forwarding::Fullnat),
];
pub(super) const MID_STREAMS: &[(&str, MidStream)] = &[
    ("schedule", MidStream::Schedule),
    ("drop", MidStream::Drop),
    ("reset", MidStream::Reset),
];
pub(super) const DRAINS: &[(&str, DrainPolicy)] = &[
    ("keep", DrainPolicy::Keep),
    ("migrate", DrainPolicy::Migrate),
    ("reset", DrainPolicy::Reset),
];
pub(super) const ON_DOWNS: &[(&str, OnDown)] = &[
    ("keep", OnDown::Keep),
    ("migrate", OnDown::Migrate),
    ("reset", OnDown::Reset),
];
pub(super) const ALL_DOWNS: &[(&str, AllDown)] = &[
    ("fail-open", AllDown::FailOpen),
    ("fail-closed", AllDown::FailClosed),
];
pub(super) const ADMINS: &[(&str, AdminState)] = &[
    ("enabled", AdminState::Enabled),
    ("draining", AdminState::Draining),
    ("disabled", AdminState::Disabled),
];

/// A hundred slots for each of as many backends as there can be; filling it takes seconds.
const LARGEST_RING: u64 = 1 << 24;

/// A service as far as it could be read.
#[derive(Debug)]
pub(super) struct ServiceDraft {
    /// Its header.
    pub(super) span: Range<usize>,
    /// `service.web.`
    pub(super) path: String,
    pub(super) name: Option<At<Name>>,
    pub(super) address: Option<At<Prefix>>,
    pub(super) port: Option<At<Ports>>,
    pub(super) protocol: Option<At<Protocol>>,
    pub(super) forwarding: Option<At<Forwarding>>,
    pub(super) tunnel: TunnelDraft,
    pub(super) scheduling: SchedulingDraft,
    pub(super) ring_size: Option<At<u32>>,
    pub(super) mid_stream: MidStream,
    pub(super) mss: u16,
    pub(super) idle: IdleDraft,
    pub(super) quic: QuicDraft,
    pub(super) sources: SourcesDraft,
    pub(super) health: HealthPolicy,
    /// Where checks are told to go to the VIP.
    pub(super) to_vip: Option<At<()>>,
    /// `health.port` is there and could not be read; that has been noted.
    pub(super) health_port_is_wrong: bool,
    pub(super) drain: DrainPolicy,
    pub(super) on_down: OnDown,
    pub(super) all_down: AllDown,
    pub(super) failover: FailoverDraft,
    pub(super) claim: Option<At<String>>,
    pub(super) backends: Vec<BackendDraft>,
    /// There is a key for them; if none could be read, that has been noted.
    pub(super) has_backends: bool,
    /// Where each address and port of a backend stands first.
    pub(super) endpoints: BTreeMap<(IpAddr, u16), Range<usize>>,
}

/// A backend as far as it could be read.
#[derive(Debug)]
pub(super) struct BackendDraft {
    /// `service.web.backend.b1.`
    pub(super) path: String,
    pub(super) name: Option<At<Name>>,
    pub(super) address: Option<At<IpAddr>>,
    /// The outer `None`: it could not be read; the inner one: the service's.
    pub(super) port: Option<Option<At<NonZeroU16>>>,
    pub(super) weight: Option<At<u16>>,
    pub(super) tier: Option<At<Tier>>,
    /// The outer `None`: it could not be read.
    pub(super) max_connections: Option<Option<NonZeroU32>>,
    pub(super) admin: Option<AdminState>,
    pub(super) server_id: ServerIdDraft,
}

/// The word for a way to forward.
pub(super) fn forwarding_word(forwarding: Forwarding) -> &'static str {
    let found = FORWARDINGS.iter().find(|(_, f)| *f == forwarding);
    found.map_or("", |(word, _)| word)
}

/// The name in a table if it is fit to be shown in a path, or the place in the list.
pub(super) fn label(table: &DeTable<'_>, index: usize) -> String {
    match table.get("name").map(|v| v.get_ref()) {
        Some(DeValue::String(name)) if Name::new(name).is_some() => name.to_string(),
        _ => format!("#{}", index.saturating_add(1)),
    }
}

/// One `[[service]]`, the `index`th.
pub(super) fn service(
    table: &DeTable<'_>,
    span: Range<usize>,
    index: usize,
    notes: &mut Notes<'_>,
) -> ServiceDraft {
    let path = format!("service.{}.", label(table, index));
    let reader = Reader::new(&keys::SERVICE, table, span.clone(), path.clone(), notes);
    let protocol = required_word(&reader, "protocol", PROTOCOLS, notes);
    let kind = protocol.as_ref().map(|at| at.value);
    let on_down = match kind {
        Some(Protocol::Tcp) | None => OnDown::Keep,
        // Their clients come again from the same port, or have none: they would never leave a dead backend.
        Some(Protocol::Udp | Protocol::Sctp | Protocol::Any) => OnDown::Migrate,
    };
    failover::resets(&reader, kind, notes);
    let forwarding = required_word(&reader, "forwarding", FORWARDINGS, notes);
    let tunnel = tunnel::of_service(&reader, forwarding.as_ref(), protocol.as_ref(), notes);
    let ring_size = reader.integer("ring-size", 1..=LARGEST_RING, notes);
    let health = health::of_service(&reader, kind, notes);
    let health_port_is_wrong = health.port.is_none() && health::has_port(&reader);
    let name = name(&reader, notes);
    let address = vip::address(&reader, notes);
    let port = vip::ports(&reader, notes);
    let mut draft = ServiceDraft {
        name,
        address,
        protocol,
        forwarding,
        tunnel,
        scheduling: scheduling::of_service(&reader, notes),
        ring_size: ring_size.and_then(|at| {
            u32::try_from(at.value).ok().map(|value| At {
                value,
                span: at.span,
            })
        }),
        mid_stream: optional_word(
            &reader,
            "mid-stream",
            MID_STREAMS,
            MidStream::Schedule,
            notes,
        ),
        mss: mss::of_service(&reader, kind, notes),
        idle: idle::of_service(&reader, kind, port.as_ref(), notes),
        port,
        quic: quic::of_service(&reader, kind, notes),
        sources: sources::read(&reader, notes),
        to_vip: aim::to_vip(&reader, &health),
        health,
        health_port_is_wrong,
        drain: optional_word(&reader, "drain-policy", DRAINS, DrainPolicy::Keep, notes),
        on_down: optional_word(&reader, "on-down", ON_DOWNS, on_down, notes),
        all_down: optional_word(&reader, "all-down", ALL_DOWNS, AllDown::FailOpen, notes),
        failover: failover::of_service(&reader, notes),
        claim: claim(&reader, notes),
        backends: backends(&reader, notes),
        has_backends: match reader.get("backend").map(|v| v.get_ref()) {
            Some(DeValue::Array(list)) => !list.is_empty(),
            _ => reader.has("backend"),
        },
        endpoints: BTreeMap::new(),
        span,
        path,
    };
    draft.endpoints = across::first_endpoints(&draft);
    draft
}

fn required_word<T: Copy>(
    reader: &Reader<'_, '_>,
    key: &str,
    words: &[(&'static str, T)],
    notes: &mut Notes<'_>,
) -> Option<At<T>> {
    reader.require(key, notes);
    reader.word(key, words, notes)
}

pub(super) fn optional_word<T: Copy>(
    reader: &Reader<'_, '_>,
    key: &str,
    words: &[(&'static str, T)],
    default: T,
    notes: &mut Notes<'_>,
) -> T {
    reader
        .word(key, words, notes)
        .map_or(default, |at| at.value)
}

pub(super) fn name(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<Name>> {
    reader.require("name", notes);
    let text = reader.string("name", notes)?;
    if let Some(value) = Name::new(text.value) {
        return Some(At {
            value,
            span: text.span,
        });
    }
    let message = format!("{} is not a name", value::quote_text(text.value));
    let note = Note::new(&codes::BAD_NAME, &text.span, &reader.name("name"), message)
        .help("names have 1 to 63 characters of a-z, 0-9 and `-`, and begin and end with one of a-z and 0-9");
    notes.add(match value::name_like(text.value) {
        Some(meant) => note.suggest(format!("\"{meant}\"")),
        None => note,
    });
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Vip,
    Backend,
}

fn address(reader: &Reader<'_, '_>, role: Role, notes: &mut Notes<'_>) -> Option<At<IpAddr>> {
    const KEY: &str = "address";
    reader.require(KEY, notes);
    let text = reader.string(KEY, notes)?;
    one_address(reader, text, role, notes)
}

/// The address that a text is.
pub(super) fn one_address(
    reader: &Reader<'_, '_>,
    text: At<&str>,
    role: Role,
    notes: &mut Notes<'_>,
) -> Option<At<IpAddr>> {
    const KEY: &str = "address";
    let span = text.span;
    match value::address(text.value) {
        Ok(found) => {
            let Some(what) = value::unusable(found) else {
                return Some(At { value: found, span });
            };
            let (code, whose) = match role {
                Role::Vip => (&codes::BAD_VIP, "service"),
                Role::Backend => (&codes::BAD_BACKEND_ADDRESS, "backend"),
            };
            let message = format!("{found} is {what}, and cannot be the address of a {whose}");
            let note = Note::new(code, &span, &reader.name(KEY), message);
            let mapped = match found {
                IpAddr::V6(a) => a.to_ipv4_mapped(),
                IpAddr::V4(_) => None,
            };
            notes.add(match mapped {
                Some(v4) => note
                    .help(format!("write it as \"{v4}\""))
                    .suggest(format!("\"{v4}\"")),
                None => note,
            });
            None
        }
        Err((why, meant)) => {
            let message = format!(
                "{} is not an IP address: {why}",
                value::quote_text(text.value)
            );
            let note = Note::new(&codes::BAD_ADDRESS, &span, &reader.name(KEY), message);
            notes.add(match meant {
                Some(meant) => note
                    .help(format!("did you mean \"{meant}\"?"))
                    .suggest(format!("\"{meant}\"")),
                None => note,
            });
            None
        }
    }
}

fn claim(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<String>> {
    let text = reader.string("claim", notes)?;
    if let Some(fault) = value::interface_fault(text.value) {
        let message = format!(
            "{} cannot be an interface: {fault}",
            value::quote_text(text.value)
        );
        notes.add(Note::new(
            &codes::BAD_INTERFACE,
            &text.span,
            &reader.name("claim"),
            message,
        ));
        return None;
    }
    Some(At {
        value: text.value.to_owned(),
        span: text.span,
    })
}

fn backends(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<BackendDraft> {
    let Some(found) = reader.get("backend") else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type("backend", "a list of tables", found, notes);
        return Vec::new();
    };
    let mut drafts = Vec::new();
    for (index, item) in list.iter().enumerate() {
        match item.get_ref() {
            DeValue::Table(table) => {
                let path = format!("{}backend.{}.", reader.path, label(table, index));
                drafts.push(backend(table, item.span(), path, notes));
            }
            _ => reader.wrong_type("backend", "a list of tables", item, notes),
        }
    }
    drafts
}

fn backend(
    table: &DeTable<'_>,
    span: Range<usize>,
    path: String,
    notes: &mut Notes<'_>,
) -> BackendDraft {
    let reader = Reader::new(&keys::BACKEND, table, span.clone(), path.clone(), notes);
    let weight = limits::WEIGHT;
    let read = reader.integer("weight", weight.min..=weight.max, notes);
    let weight = match (read, reader.get("weight")) {
        (Some(at), _) => u16::try_from(at.value).ok().map(|value| At {
            value,
            span: at.span,
        }),
        (None, Some(_)) => None,
        (None, None) => u16::try_from(weight.default).ok().map(|value| At {
            value,
            span: span.clone(),
        }),
    };
    if let Some(at) = weight.as_ref().filter(|at| at.value == 0) {
        let message = "a backend of weight 0 takes no new flows".to_owned();
        notes.add(Note::new(
            &codes::WEIGHT_ZERO,
            &at.span,
            &reader.name("weight"),
            message,
        ));
    }
    let port = match reader.get("port") {
        None => Some(None),
        Some(_) => health::port(&reader, notes).map(Some),
    };
    let admin = match reader.get("admin") {
        None => Some(AdminState::Enabled),
        Some(_) => reader.word("admin", ADMINS, notes).map(|at| at.value),
    };
    BackendDraft {
        name: name(&reader, notes),
        address: address(&reader, Role::Backend, notes),
        port,
        weight,
        tier: failover::tier(&reader, notes),
        max_connections: failover::max_connections(&reader, notes),
        admin,
        server_id: quic::of_backend(&reader, &span, notes),
        path,
    }
}
