//! Reads `quic-config-ids`, `server-id` and `udp-spread`, and checks them against each other. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use lb_common::quic::MAX_CONFIG;
use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{BackendDraft, ServiceDraft};
use super::value;
use crate::model::{ConfigIds, Forwarding, Protocol, ServerId, Spread};

const CONFIG_IDS: &str = "quic-config-ids";
const SERVER_ID: &str = "server-id";
const SPREAD: &str = "udp-spread";

pub(super) const SPREADS: &[(&str, Spread)] =
    &[("flow", Spread::Flow), ("datagram", Spread::Datagram)];

/// What a service says of QUIC, and of single datagrams.
#[derive(Debug, Default)]
pub(super) struct QuicDraft {
    /// `None`: the key is not there.
    config_ids: Option<At<ConfigIds>>,
    /// The key is there; if it could not be read, that has been noted.
    has_config_ids: bool,
    spread: Option<At<Spread>>,
}

impl QuicDraft {
    pub(super) fn config_ids(&self) -> ConfigIds {
        let ids = self.config_ids.as_ref();
        ids.map_or_else(ConfigIds::default, |at| at.value.clone())
    }

    pub(super) fn spread(&self) -> Spread {
        self.spread.as_ref().map_or(Spread::Flow, |at| at.value)
    }
}

/// What a backend says.
#[derive(Debug)]
pub(super) struct ServerIdDraft {
    pub(super) id: Option<At<ServerId>>,
    /// The key, if it is there.
    key: Option<Range<usize>>,
    /// Where it would stand.
    table: Range<usize>,
}

/// The keys of a service.
pub(super) fn of_service(
    reader: &Reader<'_, '_>,
    protocol: Option<Protocol>,
    notes: &mut Notes<'_>,
) -> QuicDraft {
    if protocol.is_some_and(|protocol| protocol != Protocol::Udp) {
        let why = "the service's protocol is not udp";
        reader.without_effect(&[CONFIG_IDS, SPREAD], why, "remove the key", notes);
    }
    QuicDraft {
        config_ids: config_ids(reader, notes),
        has_config_ids: reader.has(CONFIG_IDS),
        spread: reader.word(SPREAD, SPREADS, notes),
    }
}

fn config_ids(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<ConfigIds>> {
    let found = reader.get(CONFIG_IDS)?;
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(CONFIG_IDS, "a list", found, notes);
        return None;
    };
    let mut ids = Vec::new();
    for item in list.iter() {
        let DeValue::Integer(number) = item.get_ref() else {
            reader.wrong_type(CONFIG_IDS, "a list of whole numbers", item, notes);
            return None;
        };
        let digits = number.as_str().replace('_', "");
        match u8::from_str_radix(&digits, number.radix()) {
            Ok(id) if id <= MAX_CONFIG => ids.push(id),
            _ => {
                let message = format!(
                    "{} is no config id: they are 0 to {MAX_CONFIG}",
                    value::bounded(&digits)
                );
                let path = reader.name(CONFIG_IDS);
                notes.add(Note::new(
                    &codes::BAD_CONFIG_IDS,
                    &item.span(),
                    &path,
                    message,
                ));
                return None;
            }
        }
    }
    match ConfigIds::new(&ids) {
        Ok(value) => Some(At {
            value,
            span: found.span(),
        }),
        Err(why) => {
            let path = reader.name(CONFIG_IDS);
            let message = format!("`{CONFIG_IDS}` cannot be used: {why}");
            notes.add(Note::new(
                &codes::BAD_CONFIG_IDS,
                &found.span(),
                &path,
                message,
            ));
            None
        }
    }
}

