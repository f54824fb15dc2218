//! Endpoints and rules put in order and in place, as the control plane does it for the kernel's maps. Part of `mem`.

use bytemuck::Zeroable;
use lb_common::{
    Address, Control, EndpointKey, EndpointKind, EndpointSlot, Rule, endpoint::MAX_PROBES,
    header::RANGES, rule,
};

use super::{MemTables, zeroed};
use crate::ranges;

/// An endpoint to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it is found by.
    pub key: EndpointKey,
    /// What it leads to.
    pub kind: EndpointKind,
    /// Service index or BackendId.
    pub index: u32,
}

/// No seed places every endpoint within [`MAX_PROBES`] slots of its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unplaceable;

impl MemTables {
    /// Fills the generation that is not live with these endpoints, under the first seed that
    /// suits them all, and makes it the live one.
    pub fn publish_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<(), Unplaceable> {
        self.publish(endpoints, &[])
    }

    /// The same with rules, each with the first address and the length (of 128 bits) of its prefix. Rules of one prefix
    /// are looked at in this order: with a protocol of its own first, then with fewer ports.
    pub fn publish(
        &mut self,
        endpoints: &[Endpoint],
        rules: &[(Address, u8, Rule)],
    ) -> Result<(), Unplaceable> {
        let aside = |e: &Endpoint| e.kind == EndpointKind::Aside;
        let (rules, prefixes) = arrange(rules, endpoints.iter().any(aside));
        let slots: Vec<EndpointSlot> = endpoints.iter().chain(&prefixes).map(slot).collect();
        let flag = if rules.is_empty() { 0 } else { RANGES };
        self.fill(&slots, &rules, 1 | flag)
    }

    /// Places what is live in the other generation, under another seed, and makes that the live one; nothing is left in the one that
    /// was.
    pub fn republish(&mut self) -> Result<(), Unplaceable> {
        let mask = self.control.endpoint_mask;
        let live = usize::from(self.control.generation());
        let seed = *self.control.endpoint_seed.get(live).ok_or(Unplaceable)?;
        let generation = self
            .endpoints
            .chunks_mut(mask.wrapping_add(1) as usize)
            .nth(live)
            .ok_or(Unplaceable)?;
        let mut slots: Vec<(u32, EndpointSlot)> = (0..)
            .zip(generation.iter())
            .filter(|(_, slot)| slot.kind != 0)
            .map(|(index, slot): (u32, _)| {
                let distance = index.wrapping_sub(key(slot).home(seed, mask)) & mask;
                (distance, *slot)
            })
            .collect();
        generation.fill(EndpointSlot::zeroed());
        // Of those under one key the order stays: the nearest to their home is the first.
        slots.sort_by_key(|(distance, _)| *distance);
        let slots: Vec<EndpointSlot> = slots.into_iter().map(|(_, slot)| slot).collect();
        let elements = self.rules.iter_mut().skip(live).step_by(2);
        let rules: Vec<Rule> = elements
            .map(|rule| core::mem::replace(rule, Rule::zeroed()))
            .collect();
        self.fill(&slots, &rules, seed.wrapping_add(1))
    }

    /// Fills the generation that is not live, under the first seed from this one on that suits, and makes it the live one.
    fn fill(
        &mut self,
        slots: &[EndpointSlot],
        rules: &[Rule],
        first: u64,
    ) -> Result<(), Unplaceable> {
        let mask = self.control.endpoint_mask;
        let (seed, slots) = (0..4096_u64)
            .map(|more| first.wrapping_add(more))
            .find_map(|seed| place(slots, seed, mask).map(|slots| (seed, slots)))
            .ok_or(Unplaceable)?;
        let next = usize::from(self.control.generation() == 0);
        let generation = self
            .endpoints
            .chunks_mut(slots.len())
            .nth(next)
            .ok_or(Unplaceable)?;
        generation.copy_from_slice(&slots);
        for (index, rule) in (0..).zip(rules) {
            let element = rule::element(index, next as u32) as usize;
            *self.rules.get_mut(element).ok_or(Unplaceable)? = *rule;
        }
        if let Some(place) = self.control.endpoint_seed.get_mut(next) {
            *place = seed;
        }
        self.control.live = Control::live(seed, next as u8);
        Ok(())
    }
}

/// Elements of `rules` from index 0 on, and what leads to them; nothing where nobody looks. `asked`: there is an endpoint that is
/// looked for where they are.
fn arrange(rules: &[(Address, u8, Rule)], asked: bool) -> (Vec<Rule>, Vec<Endpoint>) {
    let mut sorted = rules.to_vec();
    sorted.sort_by_key(|(address, length, rule)| {
        let ports = rule.high.wrapping_sub(rule.low);
        // The longest lengths first, so that each list of lengths is in order.
        (
            u8::MAX.wrapping_sub(*length),
            *address,
            rule.protocol == 0,
            ports,
        )
    });
    let mut lengths = [[0; rule::MAX_LENGTHS as usize]; 2];
    let (mut elements, mut prefixes): (Vec<Rule>, Vec<Endpoint>) = Default::default();
    if !sorted.is_empty() || asked {
        elements.push(Rule::zeroed());
    }
    for (address, length, rule) in sorted {
        let key = ranges::prefix_key(address, length);
        let first = prefixes.last().is_none_or(|last| last.key != key);
        if first {
            if let Some(last) = elements.last_mut() {
                last.last = 1;
            }
            prefixes.push(Endpoint {
                key,
                kind: EndpointKind::Prefix,
                index: elements.len() as u32,
            });
            let [v4, v6] = &mut lengths;
            let of = if address.is_v4() { v4 } else { v6 };
            let known = of.contains(&length);
            if let Some(place) = of.iter_mut().find(|place| **place == 0 && !known) {
                *place = length;
            }
        }
        elements.push(rule);
    }
    if let Some(last) = elements.last_mut() {
        last.last = 1;
    }
    if let Some(head) = elements.first_mut() {
        *head = bytemuck::cast(lengths);
    }
    (elements, prefixes)
}

/// The endpoint as it stands in the map.
fn slot(endpoint: &Endpoint) -> EndpointSlot {
    EndpointSlot {
        address: endpoint.key.address.0,
        port: endpoint.key.port,
        protocol: endpoint.key.protocol,
        kind: endpoint.kind as u8,
        index: endpoint.index,
        reserved: 0,
    }
}

/// What it is found by.
const fn key(slot: &EndpointSlot) -> EndpointKey {
    EndpointKey {
        address: Address(slot.address),
        port: slot.port,
        protocol: slot.protocol,
    }
}

fn place(wanted: &[EndpointSlot], seed: u64, mask: u32) -> Option<Vec<EndpointSlot>> {
    let mut slots: Vec<EndpointSlot> = zeroed(mask.wrapping_add(1));
    for slot in wanted {
        let home = key(slot).home(seed, mask);
        let index = (0..MAX_PROBES)
            .map(|distance| (home.wrapping_add(distance) & mask) as usize)
            .find(|index| slots.get(*index).is_some_and(|slot| slot.kind == 0))?;
        *slots.get_mut(index)? = *slot;
    }
    Some(slots)
}
