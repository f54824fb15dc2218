//! The keys of checks by a command. Pure.

use toml::de::DeValue;

use super::tls::text;
use crate::config::codes;
use crate::config::notes::{Note, Notes};
use crate::config::reader::Reader;
use crate::config::value;
use crate::model::ExecCheck;

const KEY: &str = "command";

/// The most arguments, and the most bytes of each.
const ARGUMENTS: usize = 64;
const BYTES: usize = 4096;

/// The command and who runs it.
pub(in crate::config) fn check(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> ExecCheck {
    reader.require(KEY, notes);
    if let (Some(found), None) = (reader.get(KEY), reader.get("user")) {
        let message = "the command is run by root: there is no `user`".to_owned();
        let key = reader.name(KEY);
        notes.add(Note::new(&codes::RUN_BY_ROOT, &found.span(), &key, message));
    }
    let mut words = command(reader, notes).into_iter();
    ExecCheck {
        command: words.next().unwrap_or_default().into(),
        arguments: words.collect(),
        user: text(reader, "user", 1..=32, "nobody", notes),
    }
}

fn command(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<String> {
    let Some(found) = reader.get(KEY) else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(KEY, "a list of texts", found, notes);
        return Vec::new();
    };
    let mut words = Vec::new();
    for item in list {
        match item.get_ref() {
            DeValue::String(text) => words.push(text.to_string()),
            _ => {
                reader.wrong_type(KEY, "a list of texts", item, notes);
                return Vec::new();
            }
        }
    }
    let long = |word: &String| word.len() > BYTES || word.contains('\0');
    let fault = match words.first() {
        None => Some("it is empty"),
        Some(program) => value::file_fault(program),
    };
    let fault = fault
        .or_else(|| (words.len() > ARGUMENTS).then_some("it has more than 64 words"))
        .or_else(|| {
            let any = words.iter().any(long);
            any.then_some("a word has more than 4096 bytes or a NUL byte")
        });
    if let Some(fault) = fault {
        let message = format!("`command` cannot be run: {fault}");
        let note = Note::new(
            &codes::BAD_PATHNAME,
            &found.span(),
            &reader.name(KEY),
            message,
        );
        notes.add(note.help(
            "write the program's absolute path and its arguments, each a text: [\"/usr/local/bin/check\", \"-v\"]",
        ));
    }
    words
}
