//! Which backend a new flow gets, by the ring, chance, turns, loads, or as its client had it.

use std::collections::HashMap;

use lb_common::{DropReason, FlowHash, Pick};

use super::{flow::Seeker, known::Maps, ledger::Ledger};

/// Ring slots that are tried for a new flow.
const ATTEMPTS: u32 = 8;

/// What is known besides flows.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) turns: Turns,
    pub(super) clients: Clients,
}

/// By service and the hash of what is kept together: the backend of the last new flow, and the second of that.
pub(super) type Clients = HashMap<(usize, u64), (usize, u64)>;

/// By service: the slot of its ring whose turn was the last one.
pub(super) type Turns = HashMap<usize, usize>;

/// Whom the ring names that may take new flows.
pub(super) fn from_ring(maps: &Maps, service: usize, hash: FlowHash) -> Option<usize> {
    let ring = &maps.services[service].ring;
    if ring.is_empty() {
        return None;
    }
    (0..ATTEMPTS)
        .map(|attempt| ring[hash.ring_slot(ring.len() as u32, attempt) as usize] as usize)
        .find(|id| takes_new(maps, service, *id))
}

/// The backend of a new flow: its client's, where clients stay, or any.
pub(super) fn choose(
    maps: &Maps,
    ledger: &Ledger,
    memory: &mut Memory,
    seeker: &Seeker,
) -> Result<usize, DropReason> {
    let limit = u64::from(maps.services[seeker.service].scheduling.affinity);
    if limit == 0 {
        return choose_any(maps, ledger, &mut memory.turns, seeker);
    }
    let client = (seeker.service, maps.group(seeker.service, &seeker.tuple).0);
    let had = memory
        .clients
        .get(&client)
        .filter(|(id, last)| seeker.second - last <= limit && takes_new(maps, seeker.service, *id));
    let id = match had {
        Some((id, _)) => reach(maps, Some(*id))?,
        None => choose_any(maps, ledger, &mut memory.turns, seeker)?,
    };
    memory.clients.insert(client, (id, seeker.second));
    Ok(id)
}

/// The backend of a new flow: one that a packet can reach.
fn choose_any(
    maps: &Maps,
    ledger: &Ledger,
    turns: &mut Turns,
    seeker: &Seeker,
) -> Result<usize, DropReason> {
    let begins = seeker.meaning.may_begin();
    match maps.services[seeker.service].scheduling.pick {
        Pick::Random if begins => {
            let hash = seeker.hash.nth(seeker.number);
            match from_ring(maps, seeker.service, hash) {
                Some(id) => reach(maps, Some(id)),
                None => by_hash(maps, seeker),
            }
        }
        Pick::Turn if begins => match turn(maps, turns, seeker) {
            Some(id) => reach(maps, Some(id)),
            None => by_hash(maps, seeker),
        },
        Pick::Least if begins => match least(maps, ledger, seeker) {
            Some(id) => reach(maps, Some(id)),
            None => by_hash(maps, seeker),
        },
        _ => by_hash(maps, seeker),
    }
}

/// Whose turn it is, if that one takes new flows.
fn turn(maps: &Maps, turns: &mut Turns, seeker: &Seeker) -> Option<usize> {
    let ring = &maps.services[seeker.service].ring;
    let size = ring.len();
    if size == 0 {
        return None;
    }
    let slot = match turns.get(&seeker.service) {
        None => seeker.hash.ring_slot(size as u32, 0) as usize,
        Some(last) => (last + 1) % size,
    };
    turns.insert(seeker.service, slot);
    Some(ring[slot] as usize).filter(|id| takes_new(maps, seeker.service, *id))
}

/// Of two that chance names and that take new flows, the one with fewer for its weight; the first of them unless both
/// were counted.
fn least(maps: &Maps, ledger: &Ledger, seeker: &Seeker) -> Option<usize> {
    let ring = &maps.services[seeker.service].ring;
    if ring.is_empty() {
        return None;
    }
    let hash = seeker.hash.nth(seeker.number);
    let named = [0, 1].map(|n| ring[hash.ring_slot(ring.len() as u32, n) as usize] as usize);
    let burden = |id: usize| {
        let (flows, cost) = maps.backends[id].counted?;
        let since = u128::from(ledger.since_counted(id)) * u128::from(maps.flow_cpus);
        let flows = u128::from(flows) + since + 1;
        (flows <= u32::MAX.into()).then(|| flows * u128::from(cost))
    };
    let mut takers = named
        .into_iter()
        .filter(|id| takes_new(maps, seeker.service, *id));
    let (first, second) = (takers.next()?, takers.next());
    let better = |second: &usize| match (burden(first), burden(*second)) {
        (Some(one), Some(other)) => other < one,
        _ => false,
    };
    Some(second.filter(better).unwrap_or(first))
}

fn takes_new(maps: &Maps, service: usize, id: usize) -> bool {
    let backend = &maps.backends[id];
    backend.used && backend.service == service && backend.permissions.may_take_new()
}

/// The backend of a flow that can have no entry, however others are scheduled.
pub(super) fn by_hash(maps: &Maps, seeker: &Seeker) -> Result<usize, DropReason> {
    let hash = maps.group(seeker.service, &seeker.tuple);
    reach(maps, from_ring(maps, seeker.service, hash))
}

/// The backend of a datagram that is scheduled by itself.
pub(super) fn choose_alone(maps: &Maps, seeker: &Seeker) -> Result<usize, DropReason> {
    let hash = seeker.hash.nth(seeker.number);
    reach(maps, from_ring(maps, seeker.service, hash))
}

fn reach(maps: &Maps, id: Option<usize>) -> Result<usize, DropReason> {
    let id = id.ok_or(DropReason::NoBackend)?;
    maps.hop(maps.backends[id].next_hop)?;
    Ok(id)
}
