//! Reads `mss`. Pure.

use toml::de::DeValue;

use super::across::protocol_word;
use super::codes;
use super::notes::{Note, Notes};
use super::reader::Reader;
use super::value;
use crate::model::{FITTING_MSS, Protocol};

const KEY: &str = "mss";
/// What goes without saying (RFC 9293, MUST-15).
const LEAST: u64 = 536;
/// What fits the largest packet of IPv4.
const MOST: u64 = 65_495;

/// The largest MSS that SYNs say; 0: what they like. `None`: it could not be read, which has been noted.
pub(super) fn of_service(
    reader: &Reader<'_, '_>,
    protocol: Option<Protocol>,
    notes: &mut Notes<'_>,
) -> u16 {
    if let Some(protocol) = protocol
        && !matches!(protocol, Protocol::Tcp | Protocol::Any)
    {
        let why = format!("the service's protocol is {}", protocol_word(protocol));
        let help = "remove the key: only TCP has an MSS";
        reader.without_effect(&[KEY], &why, help, notes);
    }
    let Some(found) = reader.get(KEY) else {
        return 0;
    };
    match found.get_ref() {
        DeValue::String(text) if text == "clamp" => FITTING_MSS,
        DeValue::String(text) => {
            let message = format!(
                "`{KEY}` is {}, and must be a number from {LEAST} to {MOST}, or \"clamp\"",
                value::quote_text(text)
            );
            let note = Note::new(
                &codes::UNKNOWN_WORD,
                &found.span(),
                &reader.name(KEY),
                message,
            );
            notes.add(match text.parse::<u64>() {
                Ok(number @ LEAST..=MOST) => note.suggest(number.to_string()),
                _ => note.suggest("\"clamp\"".to_owned()),
            });
            0
        }
        _ => {
            let number = reader.integer(KEY, LEAST..=MOST, notes);
            number.map_or(0, |at| u16::try_from(at.value).unwrap_or(FITTING_MSS))
        }
    }
}
