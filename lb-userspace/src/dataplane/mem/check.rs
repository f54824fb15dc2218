//! What must be true of the maps after every single operation, and what a packet would find.
//! Written apart from `plan` and from the packet path, so that neither can hide its own mistake.

use std::collections::BTreeSet;

use lb_common::endpoint::MAX_PROBES;
use lb_common::{
    Address, EndpointKey, EndpointKind, EndpointSlot, FlowHash, Forwarding, Reach, Rule,
};

use super::Mem;

/// Ring slots that a new flow tries; as many as the packet path tries.
const ATTEMPTS: u32 = 8;

/// What a new flow finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not ours.
    Nothing,
    /// A service without anybody who takes new flows among the slots tried.
    NoBackend,
    /// A BackendId.
    Backend(u32),
}

/// Everything that is wrong; empty when all is well.
pub fn violations(mem: &Mem) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: BTreeSet<(EndpointKey, u8)> = BTreeSet::new();
    for (index, slot) in mem.live_endpoints().iter().enumerate() {
        if slot.kind == 0 {
            continue;
        }
        let key = key(slot);
        if !walk(mem, &key).any(|(at, _)| at == index) {
            wrong.push(format!("endpoints[{index}]: no lookup reaches it"));
        }
        let once = slot.kind != EndpointKind::Backend as u8;
        if once && !seen.insert((key, slot.kind)) {
            wrong.push(format!("endpoints[{index}]: its key is there twice"));
        }
        if !leads_somewhere(mem, slot) {
            wrong.push(format!("endpoints[{index}]: it leads nowhere"));
        }
    }
    for (index, service) in (0_u32..).zip(&mem.services).filter(|(_, s)| s.used == 1) {
        let Ok(ring) = mem.live_ring(index, service) else {
            wrong.push(format!("services[{index}]: its ring leads out of the map"));
            continue;
        };
        let set = service.sources;
        if set != 0 && !mem.source_ranges.keys().any(|key| key.set() == set) {
            wrong.push(format!("services[{index}]: its set of sources is empty"));
        }
        let ids: BTreeSet<u32> = ring.iter().copied().collect();
        for id in ids {
            let member = mem.backends.get(id as usize);
            if !member.is_some_and(|b| b.used == 1 && b.service == index) {
                wrong.push(format!(
                    "services[{index}]: its ring names {id}, not one of its backends"
                ));
            }
        }
    }
    for (id, backend) in mem.backends.iter().enumerate().filter(|(_, b)| b.used == 1) {
        let hop = mem.next_hops.get(backend.next_hop as usize);
        if hop.is_none_or(|hop| hop.used != 1) {
            wrong.push(format!("backends[{id}]: its next hop is not in use"));
        }
        let tunnelled = backend.forwarding == Forwarding::Ipip as u8
            || backend.forwarding == Forwarding::Gue as u8;
        let has_source = match Address(backend.address).is_v4() {
            true => mem.control.tunnel_v4 != [0; 4],
            false => mem.control.tunnel_v6 != [0; 16],
        };
        if tunnelled && !has_source {
            wrong.push(format!("backends[{id}]: its tunnel has no source"));
        }
        let stands = match Address(backend.address).is_v4() {
            true => mem.control.nat_v4 != [0; 4],
            false => mem.control.nat_v6 != [0; 16],
        };
        if backend.forwarding == Forwarding::Fullnat as u8
            && !(stands && mem.control.nat_ports != 0)
        {
            wrong.push(format!("backends[{id}]: nothing stands for its clients"));
        }
    }
    wrong
}

fn leads_somewhere(mem: &Mem, slot: &EndpointSlot) -> bool {
    let service = mem.services.get(slot.index as usize);
    let backend = mem.backends.get(slot.index as usize);
    match slot.kind {
        1 | 5 => service.is_some_and(|s| {
            (s.address, s.port, s.protocol) == (slot.address, slot.port, slot.protocol)
                && s.reach() == 0
                && s.used == 1
        }),
        2 => slot.index == 0,
        3 => {
            backend.is_some_and(|b| b.used == 1 && (b.address, b.port) == (slot.address, slot.port))
        }
        4 => {
            let rules = rules(mem, slot);
            rules.last().is_some_and(|rule| rule.last == 1)
                && rules.iter().all(|rule| {
                    let reach = Reach {
                        length: slot.port[1],
                        low: rule.low,
                        high: rule.high,
                    };
                    let service = mem.services.get(rule.service as usize);
                    service.is_some_and(|s| {
                        (s.address, s.port, s.protocol) == (slot.address, [0, 0], rule.protocol)
                            && s.reach() == reach.word()
                            && s.used == 1
                    })
                })
        }
        6 => backend
            .is_some_and(|b| b.used == 1 && b.service == u32::from(u16::from_be_bytes(slot.port))),
        7 => backend.is_some_and(|b| b.used == 1 && b.address == slot.address),
        _ => false,
    }
}

