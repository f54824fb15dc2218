//! `fullnat`: an address and a port of the balancer's stand for a client.
//!
//! Which ones is the data plane's choice. What counts is that they are of the pool, that no other flow to the same backend
//! has them, and that the flow keeps them; so they are read from what the data plane sends, and judged.

use std::{collections::HashMap, net::SocketAddr};

use lb_common::{Address, DropReason, Family, counter::PerBackend, hash::FlowTuple};
use lb_ebpf::fixture::{
    Fate,
    world::{Change, NAT_PORTS, Side, nat_addresses},
};

use super::{
    Answer, Arrived, Opinion, Oracle, Refusal, Sent,
    flow::Tuple,
    known::Maps,
    packet::{self, Mac, Meaning, octets},
    way::Macs,
    whole,
};
use crate::case::NAT_FLOWS;

mod option;

/// Pools of at most so many ends are looked at as a whole by each flow.
const SMALL: usize = 16;

/// How far a flow is, which says for how many seconds of 2^30 ns it keeps its port without a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Established,
    Closing,
    Datagrams,
}

impl Stage {
    fn seconds(self) -> u64 {
        match self {
            Self::Opening => 30,
            Self::Established => 7440,
            Self::Closing => 120,
            Self::Datagrams => 300,
        }
    }
}

/// A flow that one of our ends stands for.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) tuple: Tuple,
    pub(super) backend: usize,
    /// Where its client's packets come from.
    pub(super) hop: (Mac, Side),
    ours: SocketAddr,
    stage: Stage,
    /// The second of its last packet.
    last: u64,
}

impl Flow {
    fn is_over(&self, second: u64) -> bool {
        second - self.last > self.stage.seconds()
    }

    /// Notes a packet; true if that says anything new.
    fn note(&mut self, opens: bool, closes: bool, second: u64) -> bool {
        let before = (self.stage, self.last);
        let silent = second - self.last;
        self.stage = match self.stage {
            Stage::Datagrams => Stage::Datagrams,
            _ if closes => Stage::Closing,
            // A port that is used again.
            Stage::Closing | Stage::Opening if opens => Stage::Opening,
            // The other side's FIN and last ACKs; later, somebody has forged the end.
            Stage::Closing if silent < 10 => Stage::Closing,
            _ => Stage::Established,
        };
        self.last = second;
        before != (self.stage, self.last)
    }
}

/// All such flows, by their place in the table: a reply's addresses and ports say which, and each has one flow.
pub(super) struct Nat {
    ports: Option<(u16, u16)>,
    flows: HashMap<u32, Flow>,
}

