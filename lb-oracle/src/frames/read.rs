//! A frame, as etherparse reads it. Pure, part of `frames`.

use std::net::IpAddr;

use etherparse::{
    Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, SingleVlanHeaderSlice, TcpSlice, UdpSlice, ether_type,
};

use super::octets;

/// Bytes of an Ethernet header, and of a tag.
const ETHERNET: usize = 14;
const TAG: usize = 4;

/// A frame, or what is in a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed<'a> {
    /// Tags before the packet.
    pub(super) tags: usize,
    pub(super) is_v4: bool,
    pub(super) ttl: u8,
    /// Type of service, or traffic class.
    pub(super) class: u8,
    /// What the IP header names.
    pub(super) protocol: u8,
    /// What a piece is one of, else the same.
    pub(super) carried: u8,
    pub(super) is_piece: bool,
    /// From the IP header to the end that it says.
    pub(super) packet: &'a [u8],
    /// What is behind that.
    pub(super) rest: &'a [u8],
}

/// A whole packet of a protocol that is balanced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    pub(super) protocol: u8,
    /// The sum over what the transport checksum covers, modulo 65,535: 0 where it is right. `None`: there is none.
    pub(super) off: Option<u64>,
    /// What the IP packet carries.
    pub(super) segment: &'a [u8],
    /// What that carries; all of it where nobody may change a byte.
    pub(super) data: &'a [u8],
}

/// The sum of big-endian words, modulo 65,535.
fn total(pseudo: &[u8], covered: &[u8]) -> u64 {
    let sum = |bytes: &[u8]| -> u64 {
        let words = bytes.chunks(2);
        words
            .map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)))
            .sum()
    };
    (sum(pseudo) + sum(covered)) % 65_535
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

impl<'a> Framed<'a> {
    /// A frame with any number of tags.
    pub(super) fn of(frame: &'a [u8]) -> Result<Self, String> {
        let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(text)?;
        let (mut kind, mut tags) = (ethernet.ether_type(), 0);
        let mut rest = &frame[ETHERNET..];
        while [ether_type::VLAN_TAGGED_FRAME, ether_type::PROVIDER_BRIDGING].contains(&kind) {
            let tag = SingleVlanHeaderSlice::from_slice(rest).map_err(text)?;
            (kind, tags, rest) = (tag.ether_type(), tags + 1, &rest[TAG..]);
        }
        let expected = match rest.first().map(|first| first >> 4) {
            Some(4) => ether_type::IPV4,
            _ => ether_type::IPV6,
        };
        if kind != expected {
            return Err(format!("{kind:?} before another packet"));
        }
        let framed = Self::of_packet(rest)?;
        Ok(Self { tags, ..framed })
    }

    /// A packet, and what is behind it.
    pub(super) fn of_packet(from: &'a [u8]) -> Result<Self, String> {
        let is_v4 = from.first().is_some_and(|first| first >> 4 == 4);
        let (ttl, class, protocol, length) = match is_v4 {
            true => {
                let header = Ipv4HeaderSlice::from_slice(from).map_err(text)?;
                // Of the slice: as a value the header has no room for the reserved flag.
                if total(&[], header.slice()) != 0 || header.ihl() != 5 {
                    return Err("a wrong IPv4 header checksum, or options".into());
                }
                let length = usize::from(header.total_len());
                (header.ttl(), header.slice()[1], header.protocol().0, length)
            }
            false => {
                let header = Ipv6HeaderSlice::from_slice(from).map_err(text)?;
                let length = 40 + usize::from(header.payload_length());
                let protocol = header.next_header().0;
                (header.hop_limit(), header.traffic_class(), protocol, length)
            }
        };
        let packet = from.get(..length);
        let packet = packet.ok_or("a packet that goes on behind its frame")?;
        let (is_piece, carried) = match (is_v4, protocol) {
            (true, _) => {
                let header = Ipv4HeaderSlice::from_slice(packet).map_err(text)?;
                (header.is_fragmenting_payload(), protocol)
            }
            (false, 44) => {
                let piece = Ipv6FragmentHeaderSlice::from_slice(&packet[40..]).map_err(text)?;
                (true, piece.next_header().0)
            }
            (false, _) => (false, protocol),
        };
        Ok(Self {
            tags: 0,
            is_v4,
            ttl,
            class,
            protocol,
            carried,
            is_piece,
            packet,
            rest: &from[length..],
        })
    }