/// The key of a backend.
pub(super) fn of_backend(
    reader: &Reader<'_, '_>,
    table: &Range<usize>,
    notes: &mut Notes<'_>,
) -> ServerIdDraft {
    let read = |text: At<&str>, notes: &mut Notes<'_>| match text.value.parse::<ServerId>() {
        Ok(value) => Some(At {
            value,
            span: text.span,
        }),
        Err(why) => {
            let shown = value::quote_text(text.value);
            let message = format!("{shown} is not a server id: {why}");
            let path = reader.name(SERVER_ID);
            notes.add(Note::new(&codes::BAD_SERVER_ID, &text.span, &path, message));
            None
        }
    };
    ServerIdDraft {
        id: reader
            .string(SERVER_ID, notes)
            .and_then(|text| read(text, notes)),
        key: reader.entry(SERVER_ID).map(|(key, _)| key),
        table: table.clone(),
    }
}

/// What service and backends say against each other.
pub(super) fn check(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    spread(draft, notes);
    let quic = &draft.quic;
    let mut first: BTreeMap<ServerId, &Range<usize>> = BTreeMap::new();
    let mut length: Option<&At<ServerId>> = None;
    for backend in &draft.backends {
        let path = format!("{}{SERVER_ID}", backend.path);
        let ServerIdDraft { id, key, table } = &backend.server_id;
        match key {
            None if quic.has_config_ids => {
                missing(draft, backend, table, &path, notes);
                continue;
            }
            Some(key) if !quic.has_config_ids => {
                let message =
                    format!("`{SERVER_ID}` has no effect: the service has no `{CONFIG_IDS}`");
                let note = Note::new(&codes::KEY_WITHOUT_EFFECT, key, &path, message);
                notes.add(note.help(format!(
                    "add `{CONFIG_IDS} = [0]` to the service, or remove the key"
                )));
                continue;
            }
            _ => {}
        }
        let Some(id) = id else { continue };
        if let Some(other) = length.filter(|other| other.value.len() != id.value.len()) {
            let message = format!(
                "the server id {} has {} bytes, and another one of the service {}",
                id.value,
                id.value.len(),
                other.value.len()
            );
            let note = Note::new(&codes::SERVER_ID_LENGTH, &id.span, &path, message);
            notes.add(note.label(&other.span, "the other"));
            continue;
        }
        length.get_or_insert(id);
        match first.get(&id.value) {
            Some(other) => {
                let message = format!("a second backend with the server id {}", id.value);
                let note = Note::new(&codes::DUPLICATE_SERVER_ID, &id.span, &path, message);
                notes.add(note.label(other, "first here"));
            }
            None => {
                first.insert(id.value, &id.span);
            }
        }
    }
}

fn missing(
    draft: &ServiceDraft,
    backend: &BackendDraft,
    table: &Range<usize>,
    path: &str,
    notes: &mut Notes<'_>,
) {
    let name = backend.name.as_ref().map_or("", |at| at.value.as_str());
    let message = format!("backend \"{name}\" has no `{SERVER_ID}`");
    let note = Note::new(&codes::MISSING_KEY, table, path, message).help(format!(
        "add `{SERVER_ID} = \"...\"`: the hex digits of what this server writes into its connection ids"
    ));
    notes.add(match &draft.quic.config_ids {
        Some(ids) => note.label(&ids.span, "the service's packets name their backend"),
        None => note,
    });
}

/// Who schedules each datagram by itself keeps no flows.
fn spread(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let spread = draft.quic.spread.as_ref();
    let Some(spread) = spread.filter(|at| at.value == Spread::Datagram) else {
        return;
    };
    let path = format!("{}{SPREAD}", draft.path);
    let mut conflict = |span: &Range<usize>, message: &str| {
        let note = Note::new(
            &codes::SPREAD_CONFLICT,
            &spread.span,
            &path,
            message.to_owned(),
        );
        notes.add(note.label(span, "because of this"));
    };
    if let Some(ids) = &draft.quic.config_ids {
        let message = "datagrams cannot both be scheduled one by one and name their backend";
        conflict(&ids.span, message);
    }
    if let Some(at) = draft.forwarding.as_ref()
        && at.value == Forwarding::Dnat
    {
        let message = "datagrams that are translated cannot be scheduled one by one";
        conflict(&at.span, message);
    }
}
