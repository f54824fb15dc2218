//! What must become of a packet, by the documentation.
//!
//! What the oracle leaves to other tests: a flow table that is full or evicts (`lb-ebpf/src/props/model.rs`), a clock
//! that wraps, and maps that contradict each other, but for what `DropReason::MapInconsistent` says about a packet.

mod answer;
mod assign;
mod checksum;
mod choice;
mod entry;
mod flow;
mod handshake;
mod icmp;
mod known;
mod ledger;
mod link;
mod mss;
mod nat;
mod opinion;
mod packet;
mod path;
mod piece;
mod quic;
mod relay;
mod sctp;
mod sound;
mod tunnel;
mod way;
mod whose;

use std::collections::HashMap;

use lb_common::{
    Control, DropReason, Forwarding, MidStream, Nanos, Pick, Protocol,
    counter::{Handshake, PerBackend},
    flow::EPOCH_SHIFT,
};
use lb_ebpf::{
    fixture::{
        tagging::Tagging,
        world::{Change, Side, World},
    },
    mem::MemFrame,
};

pub use ledger::Ledger;
pub use link::{Fate, Link};
pub use opinion::{Met, Opinion, Sent};

use flow::{Origin, Tuple};
use known::Maps;
use packet::{Ip, Meaning};
use sound::{check, whole};
use whose::{Target, has_ports};

/// What the data plane is about to do with packets, and what it has done.
pub struct Oracle {
    maps: Maps,
    flows: flow::Flows,
    nat: nat::Nat,
    limits: known::Limits,
    ledger: Ledger,
    /// Where first pieces of datagrams went, and in which second.
    datagrams: HashMap<piece::Datagram, (u64, piece::Followed)>,
    /// Bytes that frames may grow by in front.
    room: usize,
    /// What the packet that is looked at has met.
    met: Met,
}

/// Why a packet is not sent: it passes, or it is dropped, perhaps as a service's.
#[derive(Clone, Copy)]
enum Refusal {
    Pass,
    Drop(DropReason),
    DropOf(usize, DropReason),
}

type Answer = Result<Opinion, Refusal>;

/// A packet and its circumstances. Neither frame has tags.
struct Arrived<'a> {
    frame: &'a [u8],
    /// What the data plane has made of the frame.
    left: &'a [u8],
    ip: Ip,
    ingress: Link,
    at: Nanos,
    /// Bytes that the frame may grow by in front.
    room: usize,
}

impl Arrived<'_> {
    fn epoch(&self) -> u64 {
        self.at >> EPOCH_SHIFT
    }
}

impl Oracle {
    /// About maps that hold this. `mtu`: of every next hop, at first.
    pub fn new(world: &World, mtu: u32, tagging: Tagging) -> Self {
        let maps = Maps::new(world, mtu, tagging);
        let mut oracle = Self {
            flows: flow::Flows::new(&maps, &world.presets),
            nat: nat::Nat::new(),
            limits: known::Limits::new(world),
            ledger: Ledger::new(),
            datagrams: HashMap::new(),
            room: MemFrame::ROOM.into(),
            met: Met::default(),
            maps,
        };
        world
            .changes
            .iter()
            .for_each(|change| oracle.change(change));
        oracle
    }

