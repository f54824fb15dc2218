//! Reads what a service and its backends say about who may get flows, and checks it. Pure.

use std::num::NonZeroU32;
use std::time::Duration;

use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::{BackendDraft, ServiceDraft, optional_word};
use super::value;
use crate::model::{Curve, Failback, Failover, Protocol, SlowStart, Tier};

const TIER: &str = "tier";
const SORRY: &str = "sorry";
const MIN_HEALTHY: &str = "min-healthy";

pub(super) const CURVES: &[(&str, Curve)] =
    &[("linear", Curve::Linear), ("quadratic", Curve::Quadratic)];
pub(super) const FAILBACKS: &[(&str, Failback)] =
    &[("return", Failback::Return), ("stay", Failback::Stay)];

/// What a service says, and where.
#[derive(Debug)]
pub(super) struct FailoverDraft {
    pub(super) failover: Failover,
    min_healthy: Option<At<u64>>,
    /// When a drain without a deadline of its own ends.
    pub(super) drain_deadline: Option<Duration>,
    /// When flows of a lost backend no longer stay.
    pub(super) on_down_deadline: Option<Duration>,
}

/// The keys of a service.
pub(super) fn of_service(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> FailoverDraft {
    let slow_start = slow_start(reader, notes);
    let deadline = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
    let drain_deadline = reader.duration("drain-deadline", deadline.clone(), notes);
    let on_down_deadline = reader.duration("on-down-deadline", deadline, notes);
    if !reader.has("claim") {
        let why = "the service's address is not claimed (`claim`)";
        reader.without_effect(&[MIN_HEALTHY], why, "remove the key", notes);
    }
    let min_healthy = reader.integer(MIN_HEALTHY, 0..=u16::MAX.into(), notes);
    let default = Failover::default();
    let overprovisioning = reader.integer("overprovisioning", 100..=1000, notes);
    let panic_threshold = reader.integer("panic-threshold", 0..=100, notes);
    let number = |at: Option<At<u64>>| at.map(|at| at.value);
    let least = min_healthy
        .as_ref()
        .and_then(|at| u16::try_from(at.value).ok());
    let failover = Failover {
        overprovisioning: number(overprovisioning)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(default.overprovisioning),
        panic_threshold: number(panic_threshold)
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(default.panic_threshold),
        failback: optional_word(reader, "failback", FAILBACKS, default.failback, notes),
        slow_start,
        min_healthy: least.unwrap_or(default.min_healthy),
    };
    FailoverDraft {
        failover,
        min_healthy,
        drain_deadline: drain_deadline.map(|at| at.value),
        on_down_deadline: on_down_deadline.map(|at| at.value),
    }
}

/// Notes where a reset is asked for and cannot be.
pub(super) fn resets(reader: &Reader<'_, '_>, protocol: Option<Protocol>, notes: &mut Notes<'_>) {
    let (word, other) = match protocol {
        Some(Protocol::Udp) => ("udp", "migrate"),
        Some(Protocol::Sctp) => ("sctp", "migrate"),
        Some(Protocol::Tcp | Protocol::Any) | None => return,
    };
    for key in ["drain-policy", "on-down"] {
        let Some(found) = reader.get(key) else {
            continue;
        };
        if let DeValue::String(text) = found.get_ref()
            && text == "reset"
        {
            let message = format!("`{key}` is \"reset\", and the service's protocol is {word}");
            let note = Note::new(&codes::NO_RESET, &found.span(), &reader.name(key), message);
            notes.add(note.suggest(format!("\"{other}\"")));
        }
    }
}

fn slow_start(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> SlowStart {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let duration = reader.duration("slow-start", range, notes);
    if !reader.has("slow-start") {
        let why = "without `slow-start` there is none";
        let help = "add `slow-start`, or remove the key";
        reader.without_effect(&["slow-start-curve"], why, help, notes);
    }
    SlowStart {
        duration: duration.map_or(Duration::ZERO, |at| at.value),
        curve: optional_word(reader, "slow-start-curve", CURVES, Curve::Linear, notes),
    }
}

/// How many flows a backend may have. The outer `None`: it could not be read.
pub(super) fn max_connections(
    reader: &Reader<'_, '_>,
    notes: &mut Notes<'_>,
) -> Option<Option<NonZeroU32>> {
    const KEY: &str = "max-connections";
    if reader.get(KEY).is_none() {
        return Some(None);
    }
    let number = reader.integer(KEY, 1..=u32::MAX.into(), notes)?;
    u32::try_from(number.value).ok().map(NonZeroU32::new)
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
    // One that never takes flows never counts as up.
    let takes_flows = |draft: &BackendDraft| draft.weight.as_ref().is_none_or(|at| at.value > 0);
    let numbered = tiers
        .iter()
        .zip(&draft.backends)
        .filter(|(tier, backend)| tier.value != Tier::Sorry && takes_flows(backend))
        .count();
    if let Some(at) = &draft.failover.min_healthy
        && numbered > 0
        && usize::try_from(at.value).is_ok_and(|least| least > numbered)
    {
        let key = format!("{}{MIN_HEALTHY}", draft.path);
        let message = format!(
            "{} backends are to be up, and there are {numbered}",
            at.value
        );
        let note = Note::new(&codes::NEVER_CLAIMED, &at.span, &key, message);
        notes.add(note.suggest(numbered.to_string()));
    }
    if let Some(first) = tiers.first()
        && tiers.iter().all(|tier| tier.value == Tier::Sorry)
    {
        let key = format!("{}backend", draft.path);
        let message = "all backends of this service are sorry backends".to_owned();
        notes.add(Note::new(&codes::ONLY_SORRY, &first.span, &key, message));
    }
}
