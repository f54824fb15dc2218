//! ICMP to a VIP or about a flow: RFC 792, RFC 4443, RFC 5508.

use std::net::{IpAddr, SocketAddr};

use lb_common::{DropReason, Forwarding, counter::Handshake, counter::More, counter::PerBackend};

use super::{
    Answer, Arrived, Fate, Opinion, Oracle, Refusal, Sent,
    checksum::{field, sum},
    flow::Tuple,
    known::Limit,
    packet::{End, Ip, aged, ip_address, octets, put_address, seal},
    relay::{self, Relayed},
    tunnel, whole,
    whose::{Target, has_ports},
};

/// The packet that an error is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: u8,
    /// Where in the frame that begins what it carries.
    pub(super) carried_at: usize,
    /// It is a piece of a datagram.
    is_piece: bool,
}

/// Reads the quote of an error: of any protocol but ICMP, with the ports where it has such. Behind an IPv6 header there is
/// nothing else, or a fragment header; of a later piece the ports are elsewhere.
fn quote(frame: &[u8], ip: &Ip) -> Option<Quote> {
    let at = ip.transport() + 8;
    let header = ip.bytes(frame, at, ip.header())?;
    let mut carried_at = at + ip.header();
    let (addresses, mut protocol, mut offset) = match ip.is_v4() {
        true => {
            let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
            if header[0] != 0x45 {
                return None;
            }
            (&header[12..20], header[9], offset)
        }
        false if header[0] >> 4 == 6 => (&header[8..40], header[6], 0),
        false => return None,
    };
    if !ip.is_v4() && protocol == 44 {
        let fragment = ip.bytes(frame, carried_at, 8)?;
        protocol = fragment[0];
        offset = u16::from_be_bytes([fragment[2], fragment[3]]) / 8;
        carried_at += 8;
    }
    if offset != 0 && has_ports(protocol) {
        return None;
    }
    let is_piece = match ip.is_v4() {
        true => header[6] & 0x20 != 0 || offset != 0,
        false => header[6] == 44,
    };
    let carried = ip.bytes(frame, carried_at, 4)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let port = |at: usize| match has_ports(protocol) {
        true => u16::from_be_bytes([carried[at], carried[at + 1]]),
        false => 0,
    };
    let nobodys = match ip.is_v4() {
        true => protocol == 1,
        false => matches!(protocol, 58 | 0 | 43 | 44 | 51 | 60 | 135),
    };
    (!nobodys).then(|| Quote {
        source: (ip_address(source), port(0)).into(),
        destination: (ip_address(destination), port(2)).into(),
        protocol,
        carried_at,
        is_piece,
    })
}

impl Oracle {
    pub(super) fn icmp(&mut self, arrived: &Arrived<'_>) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let to_vip = self.maps.is_vip(ip.destination);
        let header = match ip.odd {
            None => ip.bytes(frame, ip.transport(), 8),
            Some(_) => None,
        };
        let (echo, error) = match (header.map(|header| header[0]), ip.is_v4()) {
            (Some(8), true) | (Some(128), false) => (true, false),
            (Some(3 | 11 | 12), true) | (Some(1..=4), false) => (false, true),
            (Some(_), _) => return Err(Refusal::Pass),
            (None, _) => (false, false),
        };
        self.alive(arrived, to_vip)?;
        match (echo, error) {
            (true, _) if to_vip => self.echo(arrived),
            (_, true) if to_vip => self.error_to_vip(arrived),
            (_, true) if self.complaint(arrived) => Err(Refusal::Pass),
            (_, true) => self.error_from_backend(arrived),
            (false, false) if to_vip => Err(Refusal::Drop(ip.odd.unwrap_or(DropReason::Truncated))),
            _ => Err(Refusal::Pass),
        }
    }

