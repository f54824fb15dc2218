//! Rules in the image and in map `rules`, both ways. Pure; see `lb_common::rule`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use lb_common::rule::{Lengths, MAX_LENGTHS, MAX_RULES};
use lb_common::{Address, EndpointKey, Protocol, Rule};

/// Rules by the first address and the length (of 128 bits) of their prefix, in the order in which packets look at them;
/// `last` is 0 in all of them.
pub type Ranges = BTreeMap<(Address, u8), Vec<Rule>>;

/// What leads to a prefix's rules, and where they begin.
pub type Firsts = Vec<(EndpointKey, u32)>;

/// What the most specific rule of a prefix is least by: a protocol of its own, then fewer ports. Of two that are as
/// specific and meet, no configuration is allowed.
pub fn rank(rule: &Rule) -> impl Ord + use<> {
    (
        rule.protocol == Protocol::Any as u8,
        rule.high.saturating_sub(rule.low),
        rule.low,
        rule.protocol,
        rule.service,
    )
}

/// The key that leads to a prefix's rules.
pub fn key((address, length): (Address, u8)) -> EndpointKey {
    EndpointKey {
        address,
        port: [0, length],
        protocol: 0,
    }
}

/// Why rules have no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// More different lengths than packets look for.
    #[error(
        "place the services with ranges: their addresses have {0} different prefix lengths in one family, and {MAX_LENGTHS} is the limit (an address with a range of ports has one too)"
    )]
    Lengths(usize),
    /// More rules than packets look at.
    #[error(
        "place the services with ranges of {address}: there are {count}, and {MAX_RULES} is the limit for one prefix"
    )]
    Rules {
        /// The prefix's first address.
        address: std::net::IpAddr,
        /// How many.
        count: usize,
    },
}

/// The lengths of one family, the longest first.
fn lengths(ranges: &Ranges, v4: bool) -> Result<[u8; MAX_LENGTHS as usize], RangesError> {
    let of = ranges.keys().filter(|(address, _)| address.is_v4() == v4);
    let found: BTreeSet<Reverse<u8>> = of.map(|(_, length)| Reverse(*length)).collect();
    let mut lengths = [0; MAX_LENGTHS as usize];
    if found.len() > lengths.len() {
        return Err(RangesError::Lengths(found.len()));
    }
    for (place, Reverse(length)) in lengths.iter_mut().zip(found) {
        *place = length;
    }
    Ok(lengths)
}

fn all_lengths(ranges: &Ranges) -> Result<Lengths, RangesError> {
    Ok(Lengths {
        v4: lengths(ranges, true)?,
        v6: lengths(ranges, false)?,
    })
}

/// What goes into the map, from index 0 on, and where each prefix's rules begin; nothing without ranges.
pub fn encode(ranges: &Ranges) -> Result<(Vec<Rule>, Firsts), RangesError> {
    let (mut rules, mut firsts) = (Vec::new(), Vec::new());
    if ranges.is_empty() {
        return Ok((rules, firsts));
    }
    rules.push(bytemuck::cast(all_lengths(ranges)?));
    for (prefix, of) in ranges {
        if of.len() > MAX_RULES as usize {
            return Err(RangesError::Rules {
                address: crate::desired::ip(prefix.0),
                count: of.len(),
            });
        }
        let first = u32::try_from(rules.len()).unwrap_or(u32::MAX);
        firsts.push((key(*prefix), first));
        rules.extend(of);
        if let Some(rule) = rules.last_mut() {
            rule.last = 1;
        }
    }
    Ok((rules, firsts))
}

/// What the map holds: `firsts` are the prefixes of the live generation and where their rules begin, `rule` reads one of
/// that generation. `Err`: the index that is wrong, and why.
pub fn decode(
    firsts: &[(EndpointKey, u32)],
    rule: impl Fn(u32) -> Option<Rule>,
) -> Result<Ranges, (u32, &'static str)> {
    let mut ranges = Ranges::new();
    for (key, first) in firsts {
        let [_, length] = key.port;
        let prefix = (key.address, length);
        let mut of = Vec::new();
        for index in (*first..).take(MAX_RULES as usize) {
            let mut found = rule(index).ok_or((index, "it is beyond the end of the map"))?;
            let last = found.last;
            found.last = 0;
            of.push(found);
            if last != 0 {
                break;
            }
            if of.len() == MAX_RULES as usize {
                return Err((index, "its prefix has too many rules"));
            }
        }
        if *first == 0 || !of.is_sorted_by_key(rank) || ranges.insert(prefix, of).is_some() {
            return Err((*first, "the rules of its prefix are in no order"));
        }
    }
    if !ranges.is_empty() {
        let there = rule(0).ok_or((0, "it is beyond the end of the map"))?;
        let wanted = all_lengths(&ranges).map_err(|_| (0, "there are too many lengths"))?;
        if there != bytemuck::cast::<Lengths, Rule>(wanted) {
            return Err((0, "the lengths are not those of the prefixes"));
        }
    }
    Ok(ranges)
}
