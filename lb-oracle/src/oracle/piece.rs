//! Pieces of datagrams: RFC 791 section 3.2, RFC 8200 section 4.5. The first has the ports, the others follow it; where
//! there are no ports, each goes by its addresses.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Address, DropReason, FlowHash, Forwarding, MidStream, counter::PerBackend, fragment::LIFETIME,
    hash::FlowTuple,
};

use super::{
    Answer, Arrived, Opinion, Oracle, Refusal, Sent,
    flow::{Origin, Tuple},
    packet::{self, End, Ip, Meaning, octets},
    sctp, tunnel, whole,
    whose::{Target, has_ports},
};

/// What the pieces of a datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    pub(super) protocol: u8,
    id: u32,
}

impl Datagram {
    /// Hashed as a flow whose ports are the identification.
    fn tuple(&self) -> FlowTuple {
        let address = |address: IpAddr| match address {
            IpAddr::V4(a) => Address::v4(a.octets()),
            IpAddr::V6(a) => Address::v6(a.octets()),
        };
        let [a, b, c, d] = self.id.to_be_bytes();
        FlowTuple {
            client: address(self.source),
            vip: address(self.destination),
            client_port: [a, b],
            vip_port: [c, d],
            protocol: self.protocol,
        }
    }
}

/// Where a first piece has gone, and when: the others go there, too.
#[derive(Clone, Copy, Debug)]
pub(super) enum Followed {
    ToBackend(usize),
    ToClient(Tuple, usize),
    /// Either way, between the ends of a flow from one of our addresses that has this place.
    Ours(Tuple, u32),
}

/// A piece, as it says.
pub(super) struct Piece {
    pub(super) datagram: Datagram,
    /// It is not the first.
    later: bool,
    /// It is not the last.
    pub(super) more: bool,
    /// Where what it is a piece of begins in the frame.
    pub(super) at: usize,
}

/// Reads it; `None`: its fragment header is not there.
fn read(frame: &[u8], ip: &Ip) -> Option<Piece> {
    let (protocol, id, offset, more, header) = match ip.is_v4() {
        true => {
            let id = u16::from_be_bytes([frame[18], frame[19]]);
            let field = u16::from_be_bytes([frame[20], frame[21]]);
            (
                ip.protocol,
                id.into(),
                field & 0x1fff,
                field & 0x2000 != 0,
                0,
            )
        }
        false => {
            let header = ip.bytes(frame, ip.transport(), 8)?;
            let field = u16::from_be_bytes([header[2], header[3]]);
            let id = u32::from_be_bytes(header[4..8].try_into().expect("four bytes"));
            (header[0], id, field >> 3, field & 1 != 0, 8)
        }
    };
    Some(Piece {
        datagram: Datagram {
            source: ip.source,
            destination: ip.destination,
            protocol,
            id,
        },
        later: offset != 0,
        more,
        at: ip.transport() + header,
    })
}

