//! The keys of what packets say between two checks. Pure.

use std::time::Duration;

use crate::config::notes::Notes;
use crate::config::reader::Reader;
use crate::model::{Check, Passive, Protocol};

const KEY: &str = "passive";
const LEAST: &str = "passive-handshakes";
const PERCENT: &str = "passive-percent";
const WINDOW: &str = "passive-window";

/// What makes a suspect of a backend; `None`: nothing does.
pub(super) fn policy(
    reader: &Reader<'_, '_>,
    check: &Check,
    protocol: Option<Protocol>,
    notes: &mut Notes<'_>,
) -> Option<Passive> {
    // That the keys mean nothing without a check has been noted.
    if *check == Check::None {
        return None;
    }
    if protocol.is_some_and(|protocol| protocol != Protocol::Tcp) {
        let keys = &[KEY, LEAST, PERCENT, WINDOW];
        let why = "only TCP has handshakes to look at";
        reader.without_effect(keys, why, "remove the key", notes);
        return None;
    }
    let wanted = reader.boolean(KEY, notes).unwrap_or(true);
    if !wanted {
        let help = "set `passive` to true, or remove the key";
        let why = "`passive` is false";
        reader.without_effect(&[LEAST, PERCENT, WINDOW], why, help, notes);
        return None;
    }
    let default = Passive::default();
    let least = reader.integer(LEAST, 1..=10_000, notes);
    let percent = reader.integer(PERCENT, 1..=100, notes);
    let range = Duration::from_millis(300)..=Duration::from_secs(10);
    Some(Passive {
        least: least
            .and_then(|at| u16::try_from(at.value).ok())
            .unwrap_or(default.least),
        percent: percent
            .and_then(|at| u8::try_from(at.value).ok())
            .unwrap_or(default.percent),
        window: reader
            .duration(WINDOW, range, notes)
            .map_or(default.window, |at| at.value),
    })
}
