//! The rules of a backend's decapsulator: which balancers it believes, and which addresses are whose. Pure;
//! `decap/run.rs` is the command, `dataplane/bpf/decap.rs` the kernel.

pub mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::Address;
use lb_common::decap::{ADDRESSES, AddressPrefix, Standing, TRUSTED_SOURCES, VIP_PREFIXES};

use crate::desired::address;
use crate::model::Prefix;

/// What the program is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The balancers' tunnel sources.
    pub trusted: Vec<AddressPrefix>,
    /// The machine's addresses and its VIPs.
    pub addresses: BTreeMap<Address, Standing>,
    /// VIPs by prefix.
    pub vip_prefixes: Vec<AddressPrefix>,
    /// The UDP port of `gue`; 0: it is not taken out.
    pub gue_port: u16,
}

/// Why there are no rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// More prefixes than the program looks at.
    #[error("--source: {0} prefixes; there can be {TRUSTED_SOURCES} (join some)")]
    TooManySources(usize),
    /// More addresses than the map holds.
    #[error("--vip: {0} addresses with the machine's own; there can be {ADDRESSES}")]
    TooManyAddresses(usize),
    /// A prefix that covers everybody.
    #[error(
        "--source {0}: it would let anybody send packets in under any name (give the balancers' `tunnel-source`)"
    )]
    TooWide(Prefix),
    /// An address that no balancer has.
    #[error(
        "--source {source_prefix}: it covers {address}, an address or VIP of this machine (give the balancers' `tunnel-source`)"
    )]
    Ours {
        /// The prefix.
        source_prefix: Prefix,
        /// What it covers.
        address: Prefix,
    },
    /// More prefixes of VIPs than the program looks at.
    #[error("--vip: {0} prefixes; there can be {VIP_PREFIXES} (join some)")]
    TooManyVips(usize),
    /// No client can connect to it.
    #[error(
        "--vip {0}: it is neither a unicast address that clients can reach nor a prefix of them"
    )]
    BadVip(Prefix),
}

/// The shortest prefix that can be a group of balancers.
fn shortest(prefix: &Prefix) -> u8 {
    match prefix.address() {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 32,
    }
}

fn masked(prefix: &Prefix) -> AddressPrefix {
    let host = match prefix.address() {
        IpAddr::V4(_) => 32_u32,
        IpAddr::V6(_) => 128,
    }
    .saturating_sub(prefix.length().into());
    AddressPrefix {
        address: address(prefix.address()).0,
        mask: u128::MAX.checked_shl(host).unwrap_or(0).to_be_bytes(),
    }
}

