//! Reads what a service and its backends say about who may get flows, and checks it. Pure.

use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{ServiceDraft, optional_word};
use super::value;
use crate::model::{Failback, Failover, Tier};

const TIER: &str = "tier";
const SORRY: &str = "sorry";

pub(super) const FAILBACKS: &[(&str, Failback)] =
    &[("return", Failback::Return), ("stay", Failback::Stay)];

/// The keys of a service.
pub(super) fn of_service(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Failover {
    let default = Failover::default();
    let overprovisioning = reader.integer("overprovisioning", 100..=1000, notes);
    let panic_threshold = reader.integer("panic-threshold", 0..=100, notes);
    let number = |at: Option<At<u64>>| at.map(|at| at.value);
    Failover {
        overprovisioning: number(overprovisioning)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(default.overprovisioning),
        panic_threshold: number(panic_threshold)
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(default.panic_threshold),
        failback: optional_word(reader, "failback", FAILBACKS, default.failback, notes),
    }
}

/// The tier of a backend; `None`: it could not be read.
pub(super) fn tier(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<Tier>> {
    let span = match reader.get(TIER) {
        None => reader.span.clone(),
        Some(found) => found.span(),
    };
    let value = match reader.get(TIER).map(|found| (found, found.get_ref())) {
        None => Tier::Number(0),
        Some((_, DeValue::String(text))) if text == SORRY => Tier::Sorry,
        Some((_, DeValue::String(text))) => {
            let message = format!(
                "`{TIER}` is {}, and must be a number from 0 to {} or \"{SORRY}\"",
                value::quote_text(text),
                Tier::LAST
            );
            let note = Note::new(&codes::UNKNOWN_WORD, &span, &reader.name(TIER), message);
            notes.add(match text.parse::<u8>() {
                Ok(number) if number <= Tier::LAST => note
                    .help("write the number without quotes")
                    .suggest(number.to_string()),
                _ => note.help(
                    "tier 0 is first, backends of the next tiers take what it cannot carry; \"sorry\" is for when nobody else is left",
                ),
            });
            return None;
        }
        Some((_, DeValue::Integer(_))) => {
            let number = reader.integer(TIER, 0..=Tier::LAST.into(), notes)?;
            Tier::Number(u8::try_from(number.value).ok()?)
        }
        Some((found, _)) => {
            reader.wrong_type(TIER, "a whole number or \"sorry\"", found, notes);
            return None;
        }
    };
    Some(At { value, span })
}

/// What is at odds within a service.
pub(super) fn check(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let tiers = draft.backends.iter().map(|b| b.tier.as_ref());
    let Some(tiers) = tiers.collect::<Option<Vec<&At<Tier>>>>() else {
        return;
    };
    if let Some(first) = tiers.first()
        && tiers.iter().all(|tier| tier.value == Tier::Sorry)
    {
        let key = format!("{}backend", draft.path);
        let message = "all backends of this service are sorry backends".to_owned();
        notes.add(Note::new(&codes::ONLY_SORRY, &first.span, &key, message));
    }
}
