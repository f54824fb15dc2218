//! Reads `allow` and `deny` of a service. Pure.

use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::ServiceDraft;
use super::value;
use crate::model::{Family, Prefix, PrefixError, Sources};

/// Both lists as far as they could be read.
#[derive(Debug, Default)]
pub(super) struct SourcesDraft {
    allow: Vec<At<Prefix>>,
    deny: Vec<At<Prefix>>,
}

impl SourcesDraft {
    /// Sorted, without doubles.
    pub(super) fn sources(&self) -> Sources {
        let sorted = |list: &[At<Prefix>]| {
            let mut prefixes: Vec<Prefix> = list.iter().map(|at| at.value).collect();
            prefixes.sort_unstable();
            prefixes.dedup();
            prefixes
        };
        Sources {
            allow: sorted(&self.allow),
            deny: sorted(&self.deny),
        }
    }

    /// How many entries they take in the map at most: a list and its successor stand there together for a moment.
    pub(super) fn entries(&self) -> usize {
        let listed = self.allow.len().saturating_add(self.deny.len());
        listed.saturating_add(usize::from(!self.allow.is_empty()))
    }
}

/// Both lists of a service.
pub(super) fn read(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> SourcesDraft {
    SourcesDraft {
        allow: list(reader, "allow", notes),
        deny: list(reader, "deny", notes),
    }
}

fn list(reader: &Reader<'_, '_>, key: &str, notes: &mut Notes<'_>) -> Vec<At<Prefix>> {
    let Some(found) = reader.get(key) else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(key, "a list", found, notes);
        return Vec::new();
    };
    let mut prefixes = Vec::new();
    for item in list.iter() {
        let DeValue::String(text) = item.get_ref() else {
            reader.wrong_type(key, "a list of texts", item, notes);
            continue;
        };
        let span = item.span();
        match text.parse::<Prefix>() {
            Ok(value) => prefixes.push(At { value, span }),
            Err(why) => {
                let message = format!("{} is not a prefix: {why}", value::quote_text(text));
                let note = Note::new(&codes::BAD_SOURCE, &span, &reader.name(key), message);
                notes.add(match why {
                    PrefixError::HostBits(meant) => note
                        .help(format!("did you mean \"{meant}\"?"))
                        .suggest(format!("\"{meant}\"")),
                    PrefixError::Malformed | PrefixError::Length(_) => note,
                });
            }
        }
    }
    prefixes
}

/// What the lists say against each other and against the service's address.
pub(super) fn check(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let SourcesDraft { allow, deny } = &draft.sources;
    for (key, list) in [("allow", allow), ("deny", deny)] {
        let path = format!("{}{key}", draft.path);
        let Some(vip) = &draft.address else { continue };
        for prefix in list {
            if prefix.value.family() == vip.value.family() {
                continue;
            }
            let version = match prefix.value.family() {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            let message = format!(
                "{} is {version}, and no client of {} has such an address",
                prefix.value, vip.value
            );
            let note = Note::new(&codes::BAD_SOURCE, &prefix.span, &path, message);
            notes.add(note.label(&vip.span, "the service's address"));
        }
    }
    for prefix in deny {
        let Some(first) = allow.iter().find(|other| other.value == prefix.value) else {
            continue;
        };
        let message = format!("{} is denied here and allowed elsewhere", prefix.value);
        let path = format!("{}deny", draft.path);
        let note = Note::new(&codes::SOURCE_CONFLICT, &prefix.span, &path, message);
        notes.add(note.label(&first.span, "allowed here"));
    }
}
