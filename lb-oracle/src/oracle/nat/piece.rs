//! Pieces of datagrams from and to our ends.

use lb_common::{DropReason, counter::PerBackend};
use lb_ebpf::fixture::world::Side;

use super::{
    super::{
        Answer, Arrived, Opinion, Oracle, Refusal, Sent,
        flow::{Origin, Tuple},
        packet::{self, Meaning, octets},
        piece::{Followed, Piece, meaning},
        whole,
    },
    life::Ending,
};

impl Oracle {
    /// A client's first piece, whose later ones follow it.
    pub(in super::super) fn first_from_ours(
        &mut self,
        arrived: &Arrived<'_>,
        piece: &Piece,
        tuple: &Tuple,
        (id, origin): (usize, Origin),
        meaning: Meaning,
    ) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let backend = self.maps.backends[id];
        let service = backend.service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        let (fate, macs, mtu) = self.way_to(&backend, arrived.ingress).map_err(refuse)?;
        let connection = matches!(meaning, Meaning::Datagram | Meaning::Opens);
        self.ledger.came(id, origin, connection);
        if origin == Origin::NotAdmitted {
            return Err(refuse(DropReason::NotAdmitted));
        }
        // Who the client is cannot be said in a part of a SYN, and a datagram of two clients' pieces must be told from one.
        let tells = meaning == Meaning::Opens && backend.tunnel.option_kind() != 0;
        let sum = &frame[piece.at + 6..piece.at + 8];
        if tells || meaning == Meaning::Datagram && sum == [0, 0] {
            return Err(refuse(DropReason::Fragment));
        }
        let Some(place) = self.stand_in(arrived, tuple, id, (meaning, piece.at), mtu)? else {
            return self.too_big(arrived, service, mtu);
        };
        if piece.more {
            self.follow(arrived, piece, Followed::Ours(*tuple, place));
        }
        if ip.size() > mtu {
            return self.too_big(arrived, service, mtu);
        }
        let ours = self.nat.flow(place).ours;
        let at = Some((piece.at, piece.datagram.protocol));
        let output = packet::exchanged_piece(frame, ip, at, ours, backend.address);
        self.went(id, frame);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Piece))
    }

    fn went(&mut self, id: usize, frame: &[u8]) {
        self.met.own_piece = Some(Side::Backend);
        self.ledger.backend(id, PerBackend::Packets, 1);
        self.ledger
            .backend(id, PerBackend::Bytes, frame.len() as u64);
    }

    fn came_back(&mut self, id: usize, frame: &[u8]) {
        self.met.own_piece = Some(Side::Client);
        self.ledger.backend(id, PerBackend::ReplyPackets, 1);
        self.ledger
            .backend(id, PerBackend::ReplyBytes, frame.len() as u64);
    }

    /// A backend's first piece.
    pub(in super::super) fn first_back_from_ours(
        &mut self,
        arrived: &Arrived<'_>,
        piece: &Piece,
        place: u32,
    ) -> Answer {
        let flow = self.nat.flow(place);
        let (tuple, id) = (flow.tuple, flow.backend);
        if piece.more {
            self.follow(arrived, piece, Followed::Ours(tuple, place));
        }
        self.alive(arrived, true)?;
        let Arrived { frame, ip, .. } = arrived;
        let service = self.maps.backends[id].service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        whole(frame, ip).map_err(refuse)?;
        let meaning = meaning(frame, ip, piece).ok_or(refuse(DropReason::Truncated))?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let way = self.way_out(Some(flow.hop), arrived.ingress);
        let (fate, macs, fits) = way.map_err(refuse)?;
        if ip.size() > fits {
            return self.too_big(arrived, service, fits);
        }
        let known = self.nat.flows.get_mut(&place).expect("was found");
        let ending = Ending::of(frame, piece.at, meaning);
        if known.life.note_reply(ending, arrived.at >> 30) {
            let closing = known.life.is_closing();
            if self.flows.backend(&tuple) == Some(id) {
                self.flows.see(&tuple, arrived.epoch(), closing);
            }
        }
        let vip = (self.maps.services[service].vip.ip(), tuple.vip.port()).into();
        let at = Some((piece.at, piece.datagram.protocol));
        let output = packet::exchanged_piece(frame, ip, at, vip, tuple.client);
        self.came_back(id, frame);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Piece))
    }

    /// A later piece: who sends it says to whom.
    pub(in super::super) fn later_of_ours(
        &mut self,
        arrived: &Arrived<'_>,
        tuple: Tuple,
        place: u32,
    ) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let lost = Refusal::Drop(DropReason::Fragment);
        let flow = self.nat.flows.get(&place).copied();
        // The place may have become another flow's.
        let flow = flow.filter(|flow| flow.tuple == tuple).ok_or(lost)?;
        let backend = self.maps.backends[flow.backend];
        if !backend.used || self.nat.ports.is_none() {
            return Err(lost);
        }
        let service = backend.service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        // An id that has been given to a backend of another service before its flows were gone: their VIP is that service's no more.
        let vip = self.maps.services[service].vip.ip();
        let to_backend = ip.source == tuple.client.ip() && ip.destination == vip;
        let to_client = ip.source == backend.address.ip() && ip.destination == flow.ours.ip();
        if !to_backend && !to_client {
            return Err(refuse(DropReason::Fragment));
        }
        whole(frame, ip).map_err(refuse)?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let way = match to_backend {
            true => self.way_to(&backend, arrived.ingress),
            false => self.way_out(Some(flow.hop), arrived.ingress),
        };
        let (fate, macs, fits) = way.map_err(refuse)?;
        if ip.size() > fits {
            // Nobody is told about a later piece (RFC 1122 section 3.2.2).
            return match octets(ip.source).len() {
                4 => Err(refuse(DropReason::PacketTooBig)),
                _ => self.too_big(arrived, service, fits),
            };
        }
        let vip = (vip, tuple.vip.port()).into();
        let (from, to) = match to_backend {
            true => (flow.ours, backend.address),
            false => (vip, tuple.client),
        };
        match to_backend {
            true => self.went(flow.backend, frame),
            false => self.came_back(flow.backend, frame),
        }
        let output = packet::exchanged_piece(frame, ip, None, from, to);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Piece))
    }
}
