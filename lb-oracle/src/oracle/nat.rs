//! `fullnat`: an address and a port of the balancer's stand for a client.
//!
//! Which ones is the data plane's choice. What counts is that they are of the pool, that no other flow to the same backend
//! has them, and that the flow keeps them; so they are read from what the data plane sends, and judged.

use std::{collections::HashMap, net::SocketAddr};

use lb_common::{
    Address, DropReason, Family,
    counter::{PerBackend, Rest},
    hash::FlowTuple,
    nat::Idle,
};
use lb_ebpf::fixture::world::{Change, NAT_PORTS, nat_addresses};

use super::{
    Answer, Arrived, Fate, Opinion, Oracle, Refusal, Sent,
    flow::Tuple,
    known::Maps,
    link::Link,
    packet::{self, Mac, Meaning, octets},
    way::Macs,
    whole,
};
use crate::case::NAT_FLOWS;

mod life;
mod option;
mod piece;

use life::{Ending, Life};

/// Pools of at most so many ends are looked at as a whole by each flow.
const SMALL: usize = 16;

/// A flow that one of our ends stands for.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) tuple: Tuple,
    pub(super) backend: usize,
    /// Where its client's packets come from.
    pub(super) hop: (Mac, Link),
    ours: SocketAddr,
    life: Life,
}

/// How good a place is that nobody has; another one's is as good as its flow has been silent.
const FREE: u64 = u64::MAX;

/// All such flows, by their place in the table: a reply's addresses and ports say which, and each has one flow.
pub(super) struct Nat {
    ports: Option<(u16, u16)>,
    idle: Idle,
    flows: HashMap<u32, Flow>,
}

impl Nat {
    pub(super) fn new() -> Self {
        Self {
            ports: Some(NAT_PORTS),
            idle: Idle::USUAL,
            flows: HashMap::new(),
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::NatPorts(ports) => self.ports = *ports,
            Change::NatIdle(idle) => self.idle = *idle,
            _ => {}
        }
    }

    pub(super) fn flow(&self, place: u32) -> Flow {
        self.flows[&place]
    }

    /// The place of a client's flow to a backend.
    fn place_of(&self, tuple: &Tuple, backend: usize) -> Option<u32> {
        self.ports?;
        let mut flows = self.flows.iter();
        let found = flows.find(|(_, flow)| flow.tuple == *tuple && flow.backend == backend);
        found.map(|(place, _)| *place)
    }

    /// What stands for the client of a flow to a backend.
    pub(super) fn end_of(&self, tuple: &Tuple, backend: usize) -> Option<SocketAddr> {
        let place = self.place_of(tuple, backend)?;
        Some(self.flows[&place].ours)
    }

    /// The place of the flow that a backend's packet to one of our ends belongs to.
    pub(super) fn behind(
        &self,
        maps: &Maps,
        backend: SocketAddr,
        ours: SocketAddr,
        protocol: u8,
    ) -> Option<u32> {
        self.ports?;
        let mut flows = self.flows.iter();
        let found = flows.find(|(_, flow)| {
            let server = &maps.backends[flow.backend];
            flow.ours == ours
                && flow.tuple.protocol == protocol
                && server.used
                && server.address == backend
        });
        found.map(|(place, _)| *place)
    }

    /// The place of a flow that replies to one of our ends would be of, and how good it is, if a new flow may have it.
    fn place(&self, maps: &Maps, reply: &FlowTuple, second: u64) -> Option<(u32, u64)> {
        let place = maps.hash_of(reply).0 as u32 & (NAT_FLOWS - 1);
        match self.flows.get(&place) {
            Some(flow) if !flow.life.is_over(second, &self.idle) => {
                Some((place, flow.life.weakness(second)?))
            }
            _ => Some((place, FREE)),
        }
    }

    /// The end that the data plane has chosen for a flow to a backend, and its place; `None`: there is none to choose.
    /// `at`: where its packet's transport header begins.
    fn choose(
        &self,
        maps: &Maps,
        arrived: &Arrived<'_>,
        (backend, protocol): (usize, u8),
        at: usize,
    ) -> Option<(SocketAddr, u32)> {
        let second = arrived.at >> 30;
        let (first, last) = self.ports?;
        let server = maps.backends[backend].address;
        let family = match server.is_ipv4() {
            true => Family::V4,
            false => Family::V6,
        };
        let addresses = nat_addresses(family);
        let look = |ours: SocketAddr| {
            let reply = FlowTuple {
                client: address(ours),
                vip: address(server),
                client_port: ours.port().to_be_bytes(),
                vip_port: server.port().to_be_bytes(),
                protocol,
            };
            let (place, worth) = self.place(maps, &reply, second)?;
            Some((ours, place, worth))
        };
        let chosen = packet::read(arrived.left).and_then(|ip| {
            let port = ip.bytes(arrived.left, at, 2)?;
            let port = u16::from_be_bytes([port[0], port[1]]);
            let of_pool = addresses.contains(&ip.source) && (first..=last).contains(&port);
            of_pool.then_some((ip.source, port).into())
        });
        let chosen = chosen.and_then(look);
        let ports = usize::from(last - first) + 1;
        let (any, best) = match ports * addresses.len() <= SMALL {
            true => {
                let ends = (first..=last)
                    .flat_map(|port| addresses.iter().map(move |ip| (*ip, port).into()));
                let any = ends.filter_map(look).max_by_key(|(.., worth)| *worth)?;
                (any, any.2)
            }
            // Not all are looked at, but one of those that are is free.
            false => {
                let end = (addresses[0], first).into();
                let any = look(end).filter(|(.., worth)| *worth == FREE);
                (any.unwrap_or((end, NAT_FLOWS, FREE)), FREE)
            }
        };
        // A choice that is none of the best ones shows as other bytes than any of theirs.
        let chosen = chosen.filter(|(.., worth)| *worth == best);
        let (ours, place, _) = chosen.unwrap_or(any);
        Some((ours, place))
    }
}

