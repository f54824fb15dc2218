//! What a backend's operator allows, as texts; and the same as the program reads it.

use std::net::IpAddr;

use lb_common::{
    Address,
    decap::{AddressPrefix, Standing},
};
use lb_ebpf::decap::fixture::MemRules;

/// Addresses and prefixes of a backend.
#[derive(Clone, Debug)]
pub struct World {
    /// Tunnels of balancers come from these.
    sources: Vec<(IpAddr, u32)>,
    /// VIPs.
    vips: Vec<(IpAddr, u32)>,
    /// The machine's own addresses.
    own: Vec<IpAddr>,
    /// The UDP port of `gue`, if any.
    pub(super) gue_port: Option<u16>,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn covers(&(first, length): &(IpAddr, u32), address: IpAddr) -> bool {
    let bits = if first.is_ipv4() { 32 } else { 128 };
    first.is_ipv4() == address.is_ipv4()
        && (number(first) ^ number(address))
            .checked_shr(bits - length)
            .unwrap_or(0)
            == 0
}

fn prefix(text: &str) -> (IpAddr, u32) {
    let (address, length) = text.split_once('/').expect("a prefix");
    (
        address.parse().expect("an address"),
        length.parse().expect("a length"),
    )
}

/// As in the maps: IPv4 addresses are mapped into IPv6.
fn in_map(&(first, length): &(IpAddr, u32)) -> AddressPrefix {
    let length = if first.is_ipv4() { 96 + length } else { length };
    AddressPrefix {
        address: address(first).0,
        mask: u128::MAX
            .checked_shl(128 - length)
            .unwrap_or(0)
            .to_be_bytes(),
    }
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(a) => Address::v4(a.octets()),
        IpAddr::V6(a) => Address::v6(a.octets()),
    }
}

impl World {
    /// Both families, VIPs alone and by prefix, and a port of `gue` or none.
    pub fn new(gue_port: Option<u16>) -> Self {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| prefix(text)).collect();
        let own = ["10.10.1.1", "10.10.1.9", "fd00:10:1::1", "fe80::1"];
        Self {
            sources: prefixes(&["10.9.0.0/24", "172.20.0.5/32", "fd00:9::/112"]),
            vips: prefixes(&[
                "10.10.0.100/32",
                "fd00:10::100/128",
                "203.0.113.0/24",
                "2001:db8:70::/64",
            ]),
            own: own.map(|text| text.parse().expect("an address")).into(),
            gue_port,
        }
    }

    /// As the program reads it.
    pub fn rules(&self) -> MemRules {
        let is_alone =
            |(first, length): &&(IpAddr, u32)| *length == if first.is_ipv4() { 32 } else { 128 };
        let (alone, wide): (Vec<_>, Vec<_>) = self.vips.iter().partition(is_alone);
        let own = self.own.iter().map(|a| (address(*a), Standing::Own));
        let alone = alone.iter().map(|(a, _)| (address(*a), Standing::Vip));
        MemRules {
            trusted: self.sources.iter().map(in_map).collect(),
            addresses: own.chain(alone).collect(),
            vip_prefixes: wide.iter().map(in_map).collect(),
            gue_port: self.gue_port.unwrap_or(0),
            fates: Default::default(),
        }
    }

    /// A balancer's tunnels may come from there.
    pub(super) fn is_balancer(&self, address: IpAddr) -> bool {
        self.sources.iter().any(|prefix| covers(prefix, address))
    }

    /// A VIP.
    pub(super) fn is_vip(&self, address: IpAddr) -> bool {
        self.vips.iter().any(|prefix| covers(prefix, address))
    }

    /// A VIP or an address of the machine.
    pub(super) fn is_ours(&self, address: IpAddr) -> bool {
        self.is_vip(address) || self.own.contains(&address)
    }
}
