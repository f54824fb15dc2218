//! The keys of what backends say about their load. Pure.

use std::ops::RangeInclusive;

use crate::config::notes::Notes;
use crate::config::reader::Reader;
use crate::model::{AgentSource, AgentWeight, Check};

/// The words of `agent-weight`: of HTTP, then of the others.
pub(in crate::config) const SOURCES: &[(&str, AgentSource)] = &[
    ("header", AgentSource::Header),
    ("body", AgentSource::Body),
    ("line", AgentSource::Line),
];

const LEAST: &str = "agent-weight-min";
const MOST: &str = "agent-weight-max";
const STEP: &str = "agent-weight-step";

/// What becomes of reports; `None`: nobody listens.
pub(super) fn weight(
    reader: &Reader<'_, '_>,
    check: &Check,
    notes: &mut Notes<'_>,
) -> Option<AgentWeight> {
    let words = match check {
        Check::Http(_) | Check::Https(..) => SOURCES.get(..2),
        Check::Tcp | Check::Exec(_) => SOURCES.get(2..),
        // That the key means nothing to the type has been noted.
        _ => return None,
    };
    let source = reader.word("agent-weight", words.unwrap_or_default(), notes);
    if !reader.has("agent-weight") {
        let help = "add `agent-weight`, or remove the key";
        let why = "backends are not asked for their load";
        reader.without_effect(&[LEAST, MOST, STEP], why, help, notes);
        return None;
    }
    let mut percent = |key: &str, range: RangeInclusive<u64>, default: u16| {
        let at = reader.integer(key, range, notes);
        at.and_then(|at| u16::try_from(at.value).ok())
            .unwrap_or(default)
    };
    Some(AgentWeight {
        least: percent(LEAST, 1..=100, 10),
        most: percent(MOST, 100..=200, 100),
        step: percent(STEP, 1..=100, 10),
        source: source?.value,
    })
}