fn address(end: SocketAddr) -> Address {
    let bytes = octets(end.ip());
    match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(v4) => Address::v4(v4),
        Err(_) => Address::v6(bytes.try_into().expect("sixteen bytes")),
    }
}

impl Oracle {
    /// A client's packet to the backend of its flow.
    pub(super) fn send_from_ours(
        &mut self,
        arrived: &Arrived<'_>,
        tuple: &Tuple,
        id: usize,
        meaning: Meaning,
        (fate, macs, mtu): (Fate, Macs, u32),
    ) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let backend = self.maps.backends[id];
        let service = backend.service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        let kind = backend.tunnel.option_kind();
        if kind != 0 && meaning == Meaning::Opens && option::claims(frame, ip, kind) {
            return Err(refuse(DropReason::Malformed));
        }
        let Some(place) = self.stand_in(arrived, tuple, id, (meaning, ip.transport()), mtu)? else {
            return self.too_big(arrived, service, mtu);
        };
        let ours = self.nat.flow(place).ours;
        let told = match meaning {
            Meaning::Opens => option::told(frame, ip, kind, mtu),
            _ => None,
        };
        let longer = told.as_ref().map_or(0, |told| told.len() - frame.len());
        let told = told.filter(|_| self.grow(arrived, longer).is_ok());
        if kind != 0 && meaning == Meaning::Opens && told.is_none() {
            self.ledger.rest(Rest::OptionLeftOut);
        }
        if ip.size() > mtu {
            return self.too_big(arrived, service, mtu);
        }
        let told = told.as_deref().unwrap_or(frame);
        let ip = &packet::read(told).expect("as it came, but longer");
        let output = packet::exchanged(told, ip, ours, backend.address);
        let bytes = frame.len() as u64;
        self.ledger.backend(id, PerBackend::Packets, 1);
        self.ledger.backend(id, PerBackend::Bytes, bytes);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Exchanged))
    }

    /// The place of a packet's flow, which has noted it, or is entered; `None`: it would be, but the packet does not fit. `at`: where
    /// its transport header begins.
    fn stand_in(
        &mut self,
        arrived: &Arrived<'_>,
        tuple: &Tuple,
        id: usize,
        (meaning, at): (Meaning, usize),
        mtu: u32,
    ) -> Result<Option<u32>, Refusal> {
        let Arrived { frame, ip, .. } = arrived;
        let service = self.maps.backends[id].service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        let second = arrived.at >> 30;
        let hop = (packet::sender(frame), arrived.ingress);
        let ending = Ending::of(frame, at, meaning);
        let has_device = self.maps.links.has(arrived.ingress);
        if let Some(place) = self.nat.place_of(tuple, id) {
            let flow = self.nat.flows.get_mut(&place).expect("was found");
            flow.life.note(meaning, ending, second);
            if flow.hop != hop && !has_device {
                return Err(refuse(DropReason::NoReturnHop));
            }
            flow.hop = hop;
            return Ok(Some(place));
        }
        let chosen = self
            .nat
            .choose(&self.maps, arrived, (id, tuple.protocol), at);
        let (ours, place) = chosen.ok_or(refuse(DropReason::NatPortsExhausted))?;
        if !has_device {
            return Err(refuse(DropReason::NoReturnHop));
        }
        // It takes no port.
        if ip.size() > mtu {
            return Ok(None);
        }
        let flow = Flow {
            tuple: *tuple,
            backend: id,
            hop,
            ours,
            life: Life::new(meaning, ending, second),
        };
        self.nat.flows.insert(place, flow);
        Ok(Some(place))
    }

    /// A backend's packet to one of our ends: it goes to the client that this stands for.
    pub(super) fn hand_back_from_ours(&mut self, arrived: &Arrived<'_>, place: u32) -> Answer {
        self.alive(arrived, true)?;
        let Arrived { frame, ip, .. } = arrived;
        let Flow {
            tuple,
            backend: id,
            hop,
            ..
        } = self.nat.flow(place);
        let service = self.maps.backends[id].service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        let meaning = whole(frame, ip)
            .and_then(|()| packet::meaning(frame, ip))
            .map_err(refuse)?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let way = self.way_out(Some(hop), arrived.ingress);
        let (fate, macs, fits) = way.map_err(refuse)?;
        if ip.size() > fits {
            return self.too_big(arrived, service, fits);
        }
        let flow = self.nat.flows.get_mut(&place).expect("was found");
        // That a server answers does not prove a client: its next packet does.
        let ending = Ending::of(frame, ip.transport(), meaning);
        if flow.life.note_reply(ending, arrived.at >> 30) {
            let closing = flow.life.is_closing();
            if self.flows.backend(&tuple) == Some(id) {
                self.flows.see(&tuple, arrived.epoch(), closing);
            }
        }
        let vip = (self.maps.services[service].vip.ip(), tuple.vip.port()).into();
        let clamped = self.clamped(arrived, id, fits);
        let output = packet::exchanged(&clamped, ip, vip, tuple.client);
        let bytes = frame.len() as u64;
        self.ledger.backend(id, PerBackend::ReplyPackets, 1);
        self.ledger.backend(id, PerBackend::ReplyBytes, bytes);
        self.answered(arrived, id);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Exchanged))
    }
}
