//! What a backend's share is, and why, for people.

use std::num::NonZeroU32;

use super::State;
use crate::model::{Backend, BackendKey, Service, Tier};
use crate::tiers::{Mode, Standing, WHOLE};

impl State {
    /// Why a backend gets the share that it gets, for people.
    pub(super) fn share_why(
        &self,
        now: u64,
        service: &Service,
        backend: &Backend,
        key: &BackendKey,
    ) -> String {
        let (Some(standing), Some(share)) = (
            self.standing(service, backend, key),
            self.shares.get(&service.name),
        ) else {
            return String::new();
        };
        if backend.weight == 0 {
            return "its weight is 0".to_owned();
        }
        if self.weight(key) > 0 {
            let warmth = self.warmth(service, key, now);
            let warming = match warmth {
                WHOLE => String::new(),
                part => format!("; it warms up: {} % of its weight", part / 10),
            };
            let why = match (&share.mode, backend.tier) {
                (Mode::Tiers { loads }, Tier::Number(tier)) => {
                    let load = loads.get(&tier).copied().unwrap_or(0);
                    format!("tier {tier} carries {}.{} %", load / 10, load % 10)
                }
                (Mode::Sorry, _) => "nobody of the numbered tiers may take flows".to_owned(),
                (mode, _) => mode.to_string(),
            };
            let agent = self.backends.get(key).and_then(|known| known.agent.words());
            let pace = self.pace_words(service, key);
            let agent = agent.map_or_else(String::new, |words| format!("; {words}"));
            return why + &warming + &agent + &pace;
        }
        match standing {
            Standing::Away => "a person took it out".to_owned(),
            Standing::Lost => match self.bar_to(backend.address) {
                Some(bar) => format!("there is no way to it: {bar}"),
                None => "there is no way to it".to_owned(),
            },
            Standing::Down => "it is down".to_owned(),
            Standing::Unknown => "nothing is known of its health yet".to_owned(),
            Standing::Full => {
                let most = backend.max_connections.map_or(0, NonZeroU32::get);
                format!("it has {} open flows of at most {most}", self.open_of(key))
            }
            Standing::Ready => match (&share.mode, backend.tier) {
                (Mode::Closed, _) => share.mode.to_string(),
                (_, Tier::Sorry) => "others may take flows".to_owned(),
                (Mode::Tiers { loads }, Tier::Number(tier))
                    if loads.keys().any(|other| *other > tier) =>
                {
                    "flows stay where they are until `fairlead failback`".to_owned()
                }
                (_, Tier::Number(_)) => "earlier tiers carry everything".to_owned(),
            },
        }
    }
}
