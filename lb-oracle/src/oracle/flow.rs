//! The flow table as a map from flows to what is known of them.

use std::{collections::HashMap, net::SocketAddr};

use lb_common::{
    DropReason, Epoch, FlowHash, FlowRank, FlowWord, Forwarding, MidStream, Permissions, Protocol,
    affinity::{Client, Entry},
    flow::EPOCH_SHIFT,
};
use lb_ebpf::fixture::{
    START,
    world::{GEOMETRY, Preset},
};

use super::{
    choice::{Memory, by_hash, choose, from_ring},
    entry::Flow,
    known::Maps,
    ledger::Ledger,
    link::Link,
    packet::{Mac, Meaning},
};
use crate::case::FLOW_SETS;

/// A flow as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) protocol: u8,
}

/// How a flow came to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Known,
    /// Known, and its client opens it again.
    Resent,
    /// Known, but it had ended: its client opens another from the same port.
    Reopened,
    /// The same of one that had proven itself, and is taken for that one still.
    ReopenedProven,
    /// Known, and its client says something else than that it opens it, for the first time.
    WentOn,
    New,
    Moved,
    NotAdmitted,
    /// Scheduled by itself.
    Alone,
}

/// A packet that looks for its backend.
pub(super) struct Seeker {
    pub(super) service: usize,
    pub(super) tuple: Tuple,
    pub(super) hash: FlowHash,
    /// The packet's among all, from 0 on.
    pub(super) number: u64,
    pub(super) meaning: Meaning,
    pub(super) epoch: u64,
    pub(super) second: u64,
}

/// All flows.
pub(super) struct Flows(HashMap<Tuple, Flow>, Memory);

impl Flows {
    pub(super) fn new(maps: &Maps, presets: &[Preset]) -> Self {
        let now = START >> EPOCH_SHIFT;
        let flows = presets.iter().map(|preset| {
            let service = &maps.services[preset.service as usize];
            let tuple = Tuple {
                client: preset.client,
                vip: service.vip,
                protocol: service.protocol,
            };
            let (proof, closing, idle) = match preset.rank {
                FlowRank::Free => panic!("a preset is no flow: {preset:?}"),
                FlowRank::Probation => (1, false, false),
                FlowRank::Probation2 => (2, false, false),
                FlowRank::Proven => (3, false, false),
                FlowRank::Idle => (1, false, true),
                FlowRank::ClosingProbation => (1, true, false),
                FlowRank::Opening => (1, false, false),
                FlowRank::ClosingProven => (3, true, false),
            };
            let flow = Flow {
                hash: maps.hash(&tuple),
                backend: preset.backend as usize,
                proof,
                closing,
                opening: preset.rank == FlowRank::Opening,
                idle,
                last: now - u64::from(preset.age),
                hop: preset.hop.map(|(mac, side)| (mac, Link::Of(side))),
            };
            (tuple, flow)
        });
        Self(flows.collect(), Memory::default())
    }

    /// Every entry as it must stand, sorted.
    pub(super) fn words(&self) -> Vec<u64> {
        let word = |flow: &Flow| {
            let sets = flow.hash.sets(FLOW_SETS - 1, FLOW_SETS.trailing_zeros());
            let epoch = Epoch((flow.last % 16) as u8);
            FlowWord::new(sets.tag, flow.backend as u32, flow.rank(), epoch).0
        };
        let mut words: Vec<u64> = self.0.values().map(word).collect();
        words.sort_unstable();
        words
    }

    /// The packet may begin a flow where there was none, or none that goes on.
    pub(super) fn begins(&self, seeker: &Seeker) -> bool {
        let over = |flow: &Flow| flow.idle || flow.has_ended(seeker.epoch);
        match self.0.get(&seeker.tuple) {
            Some(flow) => seeker.meaning == Meaning::Opens && over(flow),
            None => false,
        }
    }

    /// Finds a server for a flow that was given to one that has another flow of the client's port, by another service; `None`:
    /// there is nobody.
    pub(super) fn keep_apart(&mut self, maps: &Maps, seeker: &Seeker, id: usize) -> Option<usize> {
        let others = (1..32).filter_map(|n| from_ring(maps, seeker.service, seeker.hash.nth(n)));
        let reached = |id: &usize| maps.hop(maps.backends[*id].next_hop).is_ok();
        let mut servers = [id].into_iter().chain(others.filter(reached));
        let found = servers.find(|server| !self.has_another(maps, seeker, *server))?;
        if found != id {
            let is_tcp = maps.services[seeker.service].protocol == Protocol::Tcp as u8;
            let flow = self.0.get_mut(&seeker.tuple).expect("it was entered");
            *flow = Flow {
                backend: found,
                proof: 1,
                closing: false,
                opening: is_tcp && seeker.meaning == Meaning::Opens,
                idle: false,
                last: seeker.epoch,
                ..*flow
            };
        }
        Some(found)
    }