impl Nat {
    pub(super) fn new() -> Self {
        Self {
            ports: Some(NAT_PORTS),
            flows: HashMap::new(),
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        if let Change::NatPorts(ports) = change {
            self.ports = *ports;
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

    /// The place of a flow that replies to one of our ends would be of, if nobody has it.
    fn free(&self, maps: &Maps, reply: &FlowTuple, second: u64) -> Option<u32> {
        let place = maps.hash_of(reply).0 as u32 & (NAT_FLOWS - 1);
        match self.flows.get(&place) {
            Some(flow) if !flow.is_over(second) => None,
            _ => Some(place),
        }
    }

    /// The end that the data plane has chosen for a flow to a backend, and its place; `None`: there is none to choose.
    fn choose(
        &self,
        maps: &Maps,
        arrived: &Arrived<'_>,
        backend: usize,
        second: u64,
    ) -> Option<(SocketAddr, u32)> {
        let (first, last) = self.ports?;
        let server = maps.backends[backend].address;
        let family = match server.is_ipv4() {
            true => Family::V4,
            false => Family::V6,
        };
        let addresses = nat_addresses(family);
        let free = |ours: SocketAddr| {
            let reply = FlowTuple {
                client: address(ours),
                vip: address(server),
                client_port: ours.port().to_be_bytes(),
                vip_port: server.port().to_be_bytes(),
                protocol: arrived.ip.protocol,
            };
            Some((ours, self.free(maps, &reply, second)?))
        };
        let chosen = packet::read(arrived.left).and_then(|ip| {
            let [port, _] = ip.ports(arrived.left)?;
            let of_pool = addresses.contains(&ip.source) && (first..=last).contains(&port);
            of_pool.then_some((ip.source, port).into())
        });
        let ports = usize::from(last - first) + 1;
        let any = match ports * addresses.len() <= SMALL {
            true => (first..=last)
                .flat_map(|port| {
                    let ends = addresses.iter().map(move |ip| (*ip, port).into());
                    ends.collect::<Vec<SocketAddr>>()
                })
                .find_map(free),
            false => free((addresses[0], first).into())
                .or(Some(((addresses[0], first).into(), NAT_FLOWS))),
        };
        // A choice that is none of the free ones shows as other bytes than any free one's.
        any.map(|any| chosen.and_then(free).unwrap_or(any))
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
        let second = arrived.at >> 30;
        let hop = (packet::sender(frame), arrived.ingress);
        let has_device = self.maps.has_device(arrived.ingress);
        let kind = backend.tunnel.option_kind();
        if kind != 0 && meaning == Meaning::Opens && option::claims(frame, ip, kind) {
            return Err(refuse(DropReason::Malformed));
        }
        let ours = match self.nat.place_of(tuple, id) {
            Some(place) => {
                let flow = self.nat.flows.get_mut(&place).expect("was found");
                let (opens, closes) = (meaning == Meaning::Opens, meaning == Meaning::Closes);
                flow.note(opens, closes, second);
                if flow.hop != hop && !has_device {
                    return Err(refuse(DropReason::NoReturnHop));
                }
                flow.hop = hop;
                flow.ours
            }
            None => {
                let chosen = self.nat.choose(&self.maps, arrived, id, second);
                let (ours, place) = chosen.ok_or(refuse(DropReason::NatPortsExhausted))?;
                if !has_device {
                    return Err(refuse(DropReason::NoReturnHop));
                }
                // It takes no port.
                if ip.size() > mtu {
                    return self.too_big(arrived, service, mtu);
                }
                let flow = Flow {
                    tuple: *tuple,
                    backend: id,
                    hop,
                    ours,
                    stage: match meaning {
                        Meaning::Datagram => Stage::Datagrams,
                        Meaning::Closes => Stage::Closing,
                        Meaning::Opens => Stage::Opening,
                        Meaning::Middle => Stage::Established,
                    },
                    last: second,
                };
                self.nat.flows.insert(place, flow);
                ours
            }
        };
        let told = match meaning {
            Meaning::Opens => option::told(frame, ip, kind, mtu),
            _ => None,
        };
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

    /// A backend's packet to one of our ends: it goes to the client that this stands for.
    pub(super) fn hand_back_from_ours(&mut self, arrived: &Arrived<'_>, place: u32) -> Answer {
        self.alive(arrived, true)?;
        let Arrived { frame, ip, .. } = arrived;
        let Flow {
            tuple,
            backend: id,
            hop,
            stage,
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
        // That a server answers does not open a connection: its client's next packet does.
        let opens = stage == Stage::Opening;
        if flow.note(opens, meaning == Meaning::Closes, arrived.at >> 30) {
            let closing = flow.stage == Stage::Closing;
            if self.flows.backend(&tuple) == Some(id) {
                self.flows.see(&tuple, arrived.epoch(), closing);
            }
        }
        let vip = (self.maps.services[service].vip.ip(), tuple.vip.port()).into();
        let output = packet::exchanged(frame, ip, vip, tuple.client);
        let bytes = frame.len() as u64;
        self.ledger.backend(id, PerBackend::ReplyPackets, 1);
        self.ledger.backend(id, PerBackend::ReplyBytes, bytes);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Exchanged))
    }
}
