//! The keys of UDP checks. Pure.

use crate::config::codes;
use crate::config::notes::{Note, Notes};
use crate::config::reader::Reader;
use crate::model::UdpCheck;

/// The most bytes of a request, and of what its answer begins with: more is no probe.
const BYTES: usize = 1024;

/// Request and expected answer.
pub(super) fn check(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> UdpCheck {
    let send = bytes(reader, "send", "send-hex", notes);
    if !reader.has("send-hex") {
        reader.require("send", notes);
    }
    UdpCheck {
        send: send.unwrap_or_default(),
        expect: bytes(reader, "expect", "expect-hex", notes).unwrap_or_default(),
    }
}

/// Bytes as a text, or as hexadecimal digits under another key.
fn bytes(
    reader: &Reader<'_, '_>,
    plain: &str,
    hex: &str,
    notes: &mut Notes<'_>,
) -> Option<Vec<u8>> {
    if let Some(text) = reader.string(plain, notes) {
        let help = format!("remove `{plain}` or `{hex}`");
        reader.without_effect(&[hex], &format!("`{plain}` is there"), &help, notes);
        let bytes = text.value.as_bytes().to_vec();
        if bytes.is_empty() || bytes.len() > BYTES {
            let message = format!("`{plain}` has {} bytes", bytes.len());
            let note = Note::new(&codes::BAD_TEXT, &text.span, &reader.name(plain), message);
            notes.add(note.help(format!("give a text of 1 to {BYTES} bytes")));
        }
        return Some(bytes);
    }
    let text = reader.string(hex, notes)?;
    let bytes = digits(text.value);
    let fault = match &bytes {
        None => "it is not a text of pairs of hexadecimal digits".to_owned(),
        Some(bytes) if bytes.is_empty() || bytes.len() > BYTES => {
            format!("it has {} bytes", bytes.len())
        }
        Some(_) => return bytes,
    };
    let message = format!("`{hex}` cannot be read: {fault}");
    notes.add(Note::new(
        &codes::BAD_HEX,
        &text.span,
        &reader.name(hex),
        message,
    ));
    None
}

/// Pairs of hexadecimal digits; blanks may stand between pairs.
fn digits(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| {
            let text = std::str::from_utf8(pair).ok().filter(|t| t.len() == 2)?;
            let plain = pair.iter().all(u8::is_ascii_hexdigit);
            u8::from_str_radix(text, 16).ok().filter(|_| plain)
        })
        .collect()
}
