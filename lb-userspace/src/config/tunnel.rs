//! Reads `tunnel-source` and checks it against the services that need one; reads what a service says of its tunnels. Pure.

use std::num::NonZeroU16;

use toml::de::DeValue;

use super::across::protocol_word;
use super::codes::{self, Code};
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{ServiceDraft, forwarding_word};
use super::value;
use crate::model::{
    Family, Forwarding, GueVariant, OuterTtl, Prefix, PrefixError, Protocol, family,
};

const KEY: &str = "tunnel-source";

/// What a service says of its tunnels.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelDraft {
    pub(super) ttl: OuterTtl,
    pub(super) port: NonZeroU16,
    pub(super) variant: GueVariant,
    /// The kind of the TCP option that says who the client is; 0: there is none.
    pub(super) client_option: u8,
}

const CLIENT_OPTION: &str = "client-option";

/// The port of `gue` if nothing is said.
const GUE_PORT: NonZeroU16 = match NonZeroU16::new(lb_common::tunnel::GUE_PORT) {
    Some(port) => port,
    None => NonZeroU16::MIN,
};

/// Reads it, and notes what is without effect.
pub(super) fn of_service(
    reader: &Reader<'_, '_>,
    forwarding: Option<&At<Forwarding>>,
    protocol: Option<&At<Protocol>>,
    notes: &mut Notes<'_>,
) -> TunnelDraft {
    let port = reader.integer("gue-port", 1..=65_535, notes);
    let port = port.and_then(|at| NonZeroU16::new(u16::try_from(at.value).ok()?));
    let variant = reader.integer("gue-variant", 0..=1, notes);
    // Below are those that TCP has itself.
    let option = reader.integer(CLIENT_OPTION, 70..=255, notes);
    let option = option.and_then(|at| u8::try_from(at.value).ok());
    let draft = TunnelDraft {
        client_option: option.unwrap_or(0),
        ttl: ttl(reader, notes).unwrap_or(OuterTtl::DEFAULT),
        port: port.unwrap_or(GUE_PORT),
        variant: match variant.map(|at| at.value) {
            Some(0) => GueVariant::Header,
            _ => GueVariant::Direct,
        },
    };
    if let Some(forwarding) = forwarding {
        let word = forwarding_word(forwarding.value);
        let why = format!("the service's forwarding is {word}");
        let mut idle: &[&str] = match forwarding.value {
            Forwarding::Gue => &[CLIENT_OPTION],
            Forwarding::Ipip => &["gue-port", "gue-variant", CLIENT_OPTION],
            Forwarding::Dnat | Forwarding::L2dsr => {
                &["tunnel-ttl", "gue-port", "gue-variant", CLIENT_OPTION]
            }
            Forwarding::Fullnat => &["tunnel-ttl", "gue-port", "gue-variant"],
        };
        while let [key, rest @ ..] = idle {
            let wanted = match *key {
                "tunnel-ttl" => "\"ipip\" or \"gue\"",
                CLIENT_OPTION => "\"fullnat\"",
                _ => "\"gue\"",
            };
            let help = format!("remove the key, or use forwarding {wanted}");
            reader.without_effect(&[key], &why, &help, notes);
            idle = rest;
        }
        if forwarding.value == Forwarding::Fullnat
            && let Some(protocol) = protocol.filter(|at| at.value != Protocol::Tcp)
        {
            let why = format!(
                "the service's protocol is {}",
                protocol_word(protocol.value)
            );
            let help = "remove the key: only TCP has such options";
            reader.without_effect(&[CLIENT_OPTION], &why, help, notes);
        }
    }
    draft
}

