//! Single values: addresses, names, statuses and the like, and how they are shown. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use toml::de::DeValue;

/// A text without controls, which could confuse a terminal.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// At most 60 characters of a text, without controls, for messages.
pub(super) fn bounded(text: &str) -> String {
    let mut shown: String = printable(&text.chars().take(60).collect::<String>());
    if text.chars().nth(60).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A name in backticks.
pub(super) fn quote(text: &str) -> String {
    format!("`{}`", bounded(text))
}

/// A text in double quotes.
pub(super) fn quote_text(text: &str) -> String {
    format!("\"{}\"", bounded(text))
}

/// A duration as the file has it: `1m 30s`.
pub(super) fn duration(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// Why a text is no duration.
pub(super) fn duration_error(why: &humantime::DurationError) -> String {
    use humantime::DurationError as E;
    match why {
        E::InvalidCharacter(_) => "only digits, a decimal point and units may be there".to_owned(),
        E::NumberExpected(_) => "a number is missing".to_owned(),
        E::UnknownUnit { unit, .. } if unit.is_empty() => "the unit is missing".to_owned(),
        E::UnknownUnit { unit, .. } => format!("there is no unit {}", quote_text(unit)),
        E::NumberOverflow => "the number is too large".to_owned(),
        E::Empty => "it is empty".to_owned(),
    }
}

/// The type of a value, in the words of the messages.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a decimal point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `[x]` for `[[x]]` and the other way round, where the other is wanted.
pub(super) fn other_header(header: &str, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Table(_) => Some(format!("[{header}]")),
        DeValue::Array(_) => {
            let inner = header.strip_prefix("[[")?.strip_suffix("]]")?;
            Some(format!("[{inner}]"))
        }
        _ => None,
    }
}

/// The value as it would be with the type that is wanted, where that is obvious.
pub(super) fn retyped(wanted: &str, value: &DeValue<'_>) -> Option<String> {
    match (wanted, value) {
        ("a whole number", DeValue::String(text)) => {
            text.trim().parse::<u64>().ok().map(|n| n.to_string())
        }
        ("true or false", DeValue::String(text)) => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some("true".to_owned()),
            "false" | "no" | "off" | "0" => Some("false".to_owned()),
            _ => None,
        },
        ("true or false", DeValue::Integer(number)) => match number.as_str() {
            "1" => Some("true".to_owned()),
            "0" => Some("false".to_owned()),
            _ => None,
        },
        ("a text", DeValue::Integer(number)) => Some(format!("\"{number}\"")),
        ("a text", DeValue::Float(number)) => Some(format!("\"{number}\"")),
        ("a text", DeValue::Boolean(value)) => Some(format!("\"{value}\"")),
        ("a list", DeValue::String(text)) => Some(format!("[\"{}\"]", bounded(text))),
        _ => None,
    }
}

/// An address, or why it is none and what was probably meant.
pub(super) fn address(text: &str) -> Result<IpAddr, (String, Option<String>)> {
    let why =
        |reason: &str, meant: Option<IpAddr>| (reason.to_owned(), meant.map(|a| a.to_string()));
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.is_empty() {
        return Err(why("it is empty", None));
    }
    let parsed = |part: &str| part.parse::<IpAddr>().ok();
    if let Some(meant) = parsed(text.trim()) {
        return Err(why("there are spaces around it", Some(meant)));
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        let reason = format!("port {} has a key of its own", socket.port());
        return Err(why(&reason, Some(socket.ip())));
    }
    if let Some(meant) = text.split_once('/').and_then(|(a, _)| parsed(a)) {
        return Err(why("it has a prefix length", Some(meant)));
    }
    if text.contains('%') {
        return Err(why("addresses with a zone are not supported", None));
    }
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Some(meant) = inner.and_then(parsed) {
        return Err(why("brackets are for addresses with a port", Some(meant)));
    }
    if let Some(meant) = without_leading_zeros(text) {
        let reason = "leading zeros could be read as octal";
        return Err(why(reason, Some(IpAddr::V4(meant))));
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    Err(if digits {
        why("an IPv4 address has four numbers from 0 to 255", None)
    } else if text.contains(':') {
        why(
            "an IPv6 address has eight groups of up to four hexadecimal digits",
            None,
        )
    } else {
        why("host names are not looked up", None)
    })
}

fn without_leading_zeros(text: &str) -> Option<Ipv4Addr> {
    let octets: Vec<u8> = text
        .split('.')
        .map(|part| part.parse::<u8>().ok())
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

/// Why a VIP or backend cannot have this address; `None`: it can.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(a) => match a.octets() {
            [0, 0, 0, 0] => Some("an unspecified address"),
            [0, ..] => Some("an address of \"this network\", 0.0.0.0/8"),
            [127, ..] => Some("a loopback address"),
            [169, 254, ..] => Some("a link-local address"),
            [255, 255, 255, 255] => Some("the broadcast address"),
            [224..=239, ..] => Some("a multicast address"),
            [240..=255, ..] => Some("a reserved address"),
            _ => None,
        },
        IpAddr::V6(a) if a.is_unspecified() => Some("an unspecified address"),
        IpAddr::V6(a) if a.is_loopback() => Some("a loopback address"),
        IpAddr::V6(a) if a.is_multicast() => Some("a multicast address"),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
        IpAddr::V6(_) => None,
    }
}

