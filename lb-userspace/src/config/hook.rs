//! Reads `[[hook]]`. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use hyper::Uri;
use toml::de::DeValue;

use super::codes;
use super::health::{exec_check, tls_check};
use super::keys;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{ServiceDraft, label, name};
use super::value;
use crate::model::{Call, Hook, Host, Name, Topic, Webhook};

/// The most hooks: each may run a process.
const HOOKS: usize = 16;

/// The words of `on`.
pub(super) const TOPICS: &[(&str, Topic)] = &[
    ("health", Topic::Health),
    ("drain", Topic::Drain),
    ("failover", Topic::Failover),
];

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);

/// Keys of a command, and those of a URL.
const OF_COMMAND: &[&str] = &["user"];
const OF_URL: &[&str] = &["ca", "client-certificate", "client-key"];

/// All hooks. What could not be read is left out, and has been noted.
pub(super) fn hooks(
    file: &Reader<'_, '_>,
    services: &[ServiceDraft],
    notes: &mut Notes<'_>,
) -> BTreeMap<Name, Hook> {
    let mut hooks = BTreeMap::new();
    let Some(found) = file.get("hook") else {
        return hooks;
    };
    let DeValue::Array(list) = found.get_ref() else {
        file.wrong_type("hook", "a list of tables", found, notes);
        return hooks;
    };
    if list.len() > HOOKS {
        let message = format!("{} hooks; there can be {HOOKS}", list.len());
        let note = Note::new(&codes::TOO_MANY, &found.span(), "hook", message);
        notes.add(note.help("let one command or server take the events of several services"));
    }
    let known: BTreeSet<&Name> = services.iter().filter_map(named).collect();
    let mut first: BTreeMap<Name, Range<usize>> = BTreeMap::new();
    for (index, item) in list.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else {
            file.wrong_type("hook", "a list of tables", item, notes);
            continue;
        };
        let path = format!("hook.{}.", label(table, index));
        let reader = Reader::new(&keys::HOOK, table, item.span(), path, notes);
        let Some((at, hook)) = hook(&reader, &known, notes) else {
            continue;
        };
        if let Some(first) = first.get(&hook.name) {
            let message = format!("there are two hooks named `{}`", hook.name);
            let name = reader.name("name");
            let note = Note::new(&codes::DUPLICATE_HOOK, &at, &name, message);
            notes.add(note.label(first, "first here"));
        }
        first.entry(hook.name.clone()).or_insert(at);
        hooks.insert(hook.name.clone(), hook);
    }
    hooks
}

fn named(draft: &ServiceDraft) -> Option<&Name> {
    draft.name.as_ref().map(|at| &at.value)
}

/// One hook, and where its name stands.
fn hook(
    reader: &Reader<'_, '_>,
    known: &BTreeSet<&Name>,
    notes: &mut Notes<'_>,
) -> Option<(Range<usize>, Hook)> {
    let name = name(reader, notes);
    let mut number = |key: &str, range: RangeInclusive<u64>, default: u32| {
        let at = reader.integer(key, range, notes);
        at.and_then(|at| u32::try_from(at.value).ok())
            .unwrap_or(default)
    };
    let retries = number("retries", 0..=10, 3);
    let rate = number("rate", 1..=6000, 60);
    let queue = number("queue", 1..=10_000, 1000);
    let timeout = reader.duration("timeout", TIMEOUT, notes);
    let on = topics(reader, notes);
    let services = services(reader, known, notes);
    let call = call(reader, notes)?;
    let name = name?;
    let hook = Hook {
        name: name.value,
        on,
        services,
        call,
        timeout: timeout.map_or(Duration::from_secs(5), |at| at.value),
        retries: u16::try_from(retries).unwrap_or(0),
        rate,
        queue,
    };
    Some((name.span, hook))
}

/// The texts of a list that must not be empty.
fn texts<'t>(reader: &Reader<'t, '_>, key: &str, notes: &mut Notes<'_>) -> Vec<At<&'t str>> {
    let Some(found) = reader.get(key) else {
        return Vec::new();
    };
    let DeValue::Array(list) = found.get_ref() else {
        reader.wrong_type(key, "a list of texts", found, notes);
        return Vec::new();
    };
    if list.is_empty() {
        let message = format!("`{key}` is empty: the hook would never be told anything");
        let note = Note::new(&codes::BAD_HOOK, &found.span(), &reader.name(key), message);
        notes.add(note.help("name at least one, or leave the key out for all"));
    }
    let mut texts = Vec::new();
    for item in list {
        match item.get_ref() {
            DeValue::String(text) => texts.push(At {
                value: text.as_ref(),
                span: item.span(),
            }),
            _ => reader.wrong_type(key, "a list of texts", item, notes),
        }
    }
    texts
}

