//! VIPs that the daemon claims: which addresses to add to which interface or to take away, and
//! the frames that tell the neighbours. Pure; `announce/*.rs` acts.
//!
//! A claim lasts until the configuration drops it or the data plane is unloaded. It does not end
//! with the daemon, for forwarding does not either. An address that was there before is used and
//! announced, but never removed: it is the operator's.
//!
//! Frames: ARP announcements (RFC 826, RFC 5227 section 3, RFC 5944 section 4.6), unsolicited
//! neighbour advertisements (RFC 4861 sections 4.4 and 7.2.6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::model::Link;
use crate::neigh::{InterfaceAddress, LinkState, host_prefix};

pub mod claimer;

const SECOND: u64 = 1_000_000_000;

/// A claim is announced so often, a second apart: MAX_NEIGHBOR_ADVERTISEMENT of RFC 4861
/// section 10, and one more than ANNOUNCE_NUM of RFC 5227.
pub const ANNOUNCEMENTS: u8 = 3;

/// After the kernel refused to add or to remove an address.
pub const RETRY: u64 = SECOND;

/// A VIP on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// Name of the interface.
    pub interface: String,
    /// The VIP.
    pub address: IpAddr,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.address, self.interface)
    }
}

/// Who put an address there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// We: it goes when the claim goes.
    Daemon,
    /// It was there: it stays.
    Operator,
}

/// What must outlive the daemon: the claims made, and whose the addresses are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Recorded>", into = "Vec<Recorded>")]
pub struct Claims(pub BTreeMap<Claim, Origin>);

/// One entry of [`Claims`] as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// The claim.
    #[serde(flatten)]
    pub claim: Claim,
    /// Whose the address is.
    pub origin: Origin,
}

impl From<Vec<Recorded>> for Claims {
    fn from(list: Vec<Recorded>) -> Self {
        Self(list.into_iter().map(|r| (r.claim, r.origin)).collect())
    }
}

impl From<Claims> for Vec<Recorded> {
    fn from(claims: Claims) -> Self {
        let recorded = |(claim, origin)| Recorded { claim, origin };
        claims.0.into_iter().map(recorded).collect()
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add the address, after the record has been stored.
    Add(Claim, InterfaceAddress),
    /// Remove the address.
    Remove(Claim, InterfaceAddress),
    /// Send frames out of the interface.
    Announce(Claim, Vec<Vec<u8>>),
}

/// Something worth telling a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Report {
    /// The address was added.
    Added(Claim),
    /// Somebody had removed the address; it was added again.
    Repaired(Claim),
    /// The address was there already and is the operator's.
    Found(Claim),
    /// The claim was given up, and the address removed if it was ours.
    Released(Claim),
    /// The claim could not be carried out or given up; it is tried again.
    Failed {
        /// The claim.
        claim: Claim,
        /// Why.
        reason: String,
    },
    /// There is no such interface now.
    NoInterface(Claim),
}

/// The claims and the world they meet. Times are nanoseconds of one monotonic clock.
#[derive(Debug)]
pub struct Claiming {
    /// `None` until it was said: nothing is given up before.
    wanted: Option<BTreeSet<Claim>>,
    record: Claims,
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr, u8)>,
    /// Claims whose address has been there since we look.
    held: BTreeSet<Claim>,
    /// Claims without an interface that were reported.
    missing: BTreeSet<Claim>,
    retry: BTreeMap<Claim, u64>,
    /// When to announce next, and how often yet.
    announcements: BTreeMap<Claim, (u64, u8)>,
    reports: Vec<Report>,
}

impl Claiming {
    /// Goes on where a former daemon left off.
    pub fn new(record: Claims) -> Self {
        Self {
            wanted: None,
            record,
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            held: BTreeSet::new(),
            missing: BTreeSet::new(),
            retry: BTreeMap::new(),
            announcements: BTreeMap::new(),
            reports: Vec::new(),
        }
    }

    /// The complete set of claims.
    pub fn want(&mut self, claims: BTreeSet<Claim>) {
        self.retry.clear();
        self.missing.retain(|c| claims.contains(c));
        self.announcements.retain(|c, _| claims.contains(c));
        self.wanted = Some(claims);
    }