    /// The same about frames that may grow by so many bytes in front.
    #[must_use]
    pub fn with_room(self, room: u16) -> Self {
        Self {
            room: room.into(),
            ..self
        }
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
    /// has made of it: which address and port stands for a client is its choice, within rules. `side`: whose card it comes by.
    pub fn process(&mut self, frame: &[u8], left: &[u8], side: Side, at: Nanos) -> Opinion {
        self.ledger.received();
        self.met = Met {
            republished: self.maps.republished,
            ..Met::default()
        };
        // Group addresses are the kernel's.
        let is_ours = frame.len() >= packet::ETHERNET && frame[0] & 1 == 0;
        let came = is_ours
            .then(|| self.maps.links.enter(side, frame))
            .flatten();
        let Some(came) = came else {
            self.ledger.ended(Fate::Pass);
            return Opinion::PASS;
        };
        self.met.tags = came.tags.len();
        let (frame, left) = (link::without_tags(frame), link::without_tags(left));
        // Where tags stood there is room.
        let room = self.room + came.bytes();
        let opinion = match self.route((&frame, &left), came.link, at, room) {
            Ok(opinion) => opinion,
            Err(Refusal::Pass) => Opinion::PASS,
            Err(Refusal::Drop(reason)) => Opinion::dropped(reason),
            Err(Refusal::DropOf(service, reason)) => {
                self.ledger.dropped_of(service, reason);
                Opinion::dropped(reason)
            }
        };
        self.ledger.ended(opinion.fate);
        let met = self.met;
        let room = room - met.grown;
        self.maps
            .links
            .leave(&came, Opinion { met, ..opinion }, room)
    }

    fn route(
        &mut self,
        (frame, left): (&[u8], &[u8]),
        ingress: Link,
        at: Nanos,
        room: usize,
    ) -> Answer {
        // Whatever is not IP is the kernel's, too.
        let ip = packet::read(frame).ok_or(Refusal::Pass)?;
        self.met.protocol = Some(ip.protocol);
        let arrived = Arrived {
            frame,
            left,
            ip,
            ingress,
            at,
            room,
        };
        match () {
            () if ip.is_icmp() => self.icmp(&arrived),
            () if ip.odd == Some(DropReason::Fragment) => self.piece(&arrived),
            () if ip.is_readable(frame) => self.segment(&arrived),
            () => self.unreadable(&arrived),
        }
    }

    /// Notes whose packet it is.
    fn meet(&mut self, target: &Target, service: usize) {
        self.met.range = self.maps.services[service].reach.is_some();
        self.met.takers = self.maps.takers(target);
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
        let to_vip = self.maps.is_vip(ip.destination);
        if to_vip || ip.odd.is_some() || ip.is_balanced() {
            self.alive(arrived, to_vip)?;
        }
        let reason = match (ip.odd, ip.ports(frame)) {
            (Some(reason), _) => reason,
            (None, None) => DropReason::Truncated,
            (None, Some([_, to])) => {
                let target = &Target::new((ip.destination, to).into(), ip.protocol);
                let service = self.maps.service_at(target).ok_or(Refusal::Pass)?;
                self.meet(target, service);
                let reason = check(frame, ip).err().unwrap_or(DropReason::Truncated);
                return Err(Refusal::DropOf(service, reason));
            }
        };
        Err(match to_vip {
            true => Refusal::Drop(reason),
            false => Refusal::Pass,
        })
    }

    /// A segment, a datagram, or a packet of another protocol: a client's, a backend's, or nobody's.
    fn segment(&mut self, arrived: &Arrived<'_>) -> Answer {
        let ip = &arrived.ip;
        let [from, to] = ip.ports(arrived.frame).ok_or(Refusal::Pass)?;
        let (source, destination) = ((ip.source, from).into(), (ip.destination, to).into());
        let target = &Target::new(destination, ip.protocol);
        if self.maps.usual_at(target).is_none() && has_ports(ip.protocol) {
            let (backend, client) = (source, destination);
            if let Some(slot) = self.nat.behind(&self.maps, backend, client, ip.protocol) {
                return self.hand_back_from_ours(arrived, slot);
            }
            let accepts = packet::accepts(arrived.frame, ip);
            let ends = (backend, client, ip.protocol);
            let epoch = arrived.epoch();
            if let Some((tuple, id)) = self.flows.behind(&self.maps, ends, epoch, accepts) {
                return self.hand_back(arrived, tuple, id);
            }
        }
        let service = self.maps.service_at(target).ok_or(Refusal::Pass)?;
        self.meet(target, service);
        let tuple = Tuple {
            client: source,
            vip: destination,
            protocol: ip.protocol,
        };
        self.serve(arrived, service, tuple)
    }

    fn serve(&mut self, arrived: &Arrived<'_>, service: usize, tuple: Tuple) -> Answer {
        let refuse = |reason| Refusal::DropOf(service, reason);
        let alive = self.alive(arrived, true).map_err(|refusal| match refusal {
            Refusal::Drop(reason) => refuse(reason),
            other => other,
        });
        let aside = self.maps.is_aside(service, tuple.protocol);
        if aside {
            alive?;
        }
        let meaning = check(arrived.frame, &arrived.ip).map_err(refuse)?;
        alive?;
        // Two services would answer each other for ever, but not with TCP and SCTP.
        let answers = !matches!(tuple.protocol, 6 | 132);
        if answers && self.maps.is_vip(tuple.client.ip()) {
            return Err(refuse(DropReason::MartianSource));
        }
        if self.maps.denies(service, tuple.client.ip()) {
            return Err(refuse(DropReason::SourceDenied));
        }
        let tunnels = self.maps.services[service].forwarding;
        let tunnels = matches!(tunnels, Some(Forwarding::Ipip | Forwarding::Gue));
        if tunnels && matches!(tuple.protocol, 4 | 41) {
            return Err(refuse(DropReason::Malformed));
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
        let is_tcp = tuple.protocol == Protocol::Tcp as u8;
        // New flows that are not scheduled by their hash go the long way, too.
        let rules = &self.maps.services[service];
        let syn_is_asked = (rules.mss != 0 || rules.times || rules.shares)
            && packet::is_syn(arrived.frame, &arrived.ip);
        let datagram_is_asked = rules.shares && !is_tcp;
        let long =
            aside || syn_is_asked || datagram_is_asked || rules.scheduling.pick != Pick::Flow;
        // It asks that of TCP only, and no service of UDP says anything else.
        let asked = !long || is_tcp;
        if origin == Origin::NotAdmitted && policy != MidStream::Schedule && asked {
            return Err(refuse(DropReason::NotAdmitted));
        }
        let counted = |ledger: &mut Ledger| {
            let connection = !is_tcp || meaning.may_begin();
            // What is known was counted where it was found, and a new flow that opens a connection is one more.
            match (is_tcp && meaning == Meaning::Opens, origin) {
                (true, Origin::NotAdmitted) => {
                    ledger.came(id, origin, false);
                    ledger.other_flow(id);
                }
                (true, Origin::Moved) => {
                    ledger.came(id, origin, connection);
                    ledger.handshake(id, Handshake::Begun);
                }
                _ => ledger.came(id, origin, connection),
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
                self.encapsulated(arrived, &backend, hash).map_err(refuse)?
            }
            // It would be its own client, under its own address.
            Some(Forwarding::Dnat) if backend.address.ip() == tuple.client.ip() => {
                self.met.to_itself = true;
                return Err(refuse(DropReason::MartianSource));
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

    /// A reply in a flow.
    fn hand_back(&mut self, arrived: &Arrived<'_>, tuple: Tuple, id: usize) -> Answer {
        self.alive(arrived, true)?;
        let service = self.maps.backends[id].service;
        self.met.range = self.maps.services[service].reach.is_some();
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
        self.flows.see(&tuple, arrived.epoch(), meaning.ends());
        let clamped = self.clamped(arrived, id, fits);
        let output = packet::readdressed(&clamped, ip, packet::End::From, tuple.vip);
        self.ledger.backend(id, PerBackend::ReplyPackets, 1);
        let bytes = frame.len() as u64;
        self.ledger.backend(id, PerBackend::ReplyBytes, bytes);
        self.answered(arrived, id);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Returned))
    }
}
