//! What must become of a packet, by the documentation.
//!
//! What the oracle leaves to other tests: a flow table that is full or evicts (`lb-ebpf/src/props/model.rs`), a clock
//! that wraps, and maps that contradict each other, but for what `DropReason::MapInconsistent` says about a packet.

mod answer;
mod checksum;
mod choice;
mod flow;
mod handshake;
mod icmp;
mod known;
mod ledger;
mod mss;
mod nat;
mod packet;
mod path;
mod piece;
mod quic;
mod relay;
mod sound;
mod tunnel;
mod way;

use std::collections::HashMap;

use lb_common::{
    Control, DropReason, FlowHash, Forwarding, MidStream, Nanos, Pick, Protocol, Spread,
    counter::More, counter::PerBackend, flow::EPOCH_SHIFT,
};
use lb_ebpf::fixture::{
    Fate,
    world::{Change, Side, World},
};

pub use ledger::Ledger;

use flow::{Origin, Tuple};
use known::{Backend, Limit, Maps};
use packet::{Ip, Meaning, balanced};
use sound::{check, whole};

/// What the data plane is about to do with packets, and what it has done.
pub struct Oracle {
    maps: Maps,
    flows: flow::Flows,
    nat: nat::Nat,
    limits: known::Limits,
    ledger: Ledger,
    /// Where first pieces of datagrams went, and in which second.
    datagrams: HashMap<piece::Datagram, (u64, piece::Followed)>,
}

/// What a packet is when it is sent on: what [`crate::frames`] may expect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is not sent.
    No,
    /// To a backend, with its client's end as it was.
    Forwarded,
    /// To a client, with its client's end as it was.
    Returned,
    /// An echo request that became its reply.
    Echoed,
    /// An ICMP error.
    Relayed,
    /// To a backend from an address of ours, or from a backend to one.
    Exchanged,
    /// A piece of a datagram, either way.
    Piece,
    /// A packet that was made anew.
    Answered,
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Its verdict.
    pub fate: Fate,
    /// Its bytes, where they change.
    pub output: Option<Vec<u8>>,
    /// How it is sent, if it is.
    pub sent: Sent,
    /// Bytes that a tunnel has put before it.
    pub tunnel: usize,
}

impl Opinion {
    const PASS: Self = Self {
        fate: Fate::Pass,
        output: None,
        sent: Sent::No,
        tunnel: 0,
    };

    fn sent(fate: Fate, output: Vec<u8>, sent: Sent) -> Self {
        Self {
            fate,
            output: Some(output),
            sent,
            tunnel: 0,
        }
    }

    /// The same to a backend, perhaps in a tunnel.
    fn to(self, backend: &Backend) -> Self {
        let tunnel = match backend.forwarding {
            Some(Forwarding::Ipip | Forwarding::Gue) => tunnel::growth(backend),
            _ => 0,
        };
        Self { tunnel, ..self }
    }
}

/// Why a packet is not sent: it passes, or it is dropped, perhaps as a service's.
#[derive(Clone, Copy)]
enum Refusal {
    Pass,
    Drop(DropReason),
    DropOf(usize, DropReason),
}

type Answer = Result<Opinion, Refusal>;

/// A packet and its circumstances.
struct Arrived<'a> {
    frame: &'a [u8],
    /// What the data plane has made of the frame.
    left: &'a [u8],
    ip: Ip,
    ingress: Side,
    at: Nanos,
}

impl Arrived<'_> {
    fn epoch(&self) -> u64 {
        self.at >> EPOCH_SHIFT
    }
}

impl Oracle {
    /// About maps that hold this. `mtu`: of every next hop.
    pub fn new(world: &World, mtu: u32) -> Self {
        let maps = Maps::new(world, mtu);
        let mut oracle = Self {
            flows: flow::Flows::new(&maps, &world.presets),
            nat: nat::Nat::new(),
            limits: known::Limits::new(world),
            ledger: Ledger::new(),
            datagrams: HashMap::new(),
            maps,
        };
        world
            .changes
            .iter()
            .for_each(|change| oracle.change(change));
        oracle
    }

