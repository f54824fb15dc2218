//! The keys of HTTP checks. Pure.

use toml::Spanned;
use toml::de::DeValue;

use crate::config::codes;
use crate::config::notes::{Note, Notes};
use crate::config::reader::Reader;
use crate::config::value;
use crate::model::HttpCheck;

/// Request and expected answer.
pub(super) fn check(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> HttpCheck {
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

/// `host`.
pub(super) fn host(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
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