    /// An interface appeared or changed.
    pub fn link(&mut self, state: LinkState, now: u64) {
        let link = state.link;
        let before = self.links.insert(link.ifindex, link.clone());
        let same = |b: &Link| b.up && b.mac == link.mac && b.name == link.name;
        if link.up && !before.as_ref().is_some_and(same) {
            // New to the segment, or with a new MAC address: whoever knew us must learn it.
            let here = |claim: &&Claim| claim.interface == link.name;
            for claim in self.held.iter().filter(here) {
                self.announcements
                    .insert(claim.clone(), (now, ANNOUNCEMENTS));
            }
        }
        if before.is_none_or(|b| b.up != link.up) {
            self.retry.retain(|claim, _| claim.interface != link.name);
        }
    }

    /// An interface is gone, and its addresses with it.
    pub fn link_gone(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.addresses.retain(|(index, ..)| *index != ifindex);
    }

    /// An interface has an address.
    pub fn address(&mut self, at: InterfaceAddress) {
        self.addresses.insert((at.ifindex, at.address, at.prefix));
    }

    /// An interface lost an address.
    pub fn address_gone(&mut self, at: InterfaceAddress) {
        self.addresses.remove(&(at.ifindex, at.address, at.prefix));
    }

    /// After messages were lost: everything that is there now.
    pub fn replace(&mut self, links: Vec<LinkState>, all: Vec<InterfaceAddress>, now: u64) {
        let named: BTreeSet<_> = links.iter().map(|l| l.link.ifindex).collect();
        self.links.retain(|index, _| named.contains(index));
        self.addresses.clear();
        all.into_iter().for_each(|at| self.address(at));
        links.into_iter().for_each(|link| self.link(link, now));
    }

    /// What is to be stored.
    pub fn record(&self) -> &Claims {
        &self.record
    }

    /// What was noticed since the last call.
    pub fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// The next thing to do, if any is due.
    pub fn next_step(&mut self, now: u64) -> Option<Step> {
        let wanted = self.wanted.take()?;
        // One whose rest is over is due, and its deadline must not stay in the past.
        self.retry.retain(|_, due| *due > now);
        let step = self
            .release(&wanted)
            .or_else(|| wanted.iter().find_map(|claim| self.hold(claim, now)))
            .or_else(|| self.announce(now));
        self.wanted = Some(wanted);
        step
    }

    /// When to call [`Self::next_step`] next, if nothing happens.
    pub fn deadline(&self) -> Option<u64> {
        let announcements = self.announcements.values().map(|(due, _)| *due);
        self.retry.values().copied().chain(announcements).min()
    }

    /// How an addition ended.
    pub fn added(
        &mut self,
        claim: Claim,
        at: InterfaceAddress,
        ended: Result<(), String>,
        now: u64,
    ) {
        match ended {
            Ok(()) => {
                self.address(at);
                let again = !self.held.insert(claim.clone());
                self.announcements
                    .insert(claim.clone(), (now, ANNOUNCEMENTS));
                let report = if again {
                    Report::Repaired
                } else {
                    Report::Added
                };
                self.reports.push(report(claim));
            }
            Err(reason) => self.failed(claim, reason, now),
        }
    }

    /// How a removal ended.
    pub fn removed(
        &mut self,
        claim: Claim,
        at: InterfaceAddress,
        ended: Result<(), String>,
        now: u64,
    ) {
        match ended {
            Ok(()) => self.address_gone(at),
            Err(reason) => self.failed(claim, reason, now),
        }
    }

    /// Something about a claim failed: it rests for a while.
    pub fn failed(&mut self, claim: Claim, reason: String, now: u64) {
        self.retry.insert(claim.clone(), now.saturating_add(RETRY));
        self.reports.push(Report::Failed { claim, reason });
    }

    fn index(&self, interface: &str) -> Option<u32> {
        let named = |(_, link): &(&u32, &Link)| link.name == interface;
        self.links.iter().find(named).map(|(index, _)| *index)
    }

    /// Gives up claims that are not wanted any more.
    fn release(&mut self, wanted: &BTreeSet<Claim>) -> Option<Step> {
        let given_up =
            |(c, _): &(&Claim, &Origin)| !wanted.contains(*c) && !self.retry.contains_key(*c);
        let list: Vec<_> = self
            .record
            .0
            .iter()
            .filter(given_up)
            .map(|(c, o)| (c.clone(), *o))
            .collect();
        for (claim, origin) in list {
            if let Some(ifindex) = self.index(&claim.interface)
                && origin == Origin::Daemon
            {
                let at = host_address(ifindex, claim.address);
                if self.addresses.contains(&(ifindex, at.address, at.prefix)) {
                    return Some(Step::Remove(claim, at));
                }
            }
            self.record.0.remove(&claim);
            self.held.remove(&claim);
            self.reports.push(Report::Released(claim));
        }
        None
    }