impl Oracle {
    pub(super) fn piece(&mut self, arrived: &Arrived<'_>) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let Some(piece) = read(frame, ip) else {
            return Err(self.refuse_piece(arrived, DropReason::Truncated));
        };
        self.met.protocol = Some(piece.datagram.protocol);
        let protocol = piece.datagram.protocol;
        // ICMP has no pieces here, and IPv6 no more headers before the transport's.
        let served = match ip.is_v4() {
            true => protocol != 1,
            false => ![0, 43, 44, 51, 58, 60, 135].contains(&protocol),
        };
        if !served {
            return Err(self.refuse_piece(arrived, DropReason::Fragment));
        }
        if !has_ports(protocol) {
            return self.portless_piece(arrived, &piece);
        }
        if piece.later {
            return self.later_piece(arrived, &piece);
        }
        let Some(ports) = ip.bytes(frame, piece.at, 4) else {
            return Err(self.refuse_piece(arrived, DropReason::Truncated));
        };
        let [from, to] = [0, 2].map(|at| u16::from_be_bytes([ports[at], ports[at + 1]]));
        let (source, destination): (SocketAddr, SocketAddr) =
            ((ip.source, from).into(), (ip.destination, to).into());
        let target = &Target::new(destination, protocol);
        let usual = self.maps.usual_at(target);
        if usual.is_none()
            && let Some(place) = self.nat.behind(&self.maps, source, destination, protocol)
        {
            return self.first_back_from_ours(arrived, &piece, place);
        }
        let ends = (source, destination, protocol);
        let reply = || self.flows.behind(&self.maps, ends, arrived.epoch(), false);
        let reply = usual.map_or_else(reply, |_| None);
        let Some((tuple, id)) = reply else {
            let service = self.maps.service_at(target).ok_or(Refusal::Pass)?;
            self.meet(target, service);
            self.alive(arrived, true)?;
            let tuple = Tuple {
                client: source,
                vip: destination,
                protocol,
            };
            return self.first_to_backend(arrived, &piece, service, tuple);
        };
        self.alive(arrived, true)?;
        if piece.more {
            self.follow(arrived, &piece, Followed::ToClient(tuple, id));
        }
        self.piece_to_client(arrived, Some(&piece), tuple, id)
    }

    /// One of a flow between two addresses.
    fn portless_piece(&mut self, arrived: &Arrived<'_>, piece: &Piece) -> Answer {
        let tuple = Tuple {
            client: (arrived.ip.source, 0).into(),
            vip: (arrived.ip.destination, 0).into(),
            protocol: piece.datagram.protocol,
        };
        let target = &Target::new(tuple.vip, tuple.protocol);
        let service = self.maps.service_at(target).ok_or(Refusal::Pass)?;
        self.meet(target, service);
        self.alive(arrived, true).map_err(|refusal| match refusal {
            Refusal::Drop(reason) => Refusal::DropOf(service, reason),
            other => other,
        })?;
        self.first_to_backend(arrived, piece, service, tuple)
    }

    /// Dropped if it is to a VIP.
    fn refuse_piece(&self, arrived: &Arrived<'_>, reason: DropReason) -> Refusal {
        let to_vip = self.maps.is_vip(arrived.ip.destination);
        match (self.alive(arrived, to_vip), to_vip) {
            (Err(refusal), _) => refusal,
            (Ok(()), true) => Refusal::Drop(reason),
            (Ok(()), false) => Refusal::Pass,
        }
    }

    pub(super) fn follow(&mut self, arrived: &Arrived<'_>, piece: &Piece, followed: Followed) {
        let second = arrived.at >> 30;
        self.datagrams.insert(piece.datagram, (second, followed));
    }

    fn later_piece(&mut self, arrived: &Arrived<'_>, piece: &Piece) -> Answer {
        let second = arrived.at >> 30;
        let known = self.datagrams.get(&piece.datagram).copied();
        let Some((_, followed)) = known.filter(|(then, _)| second - then <= LIFETIME.into()) else {
            return Err(self.refuse_piece(arrived, DropReason::Fragment));
        };
        self.alive(arrived, true)?;
        let Arrived { frame, ip, .. } = arrived;
        match followed {
            Followed::ToClient(tuple, id) => self.piece_to_client(arrived, None, tuple, id),
            Followed::Ours(tuple, place) => self.later_of_ours(arrived, tuple, place),
            Followed::ToBackend(id) => {
                let backend = &self.maps.backends[id];
                if !backend.used {
                    return Err(Refusal::Drop(DropReason::Fragment));
                }
                let refuse = |reason| Refusal::DropOf(backend.service, reason);
                whole(frame, ip).map_err(refuse)?;
                if ip.ttl <= 1 {
                    return Err(refuse(DropReason::TtlExpired));
                }
                self.piece_to_backend(arrived, piece, id, Origin::Known, false)
            }
        }
    }

    fn first_to_backend(
        &mut self,
        arrived: &Arrived<'_>,
        piece: &Piece,
        service: usize,
        tuple: Tuple,
    ) -> Answer {
        let refuse = |reason| Refusal::DropOf(service, reason);
        let Arrived { frame, ip, .. } = arrived;
        whole(frame, ip).map_err(refuse)?;
        if ip.is_martian() {
            return Err(refuse(DropReason::MartianSource));
        }
        let protocol = piece.datagram.protocol;
        let meaning = judged(frame, ip, piece).map_err(refuse)?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        if !matches!(protocol, 6 | 132) && self.maps.is_vip(ip.source) {
            return Err(refuse(DropReason::MartianSource));
        }
        if self.maps.denies(service, ip.source) {
            return Err(refuse(DropReason::SourceDenied));
        }
        let tunnels = self.maps.services[service].forwarding;
        let tunnels = matches!(tunnels, Some(Forwarding::Ipip | Forwarding::Gue));
        if tunnels && matches!(protocol, 4 | 41) {
            return Err(refuse(DropReason::Malformed));
        }
        let hash = self.maps.hash(&tuple);
        let (id, origin) = self
            .assign(arrived, service, tuple, hash, meaning)
            .map_err(refuse)?;
        let backend = self.maps.backends[id];
        if backend.forwarding == Some(Forwarding::Fullnat) {
            return self.first_from_ours(arrived, piece, &tuple, (id, origin), meaning);
        }
        let translated = backend.forwarding == Some(Forwarding::Dnat);
        let policy = self.maps.services[service].mid_stream;
        let needs_entry = translated || protocol == 6 && policy != MidStream::Schedule;
        if needs_entry && origin == Origin::NotAdmitted {
            return Err(refuse(DropReason::NotAdmitted));
        }
        if needs_entry && origin == Origin::Alone {
            return Err(refuse(DropReason::MapInconsistent));
        }
        self.maps.hop(backend.next_hop).map_err(refuse)?;
        if translated {
            let hop = (packet::sender(frame), arrived.ingress);
            self.flows.learn(&tuple, hop, &self.maps).map_err(refuse)?;
        }
        if piece.more && has_ports(protocol) {
            self.follow(arrived, piece, Followed::ToBackend(id));
        }
        let connection = protocol != 6 || meaning == Meaning::Opens;
        self.piece_to_backend(arrived, piece, id, origin, connection)
    }

    fn piece_to_backend(
        &mut self,
        arrived: &Arrived<'_>,
        piece: &Piece,
        id: usize,
        origin: Origin,
        connection: bool,
    ) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let backend = self.maps.backends[id];
        let service = backend.service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        let (fate, macs, mtu) = self.way_to(&backend, arrived.ingress).map_err(refuse)?;
        let fits = tunnel::room(&backend, mtu, arrived.at);
        if ip.size() > fits {
            self.ledger.came(id, origin, connection);
            // Nobody is told about a later piece (RFC 1122 section 3.2.2).
            if piece.later && ip.is_v4() {
                return Err(refuse(DropReason::PacketTooBig));
            }
            return self.too_big(arrived, service, fits);
        }
        let output = match backend.forwarding {
            Some(Forwarding::L2dsr) => packet::aged(frame, ip),
            Some(Forwarding::Dnat) if backend.address.ip() == ip.source => {
                self.met.to_itself = true;
                return Err(refuse(DropReason::MartianSource));
            }
            Some(Forwarding::Dnat) => {
                let at = (!piece.later).then_some((piece.at, piece.datagram.protocol));
                packet::moved(frame, ip, at, End::To, backend.address)
            }
            Some(Forwarding::Ipip | Forwarding::Gue) => {
                // Of most pieces the flow is not known: the datagram decides about the tunnel's source.
                let datagram: FlowHash = self.maps.hash_of(&piece.datagram.tuple());
                self.encapsulated(arrived, &backend, datagram)
                    .map_err(refuse)?
            }
            // Has a way of its own.
            Some(Forwarding::Fullnat) | None => return Err(refuse(DropReason::MapInconsistent)),
        };
        self.ledger.came(id, origin, connection);
        self.ledger.backend(id, PerBackend::Packets, 1);
        self.ledger
            .backend(id, PerBackend::Bytes, frame.len() as u64);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Piece).to(&backend))
    }

    /// `first`: the piece, where it is the first.
    fn piece_to_client(
        &mut self,
        arrived: &Arrived<'_>,
        first: Option<&Piece>,
        tuple: Tuple,
        id: usize,
    ) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let backend = self.maps.backends[id];
        if !backend.used {
            return Err(Refusal::Pass);
        }
        let service = backend.service;
        let of = &self.maps.services[service];
        let vip = of.front(tuple.vip.port()).unwrap_or(of.vip);
        if octets(vip.ip()).len() != octets(ip.source).len() {
            return Err(Refusal::Pass);
        }
        let refuse = |reason| Refusal::DropOf(service, reason);
        whole(frame, ip).map_err(refuse)?;
        if let Some(piece) = first {
            judged(frame, ip, piece).map_err(refuse)?;
        }
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        // Since the first piece the flow may have moved.
        if self.flows.backend(&tuple) != Some(id) {
            return Err(refuse(DropReason::Fragment));
        }
        let (fate, macs, fits) = self.way_back(&tuple, arrived.ingress).map_err(refuse)?;
        if ip.size() > fits {
            if first.is_none() && ip.is_v4() {
                return Err(refuse(DropReason::PacketTooBig));
            }
            return self.too_big(arrived, service, fits);
        }
        self.flows.see(&tuple, arrived.epoch(), false);
        let at = first.map(|piece| (piece.at, piece.datagram.protocol));
        let output = packet::moved(frame, ip, at, End::From, vip);
        self.ledger.backend(id, PerBackend::ReplyPackets, 1);
        self.ledger
            .backend(id, PerBackend::ReplyBytes, frame.len() as u64);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Piece))
    }
}

/// What a first piece means for its flow, or what is wrong with it.
fn judged(frame: &[u8], ip: &Ip, piece: &Piece) -> Result<Meaning, DropReason> {
    match piece.datagram.protocol {
        132 => sctp::meaning(frame, ip, piece.at),
        _ => meaning(frame, ip, piece).ok_or(DropReason::Truncated),
    }
}

/// What a first piece means for its flow, but for SCTP's; `None`: it does not hold the whole transport header. How long the datagram
/// is cannot be checked by one piece of it.
pub(super) fn meaning(frame: &[u8], ip: &Ip, piece: &Piece) -> Option<Meaning> {
    let length = match piece.datagram.protocol {
        6 => 20,
        17 => 8,
        132 => sctp::HEADS,
        _ => 0,
    };
    let header = ip.bytes(frame, piece.at, length)?;
    Some(match length {
        20 => packet::flags(header[13]),
        _ => Meaning::Datagram,
    })
}
