//! The keys of checks over TLS. Pure.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::codes;
use crate::config::notes::{Note, Notes};
use crate::config::reader::Reader;
use crate::config::value;
use crate::model::TlsCheck;

/// Where Debian and its kin keep the authorities that the system trusts.
pub(in crate::config) const CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The keys.
pub(super) const KEYS: &[&str] = &[
    "server-name",
    "ca",
    "client-certificate",
    "client-key",
    "verify",
    "warn-before-expiry",
];

/// The longest time of `warn-before-expiry`.
const TEN_YEARS: Duration = Duration::from_secs(315_576_000);

/// Its default.
const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);

/// TLS if `tls` says so.
pub(super) fn optional(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<TlsCheck> {
    if reader.boolean("tls", notes).unwrap_or(false) {
        return Some(check(reader, notes));
    }
    let help = "add `tls = true`, or remove the key";
    reader.without_effect(KEYS, "the check does not use TLS", help, notes);
    None
}

/// Whom to trust and who we are.
pub(in crate::config) fn check(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> TlsCheck {
    let verify = reader.boolean("verify", notes).unwrap_or(true);
    if !verify {
        let help = "set `verify = true`, or remove the key";
        reader.without_effect(&["ca"], "no certificate is verified", help, notes);
    }
    let certificate = path(reader, "client-certificate", notes);
    let key = path(reader, "client-key", notes);
    // One without the other is no identity.
    if reader.has("client-certificate") {
        reader.require("client-key", notes);
    } else if reader.has("client-key") {
        reader.require("client-certificate", notes);
    }
    let ca = path(reader, "ca", notes).filter(|_| verify);
    let warn = reader.duration("warn-before-expiry", Duration::ZERO..=TEN_YEARS, notes);
    TlsCheck {
        server_name: server_name(reader, notes),
        ca: ca.unwrap_or_else(|| CA.into()),
        client: certificate.zip(key),
        verify,
        warn_before_expiry: warn.map_or(FORTNIGHT, |at| at.value),
    }
}

fn server_name(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    const KEY: &str = "server-name";
    let found = reader.string(KEY, notes)?;
    if let Some(fault) = value::dns_fault(found.value) {
        let message = format!(
            "{} is not the name of a server: {fault}",
            value::quote_text(found.value)
        );
        let note = Note::new(&codes::BAD_TEXT, &found.span, &reader.name(KEY), message);
        notes.add(note.help("write a name such as \"www.example.org\", without port"));
    }
    Some(found.value.to_owned())
}

/// A text of so many bytes without controls.
pub(super) fn text(
    reader: &Reader<'_, '_>,
    key: &str,
    bytes: RangeInclusive<usize>,
    example: &str,
    notes: &mut Notes<'_>,
) -> Option<String> {
    let found = reader.string(key, notes)?;
    if !bytes.contains(&found.value.len()) || found.value.contains(char::is_control) {
        let message = format!(
            "`{key}` has {} bytes, or controls among them",
            found.value.len()
        );
        let note = Note::new(&codes::BAD_TEXT, &found.span, &reader.name(key), message);
        notes.add(note.help(format!(
            "write a text of {} to {} bytes such as \"{example}\"",
            bytes.start(),
            bytes.end()
        )));
    }
    Some(found.value.to_owned())
}

/// An absolute path.
fn path(reader: &Reader<'_, '_>, key: &str, notes: &mut Notes<'_>) -> Option<PathBuf> {
    let found = reader.string(key, notes)?;
    if let Some(fault) = value::file_fault(found.value) {
        let message = format!("`{key}` is {}: {fault}", value::quote_text(found.value));
        notes.add(Note::new(
            &codes::BAD_PATHNAME,
            &found.span,
            &reader.name(key),
            message,
        ));
    }
    Some(found.value.into())
}
