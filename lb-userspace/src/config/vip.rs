//! Reads `address` and `port` of a service. Pure.

use toml::de::DeValue;

use super::codes;
use super::health;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{Role, one_address};
use super::value;
use crate::model::{Family, Ports, PortsError, Prefix, PrefixError};

/// One address, or a prefix.
pub(super) fn address(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<Prefix>> {
    const KEY: &str = "address";
    reader.require(KEY, notes);
    let text = reader.string(KEY, notes)?;
    if !text.value.contains('/') {
        let at = one_address(reader, text, Role::Vip, notes)?;
        return Some(At {
            value: at.value.into(),
            span: at.span,
        });
    }
    let (span, shown) = (text.span, value::quote_text(text.value));
    let name = reader.name(KEY);
    let prefix: Prefix = match text.value.parse() {
        Ok(prefix) => prefix,
        Err(error) => {
            let message = format!("{shown} is not a prefix of addresses: {error}");
            let note = Note::new(&codes::BAD_ADDRESS, &span, &name, message);
            notes.add(match error {
                PrefixError::HostBits(meant) => note
                    .help(format!(
                        "did you mean \"{meant}\", or one address without a length?"
                    ))
                    .suggest(format!("\"{meant}\"")),
                PrefixError::Malformed | PrefixError::Length(_) => {
                    note.help("write a prefix such as \"192.0.2.0/24\" or \"2001:db8:1::/64\"")
                }
            });
            return None;
        }
    };
    if let Some(what) = unusable(prefix) {
        let message = format!("{prefix} {what}, and cannot be the addresses of a service");
        notes.add(Note::new(&codes::BAD_VIP, &span, &name, message));
        return None;
    }
    Some(At {
        value: prefix,
        span,
    })
}

/// Why a service cannot have this prefix.
fn unusable(prefix: Prefix) -> Option<String> {
    let shortest = match prefix.family() {
        Family::V4 => 8,
        Family::V6 => 16,
    };
    if prefix.length() < shortest {
        return Some(format!("has a length of less than {shortest}"));
    }
    let ends = [prefix.address(), prefix.last()];
    let found = ends
        .into_iter()
        .find_map(|end| Some((end, value::unusable(end)?)));
    found.map(|(end, what)| match prefix.is_host() {
        true => format!("is {what}"),
        false => format!("has {what}, {end}"),
    })
}

/// One port, a range, or any.
pub(super) fn ports(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<Ports>> {
    const KEY: &str = "port";
    reader.require(KEY, notes);
    let found = reader.get(KEY)?;
    let DeValue::String(text) = found.get_ref() else {
        let at = health::port(reader, notes)?;
        return Some(At {
            value: Ports::one(at.value),
            span: at.span,
        });
    };
    let span = found.span();
    let error = match text.parse::<Ports>() {
        Ok(ports) if ports.single().is_none() => return Some(At { value: ports, span }),
        // One port is a number.
        Ok(_) => {
            reader.wrong_type(KEY, "a whole number", found, notes);
            return None;
        }
        Err(error) => error,
    };
    let message = format!("{} names no ports: {error}", value::quote_text(text));
    let note = Note::new(&codes::BAD_PORT, &span, &reader.name(KEY), message);
    notes.add(match error {
        PortsError::Downwards(meant) => note
            .help(format!("did you mean \"{meant}\"?"))
            .suggest(format!("\"{meant}\"")),
        PortsError::Malformed => note,
    });
    None
}
