//! Every key of every table: some broken file has it wrong in a way of its own, and with a value that nothing takes it is
//! answered by an error that names it, points at the value, and says what one looks like.

use std::collections::BTreeSet;

use super::broken;
use crate::config::{keys, parse, parse_bytes};

/// Which key of which table a diagnostic's key is: names of services, backends and hooks are left out.
fn place(key: &str) -> (String, String) {
    let parts: Vec<&str> = key.split('.').collect();
    let table = match parts[..] {
        [_] => "",
        ["service", _, "health", _] => "service.health",
        ["service", _, "backend", _, _] => "service.backend",
        [table, ..] => table,
        [] => "",
    };
    (table.to_owned(), parts.last().unwrap().to_string())
}

#[test]
fn every_key_is_wrong_in_a_broken_file() {
    let mut named = BTreeSet::new();
    for (name, bytes) in broken::files() {
        let (outcome, _) = parse_bytes(&name, &bytes);
        named.extend(outcome.errors().map(|error| place(&error.key)));
    }
    let all = keys::ALL.iter().flat_map(|section| {
        let of = |key: &keys::Key| (section.name.to_owned(), key.name.to_owned());
        section.keys.iter().map(of)
    });
    let missing: Vec<_> = all.filter(|key| !named.contains(key)).collect();
    assert!(
        missing.is_empty(),
        "no file in config/broken has these wrong: {missing:?}"
    );
}

/// A date, which TOML has and no key takes.
const WRONG: &str = "1979-05-27";

/// A table's name, its header, and its keys with their values.
type Table = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// A small file that is good.
const GOOD: [Table; 6] = [
    ("daemon", "[daemon]", &[("interfaces", "[\"eth0\"]")]),
    ("limits", "[limits]", &[]),
    (
        "service",
        "[[service]]",
        &[
            ("name", "\"web\""),
            ("address", "\"192.0.2.1\""),
            ("port", "80"),
            ("protocol", "\"tcp\""),
            ("forwarding", "\"dnat\""),
        ],
    ),
    ("service.health", "[service.health]", &[("type", "\"tcp\"")]),
    (
        "service.backend",
        "[[service.backend]]",
        &[("name", "\"b1\""), ("address", "\"192.0.2.11\"")],
    ),
    (
        "hook",
        "[[hook]]",
        &[("name", "\"pager\""), ("command", "[\"/bin/page\"]")],
    ),
];

/// A key, of a table.
type Line = (&'static str, &'static str, &'static str);

/// What keys need beside them to be of any use: each of these changes and completes [`GOOD`].
const CONTEXTS: [&[Line]; 9] = [
    &[],
    &[("service.health", "type", "\"http\"")],
    &[
        ("service.health", "type", "\"http2\""),
        ("service.health", "tls", "true"),
    ],
    &[("service.health", "type", "\"grpc\"")],
    &[("service.health", "type", "\"udp\"")],
    &[("service.health", "type", "\"dns\"")],
    &[("service.health", "type", "\"exec\"")],
    &[
        ("service.health", "damping", "4"),
        ("service.health", "agent-weight", "\"line\""),
    ],
    &[("hook", "url", "\"https://example.org/hook\"")],
];

/// The file with this key as [`WRONG`] says, in a context; a table of that name is left out.
fn with_wrong(table: &str, wrong: &str, context: &[Line]) -> String {
    let path = match table {
        "" => wrong.to_owned(),
        table => format!("{table}.{wrong}"),
    };
    let line = |key: &str, value: &str| format!("{key} = {value}\n");
    let mut text = match table {
        "" => line(wrong, WRONG),
        _ => String::new(),
    };
    for (name, header, values) in GOOD {
        if name == path || name.starts_with(&format!("{path}.")) {
            continue;
        }
        text += &format!("{header}\n");
        let more = context.iter().filter(|(of, ..)| *of == name);
        let more: Vec<_> = more.map(|(_, key, value)| (*key, *value)).collect();
        let other = |key: &str| more.iter().any(|(named, _)| *named == key);
        // A hook has one of both.
        let replaced = |key: &str| other(key) || key == "command" && other("url");
        let usual = values.iter().filter(|(key, _)| !replaced(key));
        for (key, value) in usual.chain(&more) {
            if (name, *key) != (table, wrong) {
                text += &line(key, value);
            }
        }
        if name == table {
            text += &line(wrong, WRONG);
        }
    }
    text
}

/// An error about this key of this table that says what a value looks like, or nothing of the kind.
fn is_clear(section: &keys::Section, key: &keys::Key, context: &[Line]) -> bool {
    let text = with_wrong(section.name, key.name, context);
    let outcome = parse("wrong.toml", &text);
    assert!(outcome.config.is_none(), "it is taken:\n{text}");
    let wanted = (section.name.to_owned(), key.name.to_owned());
    outcome.errors().any(|error| {
        place(&error.key) == wanted
            && text.get(error.span.clone()) == Some(WRONG)
            && error.message.contains(&format!("`{}`", key.name))
            && error.help.contains(key.form)
    })
}

#[test]
fn every_key_with_a_value_that_nothing_takes_is_named_with_what_it_takes() {
    let mut unclear = Vec::new();
    for section in keys::ALL {
        for key in section.keys {
            if !CONTEXTS
                .iter()
                .any(|context| is_clear(section, key, context))
            {
                unclear.push((section.name, key.name));
            }
        }
    }
    assert!(unclear.is_empty(), "{unclear:?}");
}