    /// The control plane changes the maps.
    pub fn change(&mut self, change: &Change) {
        self.maps.change(change);
        self.nat.change(change);
        if let Change::Load(id, ..) = change {
            self.ledger.counted(*id as usize);
        }
    }

    /// All counters so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The entries of the flow table, sorted.
    pub fn flow_words(&self) -> Vec<u64> {
        self.flows.words()
    }

    /// Clients that stay with a backend, as in the map, sorted.
    pub fn client_words(&self) -> Vec<u64> {
        self.flows.client_words()
    }

    /// What must become of a packet. It is counted, and its flow is known from now on. `left`: what the data plane
    /// has made of it: which address and port stands for a client is its choice, within rules.
    pub fn process(&mut self, frame: &[u8], left: &[u8], ingress: Side, at: Nanos) -> Opinion {
        self.ledger.received();
        let opinion = match self.route(frame, left, ingress, at) {
            Ok(opinion) => opinion,
            Err(Refusal::Pass) => Opinion::PASS,
            Err(Refusal::Drop(reason)) => dropped(reason),
            Err(Refusal::DropOf(service, reason)) => {
                self.ledger.dropped_of(service, reason);
                dropped(reason)
            }
        };
        self.ledger.ended(opinion.fate);
        opinion
    }

    fn route(&mut self, frame: &[u8], left: &[u8], ingress: Side, at: Nanos) -> Answer {
        // Group addresses are the kernel's, and so is whatever is not IP.
        if frame.len() < packet::ETHERNET || frame[0] & 1 == 1 {
            return Err(Refusal::Pass);
        }
        let ip = packet::read(frame).ok_or(Refusal::Pass)?;
        let arrived = Arrived {
            frame,
            left,
            ip,
            ingress,
            at,
        };
        match () {
            () if ip.is_icmp() => self.icmp(&arrived),
            () if ip.odd == Some(DropReason::Fragment) => self.piece(&arrived),
            () if ip.has_ports(frame) => self.segment(&arrived),
            () => self.unreadable(&arrived),
        }
    }

    /// What the silence of the control plane means for a packet; `ours`: to a service or of one.
    fn alive(&self, arrived: &Arrived<'_>, ours: bool) -> Result<(), Refusal> {
        let until = self.maps.alive_until;
        if arrived.at <= until {
            return Ok(());
        }
        Err(match ours && until & Control::DROP_WHEN_DEAD != 0 {
            true => Refusal::Drop(DropReason::ControlPlaneDead),
            false => Refusal::Pass,
        })
    }

    /// A packet whose ports cannot be read, or are all that can be read of its transport header.
    fn unreadable(&mut self, arrived: &Arrived<'_>) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        // SCTP has ports where TCP has them; no service of the generated worlds has it.
        let sctp_without_ports = ip.protocol == Protocol::Sctp as u8 && ip.ports(frame).is_none();
        if ip.odd.is_none() && !ip.is_balanced() && !sctp_without_ports {
            return Err(Refusal::Pass);
        }
        let to_vip = self.maps.is_vip(ip.destination);
        self.alive(arrived, to_vip)?;
        if let Some(reason) = ip.odd {
            return Err(match to_vip {
                true => Refusal::Drop(reason),
                false => Refusal::Pass,
            });
        }
        let Some(ports) = ip.ports(frame) else {
            return Err(match to_vip {
                true => Refusal::Drop(DropReason::Truncated),
                false => Refusal::Pass,
            });
        };
        let service = self
            .maps
            .service_at(ip.destination, ports[1], ip.protocol)
            .ok_or(Refusal::Pass)?;
        let reason = match check(frame, ip) {
            Err(reason) => reason,
            Ok(_) => DropReason::Truncated,
        };
        Err(Refusal::DropOf(service, reason))
    }