fn ttl(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<OuterTtl> {
    const KEY: &str = "tunnel-ttl";
    match reader.get(KEY)?.get_ref() {
        DeValue::String(text) if text == "inherit" => Some(OuterTtl::Inherit),
        DeValue::String(text) => {
            let message = format!(
                "`{KEY}` is {}, and must be a number from 1 to 255, or \"inherit\"",
                value::quote_text(text)
            );
            let span = reader.get(KEY)?.span();
            let note = Note::new(&codes::UNKNOWN_WORD, &span, &reader.name(KEY), message);
            notes.add(match text.parse::<u8>() {
                Ok(number @ 1..) => note.suggest(number.to_string()),
                _ => note.suggest("\"inherit\"".to_owned()),
            });
            None
        }
        _ => {
            let at = reader.integer(KEY, 1..=255, notes)?;
            u8::try_from(at.value).ok().map(OuterTtl::Fixed)
        }
    }
}

/// The prefixes that could be read, IPv4 first.
pub(super) fn sources(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<Prefix> {
    let what = "the source of tunnels";
    prefixes(reader, KEY, &codes::BAD_TUNNEL_SOURCE, what, notes)
}

/// Prefixes of which there may be one of each family; `what` is each.
pub(super) fn prefixes(
    reader: &Reader<'_, '_>,
    key: &str,
    code: &'static Code,
    what: &str,
    notes: &mut Notes<'_>,
) -> Vec<Prefix> {
    let Some(found) = reader.get(key) else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(key, "a list", found, notes);
        return Vec::new();
    };
    let mut sources: Vec<At<Prefix>> = Vec::new();
    for item in list.iter() {
        let DeValue::String(text) = item.get_ref() else {
            reader.wrong_type(key, "a list of texts", item, notes);
            continue;
        };
        let span = item.span();
        match source(text) {
            Err((why, meant)) => {
                let message = format!("{} cannot be {what}: {why}", value::quote_text(text));
                let note = Note::new(code, &span, &reader.name(key), message);
                notes.add(match meant {
                    Some(meant) => note
                        .help(format!("did you mean \"{meant}\"?"))
                        .suggest(format!("\"{meant}\"")),
                    None => note,
                });
            }
            Ok(read) => {
                let same = |other: &&At<Prefix>| other.value.family() == read.family();
                if let Some(first) = sources.iter().find(same) {
                    let message = format!("{read} is a second source of its family");
                    let note = Note::new(code, &span, &reader.name(key), message);
                    notes.add(note.label(&first.span, "first here"));
                } else {
                    sources.push(At { value: read, span });
                }
            }
        }
    }
    let mut sources: Vec<Prefix> = sources.into_iter().map(|at| at.value).collect();
    sources.sort_unstable();
    sources
}

/// The prefix, or why it cannot be used and what was meant.
fn source(text: &str) -> Result<Prefix, (String, Option<Prefix>)> {
    let prefix: Prefix = text.parse().map_err(|error: PrefixError| {
        let meant = match error {
            PrefixError::HostBits(meant) if usable(meant).is_ok() => Some(meant),
            _ => None,
        };
        (error.to_string(), meant)
    })?;
    usable(prefix).map(|()| prefix).map_err(|why| (why, None))
}

fn usable(prefix: Prefix) -> Result<(), String> {
    if let Some(what) = value::unusable(prefix.address()) {
        return Err(format!("it is {what}"));
    }
    let shortest = match prefix.family() {
        Family::V4 => 8,
        Family::V6 => 96,
    };
    match prefix.length() < shortest {
        true => Err(format!("its length is less than {shortest}")),
        false => Ok(()),
    }
}

/// Services that need a source have one, and nothing else lies within it.
pub(super) fn check(sources: &[Prefix], drafts: &[ServiceDraft], notes: &mut Notes<'_>) {
    let needed = drafts.iter().filter(|draft| {
        let forwarding = draft.forwarding.as_ref();
        forwarding.is_some_and(|at| at.value.is_tunnel())
    });
    for draft in needed {
        missing(sources, draft, notes);
        nested(draft, notes);
        let vip = draft
            .address
            .iter()
            .map(|at| (at.value, &at.span, &draft.path));
        let backends = draft.backends.iter().filter_map(|backend| {
            let at = backend.address.as_ref()?;
            Some((Prefix::from(at.value), &at.span, &backend.path))
        });
        for (address, span, path) in vip.chain(backends) {
            let meets = |source: &&Prefix| source.covers(&address) || address.covers(source);
            let Some(source) = sources.iter().find(meets) else {
                continue;
            };
            let message = match source.covers(&address) {
                true => format!("{address} lies within the source of tunnels, {source}"),
                false => format!("the source of tunnels, {source}, lies within {address}"),
            };
            notes.add(Note::new(
                &codes::TUNNEL_OVERLAP,
                span,
                &format!("{path}address"),
                message,
            ));
        }
    }
}

/// One note for each family of backends that has no source.
fn missing(sources: &[Prefix], draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let Some(forwarding) = &draft.forwarding else {
        return;
    };
    let addresses = || draft.backends.iter().filter_map(|b| b.address.as_ref());
    for (which, version, such) in [
        (Family::V4, "IPv4", "10.9.0.0/24"),
        (Family::V6, "IPv6", "fd00:9::/112"),
    ] {
        let Some(address) = addresses().find(|at| family(at.value) == which) else {
            continue;
        };
        if sources.iter().any(|source| source.family() == which) || is_wrong(notes) {
            continue;
        }
        let word = forwarding_word(forwarding.value);
        let message = format!("{word} needs a source of {version} tunnels, and [daemon] has none");
        let key = format!("{}forwarding", draft.path);
        let note = Note::new(&codes::NO_TUNNEL_SOURCE, &forwarding.span, &key, message);
        let note = note.help(format!(
            "add `tunnel-source = [\"{such}\"]` (an unused prefix of yours) to [daemon], beside another family's if there is one"
        ));
        notes.add(note.label(&address.span, format!("an {version} address")));
    }
}

/// The datagrams of a service must not look like tunnels themselves.
fn nested(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let (Some(forwarding), Some(port), Some(protocol)) =
        (&draft.forwarding, &draft.port, &draft.protocol)
    else {
        return;
    };
    if forwarding.value != Forwarding::Gue
        || !matches!(protocol.value, Protocol::Udp | Protocol::Any)
        || !(port.value.low()..=port.value.high()).contains(&draft.tunnel.port.get())
    {
        return;
    }
    let gue = draft.tunnel.port;
    let (code, message) = match port.value.single() {
        Some(_) => (
            &codes::GUE_IN_GUE,
            format!("UDP port {gue} is that of the service and of its tunnels"),
        ),
        None => (
            &codes::GUE_AMONG_PORTS,
            format!("UDP port {gue} is one of the service and that of its tunnels"),
        ),
    };
    let key = format!("{}port", draft.path);
    let note = Note::new(code, &port.span, &key, message);
    notes.add(note.help("give another `gue-port`, here and to `fairlead decap --gue-port`"));
}

/// A source that could not be read, or whose key is misspelt: it has been noted, and nothing is missing besides.
fn is_wrong(notes: &Notes<'_>) -> bool {
    notes.found.iter().any(|d| {
        let meant = d.suggestion.as_ref().is_some_and(|s| s.replacement == KEY);
        meant || d.key == "daemon.tunnel-source"
    })
}
