//! Reads `tunnel-source` and checks it against the services that need one. Pure.

use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{ServiceDraft, family};
use super::value;
use crate::model::{Family, Forwarding, Prefix, PrefixError};

const KEY: &str = "tunnel-source";

/// The prefixes that could be read, IPv4 first.
pub(super) fn sources(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<Prefix> {
    let Some(found) = reader.get(KEY) else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(KEY, "a list", found, notes);
        return Vec::new();
    };
    let mut sources: Vec<At<Prefix>> = Vec::new();
    for item in list.iter() {
        let DeValue::String(text) = item.get_ref() else {
            reader.wrong_type(KEY, "a list of texts", item, notes);
            continue;
        };
        let span = item.span();
        match source(text) {
            Err((why, meant)) => {
                let message = format!(
                    "{} cannot be the source of tunnels: {why}",
                    value::quote_text(text)
                );
                let note = Note::new(&codes::BAD_TUNNEL_SOURCE, &span, &reader.name(KEY), message);
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
                    let note =
                        Note::new(&codes::BAD_TUNNEL_SOURCE, &span, &reader.name(KEY), message);
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
        forwarding.is_some_and(|at| at.value == Forwarding::Ipip)
    });
    for draft in needed {
        missing(sources, draft, notes);
        let vip = draft.address.iter().map(|at| (at, &draft.path));
        let backends = draft
            .backends
            .iter()
            .filter_map(|backend| Some((backend.address.as_ref()?, &backend.path)));
        for (at, path) in vip.chain(backends) {
            let Some(source) = sources.iter().find(|source| source.contains(at.value)) else {
                continue;
            };
            let message = format!("{} lies within the source of tunnels, {source}", at.value);
            notes.add(Note::new(
                &codes::TUNNEL_OVERLAP,
                &at.span,
                &format!("{path}address"),
                message,
            ));
        }
    }
}

fn missing(sources: &[Prefix], draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let (Some(address), Some(forwarding)) = (&draft.address, &draft.forwarding) else {
        return;
    };
    let family = family(address.value);
    if sources.iter().any(|source| source.family() == family) || is_wrong(notes) {
        return;
    }
    let (version, such) = match family {
        Family::V4 => ("IPv4", "10.9.0.0/24"),
        Family::V6 => ("IPv6", "fd00:9::/112"),
    };
    let message = format!("ipip needs a source of {version} tunnels, and [daemon] has none");
    let key = format!("{}forwarding", draft.path);
    let note = Note::new(&codes::NO_TUNNEL_SOURCE, &forwarding.span, &key, message);
    let note = note.help(format!(
        "add `tunnel-source = [\"{such}\"]` (an unused prefix of yours) to [daemon], beside another family's if there is one"
    ));
    notes.add(note.label(&address.span, format!("an {version} address")));
}

/// A source that could not be read, or whose key is misspelt: it has been noted, and nothing is missing besides.
fn is_wrong(notes: &Notes<'_>) -> bool {
    notes.found.iter().any(|d| {
        let meant = d.suggestion.as_ref().is_some_and(|s| s.replacement == KEY);
        meant || d.key == "daemon.tunnel-source"
    })
}