/// A valid name that is like the text, if something of it remains.
pub(super) fn name_like(text: &str) -> Option<String> {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let plain = plain.trim_matches('-');
    (!plain.is_empty()).then(|| plain.to_owned())
}

/// Why Linux has no interface of this name (`dev_valid_name` in net/core/dev.c).
pub(super) fn interface_fault(name: &str) -> Option<&'static str> {
    let bad = |c: char| c.is_whitespace() || c == '/' || c == ':' || c.is_control();
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it is `.` or `..`"),
        _ if name.len() > 15 => Some("it is longer than 15 bytes"),
        _ if name.contains(bad) => Some("it has a space, `/`, `:` or a control character"),
        _ => None,
    }
}

/// A status such as `200`, or a range such as `200-299`; otherwise why not and what was meant.
pub(super) fn status(text: &str) -> Result<(u16, u16), (&'static str, Option<String>)> {
    let number = |t: &str| {
        let digits = t.len() == 3 && t.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| t.parse::<u16>().ok()).flatten()
    };
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (number(low.trim()), number(high.trim())),
        None => (number(text), number(text)),
    };
    match (low, high) {
        (Some(low), Some(high)) if low > high => Err((
            "the range goes downwards",
            Some(format!("\"{high}-{low}\"")),
        )),
        (Some(100..=599), Some(high @ 100..=599)) => Ok((low.unwrap_or(high), high)),
        (Some(_), Some(_)) => Err(("a status is from 100 to 599", None)),
        _ => {
            let class = text.to_lowercase();
            let class = class.strip_suffix("xx").filter(|c| c.len() == 1);
            let meant = class
                .filter(|c| matches!(*c, "1" | "2" | "3" | "4" | "5"))
                .map(|c| format!("\"{c}00-{c}99\""));
            Err(("a status has three digits", meant))
        }
    }
}

/// Sorted, without overlap, neighbours joined: the one form of a set of statuses.
pub(super) fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ranges {
        match out.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => out.push((low, high)),
        }
    }
    out
}

/// What is wrong with a path and query of a request (RFC 9112 section 3.2.1).
pub(super) fn path_fault(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("it does not begin with `/`");
    }
    if path.len() > 2048 {
        return Some("it is longer than 2048 bytes");
    }
    let fine = |b: u8| b.is_ascii_graphic() && b != b'#';
    (!path.bytes().all(fine))
        .then_some("it has a space, `#`, a control or a letter outside of ASCII")
}

/// What is wrong with a method (a token of RFC 9110 section 5.6.2, of capitals as all known ones).
pub(super) fn method_fault(method: &str) -> Option<&'static str> {
    match method {
        "" => Some("it is empty"),
        "CONNECT" => Some("CONNECT asks for a tunnel"),
        _ if method.len() > 32 => Some("it is longer than 32 bytes"),
        _ if !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') => {
            Some("it has other characters than capital letters")
        }
        _ => None,
    }
}

/// What is wrong with a host (a name or address, and perhaps a port).
pub(super) fn host_fault(host: &str) -> Option<&'static str> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    match host {
        "" => Some("it is empty"),
        _ if host.len() > 255 => Some("it is longer than 255 bytes"),
        _ if host.contains("//") => Some("it has a scheme"),
        _ if !host.bytes().all(fine) => Some("it has characters that no host has"),
        _ => None,
    }
}

/// What is wrong with a name in the DNS (RFC 1035 section 2.3.4; `_` as in RFC 2782).
pub(super) fn dns_fault(name: &str) -> Option<&'static str> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    match bare {
        "" => Some("it is empty"),
        _ if bare.len() > 253 => Some("it is longer than 253 bytes"),
        _ if bare
            .split('.')
            .any(|label| label.is_empty() || label.len() > 63) =>
        {
            Some("a part between full stops is empty or longer than 63 bytes")
        }
        _ if !bare.bytes().all(|b| fine(b) || b == b'.') => {
            Some("it has other characters than letters, digits, hyphens and underscores")
        }
        _ => None,
    }
}

/// What is wrong with the path of a file.
pub(super) fn file_fault(path: &str) -> Option<&'static str> {
    match path {
        _ if !path.starts_with('/') => Some("it is not an absolute path"),
        _ if path.len() > 4095 => Some("it is longer than 4095 bytes"),
        _ if path.contains('\0') => Some("it has a NUL byte"),
        _ if path.split('/').any(|part| part == "..") => Some("it has `..` in it"),
        _ => None,
    }
}
