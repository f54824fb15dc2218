//! The ports of a service. Pure.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One port, some in a row, or any. Shown as `80`, `8000-8099` and `any`; in JSON, one port is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    low: u16,
    high: u16,
}

/// Why a text names no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// Neither a port nor a range.
    #[error("it is neither a port, nor a range such as \"8000-8099\", nor \"any\"")]
    Malformed,
    /// The first port is above the last.
    #[error("the range goes downwards")]
    Downwards(Ports),
}

impl Ports {
    /// Every port, and packets of protocols without ports.
    pub const ANY: Self = Self {
        low: 0,
        high: u16::MAX,
    };

    /// One port.
    pub const fn one(port: NonZeroU16) -> Self {
        Self {
            low: port.get(),
            high: port.get(),
        }
    }

    /// From the first to the last; `None`: the first is above the last.
    pub fn range(low: NonZeroU16, high: NonZeroU16) -> Option<Self> {
        (low <= high).then_some(Self {
            low: low.get(),
            high: high.get(),
        })
    }

    /// The first; 0 of [`Self::ANY`].
    pub const fn low(self) -> u16 {
        self.low
    }

    /// The last.
    pub const fn high(self) -> u16 {
        self.high
    }

    /// The port if it is one.
    pub fn single(self) -> Option<NonZeroU16> {
        NonZeroU16::new(self.low).filter(|_| self.low == self.high)
    }

    /// True for one of them.
    pub const fn contains(self, port: NonZeroU16) -> bool {
        self.low <= port.get() && port.get() <= self.high
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        (self.high as u32)
            .saturating_sub(self.low as u32)
            .saturating_add(1)
    }

    /// True when it has all of the other one's.
    pub const fn covers(self, other: Self) -> bool {
        self.low <= other.low && other.high <= self.high
    }

    /// True when a port is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            _ if *self == Self::ANY => f.write_str("any"),
            Some(port) => port.fmt(f),
            None => write!(f, "{}-{}", self.low, self.high),
        }
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let port = digits.then(|| text.parse::<NonZeroU16>().ok()).flatten();
            port.ok_or(PortsError::Malformed)
        };
        match text.split_once('-') {
            _ if text == "any" => Ok(Self::ANY),
            None => Ok(Self::one(port(text)?)),
            Some((low, high)) => {
                let (low, high) = (port(low)?, port(high)?);
                let turned = Self {
                    low: high.get(),
                    high: low.get(),
                };
                Self::range(low, high).ok_or(PortsError::Downwards(turned))
            }
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.single() {
            Some(port) => s.serialize_u16(port.get()),
            None => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(NonZeroU16),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::One(port) => Ok(Self::one(port)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_shown_as_they_are_written() {
        for (text, json, count) in [
            ("80", "80", 1),
            ("8000-8099", "\"8000-8099\"", 100),
            ("1-65535", "\"1-65535\"", 65_535),
            ("any", "\"any\"", 65_536),
        ] {
            let ports: Ports = text.parse().unwrap();
            assert_eq!(ports.to_string(), text);
            assert_eq!(serde_json::to_string(&ports).unwrap(), json);
            assert_eq!(serde_json::from_str::<Ports>(json).unwrap(), ports);
            assert_eq!(ports.count(), count, "{text}");
        }
        assert_eq!("7-7".parse(), Ok(Ports::one(NonZeroU16::new(7).unwrap())));
    }

    #[test]
    fn what_names_no_ports_is_refused() {
        for text in [
            "", "0", "0-9", "-", "1-", "-9", "+1", "65536", "1-2-3", "Any", " 80", "80 - 90",
        ] {
            assert_eq!(text.parse::<Ports>(), Err(PortsError::Malformed), "{text}");
        }
        let meant = "8000-8099".parse().unwrap();
        assert_eq!(
            "8099-8000".parse::<Ports>(),
            Err(PortsError::Downwards(meant))
        );
    }
}