    fn echo(&mut self, arrived: &Arrived<'_>) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        to_vip(frame, ip).map_err(Refusal::Drop)?;
        if !self.limits.admit(Limit::Echo, arrived.at) {
            return Err(Refusal::Drop(DropReason::EchoLimited));
        }
        self.ledger.more(More::EchoReplied);
        let at = ip.transport();
        let mut out = [&frame[6..12], &frame[..6], &frame[12..]].concat();
        put_address(&mut out, ip, End::From, ip.destination);
        put_address(&mut out, ip, End::To, ip.source);
        out[if ip.is_v4() { 22 } else { 21 }] = 64;
        seal(&mut out, ip);
        // The pseudo-header of ICMPv6 has the same addresses, the other way round.
        let before = sum(&frame[at..ip.end]);
        out[at] = if ip.is_v4() { 0 } else { 129 };
        out[at + 2..at + 4].fill(0);
        let check = field(before, sum(&out[at..ip.end]));
        out[at + 2..at + 4].copy_from_slice(&check);
        Ok(Opinion::sent(Fate::Tx, out, Sent::Echoed))
    }

    /// An error about what a VIP sent: it goes to the backend that did.
    fn error_to_vip(&mut self, arrived: &Arrived<'_>) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        to_vip(frame, ip).map_err(Refusal::Drop)?;
        let nobody = || Refusal::Drop(DropReason::IcmpNoFlow);
        let about = quote(frame, ip)
            .filter(|quote| quote.source.ip() == ip.destination)
            .ok_or_else(nobody)?;
        self.met.quoted_piece = about.is_piece;
        let target = &Target::new(about.source, about.protocol);
        let service = self.maps.service_at(target).ok_or_else(nobody)?;
        self.meet(target, service);
        self.met.protocol = Some(about.protocol);
        let refuse = |reason| Refusal::DropOf(service, reason);
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let tuple = Tuple {
            client: about.destination,
            vip: about.source,
            protocol: about.protocol,
        };
        let id = self
            .flows
            .holder(&self.maps, service, &tuple)
            .ok_or(refuse(DropReason::IcmpNoFlow))?;
        let ours = match self.maps.backends[id].forwarding {
            Some(Forwarding::Fullnat) => {
                let ours = self.nat.end_of(&tuple, id);
                Some(ours.ok_or(refuse(DropReason::IcmpNoFlow))?)
            }
            _ => None,
        };
        let relayed = self.relay_to_backend(arrived, &about, id, ours);
        let output = relayed.map_err(refuse)?;
        self.ledger.more(More::IcmpRelayed);
        self.ledger.backend(id, PerBackend::IcmpErrors, 1);
        Ok(output)
    }

    fn relay_to_backend(
        &mut self,
        arrived: &Arrived<'_>,
        about: &Quote,
        id: usize,
        ours: Option<SocketAddr>,
    ) -> Result<Opinion, DropReason> {
        let Arrived { frame, ip, .. } = arrived;
        let group = self.maps.group_of(Limit::IcmpError, ip.source);
        if !self.limits.admit_from(Limit::IcmpError, group, arrived.at) {
            return Err(DropReason::IcmpLimited);
        }
        let backend = self.maps.backends[id];
        let (fate, macs, mtu) = self.way_to(&backend, arrived.ingress)?;
        if ip.size() > tunnel::room(&backend, mtu, arrived.at) {
            return Err(DropReason::PacketTooBig);
        }
        let output = match backend.forwarding {
            Some(Forwarding::L2dsr) => aged(frame, ip),
            // An error has no flow of its own, so it shows no hash.
            Some(Forwarding::Ipip | Forwarding::Gue) => {
                self.encapsulated(arrived, &backend, lb_common::FlowHash(0))?
            }
            Some(Forwarding::Dnat) => relay::translated(
                frame,
                ip,
                about,
                &Relayed {
                    quoted: &[(End::From, backend.address)],
                    outer: &[(End::To, backend.address.ip())],
                },
            ),
            // The backend knows the client by another name, and the balancer is who speaks to it.
            Some(Forwarding::Fullnat) => {
                let ours = ours.ok_or(DropReason::IcmpNoFlow)?;
                let relayed = Relayed {
                    quoted: &[(End::From, backend.address), (End::To, ours)],
                    outer: &[(End::From, ours.ip()), (End::To, backend.address.ip())],
                };
                relay::translated(frame, ip, about, &relayed)
            }
            None => return Err(DropReason::MapInconsistent),
        };
        Ok(Opinion::sent(fate, macs.on(output), Sent::Relayed).to(&backend))
    }

