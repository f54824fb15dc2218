//! Who gets the new flows of a service, and which share of them: [`decide`]. Pure. One function of what is known
//! about all backends of a service, so that every rule about them stands in one place.
//!
//! **Tiers.** Of tier 0, then 1, and so on, each carries what it can: a tier whose ready backends have the share `h` of
//! the weight of all its backends can carry `h * overprovisioning` of all new flows, and at most all of them. What the
//! earlier tiers cannot carry spills over to the next. If all tiers together cannot carry everything, each gets
//! more than that in proportion, as there is nobody else. (Envoy spreads over priority levels by the same formula.)
//! Within a tier shares follow weights.
//!
//! **Sorry backends** get flows only when no backend of a numbered tier may.
//!
//! **Panic.** When fewer backends are healthy than the service's threshold says, or none is, the all-down policy acts:
//! `fail-open` spreads over all enabled backends of all numbered tiers as if they were healthy, as a few would only be
//! the next to fall; `fail-closed` leaves new flows to a sorry backend, or to nobody. With nobody healthy at all,
//! `fail-open` asks a sorry backend first: it is known to work.
//!
//! **Failback.** With `stay`, each tier goes on with the share that it had, as far as it can carry that; only what
//! finds no place so goes elsewhere, to the first tier that can carry more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{AllDown, Failback, Failover, Tier};

#[cfg(test)]
mod tests;

/// The whole of the new flows of a service, and full warmth: shares are in parts of it.
pub const WHOLE: u32 = 1000;

/// The largest weight that [`decide`] gives.
pub const LARGEST: u32 = 2_000_000;

/// The largest weight where several tiers share, so that each gets its load exactly enough.
const SCALED: u32 = 1_000_000;

/// The largest part of its weight that a backend gets: see [`Candidate::warmth`].
pub const MOST: u32 = 2 * WHOLE;

/// What a backend is to the flows of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may take them.
    Ready,
    /// It is well, and has as many connections as it may have.
    Full,
    /// Nothing is known of its health yet.
    Unknown,
    /// It is ill.
    Down,
    /// Nobody knows a way to it.
    Lost,
    /// A person took it out.
    Away,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its tier.
    pub tier: Tier,
    /// Its configured weight, 0 to 1000; with 0 it is [`Standing::Away`].
    pub weight: u16,
    /// What it is to flows.
    pub standing: Standing,
    /// The part of [`WHOLE`] of its weight that it gets, 1 to [`MOST`]: less while it warms up, less or more as its agent says.
    pub warmth: u32,
}

/// The share of each numbered tier, in parts of [`WHOLE`]; tiers without one are absent.
pub type Loads = BTreeMap<u8, u32>;

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Mode {
    /// Backends of these tiers.
    Tiers {
        /// With these shares, which make up [`WHOLE`].
        loads: Loads,
    },
    /// Sorry backends.
    Sorry,
    /// All that are enabled, be they well or not.
    Open,
    /// Nobody, although some are healthy: too few.
    Closed,
    /// Nobody may.
    Nobody,
}

/// For people: `tier 0: 70 %, tier 1: 30 %`.
impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tiers { loads } => {
                for (place, (tier, load)) in loads.iter().enumerate() {
                    let comma = if place == 0 { "" } else { ", " };
                    let (percent, tenths) = (load / 10, load % 10);
                    match tenths {
                        0 => write!(f, "{comma}tier {tier}: {percent} %")?,
                        _ => write!(f, "{comma}tier {tier}: {percent}.{tenths} %")?,
                    }
                }
                Ok(())
            }
            Self::Sorry => f.write_str("the sorry backends"),
            Self::Open => f.write_str("all that are enabled (fail-open)"),
            Self::Closed => f.write_str("nobody: too few are healthy (fail-closed)"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

/// What a service's operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// About tiers.
    pub failover: Failover,
    /// When too few are healthy.
    pub all_down: AllDown,
}

/// What was decided last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before<'a> {
    /// [`Decision::panic`].
    pub panic: bool,
    /// What the tiers carried, for [`Failback::Stay`].
    pub loads: Option<&'a Loads>,
}

/// Who gets flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why.
    pub mode: Mode,
    /// Relative shares of the candidates, in their order, at most [`LARGEST`]; 0: none.
    pub weights: Vec<u32>,
    /// Too few are healthy, whoever serves for that reason: [`Before::panic`] of the next decision.
    pub panic: bool,
}