    /// Behind the IP header, which has no options.
    pub(super) fn payload(&self) -> &'a [u8] {
        &self.packet[if self.is_v4 { 20 } else { 40 }..]
    }

    /// What says which piece of which datagram it is.
    pub(super) fn fragment(&self) -> &'a [u8] {
        match self.is_v4 {
            true => &self.packet[4..8],
            false => &self.payload()[..8],
        }
    }

    pub(super) fn is_first(&self) -> bool {
        let fragment = self.fragment();
        match self.is_v4 {
            true => fragment[2] & 0x1f == 0 && fragment[3] == 0,
            false => fragment[2] == 0 && fragment[3] & 0xf8 == 0,
        }
    }

    /// What addresses and payload sum up to.
    pub(super) fn covered(&self) -> u64 {
        let (source, destination) = self.addresses();
        total(
            &[octets(source), octets(destination)].concat(),
            self.payload(),
        )
    }

    pub(super) fn addresses(&self) -> (IpAddr, IpAddr) {
        let (at, size) = if self.is_v4 { (12, 4) } else { (8, 16) };
        let address = |at: usize| -> IpAddr {
            let bytes = &self.packet[at..at + size];
            match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => v4.into(),
                Err(_) => <[u8; 16]>::try_from(bytes).expect("sixteen bytes").into(),
            }
        };
        (address(at), address(at + size))
    }

    /// Addresses, ports and checksum of a packet that is no piece.
    pub(super) fn ends(&self) -> Result<Ends<'a>, String> {
        let (source, destination) = self.addresses();
        let (protocol, segment) = (self.carried, self.payload());
        let pseudo = |length: usize| {
            let length = (length as u32).to_be_bytes();
            let ends = [octets(source), octets(destination)].concat();
            [&ends[..], &length, &[0, protocol]].concat()
        };
        let (ports, off, data) = match (protocol, self.is_v4) {
            (6, _) => {
                let tcp = TcpSlice::from_slice(segment).map_err(text)?;
                let off = total(&pseudo(segment.len()), segment);
                let ports = [tcp.source_port(), tcp.destination_port()];
                (ports, Some(off), &segment[tcp.header_slice().len()..])
            }
            (17, _) => {
                let udp = UdpSlice::from_slice(segment).map_err(text)?;
                let length = usize::from(udp.length());
                let off = match udp.checksum() {
                    0 => None,
                    _ => Some(total(&pseudo(length), &segment[..length])),
                };
                let ports = [udp.source_port(), udp.destination_port()];
                (ports, off, &segment[8..])
            }
            (1, true) => {
                Icmpv4Slice::from_slice(segment).map_err(text)?;
                ([0, 0], Some(total(&[], segment)), &segment[4..])
            }
            (58, false) => {
                Icmpv6Slice::from_slice(segment).map_err(text)?;
                let off = total(&pseudo(segment.len()), segment);
                ([0, 0], Some(off), &segment[4..])
            }
            // Its CRC32c covers no address, and its ports stay: no byte changes.
            (132, _) => {
                let [a, b, c, d] = *segment.first_chunk().ok_or("SCTP without ports")?;
                ([[a, b], [c, d]].map(u16::from_be_bytes), None, segment)
            }
            // Nor does one of what nobody reads.
            _ => ([0, 0], None, segment),
        };
        Ok(Ends {
            source: (source, ports[0]),
            destination: (destination, ports[1]),
            protocol,
            off,
            segment,
            data,
        })
    }
}
