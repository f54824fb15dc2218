//! A range of addresses that begin with the same bits. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use lb_common::service::Family;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The family of an address.
pub const fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// An address and how many of its first bits count; the others are zero. Shown as `10.9.0.0/24`, and
/// as a bare address when all bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address, perhaps with a length.
    #[error("it is neither an address nor a prefix such as 10.9.0.0/24")]
    Malformed,
    /// More bits than the family's addresses have.
    #[error("addresses of its family have {0} bits")]
    Length(u8),
    /// Bits beyond the length are set; the prefix that was probably meant.
    #[error("it has bits beyond its length; the prefix is {0}")]
    HostBits(Prefix),
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// As a number of 128 bits, the first bit of the address first.
fn aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    let host = 128_u32.saturating_sub(u32::from(length));
    u128::MAX.checked_shl(host).unwrap_or(0)
}

impl Prefix {
    /// `None` when the length is too large or host bits are set.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let good = length <= bits(address) && aligned(address) & !mask(length) == 0;
        good.then_some(Self { address, length })
    }

    /// The prefix of this length that the address lies in.
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        let network = aligned(address) & mask(length);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(((network >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(network.into()),
        };
        Self::new(address, length)
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// All bits count: it is one address.
    pub fn is_host(&self) -> bool {
        self.length == bits(self.address)
    }

    /// Bits that count of the 128 of an address as the maps hold it (IPv4-mapped).
    pub fn length_of_128(&self) -> u8 {
        let before = 128_u8.saturating_sub(bits(self.address));
        self.length.saturating_add(before)
    }

    /// Its last address.
    pub fn last(&self) -> IpAddr {
        let last = aligned(self.address) | !mask(self.length);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(((last >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(last.into()),
        }
    }

    /// The other prefix lies in this one, or is this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Its addresses' family.
    pub fn family(&self) -> Family {
        match self.address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The address is one of its.
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) == bits(self.address)
            && aligned(address) & mask(self.length) == aligned(self.address)
    }

    /// Host bits among the last 32.
    pub fn last_host_bits(&self) -> u32 {
        let host = bits(self.address).saturating_sub(self.length);
        u32::MAX
            .checked_shl(host.into())
            .map_or(u32::MAX, |network| !network)
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self {
            address,
            length: bits(address),
        }
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length == bits(self.address) {
            true => self.address.fmt(f),
            false => write!(f, "{}/{}", self.address, self.length),
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let most = bits(address);
        let length = match length {
            None => most,
            Some(length) if length.bytes().all(|b| b.is_ascii_digit()) => length
                .parse()
                .ok()
                .filter(|length| *length <= most)
                .ok_or(PrefixError::Length(most))?,
            Some(_) => return Err(PrefixError::Malformed),
        };
        Self::new(address, length).ok_or_else(|| match Self::around(address, length) {
            Some(meant) => PrefixError::HostBits(meant),
            None => PrefixError::Malformed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_are_read_and_shown_and_know_their_addresses() {
        let cases = [
            ("10.9.0.0/24", "10.9.0.255", "10.9.1.0", 0xff),
            ("10.9.0.7", "10.9.0.7", "10.9.0.8", 0),
            ("0.0.0.0/0", "255.0.0.1", "::", u32::MAX),
            ("fd00:9::/112", "fd00:9::ffff", "fd00:9::1:0", 0xffff),
            ("fd00::/8", "fdff::1", "fe00::", u32::MAX),
            ("::/0", "fe80::1", "0.0.0.0", u32::MAX),
            ("::1", "::1", "::2", 0),
            (
                "128.0.0.0/1",
                "255.255.255.255",
                "127.255.255.255",
                0x7fff_ffff,
            ),
        ];
        for (text, inside, outside, host_bits) in cases {
            let prefix = prefix(text);
            assert_eq!(prefix.to_string(), text);
            assert!(prefix.contains(inside.parse().unwrap()), "{text}");
            assert!(!prefix.contains(outside.parse().unwrap()), "{text}");
            assert_eq!(prefix.last_host_bits(), host_bits, "{text}");
        }
        assert_eq!(prefix("10.9.0.7/32"), prefix("10.9.0.7"));
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_what_was_meant() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err();
        assert_eq!(
            error("10.9.0.7/24"),
            PrefixError::HostBits(prefix("10.9.0.0/24"))
        );
        assert_eq!(
            error("fd00::1/64"),
            PrefixError::HostBits(prefix("fd00::/64"))
        );
        assert_eq!(error("10.9.0.0/33"), PrefixError::Length(32));
        assert_eq!(error("::/999"), PrefixError::Length(128));
        for text in [
            "",
            "/",
            "10.9.0/24",
            "10.9.0.0/",
            "10.9.0.0/+8",
            "a/8",
            "10.9.0.0/8/8",
        ] {
            let error = error(text);
            let known = matches!(error, PrefixError::Malformed | PrefixError::Length(_));
            assert!(known, "{text}: {error}");
        }
    }
}