    /// A segment or datagram: a client's, a backend's, or nobody's.
    fn segment(&mut self, arrived: &Arrived<'_>) -> Answer {
        let ip = &arrived.ip;
        let [from, to] = ip.ports(arrived.frame).ok_or(Refusal::Pass)?;
        match self.maps.service_at(ip.destination, to, ip.protocol) {
            Some(service) => {
                let tuple = Tuple {
                    client: (ip.source, from).into(),
                    vip: (ip.destination, to).into(),
                    protocol: ip.protocol,
                };
                self.serve(arrived, service, tuple)
            }
            None => {
                let backend = (ip.source, from).into();
                let client = (ip.destination, to).into();
                if let Some(slot) = self.nat.behind(&self.maps, backend, client, ip.protocol) {
                    return self.hand_back_from_ours(arrived, slot);
                }
                let accepts = packet::accepts(arrived.frame, ip);
                let ends = (backend, client, ip.protocol);
                let of = self
                    .flows
                    .behind(&self.maps, ends, arrived.epoch(), accepts);
                let (tuple, id) = of.ok_or(Refusal::Pass)?;
                self.hand_back(arrived, tuple, id)
            }
        }
    }

    fn serve(&mut self, arrived: &Arrived<'_>, service: usize, tuple: Tuple) -> Answer {
        let refuse = |reason| Refusal::DropOf(service, reason);
        let alive = self.alive(arrived, true).map_err(|refusal| match refusal {
            Refusal::Drop(reason) => refuse(reason),
            other => other,
        });
        let aside = self.maps.is_aside(service);
        if aside {
            alive?;
        }
        let meaning = check(arrived.frame, &arrived.ip).map_err(refuse)?;
        alive?;
        if meaning == Meaning::Datagram && self.maps.is_vip(tuple.client.ip()) {
            return Err(refuse(DropReason::MartianSource));
        }
        if self.maps.denies(service, tuple.client.ip()) {
            return Err(refuse(DropReason::SourceDenied));
        }
        let hash = self.maps.hash(&tuple);
        let assigned = match self.named(arrived, service) {
            Some(id) => self.adopt(arrived, service, tuple, hash, id),
            None => self.assign(arrived, service, tuple, hash, meaning),
        };
        if let Err(reason @ (DropReason::MidStream | DropReason::BackendLeft)) = assigned {
            return self.mid_stream(arrived, service, reason);
        }
        let (id, origin) = assigned.map_err(refuse)?;
        let policy = self.maps.services[service].mid_stream;
        // New flows that are not scheduled by their hash go the long way, too.
        let clamps =
            self.maps.services[service].mss != 0 && packet::is_syn(arrived.frame, &arrived.ip);
        let long = aside || clamps || self.maps.services[service].scheduling.pick != Pick::Flow;
        // It asks that of TCP only, and no service of UDP says anything else.
        let asked = !long || tuple.protocol == Protocol::Tcp as u8;
        if origin == Origin::NotAdmitted && policy != MidStream::Schedule && asked {
            return Err(refuse(DropReason::NotAdmitted));
        }
        let counted = |ledger: &mut Ledger| {
            let connection = matches!(meaning, Meaning::Datagram | Meaning::Opens);
            ledger.came(id, origin, connection);
            // What is known was counted where it was found.
            let known = matches!(origin, Origin::Known | Origin::Resent | Origin::Reopened);
            if meaning == Meaning::Opens && !known {
                ledger.opened(id, origin);
            }
        };
        let backend = self.maps.backends[id];
        if long && backend.forwarding == Some(Forwarding::Dnat) {
            match origin {
                Origin::NotAdmitted => return Err(refuse(DropReason::NotAdmitted)),
                Origin::Alone => return Err(refuse(DropReason::MapInconsistent)),
                _ => {}
            }
        }
        let (fate, macs, mtu) = self.way_to(&backend, arrived.ingress).map_err(refuse)?;
        let clamped = self.clamped(arrived, id, mtu);
        let arrived = &Arrived {
            frame: &clamped,
            ..*arrived
        };
        if origin == Origin::NotAdmitted && backend.forwarding == Some(Forwarding::Dnat) {
            return Err(refuse(DropReason::NotAdmitted));
        }
        if backend.forwarding == Some(Forwarding::Fullnat) {
            counted(&mut self.ledger);
            if origin == Origin::NotAdmitted {
                return Err(refuse(DropReason::NotAdmitted));
            }
            return self.send_from_ours(arrived, &tuple, id, meaning, (fate, macs, mtu));
        }
        let fits = tunnel::room(&backend, mtu, arrived.at);
        if arrived.ip.size() > fits {
            counted(&mut self.ledger);
            return self.too_big(arrived, service, fits);
        }
        let output = match backend.forwarding {
            Some(Forwarding::L2dsr) => packet::aged(arrived.frame, &arrived.ip),
            Some(Forwarding::Ipip | Forwarding::Gue) => {
                tunnel::into(&self.maps, arrived, &backend, hash)
            }
            Some(Forwarding::Dnat) => {
                let hop = (packet::sender(arrived.frame), arrived.ingress);
                self.flows.learn(&tuple, hop, &self.maps).map_err(refuse)?;
                packet::readdressed(arrived.frame, &arrived.ip, packet::End::To, backend.address)
            }
            Some(Forwarding::Fullnat) | None => {
                return Err(refuse(DropReason::MapInconsistent));
            }
        };
        counted(&mut self.ledger);
        self.ledger.backend(id, PerBackend::Packets, 1);
        let bytes = arrived.frame.len() as u64;
        self.ledger.backend(id, PerBackend::Bytes, bytes);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Forwarded).to(&backend))
    }

    /// A packet that does not fit through its tunnel; `fits`: bytes that would.
    fn too_big(&mut self, arrived: &Arrived<'_>, service: usize, fits: u32) -> Answer {
        let refused = Refusal::DropOf(service, DropReason::PacketTooBig);
        if !self.limits.admit(Limit::TooBig, arrived.at) {
            return Err(refused);
        }
        let told = answer::too_big(arrived.frame, &arrived.ip, fits).ok_or(refused)?;
        self.ledger.more(More::TooBigSent);
        Ok(Opinion::sent(Fate::Tx, told, Sent::Answered))
    }

    /// A reply in a flow.
    fn hand_back(&mut self, arrived: &Arrived<'_>, tuple: Tuple, id: usize) -> Answer {
        self.alive(arrived, true)?;
        let service = self.maps.backends[id].service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        let Arrived { frame, ip, .. } = arrived;
        let meaning = whole(frame, ip)
            .and_then(|()| packet::meaning(frame, ip))
            .map_err(refuse)?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let (fate, macs, fits) = self.way_back(&tuple, arrived.ingress).map_err(refuse)?;
        if ip.size() > fits {
            return self.too_big(arrived, service, fits);
        }
        self.flows
            .see(&tuple, arrived.epoch(), meaning == Meaning::Closes);
        let clamped = self.clamped(arrived, id, fits);
        let output = packet::readdressed(&clamped, ip, packet::End::From, tuple.vip);
        self.ledger.backend(id, PerBackend::ReplyPackets, 1);
        let bytes = frame.len() as u64;
        self.ledger.backend(id, PerBackend::ReplyBytes, bytes);
        self.answered(arrived, id);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Returned))
    }

    fn assign(
        &mut self,
        arrived: &Arrived<'_>,
        service: usize,
        tuple: Tuple,
        hash: FlowHash,
        meaning: Meaning,
    ) -> Result<(usize, Origin), DropReason> {
        let seeker = flow::Seeker {
            service,
            tuple,
            hash,
            number: self.ledger.packets() - 1,
            meaning,
            epoch: arrived.epoch(),
            second: arrived.at >> 30,
        };
        if self.maps.services[service].spread == Spread::Datagram {
            // By its number among all packets, from 0 on.
            return Ok((choice::choose_alone(&self.maps, &seeker)?, Origin::Alone));
        }
        let (limits, ledger) = (&mut self.limits, &self.ledger);
        let assigned = self.flows.assign(&self.maps, ledger, &seeker, || {
            limits.admit(Limit::NewFlow, arrived.at)
        });
        if let Some(slot) = self.flows.turn(service) {
            self.ledger.turn(service, slot);
        }
        if let Ok((id, origin @ (Origin::Resent | Origin::Reopened))) = assigned {
            self.ledger.opened(id, origin);
        }
        assigned
    }
}

fn dropped(reason: DropReason) -> Opinion {
    Opinion {
        fate: Fate::Drop(reason),
        ..Opinion::PASS
    }
}