    /// A server has a flow with this client that goes on, by another service.
    fn has_another(&self, maps: &Maps, seeker: &Seeker, id: usize) -> bool {
        let Tuple {
            client,
            vip,
            protocol,
        } = seeker.tuple;
        let at = maps.backends[id].address;
        let port = if at.port() == 0 {
            vip.port()
        } else {
            at.port()
        };
        let server = SocketAddr::new(at.ip(), port);
        maps.senders(server, protocol).any(|(other, sender)| {
            let service = &maps.services[sender.service];
            let tuple = service.front(port).map(|vip| Tuple {
                client,
                vip,
                protocol,
            });
            let flow = tuple.and_then(|tuple| self.0.get(&tuple));
            sender.service != seeker.service
                && (service.protocol, service.forwarding) == (protocol, Some(Forwarding::Dnat))
                && flow.is_some_and(|flow| {
                    flow.backend == other && !matches!(flow.rank(), rank if rank.is_over())
                })
        })
    }

    /// The backend of a packet's flow, known or chosen. `admit` takes one from the allowance of new flows.
    pub(super) fn assign(
        &mut self,
        maps: &Maps,
        ledger: &Ledger,
        seeker: &Seeker,
        admit: impl FnOnce() -> bool,
    ) -> Result<(usize, Origin), DropReason> {
        let service = &maps.services[seeker.service];
        let middle = !seeker.meaning.may_begin();
        let too_late = middle && service.mid_stream != MidStream::Schedule;
        let closes = seeker.meaning.ends();
        let opens = seeker.meaning == Meaning::Opens;
        let fresh = |backend, proof, hop| Flow {
            hash: seeker.hash,
            backend,
            proof,
            closing: closes,
            opening: opens && proof < 3,
            idle: false,
            last: seeker.epoch,
            hop,
        };
        let Some(flow) = self.0.get_mut(&seeker.tuple) else {
            if too_late {
                return Err(DropReason::MidStream);
            }
            let backend = choose(maps, ledger, &mut self.1, seeker)?;
            if !admit() {
                // Each packet of the flow goes to the same backend.
                let scheduling = service.scheduling;
                let free = !scheduling.pick.is_hash() && !middle && scheduling.affinity == 0;
                let backend = if free {
                    by_hash(maps, seeker)?
                } else {
                    backend
                };
                return Ok((backend, Origin::NotAdmitted));
            }
            self.0.insert(seeker.tuple, fresh(backend, 1, None));
            return Ok((backend, Origin::New));
        };
        let backend = &maps.backends[flow.backend];
        let elsewhere = backend.used && backend.service != seeker.service;
        if elsewhere && too_late {
            return Err(DropReason::MidStream);
        }
        let keeps = backend.used && backend.permissions.may_keep();
        let loses = !elsewhere && !keeps;
        if loses && middle && backend.used && backend.permissions.0 & Permissions::RESET != 0 {
            return Err(DropReason::BackendLeft);
        }
        let age = seeker.epoch - flow.last;
        let datagram = matches!(seeker.meaning, Meaning::Datagram | Meaning::Leaves);
        let limit = service.silent_for(seeker.tuple.protocol, opens, flow.rank());
        let silent = limit.is_some_and(|limit| flow.idle || age > limit);
        let ended = !backend.permissions.may_take_new() && flow.has_ended(seeker.epoch);
        // Its server is down, and has not answered: there is nothing to go on with.
        let down =
            backend.permissions.0 & (Permissions::DOWN | Permissions::NEW) == Permissions::DOWN;
        let in_vain = down && matches!(flow.rank(), FlowRank::Opening | FlowRank::Idle);
        let anew = (opens || datagram) && silent || opens && (ended || in_vain);
        if !elsewhere && !loses && !anew {
            let proven_end = flow.closing && flow.proof == 3;
            let given_up = flow.rank() == FlowRank::Opening && age > 0;
            let over = flow.idle || flow.closing || given_up;
            let went_on = flow.see(seeker.epoch, seeker.meaning);
            let origin = match seeker.meaning {
                Meaning::Opens if proven_end => Origin::ReopenedProven,
                Meaning::Opens if over => Origin::Reopened,
                Meaning::Opens => Origin::Resent,
                Meaning::Resets => Origin::Known,
                _ if went_on => Origin::WentOn,
                _ => Origin::Known,
            };
            return Ok((flow.backend, origin));
        }
        let backend = choose(maps, ledger, &mut self.1, seeker)?;
        // A moved flow stays what it has proven to be.
        let (origin, proof) = match loses {
            true if flow.rank() == FlowRank::Proven => (Origin::Moved, 3),
            true => (Origin::Moved, 1),
            false => (Origin::New, 1),
        };
        *flow = fresh(backend, proof, flow.hop);
        Ok((backend, origin))
    }

    /// Every client that stays with a backend as it must stand, sorted.
    pub(super) fn client_words(&self) -> Vec<u64> {
        let word = |(&(service, group), &(id, second)): (&(usize, u64), &(usize, u64))| {
            let client = Client::new(FlowHash(group), service as u32);
            Entry::new(client, id as u32, second as u32).0
        };
        let mut words: Vec<u64> = self.1.clients.iter().map(word).collect();
        words.sort_unstable();
        words
    }