/// The rules that a prefix's slot leads to; without one that is the last, as many as a packet looks at.
fn rules(mem: &Mem, slot: &EndpointSlot) -> Vec<Rule> {
    let mut rules = Vec::new();
    for rule in (slot.index..)
        .take(32)
        .map_while(|index| mem.live_rule(index))
    {
        rules.push(rule);
        if rule.last == 1 {
            break;
        }
    }
    rules
}

/// The service with a range that takes a key: of all that do, the one with the longest prefix, then a protocol of its
/// own, then the fewest ports.
fn ranged(mem: &Mem, key: &EndpointKey) -> Option<u32> {
    let bits = |address: [u8; 16], length: u8| match length {
        0 => 0,
        length => u128::from_be_bytes(address) >> 128_u32.saturating_sub(length.into()),
    };
    let port = u16::from_be_bytes(key.port);
    let prefixes = mem.live_endpoints().iter().filter(|slot| {
        let length = slot.port[1];
        slot.kind == EndpointKind::Prefix as u8
            && bits(slot.address, length) == bits(key.address.0, length)
    });
    let takers = prefixes.flat_map(|slot| {
        let rules = rules(mem, slot).into_iter();
        rules.map(move |rule| (slot.port[1], rule))
    });
    takers
        .filter(|(_, rule)| [0, key.protocol].contains(&rule.protocol))
        .filter(|(_, rule)| (rule.low..=rule.high).contains(&port))
        .max_by_key(|(length, rule)| {
            let ports = std::cmp::Reverse(rule.high.saturating_sub(rule.low));
            (*length, rule.protocol != 0, ports)
        })
        .map(|(_, rule)| rule.service)
}

/// It has a service with one address and port.
fn is_vip(slot: &EndpointSlot) -> bool {
    [EndpointKind::Vip as u8, EndpointKind::Aside as u8].contains(&slot.kind)
}

/// The service that a key leads to, by index.
pub fn leads_to(mem: &Mem, key: &EndpointKey) -> Option<u32> {
    walk(mem, key)
        .map(|(_, slot)| slot)
        .find(|slot| is_vip(slot) && slot.matches(key))
        .map(|slot| slot.index)
        .or_else(|| ranged(mem, key))
}

/// What a new flow of this hash finds in a service; `Nothing`: there is no such service.
pub fn choose(mem: &Mem, index: u32, hash: FlowHash) -> Found {
    let service = mem.services.get(index as usize);
    let Some(service) = service.filter(|service| service.used == 1) else {
        return Found::Nothing;
    };
    let ring = mem.live_ring(index, service).unwrap_or_default();
    let size = u32::try_from(ring.len()).unwrap_or(0);
    (0..ATTEMPTS)
        .filter(|_| size > 0)
        .filter_map(|attempt| ring.get(hash.ring_slot(size, attempt) as usize))
        .find(|id| {
            let backend = mem.backends.get(**id as usize);
            backend.is_some_and(|b| b.used == 1 && b.permissions.may_take_new())
        })
        .map_or(Found::NoBackend, |id| Found::Backend(*id))
}

/// The keys of all services in the live generation; of those with ranges, some of each.
pub fn vips(mem: &Mem) -> Vec<EndpointKey> {
    let slots = || mem.live_endpoints().iter();
    let vips = slots().filter(|slot| is_vip(slot));
    let mut keys: Vec<EndpointKey> = vips.map(key).collect();
    for slot in slots().filter(|slot| slot.kind == EndpointKind::Prefix as u8) {
        let mut last = slot.address;
        if slot.port[1] < 128 {
            last[15] |= 1;
        }
        for rule in rules(mem, slot) {
            for (address, port) in [(slot.address, rule.low), (last, rule.high)] {
                let protocols: &[u8] = match rule.protocol {
                    0 => &[6, 17, 132, 47],
                    _ => &[rule.protocol],
                };
                keys.extend(protocols.iter().map(|protocol| EndpointKey {
                    address: Address(address),
                    port: port.to_be_bytes(),
                    protocol: *protocol,
                }));
            }
        }
    }
    keys
}

/// The slots that a lookup looks at: from home on, to the first that is empty.
fn walk<'a>(
    mem: &'a Mem,
    key: &EndpointKey,
) -> impl Iterator<Item = (usize, &'a EndpointSlot)> + use<'a> {
    let [first, second] = mem.control.endpoint_seed;
    let seed = if mem.control.generation() == 0 {
        first
    } else {
        second
    };
    let mask = mem.control.endpoint_mask;
    let home = key.home(seed, mask);
    (0..MAX_PROBES)
        .filter_map(move |distance| {
            let index = (home.wrapping_add(distance) & mask) as usize;
            Some((index, mem.live_endpoints().get(index)?))
        })
        .take_while(|(_, slot)| slot.kind != 0)
}

fn key(slot: &EndpointSlot) -> EndpointKey {
    EndpointKey {
        address: Address(slot.address),
        port: slot.port,
        protocol: slot.protocol,
    }
}