/// Decides.
pub fn decide(candidates: &[Candidate], rules: Rules, before: Before<'_>) -> Decision {
    let panic = panic(candidates, rules.failover.panic_threshold, before.panic);
    let mode = mode(candidates, rules, before, &panic);
    let weights = match &mode {
        Mode::Tiers { loads } => spread(candidates, loads),
        Mode::Sorry => plain(candidates, |c| {
            c.tier == Tier::Sorry && c.standing == Standing::Ready
        }),
        Mode::Open => plain(candidates, |c| numbered(c) && opens(c)),
        Mode::Closed | Mode::Nobody => vec![0; candidates.len()],
    };
    Decision {
        mode,
        weights,
        panic: !matches!(panic, Panic::No),
    }
}

/// True if so many percent of all that are enabled, by weight, and at least one, are healthy.
pub fn can_do_with(candidates: &[Candidate], percent: u8) -> bool {
    let healthy = |c: &&Candidate| matches!(c.standing, Standing::Ready | Standing::Full);
    candidates.iter().any(|c| numbered(c) && healthy(&c))
        && matches!(panic(candidates, percent, true), Panic::No)
}

fn numbered(candidate: &Candidate) -> bool {
    candidate.tier != Tier::Sorry
}

/// It can be tried, for want of others.
fn opens(candidate: &Candidate) -> bool {
    matches!(
        candidate.standing,
        Standing::Ready | Standing::Unknown | Standing::Down
    )
}

fn mode(candidates: &[Candidate], rules: Rules, before: Before<'_>, panic: &Panic) -> Mode {
    let sorry = candidates
        .iter()
        .any(|c| c.tier == Tier::Sorry && c.standing == Standing::Ready);
    let otherwise = |mode| if sorry { Mode::Sorry } else { mode };
    let any = |takes: fn(&Candidate) -> bool| candidates.iter().any(|c| numbered(c) && takes(c));
    match (panic, rules.all_down) {
        (Panic::Few, AllDown::FailOpen) if any(|c| c.standing == Standing::Ready) => {
            return Mode::Open;
        }
        // The healthy ones are full: nobody who is ill is tried before a sorry backend.
        (Panic::Few, AllDown::FailOpen) if any(opens) => return otherwise(Mode::Open),
        (Panic::Few, AllDown::FailOpen) => return otherwise(Mode::Nobody),
        (Panic::Few, AllDown::FailClosed) => return otherwise(Mode::Closed),
        (Panic::None, AllDown::FailOpen) => return otherwise(Mode::Open),
        (Panic::None, AllDown::FailClosed) | (Panic::No, _) => {}
    }
    let held = match rules.failover.failback {
        Failback::Return => None,
        Failback::Stay => before.loads,
    };
    let loads = loads(candidates, rules.failover.overprovisioning, held);
    match loads.is_empty() {
        false => Mode::Tiers { loads },
        true => otherwise(Mode::Nobody),
    }
}

/// Whether enough backends are healthy.
enum Panic {
    /// They are.
    No,
    /// Too few are.
    Few,
    /// Not one is, and at least one can be tried.
    None,
}

fn panic(candidates: &[Candidate], threshold: u8, already: bool) -> Panic {
    let weight = |of: fn(Standing) -> bool| -> u64 {
        let counts = candidates.iter().filter(|c| numbered(c) && of(c.standing));
        counts.map(|c| u64::from(c.weight)).sum()
    };
    let healthy = weight(|s| matches!(s, Standing::Ready | Standing::Full));
    let unknown = weight(|s| s == Standing::Unknown);
    let enabled = weight(|s| s != Standing::Away);
    // While verdicts are still to come it is too early to give up on health; but a new backend in a pool that has given
    // up must not change that.
    let hope = if already { 0 } else { unknown };
    if healthy == 0 {
        let some_down = weight(|s| s == Standing::Down) > 0;
        return if some_down && hope == 0 {
            Panic::None
        } else {
            Panic::No
        };
    }
    let well = healthy.saturating_add(hope).saturating_mul(100);
    match well < enabled.saturating_mul(threshold.into()) {
        true => Panic::Few,
        false => Panic::No,
    }
}

/// A tier's weights.
#[derive(Default)]
struct Weights {
    all: u64,
    ready: u64,
}

