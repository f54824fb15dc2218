//! Syntax errors of TOML, in our words and with a cure, and syntax that only TOML 1.1 knows. Pure.

use toml::de::{DeTable, DeValue};

use super::codes;
use super::notes::{KEPT, Note, Notes};
use super::value;

/// Notes what the parser found, one error a line: those that follow on the same line are its
/// attempts to recover.
pub(super) fn report(errors: &[toml::de::Error], root: &DeTable<'_>, notes: &mut Notes<'_>) {
    let mut torn: Vec<usize> = Vec::new();
    let mut before = "";
    for error in errors.iter().take(KEPT.saturating_mul(4)) {
        let span = error.span().unwrap_or(0..0);
        let end = notes.text.trim_end().len();
        let at = span.start.min(notes.text.len());
        let line = notes.lines.position(at.min(end)).line;
        if torn.contains(&line) {
            continue;
        }
        // A list or table that is not closed swallows the lines after it, one error each.
        let goes_on = torn
            .last()
            .is_some_and(|last| line.saturating_sub(*last) <= 3)
            && before == error.message();
        let swallowed = goes_on && before.starts_with("missing comma");
        before = error.message();
        torn.push(line);
        if swallowed {
            continue;
        }
        let row = notes.lines.span(line);
        let start = super::diagnostic::floor(notes.text, at.clamp(row.start, row.end));
        let stop = super::diagnostic::floor(notes.text, span.end.clamp(start, row.end));
        let row = notes.text.get(row).unwrap_or("");
        notes.add(note(error.message(), start..stop, row));
    }
    let rest = errors.len().saturating_sub(KEPT.saturating_mul(4));
    notes.omitted = notes.omitted.saturating_add(rest);
    torn.sort_unstable();
    notes.torn = torn;
    if errors.is_empty() {
        newer_table(root, notes);
    }
}

fn note(message: &str, span: std::ops::Range<usize>, row: &str) -> Note {
    let key = row.split_once('=').map_or("", |(key, _)| key.trim());
    let key = if key.contains(['"', '[', '#', ' ']) {
        ""
    } else {
        key
    };
    if message.contains("duplicate key") {
        return Note::new(
            &codes::DUPLICATE_KEY,
            &span,
            &value::bounded(key),
            "this key is there already".to_owned(),
        );
    }
    let shown = value::printable(message);
    let note = Note::new(
        &codes::SYNTAX,
        &span,
        &value::bounded(key),
        format!("not valid TOML: {shown}"),
    );
    note.help(if message.starts_with("missing comma") {
        "a list that begins above is not closed with `]`, or a comma between its values is missing"
            .to_owned()
    } else if message.contains("recurs") {
        "no value of a configuration is nested as deeply as this".to_owned()
    } else {
        help(row)
    })
}

/// The likely cure, by how the line looks.
fn help(row: &str) -> String {
    let row = row.trim();
    let (key, given) = match row.split_once('=') {
        Some((key, given)) => (key.trim(), given.trim()),
        None => ("", ""),
    };
    let quotes = row.matches('"').count();
    if row.starts_with("[[") && !row.ends_with("]]") {
        "close the header with `]]`".to_owned()
    } else if row.starts_with('[') && !row.contains(']') {
        "close the header with `]`".to_owned()
    } else if row.contains('\'') && row.matches('\'').count() % 2 == 1 || quotes % 2 == 1 {
        "close the quotes".to_owned()
    } else if key.is_empty() && row.contains(':') {
        "write `key = value` with an equals sign".to_owned()
    } else if !key.is_empty() && given.is_empty() {
        "give the key a value after the equals sign".to_owned()
    } else if !key.is_empty() && given.starts_with('[') && !given.ends_with(']') {
        "close the list with `]`".to_owned()
    } else if !key.is_empty() && !given.starts_with(['"', '\'', '[', '{']) {
        let bare = given.split('#').next().unwrap_or(given).trim();
        if bare.contains(['"', '\\']) {
            codes::SYNTAX.cure.to_owned()
        } else {
            format!(
                "texts need double quotes: `{} = \"{}\"`",
                value::bounded(key),
                value::bounded(bare)
            )
        }
    } else {
        codes::SYNTAX.cure.to_owned()
    }
}

fn newer_table(table: &DeTable<'_>, notes: &mut Notes<'_>) {
    for (key, found) in table.iter() {
        newer_value(key.get_ref(), found.get_ref(), found.span(), notes);
    }
}

fn newer_value(
    key: &str,
    found: &DeValue<'_>,
    span: std::ops::Range<usize>,
    notes: &mut Notes<'_>,
) {
    let source = notes.text.get(span.clone()).unwrap_or("");
    let what = match found {
        DeValue::Table(table) => {
            let inline = source.starts_with('{');
            let inside = source.trim_end_matches('}').trim_end();
            let newer = inline && (inside.ends_with(',') || source.contains('\n'));
            newer_table(table, notes);
            newer.then_some("an inline table over several lines, or with a comma at its end")
        }
        DeValue::Array(list) => {
            for item in list.iter() {
                newer_value(key, item.get_ref(), item.span(), notes);
            }
            None
        }
        DeValue::String(_) if source.starts_with('"') => {
            let plain = source.replace("\\\\", "");
            (plain.contains("\\e") || plain.contains("\\x")).then_some("the escapes \\e and \\xHH")
        }
        _ => None,
    };
    if let Some(what) = what {
        let message = format!("TOML 1.0 does not have {what}");
        notes.add(Note::new(
            &codes::TOML_1_1,
            &span,
            &value::bounded(key),
            message,
        ));
    }
}
