//! Next hops: who uses them, and when the kernel is asked to resolve them. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::{
    GRACE, Hop, HopState, KEEP_ALIVE, MILLISECOND, Neighbour, NeighbourState, RESTARTS, RETRY,
    RETRY_MAX, Solicit, Ways,
};

impl Ways {
    /// The next neighbour to solicit, if one is due.
    pub fn next_solicit(&mut self, now: u64) -> Option<Solicit> {
        if let Some(hop) = self.released.pop_first() {
            return Some(Solicit::release(hop));
        }
        let (due, hop) = *self.solicits.first()?;
        if due > now {
            return None;
        }
        self.solicits.pop_first();
        let pending = self
            .neighbours
            .get(&hop)
            .is_none_or(|n| n.state == NeighbourState::Pending);
        let mut restart = false;
        if let Some(state) = self.hops.get_mut(&hop) {
            restart = pending && (state.anew || (1..=RESTARTS).contains(&state.attempts));
            state.anew = false;
            state.solicit = None;
            state.ours = true;
            state.attempts = state.attempts.saturating_add(1);
        }
        self.schedule(hop, now);
        Some(Solicit {
            hop,
            managed: true,
            restart,
        })
    }

    /// The kernel's answer to a solicitation: `None`: done, or why not.
    pub fn solicited(&mut self, hop: Hop, refused: Option<String>) {
        if let Some(state) = self.hops.get_mut(&hop)
            && state.refused != refused
        {
            state.refused = refused;
            self.dirty.extend(state.users.iter().copied());
        }
    }

    pub(super) fn join(&mut self, hop: Hop, address: IpAddr, now: u64) {
        let last = self.neighbours.get(&hop).and_then(Neighbour::destination);
        let state = self.hops.entry(hop).or_insert_with(|| HopState {
            users: BTreeSet::new(),
            last,
            lost: if last.is_some() { u64::MAX } else { now },
            solicit: None,
            attempts: 0,
            anew: false,
            returned: false,
            ours: false,
            refused: None,
        });
        state.users.insert(address);
        self.released.remove(&hop);
        self.schedule(hop, now);
    }

    pub(super) fn leave(&mut self, hop: Hop, address: IpAddr) {
        let Some(state) = self.hops.get_mut(&hop) else {
            return;
        };
        state.users.remove(&address);
        if state.users.is_empty() {
            if let Some(due) = state.solicit {
                self.solicits.remove(&(due, hop));
            }
            // Perhaps asked for a moment ago, and not told to be managed yet. A use takes from an entry that it
            // is permanent.
            let ours = state.ours;
            let entry = self.neighbours.get(&hop);
            if entry.is_some_and(|n| n.managed || (ours && n.state != NeighbourState::Fixed)) {
                self.released.insert(hop);
            }
            self.hops.remove(&hop);
        }
    }

    /// A link went down, taking its neighbour entries along, or came up. Who was there before is taken to be there
    /// again, for [`GRACE`], while it is asked for.
    pub(super) fn link_turned(&mut self, ifindex: u32, up: bool, now: u64) {
        let from = (ifindex, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let hops = self
            .hops
            .range_mut(from..)
            .take_while(|((i, _), _)| *i == ifindex);
        let mut turned = Vec::new();
        for (hop, state) in hops {
            // Not who was gone before the link was.
            if !up && now.saturating_sub(state.lost) >= GRACE {
                state.last = None;
            }
            state.lost = state.lost.max(now);
            state.attempts = 0;
            state.anew = up;
            state.returned = up;
            state.refused = None;
            turned.push(*hop);
        }
        for hop in turned {
            self.schedule(hop, now);
        }
    }

    pub(super) fn hop_changed(&mut self, hop: Hop, now: u64) {
        let Some(state) = self.hops.get_mut(&hop) else {
            return;
        };
        match self.neighbours.get(&hop).and_then(Neighbour::destination) {
            Some(mac) => {
                state.last = Some(mac);
                state.lost = u64::MAX;
                state.returned = false;
                state.attempts = 0;
                state.refused = None;
            }
            None => state.lost = state.lost.min(now),
        }
        state.ours &= self.neighbours.contains_key(&hop);
        self.dirty.extend(state.users.iter().copied());
        self.schedule(hop, now);
    }

    /// Decides when a next hop is solicited next.
    pub(super) fn schedule(&mut self, hop: Hop, now: u64) {
        let Some(state) = self.hops.get_mut(&hop) else {
            return;
        };
        if let Some(due) = state.solicit.take() {
            self.solicits.remove(&(due, hop));
        }
        let link = self.links.get(&hop.0);
        if !link.is_some_and(|l| l.link.up && l.ethernet) {
            return;
        }
        let neighbour = self.neighbours.get(&hop);
        let wait = match neighbour.map(|n| (n.state, n.managed)) {
            Some((NeighbourState::Fixed, _)) => return,
            Some((NeighbourState::Usable, true)) => return,
            Some((NeighbourState::Usable, false)) if state.ours => {
                KEEP_ALIVE.saturating_add(spread(hop.1))
            }
            Some((NeighbourState::Usable, false)) => 0,
            Some((NeighbourState::Failed, _)) => retry(state.attempts.saturating_add(1)),
            Some((NeighbourState::Pending, _)) | None => retry(state.attempts),
        };
        let silent = hop.1.is_ipv6() && !self.speaking.contains(&hop.0);
        let due = now.saturating_add(if silent { wait.max(RETRY_MAX) } else { wait });
        state.solicit = Some(due);
        self.solicits.insert((due, hop));
    }
}

/// The wait before an attempt: none, then 20 ms, 40 ms, ...
fn retry(attempts: u32) -> u64 {
    match attempts.checked_sub(1) {
        None => 0,
        Some(doublings) => RETRY.saturating_mul(1u64.checked_shl(doublings).unwrap_or(u64::MAX)),
    }
    .min(RETRY_MAX)
}

/// Up to 4,096 ms, by address.
pub(super) fn spread(address: IpAddr) -> u64 {
    let low = match address {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => {
            let [.., x, y, z, w] = a.octets();
            u32::from_be_bytes([x, y, z, w])
        }
    };
    // Fibonacci hashing: neighbouring addresses get far apart.
    u64::from(low.wrapping_mul(0x9e37_79b1) >> 20).saturating_mul(MILLISECOND)
}
