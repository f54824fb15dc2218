//! What QUIC's connection ids say of a service's backends; see `lb_common::quic`.

use std::collections::BTreeSet;

use lb_common::quic::{Lengths, MAX_CONFIG, MAX_CONFIGS, MAX_SERVER_ID, PREFIX};

/// Config ids (0 to 6) under which connection ids name a service's backends, at most two; none: they name nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigIds(BTreeSet<u8>);

/// Why a list is none of config ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigIdsError {
    /// It is empty.
    #[error("the list is empty")]
    Empty,
    /// One stands in it twice.
    #[error("{0} is in the list twice")]
    Twice(u8),
    /// There are more than two.
    #[error("there are {0} config ids, and {MAX_CONFIGS} is the limit")]
    Many(usize),
    /// One is none.
    #[error("{0} is no config id: they are 0 to {MAX_CONFIG}")]
    Unknown(u8),
}

impl ConfigIds {
    /// From a list.
    pub fn new(list: &[u8]) -> Result<Self, ConfigIdsError> {
        let mut ids = BTreeSet::new();
        for id in list {
            if *id > MAX_CONFIG {
                return Err(ConfigIdsError::Unknown(*id));
            }
            if !ids.insert(*id) {
                return Err(ConfigIdsError::Twice(*id));
            }
        }
        match ids.len() {
            0 => Err(ConfigIdsError::Empty),
            count if count > MAX_CONFIGS => Err(ConfigIdsError::Many(count)),
            _ => Ok(Self(ids)),
        }
    }

    /// Connection ids name nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().copied()
    }

    /// As the maps have them, for server ids of this many bytes.
    pub fn lengths(&self, bytes: usize) -> Lengths {
        let with = |lengths: Lengths, id| lengths.with(id, bytes);
        self.iter().fold(Lengths::NONE, with)
    }
}

/// What connection ids call a backend: 1 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId {
    bytes: [u8; MAX_SERVER_ID],
    length: u8,
}

impl ServerId {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// Never: there is one byte at least.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The beginning of connection ids that name the backend under a config id; only the server id's length counts.
    pub fn connection_id(&self, config: u8) -> [u8; PREFIX] {
        let mut id = [0; PREFIX];
        let [first, rest @ ..] = &mut id;
        *first = config << 5;
        *rest = self.bytes;
        id
    }
}

impl std::str::FromStr for ServerId {
    type Err = &'static str;

    /// From pairs of hex digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        let value = |digit: &u8| {
            char::from(*digit)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let values: Option<Vec<u8>> = digits.iter().map(value).collect();
        let values = values.ok_or("it has others than hex digits")?;
        if !values.len().is_multiple_of(2) {
            return Err("a byte is two hex digits, and one is missing");
        }
        let length = values.len() / 2;
        if length == 0 || length > MAX_SERVER_ID {
            return Err("a server id has 1 to 15 bytes");
        }
        let mut bytes = [0; MAX_SERVER_ID];
        for (to, pair) in bytes.iter_mut().zip(values.chunks(2)) {
            if let [high, low] = pair {
                *to = high << 4 | low;
            }
        }
        Ok(Self {
            bytes,
            length: u8::try_from(length).unwrap_or(0),
        })
    }
}

impl std::fmt::Display for ServerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = self.bytes().iter();
        bytes.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ServerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_id_is_pairs_of_hex_digits() {
        let id = |text: &str| text.parse::<ServerId>();
        assert_eq!(id("0A01").unwrap().to_string(), "0a01");
        assert_eq!(id("00").unwrap().bytes(), [0]);
        assert_eq!(id(&"f0".repeat(15)).unwrap().len(), 15);
        for text in ["", "a", "0a1", "0x0a", "0a 01", "g0", "ä0"] {
            assert!(id(text).is_err(), "{text}");
        }
        assert!(id(&"00".repeat(16)).is_err());
        // The same number in another length is another id.
        assert_ne!(id("01").unwrap(), id("0001").unwrap());
    }

    #[test]
    fn the_maps_have_a_length_for_each_config_id() {
        assert_eq!(ConfigIds::new(&[]), Err(ConfigIdsError::Empty));
        assert_eq!(ConfigIds::new(&[7]), Err(ConfigIdsError::Unknown(7)));
        assert_eq!(ConfigIds::new(&[1, 1]), Err(ConfigIdsError::Twice(1)));
        assert_eq!(ConfigIds::new(&[1, 2, 3]), Err(ConfigIdsError::Many(3)));
        let lengths = ConfigIds::new(&[6, 2]).unwrap().lengths(5);
        let of = |config: u8| lengths.of(config << 5 | 0x1f);
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(of), [0, 0, 5, 0, 0, 0, 5, 0]);
    }
}