fn topics(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> BTreeSet<Topic> {
    if !reader.has("on") {
        return TOPICS.iter().map(|(_, topic)| *topic).collect();
    }
    let texts = texts(reader, "on", notes);
    let words = texts
        .into_iter()
        .filter_map(|text| reader.one_of("on", text, TOPICS, notes));
    words.map(|at| at.value).collect()
}

fn services(
    reader: &Reader<'_, '_>,
    known: &BTreeSet<&Name>,
    notes: &mut Notes<'_>,
) -> BTreeSet<Name> {
    let mut services = BTreeSet::new();
    for text in texts(reader, "services", notes) {
        if let Some(name) = Name::new(text.value).filter(|name| known.contains(name)) {
            services.insert(name);
            continue;
        }
        let message = format!("there is no service {}", value::quote_text(text.value));
        let name = reader.name("services");
        let note = Note::new(&codes::UNKNOWN_SERVICE, &text.span, &name, message);
        let words = known.iter().map(|name| name.as_str());
        notes.add(match keys::nearest(text.value, words, |_| false) {
            Some(near) => note
                .help(format!("did you mean \"{near}\"?"))
                .suggest(format!("\"{near}\"")),
            None => note,
        });
    }
    services
}

fn call(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<Call> {
    match (reader.entry("command"), reader.entry("url")) {
        (Some(_), None) => {
            let help = "remove the key: it is for a `url`";
            reader.without_effect(OF_URL, "the hook is a command", help, notes);
            Some(Call::Command(exec_check(reader, notes)))
        }
        (None, Some(_)) => {
            let help = "remove the key: it is for a `command`";
            reader.without_effect(OF_COMMAND, "the hook is a webhook", help, notes);
            webhook(reader, notes).map(Call::Webhook)
        }
        (Some(_), Some((span, _))) => {
            let message = "the hook has both a `command` and a `url`".to_owned();
            let note = Note::new(&codes::BAD_HOOK, &span, &reader.name("url"), message);
            notes.add(note.help("remove one of them, or make two hooks"));
            None
        }
        (None, None) => {
            if !reader.has("command") && !reader.has("url") {
                let message = "the hook has neither a `command` nor a `url`".to_owned();
                let name = reader.name("command");
                notes.add(Note::new(&codes::BAD_HOOK, &reader.span, &name, message));
            }
            None
        }
    }
}

fn webhook(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<Webhook> {
    const KEY: &str = "url";
    let text = reader.string(KEY, notes)?;
    let parts = match url(text.value) {
        Ok(parts) => parts,
        Err(fault) => {
            // Not the text itself: it may hold a secret, and messages get into logs.
            let message = format!("`url` is not the URL of a webhook: {fault}");
            let note = Note::new(&codes::BAD_URL, &text.span, &reader.name(KEY), message);
            notes.add(note);
            return None;
        }
    };
    if !parts.tls {
        let why = "the URL begins with http://, without TLS";
        reader.without_effect(OF_URL, why, "use https://, or remove the key", notes);
    }
    let tls = parts.tls.then(|| {
        let mut tls = tls_check(reader, notes);
        tls.warn_before_expiry = Duration::ZERO;
        if let Host::Name(name) = &parts.host {
            tls.server_name = Some(name.clone());
        }
        tls
    });
    Some(Webhook {
        host: parts.host,
        port: parts.port,
        path: parts.path,
        tls,
    })
}

struct Url {
    tls: bool,
    host: Host,
    port: u16,
    path: String,
}

/// The parts of a URL (RFC 3986), or what is wrong with it.
fn url(text: &str) -> Result<Url, &'static str> {
    if text.len() > 2048 {
        return Err("it is longer than 2048 bytes");
    }
    if text.contains('#') {
        return Err("it has a fragment (`#`), which no server sees");
    }
    let uri: Uri = text.parse().map_err(|_| "it cannot be read as one")?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("it does not begin with http:// or https://"),
    };
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it has a user or a password, which would be sent to nobody");
    }
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => {
            if tls {
                443
            } else {
                80
            }
        }
        _ => authority
            .port_u16()
            .filter(|port| *port != 0)
            .ok_or("its port is none of 1 to 65535")?,
    };
    let host = host(authority.host())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if let Some(fault) = value::path_fault(path) {
        return Err(fault);
    }
    Ok(Url {
        tls,
        host,
        port,
        path: path.to_owned(),
    })
}

fn host(text: &str) -> Result<Host, &'static str> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Some(address) = bare {
        let address = address.parse().map_err(|_| "its host is no IPv6 address")?;
        return Ok(Host::Address(IpAddr::V6(address)));
    }
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    match value::dns_fault(text) {
        Some(_) => Err("its host is neither an address nor a name"),
        None => Ok(Host::Name(text.trim_end_matches('.').to_ascii_lowercase())),
    }
}
