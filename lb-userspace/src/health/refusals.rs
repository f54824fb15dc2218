//! Targets whose servers refuse requests that fill a packet and take short ones: [`Refusals`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::BackendKey;

/// How long such a target gets short requests alone.
const KEPT: Duration = Duration::from_mins(10);
/// When nothing is known of it any more.
const FORGOTTEN: Duration = Duration::from_hours(24);

/// When each has refused last, and how sure that is.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<BackendKey, (Instant, Sure)>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sure {
    /// A server that came back between two requests looks the same.
    Perhaps,
    Yes,
}

/// What a target did before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not known to refuse anything.
    Never,
    /// It has refused within the last ten minutes.
    Lately,
    /// It has refused before that.
    Before,
}

impl Refusals {
    pub(super) fn of(&self, backend: &BackendKey, now: Instant) -> Refusal {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match refused.get(backend) {
            None | Some((_, Sure::Perhaps)) => Refusal::Never,
            Some((at, Sure::Yes)) if now.saturating_duration_since(*at) < KEPT => Refusal::Lately,
            Some(_) => Refusal::Before,
        }
    }

    /// It refuses now: for sure, if it has done so before.
    pub(super) fn remember(&self, backend: &BackendKey, now: Instant, sure: Sure) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, (at, _)| now.saturating_duration_since(*at) < FORGOTTEN);
        let before = refused.contains_key(backend);
        let sure = if before { Sure::Yes } else { sure };
        refused.insert(backend.clone(), (now, sure));
    }

    /// It does not refuse any more.
    pub(super) fn forget(&self, backend: &BackendKey) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.remove(backend);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_for_ten_minutes_and_remembered_for_a_day() {
        let refusals = Refusals::default();
        let (one, other) = ("web/b1".parse().unwrap(), "web/b2".parse().unwrap());
        let now = Instant::now();
        assert_eq!(refusals.of(&one, now), Refusal::Never);
        refusals.remember(&one, now, Sure::Perhaps);
        assert_eq!(refusals.of(&one, now), Refusal::Never);
        refusals.remember(&one, now, Sure::Perhaps);
        assert_eq!(refusals.of(&one, now), Refusal::Lately);
        assert_eq!(refusals.of(&other, now), Refusal::Never);
        let last = now + KEPT - Duration::from_millis(1);
        assert_eq!(refusals.of(&one, last), Refusal::Lately);
        assert_eq!(refusals.of(&one, now + KEPT), Refusal::Before);
        refusals.remember(&other, now, Sure::Yes);
        refusals.forget(&other);
        assert_eq!(refusals.of(&other, now), Refusal::Never);
        refusals.remember(&other, now + FORGOTTEN, Sure::Yes);
        assert_eq!(refusals.of(&one, now + FORGOTTEN), Refusal::Never);
    }
}
