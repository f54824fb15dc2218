//! Prefixes of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First and last address of a prefix.
pub(super) fn range(address: IpAddr, length: u8) -> std::ops::RangeInclusive<IpAddr> {
    match address {
        IpAddr::V4(a) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let first = a.to_bits() & !host;
            Ipv4Addr::from_bits(first).into()..=Ipv4Addr::from_bits(first | host).into()
        }
        IpAddr::V6(a) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            let first = a.to_bits() & !host;
            Ipv6Addr::from_bits(first).into()..=Ipv6Addr::from_bits(first | host).into()
        }
    }
}

/// Length of the prefix that is one address.
pub fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
