//! Reads `check-networks`, where checks may go, and finds backends that lie elsewhere. Pure.

use std::ops::Range;

use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{BackendDraft, ServiceDraft};
use super::value;
use crate::model::{Check, Prefix, PrefixError};

const KEY: &str = "check-networks";

/// The networks, sorted, without doubles; `None`: checks may go anywhere, or one of them could not be read, which was noted.
pub(super) fn of_daemon(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<Vec<Prefix>> {
    let found = reader.get(KEY)?;
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(KEY, "a list", found, notes);
        return None;
    };
    let mut networks = Vec::new();
    for item in list.iter() {
        let DeValue::String(text) = item.get_ref() else {
            reader.wrong_type(KEY, "a list of texts", item, notes);
            continue;
        };
        match text.parse::<Prefix>() {
            Ok(network) => networks.push(network),
            Err(why) => {
                let message = format!("{} is not a network: {why}", value::quote_text(text));
                let key = reader.name(KEY);
                let note = Note::new(&codes::BAD_CHECK_NETWORK, &item.span(), &key, message);
                notes.add(match why {
                    PrefixError::HostBits(meant) => note
                        .help(format!("did you mean \"{meant}\"?"))
                        .suggest(format!("\"{meant}\"")),
                    PrefixError::Malformed | PrefixError::Length(_) => note,
                });
            }
        }
    }
    let all_read = networks.len() == list.len();
    networks.sort_unstable();
    networks.dedup();
    all_read.then_some(networks)
}

/// Where the key stands in the file, by its table `[daemon]`.
pub(super) fn place(file: &Reader<'_, '_>) -> Option<Range<usize>> {
    match file.get("daemon")?.get_ref() {
        DeValue::Table(daemon) => Some(daemon.get(KEY)?.span()),
        _ => None,
    }
}

/// Notes each backend that is checked and lies in none of the networks. Who is not checked may be anywhere.
pub(super) fn check(networks: &At<&[Prefix]>, drafts: &[ServiceDraft], notes: &mut Notes<'_>) {
    let checked = drafts.iter().filter(|d| d.health.check != Check::None);
    for backend in checked.flat_map(|draft| &draft.backends) {
        against(networks, backend, notes);
    }
}

fn against(networks: &At<&[Prefix]>, backend: &BackendDraft, notes: &mut Notes<'_>) {
    let Some(own) = &backend.address else { return };
    if networks.value.iter().any(|n| n.contains(own.value)) {
        return;
    }
    let who = backend.name.as_ref().map_or_else(
        || "this backend".to_owned(),
        |name| format!("backend \"{}\"", name.value),
    );
    let message = format!(
        "checks of {who} would go to {}, which lies in no network of `{KEY}`",
        own.value
    );
    let key = format!("{}address", backend.path);
    let note = Note::new(&codes::CHECK_ELSEWHERE, &own.span, &key, message);
    let note = note.help(format!(
        "correct the address, or add \"{}\" or its network to `{KEY}` in [daemon]",
        own.value
    ));
    notes.add(note.label(&networks.span, "checks may go here only"));
}
