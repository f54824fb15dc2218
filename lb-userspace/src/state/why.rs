//! Why a backend gets new flows or does not, and what it would take: [`Why`], from the state.

use std::time::Duration;

use super::view::{forwarding, millis, protocol};
use super::{BackendState, State};
use crate::model::{AdminState, Backend, BackendKey, Check, Health, Service, Tier};
use crate::status::Counters;
use crate::tiers::{Mode, Standing};
use crate::why::{self, Explained, Kind, Obstacle, Whom, Why};

impl State {
    /// The backends that are meant, by service.
    pub fn meant(&self, whom: &Whom) -> Vec<BackendKey> {
        match whom {
            Whom::Key(key) => Vec::from_iter(self.config().backend(key).map(|_| key.clone())),
            Whom::Address(address) => self.at.get(address).cloned().unwrap_or_default(),
            Whom::Name(name) => {
                let services = self.config().services.values();
                let of_that_name = services.filter(|s| s.backends.contains_key(name));
                let key = |service: &Service| BackendKey {
                    service: service.name.clone(),
                    backend: name.clone(),
                };
                of_that_name.map(key).collect()
            }
        }
    }

    /// The backends that are meant, explained.
    pub fn explain(&self, now: u64, keys: &[BackendKey], counters: &Counters) -> Why {
        let explained = keys.iter().filter_map(|key| {
            let (service, backend) = self.config().backend(key)?;
            self.explained(now, key, service, backend, counters)
        });
        Why {
            now,
            backends: explained.collect(),
        }
    }

    fn explained(
        &self,
        now: u64,
        key: &BackendKey,
        service: &Service,
        backend: &Backend,
        counters: &Counters,
    ) -> Option<Explained> {
        let known = self.backends.get(key)?;
        let told = self.backend_status(
            now,
            key,
            (service, self.all_weights(service)),
            backend,
            counters,
        )?;
        let check = check(now, service, backend, known);
        Some(Explained {
            service: service.name.to_string(),
            protocol: protocol(service).to_owned(),
            forwarding: forwarding(service).to_owned(),
            fail_open: self.failed_open(&service.name),
            obstacles: self.obstacles(now, key, service, backend, check.as_ref()),
            backend: told,
            check,
        })
    }

    fn obstacles(
        &self,
        now: u64,
        key: &BackendKey,
        service: &Service,
        backend: &Backend,
        check: Option<&why::Check>,
    ) -> Vec<Obstacle> {
        let mut all = Vec::new();
        let mut add = |kind, what: String, cure: String| all.push(Obstacle { kind, what, cure });
        let enable = format!("fairlead enable {key}");
        match self.admin(key) {
            Some(AdminState::Disabled) => add(Kind::Disabled, "it is disabled".into(), enable),
            Some(AdminState::Draining) => add(Kind::Draining, "it drains".into(), enable),
            Some(AdminState::Enabled) | None => {}
        }
        if backend.weight == 0 {
            let cure = "give it a weight in the configuration, then fairlead reload";
            add(Kind::NoWeight, "its weight is 0".into(), cure.into());
        }
        if let Err(reason) = self.way(backend.address).resolved {
            let (reason, cure) = match self.bar_to(backend.address) {
                Some(bar) if reason == bar.to_string() => (bar.what, bar.cure),
                _ => {
                    let address = backend.address;
                    let cure = format!("{address}, or the router before it, has to answer");
                    (reason, cure)
                }
            };
            add(
                Kind::Unreachable,
                format!("there is no way to it: {reason}"),
                cure,
            );
        }
        let Some(known) = self.backends.get(key) else {
            return all;
        };
        let proof = || proof(check);
        match self.health(key) {
            Health::Up => {}
            Health::Unknown if self.trusts(service, key) => {}
            Health::Unknown => add(
                Kind::Unproven,
                "it is not known to be up yet".into(),
                proof(),
            ),
            // What damping keeps down is good already, or has to become so and stay so.
            Health::Down => match known.tracker.damped(now) {
                Some(why) => {
                    let left = Duration::from_millis(millis(known.tracker.damped_for(now)));
                    let left =
                        humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
                    add(
                        Kind::Damped,
                        format!("it is {why}"),
                        format!("good probes for {left}, and no bad one"),
                    );
                }
                None => add(Kind::Down, "it is down".into(), proof()),
            },
        }
        if all.is_empty() {
            all.extend(self.not_chosen(now, key, service, backend));
        }
        all
    }

    /// Why somebody who may take flows is not among those that get them, and what it would take.
    fn not_chosen(
        &self,
        now: u64,
        key: &BackendKey,
        service: &Service,
        backend: &Backend,
    ) -> Option<Obstacle> {
        if self.weight(key) > 0 {
            return None;
        }
        let what = self.share_why(now, service, backend, key);
        let full = self.standing(service, backend, key) == Some(Standing::Full);
        let (kind, cure) = match (full, self.mode(&service.name), backend.tier) {
            (true, _, _) => (
                Kind::Full,
                "flows that end, or a larger max-connections".to_owned(),
            ),
            (_, Some(Mode::Closed), _) => (
                Kind::NotChosen,
                "more healthy backends in the service".to_owned(),
            ),
            (_, Some(Mode::Tiers { loads }), Tier::Number(tier))
                if loads.keys().any(|other| *other > tier) =>
            {
                (
                    Kind::NotChosen,
                    format!("fairlead failback {}", service.name),
                )
            }
            _ => (Kind::NotChosen, "that others can carry less".to_owned()),
        };
        Some(Obstacle { kind, what, cure })
    }

    /// The words for somebody who is not there: with who may have been meant.
    pub fn nobody(&self, whom: &Whom) -> String {
        match whom {
            Whom::Key(key) => self.unknown(key).to_string(),
            Whom::Name(_) | Whom::Address(_) => {
                format!("backend '{whom}': not configured ('fairlead status' shows who is)")
            }
        }
    }
}

/// How it is checked and how far the verdict is from another.
fn check(
    now: u64,
    service: &Service,
    backend: &Backend,
    known: &BackendState,
) -> Option<why::Check> {
    let policy = &service.health;
    if policy.check == Check::None {
        return None;
    }
    let tracker = &known.tracker;
    let interval = match tracker.is_changing() {
        true => policy.fast_interval,
        false => policy.interval,
    };
    let interval = crate::health::nanos(interval);
    let last = tracker.last().next_back();
    let next = last.map(|last| last.scheduled.saturating_add(interval));
    let port = policy.port.or(backend.port).map(std::num::NonZeroU16::get);
    Some(why::Check {
        kind: policy.check.word().to_owned(),
        port: port.filter(|_| policy.check.has_port()),
        interval_ms: millis(crate::health::nanos(policy.interval)),
        timeout_ms: millis(crate::health::nanos(policy.timeout)),
        next_in_ms: next.map(|next| millis(next.saturating_sub(now))),
        good_until_up: tracker.good_until_up(),
        bad_until_down: tracker.bad_until_down(),
    })
}

/// What proves that it is up.
fn proof(check: Option<&why::Check>) -> String {
    let Some(check) = check else {
        return "a check has to be configured".to_owned();
    };
    let more = match check.good_until_up.unwrap_or(1) {
        1 => "1 more good probe".to_owned(),
        more => format!("{more} more good probes in a row"),
    };
    match check.next_in_ms {
        None => format!("{more}; the first is about to be made"),
        Some(0) => format!("{more}; the next is under way"),
        Some(ms) => format!("{more}; the next in {}", seconds(ms)),
    }
}

/// Tenths of seconds.
fn seconds(ms: u64) -> String {
    let tenths = ms.div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}
