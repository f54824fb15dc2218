//! What an operator says about who may get flows.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a backend stands among those of its service: tier 0 is first, `sorry` is for when nobody else is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// 0 to [`Tier::LAST`]: the lowest first.
    Number(u8),
    /// Only when no backend of a numbered tier may take flows.
    Sorry,
}

impl Tier {
    /// The highest number.
    pub const LAST: u8 = 9;
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Sorry => f.write_str("sorry"),
        }
    }
}

impl Serialize for Tier {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tier {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text == "sorry" {
            return Ok(Self::Sorry);
        }
        let number = text.parse().ok().filter(|number| *number <= Self::LAST);
        let wrong = || serde::de::Error::custom(format!("tier '{text}': not 0 to 9 or 'sorry'"));
        number.map(Self::Number).ok_or_else(wrong)
    }
}

/// How a service fails over from tier to tier and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Percent, 100 or more: a tier of which the share `h` (by weight) may take flows can carry `h * overprovisioning` of
    /// all new flows, and at most all of them. The rest spills over to the next tier.
    pub overprovisioning: u16,
    /// Percent: with fewer healthy backends (by weight, of those that are enabled) the all-down policy acts. 0: only
    /// when nobody is healthy.
    pub panic_threshold: u8,
    /// When a tier recovers.
    pub failback: Failback,
    /// How a backend that returns gets its share.
    pub slow_start: SlowStart,
    /// The VIP is claimed when so many backends of numbered tiers are healthy; 0: at once.
    pub min_healthy: u16,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            overprovisioning: 140,
            panic_threshold: 0,
            failback: Failback::Return,
            slow_start: SlowStart::default(),
            min_healthy: 1,
        }
    }
}

/// What happens to new flows when an earlier tier recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failback {
    /// They return to it at once.
    Return,
    /// They stay where they are for as long as that works, or until a person says otherwise.
    Stay,
}

/// How a backend gets its share after a return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowStart {
    /// Until it has the whole; 0: at once.
    pub duration: Duration,
    /// How the share grows.
    pub curve: Curve,
}

/// How a share grows in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// With the time.
    #[default]
    Linear,
    /// With its square: slower at first.
    Quadratic,
}
