//! What becomes of what a backend says about its load: [`Agent`]. Pure.
//!
//! A report is a wish. It is kept within the bounds of the configuration, and the part of its weight that the backend gets moves
//! towards it by one bounded step at a time, on a grid of the clock that all backends of a service share, so that however many
//! agents report, the ring of a service is filled anew at most once a step. Small differences move nothing. What cannot
//! be read is ignored, and said once.

use crate::model::AgentWeight;
use crate::tiers::WHOLE;

/// Reports that are a greater part than this, percent, are no load but a mistake or a lie.
const LARGEST_REPORT: u32 = 1000;

/// A difference below this (parts of [`WHOLE`]) moves nothing, unless the wish is a bound or the whole.
const DEAD_BAND: u32 = WHOLE / 50;

/// Between two events about reports of one backend that cannot be read, nanoseconds.
const QUIET: u64 = 600_000_000_000;

/// A backend's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The part of [`WHOLE`] of its weight that the backend gets.
    part: u32,
    /// The part that it is to get.
    wanted: u32,
    /// Something that could be read has been said.
    heard: bool,
    /// When the last step was taken; nanoseconds since boot.
    stepped: u64,
    /// What is wrong with the last report.
    refused: Option<String>,
    /// When that was last told.
    told: Option<u64>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            part: WHOLE,
            wanted: WHOLE,
            heard: false,
            stepped: 0,
            refused: None,
            told: None,
        }
    }
}

impl Agent {
    /// A good check brought this report, or none: then the wish is the whole weight. Gives what is wrong with it, once.
    pub fn report(&mut self, policy: &AgentWeight, said: Option<&str>) -> Option<String> {
        let wanted = match said.map(read) {
            None => WHOLE,
            Some(Ok(part)) => part,
            Some(Err(why)) => {
                let first = self.refused.is_none();
                self.refused = Some(why.clone());
                return first.then_some(why);
            }
        };
        self.refused = None;
        self.wanted = bounded(policy, wanted);
        // Nobody knows how it was before: as it says, not as if it had been the whole.
        if said.is_some() && !std::mem::replace(&mut self.heard, true) {
            self.part = self.wanted;
        }
        None
    }

    /// What is wrong with a report may be told now: not again and again of an agent that says right and wrong in turn.
    pub fn may_tell(&mut self, now: u64) -> bool {
        let quiet = |at: u64| now.saturating_sub(at) < QUIET;
        if self.told.is_some_and(quiet) {
            return false;
        }
        self.told = Some(now);
        true
    }

    /// Other bounds.
    pub fn bound(&mut self, policy: &AgentWeight) {
        self.wanted = bounded(policy, self.wanted);
        self.part = bounded(policy, self.part);
    }

    /// It is to be moved.
    pub fn leans(&self, policy: &AgentWeight) -> bool {
        let off = self.part.abs_diff(self.wanted);
        let ends = [bounded(policy, 0), WHOLE, bounded(policy, u32::MAX)];
        off >= DEAD_BAND || off > 0 && ends.contains(&self.wanted)
    }

    /// Takes a step at `now`, if the last one was before on the grid (nanoseconds).
    pub fn step(&mut self, policy: &AgentWeight, now: u64, grid: u64) {
        let slot = |at: u64| at.checked_div(grid).unwrap_or(0);
        if slot(now) <= slot(self.stepped) || !self.leans(policy) {
            return;
        }
        self.stepped = now;
        let most = u32::from(policy.step).saturating_mul(WHOLE / 100);
        let low = self.part.saturating_sub(most);
        let high = self.part.saturating_add(most);
        self.part = self.wanted.clamp(low, high);
    }

    /// The part of [`WHOLE`] of its weight that the backend gets: never 0.
    pub fn part(&self) -> u32 {
        self.part.max(1)
    }

    /// In words, unless there is nothing to say.
    pub fn words(&self) -> Option<String> {
        let got = percent(self.part);
        match &self.refused {
            Some(why) => Some(format!(
                "what its agent says is ignored ({why}): {got} of its weight"
            )),
            None if self.part == self.wanted && self.part == WHOLE => None,
            None if self.part.abs_diff(self.wanted) < DEAD_BAND => {
                Some(format!("as its agent says, {got} of its weight"))
            }
            None => Some(format!(
                "{got} of its weight, on the way to {} as its agent says",
                percent(self.wanted)
            )),
        }
    }
}

/// When the next step is due.
pub fn next_step(now: u64, grid: u64) -> u64 {
    let slot = now.checked_div(grid).unwrap_or(0).saturating_add(1);
    slot.saturating_mul(grid)
}

fn bounded(policy: &AgentWeight, part: u32) -> u32 {
    let bound = |percent: u16| u32::from(percent).saturating_mul(WHOLE / 100);
    let least = bound(policy.least);
    part.clamp(least, bound(policy.most).max(least))
}

fn percent(part: u32) -> String {
    match part % 10 {
        0 => format!("{} %", part / 10),
        tenths => format!("{}.{tenths} %", part / 10),
    }
}

/// The part of [`WHOLE`] that a report asks for: one whole percentage among words, as agents of HAProxy send it
/// (`75%`, `up 75%`). The words mean nothing here: whether a backend is up is for the check, and drains are for people.
fn read(said: &str) -> Result<u32, String> {
    let words = said.split(|c: char| c.is_ascii_whitespace() || c == ',');
    let mut parts = words.filter_map(|word| word.strip_suffix('%'));
    let part = match (parts.next(), parts.next()) {
        (Some(part), None) => part,
        (Some(_), Some(_)) => return Err(format!("'{said}' has two percentages")),
        (None, _) => return Err(format!("'{said}' has no percentage such as 75%")),
    };
    let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
    let number = part.parse::<u32>().ok().filter(|_| digits);
    match number.filter(|number| *number <= LARGEST_REPORT) {
        Some(number) => Ok(number.saturating_mul(WHOLE / 100)),
        None => Err(format!("'{said}' is not from 0% to {LARGEST_REPORT}%")),
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests;