    /// Sees that a wanted address is there.
    fn hold(&mut self, claim: &Claim, now: u64) -> Option<Step> {
        let Some(ifindex) = self.index(&claim.interface) else {
            if self.missing.insert(claim.clone()) {
                self.reports.push(Report::NoInterface(claim.clone()));
            }
            return None;
        };
        self.missing.remove(claim);
        let of_it = (ifindex, claim.address, 0)..=(ifindex, claim.address, u8::MAX);
        if self.addresses.range(of_it).next().is_some() {
            self.retry.remove(claim);
            if !self.record.0.contains_key(claim) {
                self.record.0.insert(claim.clone(), Origin::Operator);
                self.reports.push(Report::Found(claim.clone()));
            }
            if self.held.insert(claim.clone()) {
                self.announcements
                    .insert(claim.clone(), (now, ANNOUNCEMENTS));
            }
            return None;
        }
        if self.retry.contains_key(claim) {
            return None;
        }
        self.record.0.insert(claim.clone(), Origin::Daemon);
        Some(Step::Add(
            claim.clone(),
            host_address(ifindex, claim.address),
        ))
    }

    fn announce(&mut self, now: u64) -> Option<Step> {
        let due = self.announcements.iter().find(|(_, (due, _))| *due <= now);
        let (claim, (_, left)) = due.map(|(c, d)| (c.clone(), *d))?;
        match left.checked_sub(1) {
            Some(left) if left > 0 => {
                let next = now.saturating_add(SECOND);
                self.announcements.insert(claim.clone(), (next, left));
            }
            _ => drop(self.announcements.remove(&claim)),
        }
        let link = self
            .index(&claim.interface)
            .and_then(|i| self.links.get(&i));
        // A link that is down is announced on when it comes up.
        let frames = link.filter(|l| l.up).map(|l| frames(l.mac, claim.address));
        Some(Step::Announce(claim, frames.unwrap_or_default()))
    }
}

/// A VIP is added as a single address, so that it brings no route with it.
pub fn host_address(ifindex: u32, address: IpAddr) -> InterfaceAddress {
    InterfaceAddress {
        ifindex,
        address,
        prefix: host_prefix(address),
    }
}

/// The Ethernet frames that tell everybody on the segment who has an address.
pub fn frames(mac: [u8; 6], address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        // Some stacks update their table from requests only, some from replies only.
        IpAddr::V4(vip) => vec![arp(mac, vip, 1, [0; 6]), arp(mac, vip, 2, mac)],
        IpAddr::V6(vip) => vec![advertisement(mac, vip)],
    }
}

fn arp(mac: [u8; 6], vip: Ipv4Addr, operation: u8, target: [u8; 6]) -> Vec<u8> {
    let ethernet_ipv4 = [0, 1, 0x08, 0x00, 6, 4];
    [
        &[0xff; 6][..],
        &mac,
        &[0x08, 0x06],
        &ethernet_ipv4,
        &[0, operation],
        &mac,
        &vip.octets(),
        &target,
        &vip.octets(),
    ]
    .concat()
}

fn advertisement(mac: [u8; 6], vip: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Type 136, code 0, checksum, the override flag; target; target link-layer address option.
    let message = |checksum: [u8; 2]| {
        [
            &[136, 0][..],
            &checksum,
            &[0x20, 0, 0, 0],
            &vip.octets(),
            &[2, 1],
            &mac,
        ]
        .concat()
    };
    // RFC 8200 section 8.1: source, destination, length, next header.
    let pseudo = [
        &vip.octets()[..],
        &ALL_NODES.octets(),
        &[0, 0, 0, 32],
        &[0, 0, 0, 58],
        &message([0; 2]),
    ]
    .concat();
    [
        &[0x33, 0x33, 0, 0, 0, 1][..],
        &mac,
        &[0x86, 0xdd],
        // Version 6, payload of 32 bytes, ICMPv6, hop limit 255.
        &[0x60, 0, 0, 0, 0, 32, 58, 255],
        &vip.octets(),
        &ALL_NODES.octets(),
        &message(checksum(&pseudo).to_be_bytes()),
    ]
    .concat()
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, _) = bytes.as_chunks::<2>();
    let sum = pairs.iter().fold(0u16, |sum, pair| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes(*pair));
        sum.wrapping_add(carry.into())
    });
    !sum
}

#[cfg(test)]
mod tests;