impl Rules {
    /// For these balancers and VIPs on a machine with the addresses `own`, and a UDP port of `gue` unless it is 0.
    pub fn new(
        sources: &[Prefix],
        vips: &[Prefix],
        own: &[IpAddr],
        gue_port: u16,
    ) -> Result<Self, RulesError> {
        if sources.len() > TRUSTED_SOURCES as usize {
            return Err(RulesError::TooManySources(sources.len()));
        }
        for vip in vips {
            let first = vip.address();
            let mapped = matches!(first, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            let no_client = first.is_unspecified() || first.is_loopback() || first.is_multicast();
            if no_client || mapped || vip.length() < shortest(vip) {
                return Err(RulesError::BadVip(*vip));
            }
        }
        for source in sources {
            if source.length() < shortest(source) {
                return Err(RulesError::TooWide(*source));
            }
            let own = own.iter().map(|address| Prefix::from(*address));
            let mut ours = vips.iter().copied().chain(own);
            if let Some(address) = ours.find(|a| source.covers(a) || a.covers(source)) {
                return Err(RulesError::Ours {
                    source_prefix: *source,
                    address,
                });
            }
        }
        let (single, prefixes): (Vec<Prefix>, Vec<Prefix>) =
            vips.iter().partition(|vip| vip.is_host());
        if prefixes.len() > VIP_PREFIXES as usize {
            return Err(RulesError::TooManyVips(prefixes.len()));
        }
        // A VIP on the loopback is both, and is a VIP.
        let standing = |a: &IpAddr| match prefixes.iter().any(|vips| vips.contains(*a)) {
            true => Standing::Vip,
            false => Standing::Own,
        };
        let own = own.iter().map(|a| (address(*a), standing(a)));
        let vips = single
            .iter()
            .map(|vip| (address(vip.address()), Standing::Vip));
        let addresses: BTreeMap<Address, Standing> = own.chain(vips).collect();
        if addresses.len() > ADDRESSES as usize {
            return Err(RulesError::TooManyAddresses(addresses.len()));
        }
        Ok(Self {
            trusted: sources.iter().map(masked).collect(),
            addresses,
            vip_prefixes: prefixes.iter().map(masked).collect(),
            gue_port,
        })
    }
}

/// VIPs that are no address of the machine, which so cannot answer for them. (A prefix of them is a matter of its routes.)
pub fn missing(vips: &[Prefix], own: &[IpAddr]) -> BTreeSet<IpAddr> {
    let single = vips.iter().filter(|vip| vip.is_host()).map(Prefix::address);
    single.filter(|vip| !own.contains(vip)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn rules(sources: &[&str], vips: &[&str], own: &[&str]) -> Result<Rules, RulesError> {
        let sources = prefixes(sources);
        Rules::new(&sources, &prefixes(vips), &ips(own), 6080)
    }

    #[test]
    fn sources_become_masks_and_a_vip_is_a_vip_also_where_it_is_an_own_address() {
        let made = rules(
            &["10.9.0.0/24", "fd00:9::/112", "192.0.2.1"],
            &["10.10.0.100", "fd00::100"],
            &["10.10.1.1", "10.10.0.100", "127.0.0.1"],
        )
        .unwrap();
        let covers = |slot: usize, text: &str| {
            let a: IpAddr = text.parse().unwrap();
            made.trusted[slot].contains(address(a))
        };
        assert!(covers(0, "10.9.0.255") && !covers(0, "10.9.1.0"));
        assert!(covers(1, "fd00:9::ffff") && !covers(1, "fd00:9::1:0"));
        assert!(covers(2, "192.0.2.1") && !covers(2, "192.0.2.2"));
        let standing = |text: &str| {
            let a: IpAddr = text.parse().unwrap();
            made.addresses.get(&address(a)).copied()
        };
        assert_eq!(standing("10.10.0.100"), Some(Standing::Vip));
        assert_eq!(standing("10.10.1.1"), Some(Standing::Own));
        assert_eq!(standing("10.10.1.2"), None);
        let vips = prefixes(&["10.10.0.100", "fd00::100", "192.0.2.0/24"]);
        let absent = missing(&vips, &ips(&["10.10.0.100"]));
        assert_eq!(absent.into_iter().collect::<Vec<_>>(), ips(&["fd00::100"]));
    }

    #[test]
    fn a_prefix_of_vips_makes_own_addresses_in_it_vips() {
        let made = rules(
            &["10.9.0.0/24"],
            &["203.0.113.0/24", "2001:db8:7::/64", "192.0.2.1"],
            &["203.0.113.7", "10.10.1.1"],
        )
        .unwrap();
        let standing = |text: &str| made.addresses[&address(text.parse().unwrap())];
        assert_eq!(standing("203.0.113.7"), Standing::Vip);
        assert_eq!(standing("10.10.1.1"), Standing::Own);
        assert_eq!(standing("192.0.2.1"), Standing::Vip);
        assert_eq!(made.addresses.len(), 3);
        let covered = |text: &str| {
            let a = address(text.parse().unwrap());
            made.vip_prefixes.iter().any(|vips| vips.contains(a))
        };
        assert!(covered("203.0.113.255") && covered("2001:db8:7::ffff"));
        assert!(!covered("203.0.112.255") && !covered("2001:db8:8::") && !covered("192.0.2.1"));
    }

    #[test]
    fn rules_that_would_open_the_machine_or_let_nothing_in_are_refused() {
        let error = |sources: &[&str], vips: &[&str], own: &[&str]| {
            rules(sources, vips, own).unwrap_err().to_string()
        };
        let vip = &["10.10.0.100"][..];
        assert!(error(&["0.0.0.0/0"], vip, &[]).contains("anybody"));
        assert!(error(&["fd00::/31"], &[], &[]).contains("anybody"));
        assert!(error(&["10.0.0.0/8"], vip, &[]).contains("covers 10.10.0.100"));
        assert!(error(&["192.0.2.0/24"], vip, &["192.0.2.9"]).contains("192.0.2.9"));
        assert!(error(&["10.9.0.0/24"], &["127.0.0.1"], &[]).contains("unicast"));
        let many: Vec<String> = (0..17).map(|n| format!("10.9.{n}.0/24")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(error(&many, vip, &[]).contains("--source: 17 prefixes"));
        assert!(error(&["192.0.2.1"], &many, &[]).contains("--vip: 17 prefixes"));
        for wide in ["0.0.0.0/0", "128.0.0.0/1", "2000::/3", "224.0.0.0/4"] {
            assert!(
                error(&["10.9.0.0/24"], &[wide], &[]).contains("unicast"),
                "{wide}"
            );
        }
        assert!(error(&["10.9.0.0/24"], &["10.9.0.0/16"], &[]).contains("covers 10.9.0.0/16"));
    }
}