/// What each tier carries.
fn loads(candidates: &[Candidate], overprovisioning: u16, held: Option<&Loads>) -> Loads {
    let mut tiers: BTreeMap<u8, Weights> = BTreeMap::new();
    for candidate in candidates {
        let Tier::Number(number) = candidate.tier else {
            continue;
        };
        let tier = tiers.entry(number).or_default();
        tier.all = tier.all.saturating_add(candidate.weight.into());
        if candidate.standing == Standing::Ready {
            tier.ready = tier.ready.saturating_add(candidate.weight.into());
        }
    }
    let capacity = |tier: &Weights| match tier.ready {
        0 => 0,
        ready => {
            let parts = ready.saturating_mul(u64::from(overprovisioning).saturating_mul(10));
            let parts = parts.checked_div(tier.all).unwrap_or(0);
            u32::try_from(parts).unwrap_or(WHOLE).clamp(1, WHOLE)
        }
    };
    let capacities: Loads = tiers.iter().map(|(n, tier)| (*n, capacity(tier))).collect();
    let mut loads = Loads::new();
    let mut rest = WHOLE;
    // With what they had, then with what they can.
    let had = held.map(|held| move |tier: &u8| held.get(tier).copied().unwrap_or(0));
    for most in [had.as_ref().map(|had| had as &dyn Fn(&u8) -> u32), None] {
        for (tier, capacity) in &capacities {
            let load = loads.entry(*tier).or_insert(0);
            let most = most.map_or(*capacity, |most| most(tier).min(*capacity));
            let more = most.saturating_sub(*load).min(rest);
            *load = load.saturating_add(more);
            rest = rest.saturating_sub(more);
        }
    }
    loads.retain(|_, load| *load > 0);
    whole(loads)
}

/// The same proportions, as parts of a whole.
fn whole(mut loads: Loads) -> Loads {
    let sum: u32 = loads
        .values()
        .fold(0, |sum, load| sum.saturating_add(*load));
    if sum == 0 || sum == WHOLE {
        return loads;
    }
    let mut left = WHOLE;
    for load in loads.values_mut() {
        *load = load.saturating_mul(WHOLE).checked_div(sum).unwrap_or(0);
        left = left.saturating_sub(*load);
    }
    // What rounding left over.
    if let Some(first) = loads.values_mut().next() {
        *first = first.saturating_add(left);
    }
    loads
}

/// Weights as they are configured, and less of them for those who warm up, and as agents say.
fn plain(candidates: &[Candidate], takes: impl Fn(&Candidate) -> bool) -> Vec<u32> {
    let mut takers = candidates.iter().filter(|c| takes(c));
    let first = takers.next().map_or(WHOLE, |c| c.warmth);
    // Equally warm is as good as warm, and the ring stays as it is.
    let even = takers.all(|c| c.warmth == first);
    let weight = |candidate: &Candidate| match (takes(candidate), even) {
        (false, _) => 0,
        (true, true) => u32::from(candidate.weight),
        (true, false) => warm(candidate),
    };
    candidates.iter().map(weight).collect()
}

/// In parts of [`WHOLE`] of weight 1.
fn warm(candidate: &Candidate) -> u32 {
    let warmth = candidate.warmth.clamp(1, MOST);
    u32::from(candidate.weight).saturating_mul(warmth)
}

/// Each tier's load, by weight within it.
fn spread(candidates: &[Candidate], loads: &Loads) -> Vec<u32> {
    let load_of = |candidate: &Candidate| match candidate.tier {
        Tier::Number(number) if candidate.standing == Standing::Ready => {
            loads.get(&number).copied().unwrap_or(0)
        }
        _ => 0,
    };
    if loads.len() == 1 {
        return plain(candidates, |candidate| load_of(candidate) > 0);
    }
    let mut sums: BTreeMap<Tier, u64> = BTreeMap::new();
    for candidate in candidates.iter().filter(|c| load_of(c) > 0) {
        let sum = sums.entry(candidate.tier).or_default();
        *sum = sum.saturating_add(warm(candidate).into());
    }
    // Far below 2^128: a load is at most a thousand, a weight times its warmth two millions.
    const FINE: u128 = 1 << 64;
    let fine = |candidate: &Candidate| -> u128 {
        let part = u128::from(load_of(candidate)).saturating_mul(warm(candidate).into());
        let sum = sums.get(&candidate.tier).copied().unwrap_or(0);
        part.saturating_mul(FINE)
            .checked_div(sum.into())
            .unwrap_or(0)
    };
    let most = candidates.iter().map(fine).max().unwrap_or(0);
    let weight = |candidate: &Candidate| match fine(candidate) {
        0 => 0,
        part => {
            let scaled = part.saturating_mul(SCALED.into()).checked_div(most);
            u32::try_from(scaled.unwrap_or(0)).unwrap_or(SCALED).max(1)
        }
    };
    candidates.iter().map(weight).collect()
}