    /// The slot of a service's ring whose turn was the last one.
    pub(super) fn turn(&self, service: usize) -> Option<usize> {
        self.1.turns.get(&service).copied()
    }

    /// The flow belongs to a backend that its packet names.
    pub(super) fn adopt(
        &mut self,
        maps: &Maps,
        seeker: &Seeker,
        backend: usize,
        admit: impl FnOnce() -> bool,
    ) -> Result<Origin, DropReason> {
        let known = self.0.get_mut(&seeker.tuple);
        if let Some(flow) = known.filter(|flow| flow.backend == backend) {
            flow.see(seeker.epoch, seeker.meaning);
            return Ok(Origin::Known);
        }
        maps.hop(maps.backends[backend].next_hop)?;
        let before = self.0.get(&seeker.tuple);
        if before.is_none() && !admit() {
            return Ok(Origin::NotAdmitted);
        }
        let flow = Flow {
            hash: seeker.hash,
            backend,
            proof: 1,
            closing: false,
            opening: false,
            idle: false,
            last: seeker.epoch,
            hop: before.and_then(|flow| flow.hop),
        };
        self.0.insert(seeker.tuple, flow);
        Ok(Origin::New)
    }

    /// Who has a flow, or would get it: for errors about it.
    pub(super) fn holder(&self, maps: &Maps, service: usize, tuple: &Tuple) -> Option<usize> {
        if let Some(flow) = self.0.get(tuple) {
            let backend = &maps.backends[flow.backend];
            if backend.used && backend.service == service && backend.permissions.may_keep() {
                return Some(flow.backend);
            }
        }
        from_ring(maps, service, maps.group(service, tuple))
    }

    /// The flow that a backend's packet to a client belongs to, and the backend. Of several, the first of those that were
    /// seen last, of connections among those with the most proof; idle ones come after all others. When the server accepts
    /// a connection, proof says nothing, those that have ended come after others, then idle ones; and all but the one are
    /// idle from then on.
    pub(super) fn behind(
        &mut self,
        maps: &Maps,
        (backend, client, protocol): (SocketAddr, SocketAddr, u8),
        epoch: u64,
        accepts: bool,
    ) -> Option<(Tuple, usize)> {
        let mut found = vec![];
        for (id, sender) in maps.senders(backend, protocol) {
            let service = &maps.services[sender.service];
            let Some(vip) = service.front(backend.port()) else {
                continue;
            };
            let tuple = Tuple {
                client,
                vip,
                protocol,
            };
            let translated = service.forwarding == Some(Forwarding::Dnat);
            let same_family = service.vip.is_ipv4() == client.is_ipv4();
            if let Some(flow) = self.0.get(&tuple)
                && (service.protocol, flow.backend) == (protocol, id)
                && (translated && same_family)
            {
                let proof = if flow.idle { 1 } else { flow.proof };
                let (turn, unproven) = match (accepts, protocol == Protocol::Tcp as u8) {
                    (true, _) if flow.idle => (2, 0),
                    (true, _) => (u8::from(flow.closing), 0),
                    (false, true) => (u8::from(flow.idle), 3 - proof),
                    (false, false) => (u8::from(flow.idle), 0),
                };
                found.push(((turn, unproven, epoch - flow.last), (tuple, id)));
            }
        }
        let of = *found.iter().min_by_key(|(stale, _)| *stale)?;
        for (_, (tuple, _)) in found {
            if accepts && tuple != of.1.0 {
                let flow = self.0.get_mut(&tuple).expect("a flow that was found");
                (flow.idle, flow.last) = (true, epoch);
                (flow.proof, flow.closing, flow.opening) = (1, false, false);
            }
        }
        Some(of.1)
    }

    /// Notes that a flow was seen by a packet of its server.
    pub(super) fn see(&mut self, tuple: &Tuple, epoch: u64, closes: bool) {
        if let Some(flow) = self.0.get_mut(tuple) {
            flow.hear(epoch, closes);
        }
    }

    /// Notes where a client's packets come from.
    pub(super) fn learn(
        &mut self,
        tuple: &Tuple,
        hop: (Mac, Link),
        maps: &Maps,
    ) -> Result<(), DropReason> {
        let Some(flow) = self.0.get_mut(tuple) else {
            return Err(DropReason::FlowTableFull);
        };
        if flow.hop != Some(hop) {
            if !maps.links.has(hop.1) {
                return Err(DropReason::NoReturnHop);
            }
            flow.hop = Some(hop);
        }
        Ok(())
    }

    /// Who has a flow.
    pub(super) fn backend(&self, tuple: &Tuple) -> Option<usize> {
        Some(self.0.get(tuple)?.backend)
    }

    /// Where a client's packets come from.
    pub(super) fn hop(&self, tuple: &Tuple) -> Option<(Mac, Link)> {
        self.0.get(tuple)?.hop
    }
}

const _: () = assert!(FLOW_SETS.is_power_of_two() && FLOW_SETS > GEOMETRY.flow_sets);