    /// An error about what a client sent to a backend: it goes to the client, if there is such a flow.
    fn error_from_backend(&mut self, arrived: &Arrived<'_>) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let about = quote(frame, ip)
            .filter(|quote| quote.source.ip() == ip.destination)
            .ok_or(Refusal::Pass)?;
        let behind = (about.destination, about.source, about.protocol);
        let Some((tuple, id)) = self
            .flows
            .behind(&self.maps, behind, arrived.epoch(), false)
        else {
            let behind = self.nat.behind(&self.maps, behind.0, behind.1, behind.2);
            let slot = behind.ok_or(Refusal::Pass)?;
            return self.error_about_ours(arrived, &about, slot);
        };
        let service = self.maps.backends[id].service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        whole(frame, ip).map_err(refuse)?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        if !self.limits.admit(Limit::IcmpError, arrived.at) {
            return Err(refuse(DropReason::IcmpLimited));
        }
        let (fate, macs, fits) = self.way_back(&tuple, arrived.ingress).map_err(refuse)?;
        if ip.size() > fits {
            return Err(refuse(DropReason::PacketTooBig));
        }
        // A backend speaks as the VIP, a router before it for itself.
        let speaker: IpAddr = match ip.source == about.destination.ip() {
            true => tuple.vip.ip(),
            false => ip.source,
        };
        let relayed = Relayed {
            quoted: &[(End::To, tuple.vip)],
            outer: &[(End::From, speaker)],
        };
        let output = relay::translated(frame, ip, &about, &relayed);
        self.ledger.more(More::IcmpRelayed);
        self.unreachable(arrived, id);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Relayed))
    }

    /// An error about what one of our addresses sent for a client.
    fn error_about_ours(&mut self, arrived: &Arrived<'_>, about: &Quote, slot: u32) -> Answer {
        let Arrived { frame, ip, .. } = arrived;
        let flow = self.nat.flow(slot);
        let service = self.maps.backends[flow.backend].service;
        let refuse = |reason| Refusal::DropOf(service, reason);
        whole(frame, ip).map_err(refuse)?;
        if ip.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        if !self.limits.admit(Limit::IcmpError, arrived.at) {
            return Err(refuse(DropReason::IcmpLimited));
        }
        let (fate, macs, fits) = self
            .way_out(Some(flow.hop), arrived.ingress)
            .map_err(refuse)?;
        if ip.size() > fits {
            return Err(refuse(DropReason::PacketTooBig));
        }
        let vip = SocketAddr::new(self.maps.services[service].vip.ip(), flow.tuple.vip.port());
        let client = flow.tuple.client;
        let speaker = match ip.source == about.destination.ip() {
            true => vip.ip(),
            false => ip.source,
        };
        let relayed = Relayed {
            quoted: &[(End::To, vip), (End::From, client)],
            outer: &[(End::From, speaker), (End::To, client.ip())],
        };
        let output = relay::translated(frame, ip, about, &relayed);
        self.ledger.more(More::IcmpRelayed);
        self.unreachable(arrived, flow.backend);
        Ok(Opinion::sent(fate, macs.on(output), Sent::Relayed))
    }

    /// An error for a client says that a backend cannot be reached; that a packet was too big says nothing of the kind.
    fn unreachable(&mut self, arrived: &Arrived<'_>, id: usize) {
        let Arrived { frame, ip, .. } = arrived;
        let header = ip.bytes(frame, ip.transport(), 2);
        let says = header.is_some_and(|header| match ip.is_v4() {
            true => header[0] == 3 && header[1] != 4,
            false => header[0] == 1,
        });
        if says {
            self.ledger.handshake(id, Handshake::Unreachable);
        }
    }
}

/// What a message to a VIP must be.
fn to_vip(frame: &[u8], ip: &Ip) -> Result<(), DropReason> {
    whole(frame, ip)?;
    match ip.is_martian() {
        true => Err(DropReason::MartianSource),
        false => Ok(()),
    }
}

/// An address in bytes, at one end of a header of its family that begins at an offset.
pub(super) fn address_at(ip: &Ip, header: usize, end: End) -> usize {
    let size = octets(ip.source).len();
    let first = if ip.is_v4() { 12 } else { 8 };
    header + first + if end == End::To { size } else { 0 }
}
