//! What the data plane knows of a packet: its addresses and protocol, and whether it is whole.
//!
//! Sources: RFC 791 section 3.1 (IPv4), RFC 8200 sections 3 and 4 (IPv6), RFC 9293 section 3.1
//! (TCP), RFC 768 (UDP), RFC 9260 section 3 (SCTP). All offsets are constants, because packets with IPv4 options or IPv6
//! extension headers are not balanced.

mod arrival;

use lb_common::counter::Handshake;
use lb_common::{Address, DropReason, Family};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    checksum,
    frame::Frame,
    wire::{L3, L4_V4, L4_V6, Ports, Sctp, Tcp, flag, protocol, v4},
};
pub use arrival::Arrival;

/// SYN with ACK.
const ACCEPTS: u32 = (flag::SYN | flag::ACK) as u32;
/// RST with ACK.
const REFUSES: u32 = (flag::RST | flag::ACK) as u32;

/// 1 for 0, and 0 for all others below 2^63, without a branch.
#[inline(always)]
fn is_zero(number: u64) -> u64 {
    core::hint::black_box(number).wrapping_sub(1) >> 63
}

/// An IP packet, by value.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Its family, by EtherType.
    pub family: Family,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// IANA number of what follows the IP header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub class: u8,
    /// Offset in the frame at which the packet ends by its own length field.
    pub end: usize,
    /// Why nothing behind the IP header can be read, if so.
    pub oddity: Option<DropReason>,
}

/// Reads an IPv4 header; `None` when the frame is too short to tell whose it is.
#[inline(always)]
pub fn ipv4<F: Frame>(frame: &F) -> Option<Packet> {
    Some(of_ipv4(frame.header::<Ipv4Hdr>(L3)?))
}

/// What an IPv4 header says.
#[inline(always)]
pub fn of_ipv4(ip: &Ipv4Hdr) -> Packet {
    let length = u16::from_be_bytes(ip.tot_len) as usize;
    let oddity = match ip.vihl {
        0x45 if length < Ipv4Hdr::LEN => Some(DropReason::Malformed),
        // More fragments, or an offset: RFC 791 section 3.1.
        0x45 if u16::from_be_bytes(ip.frags) & 0x3fff != 0 => Some(DropReason::Fragment),
        0x45 => None,
        0x46..=0x4f => Some(DropReason::IpOptions),
        _ => Some(DropReason::Malformed),
    };
    Packet {
        family: Family::V4,
        source: v4(ip.src_addr),
        destination: v4(ip.dst_addr),
        protocol: ip.proto,
        ttl: ip.ttl,
        class: ip.tos,
        end: L3.wrapping_add(length),
        oddity,
    }
}

/// Reads an IPv6 header; `None` when the frame is too short to tell whose it is, or the
/// destination is IPv4-mapped, which no VIP on the wire is.
#[inline(always)]
pub fn ipv6<F: Frame>(frame: &F) -> Option<Packet> {
    of_ipv6(frame.header::<Ipv6Hdr>(L3)?)
}

/// What an IPv6 header says; `None` when the destination is IPv4-mapped.
#[inline(always)]
pub fn of_ipv6(ip: &Ipv6Hdr) -> Option<Packet> {
    let destination = Address::v6(ip.dst_addr);
    if destination.is_v4() {
        return None;
    }
    let [first, second, ..] = ip.vcf;
    let oddity = if first >> 4 != 6 {
        Some(DropReason::Malformed)
    } else {
        match ip.next_hdr {
            protocol::FRAGMENT => Some(DropReason::Fragment),
            next if is_extension(next) => Some(DropReason::ExtensionHeader),
            _ => None,
        }
    };
    Some(Packet {
        family: Family::V6,
        source: Address::v6(ip.src_addr),
        destination,
        protocol: ip.next_hdr,
        ttl: ip.hop_limit,
        class: first << 4 | second >> 4,
        end: L4_V6.wrapping_add(u16::from_be_bytes(ip.payload_len) as usize),
        oddity,
    })
}

/// True for an IPv6 header behind which another one says what the packet is; the fragment header is not meant.
#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
    )
}

/// True where a datagram in pieces is of no protocol that a service may have: ICMP, and IPv6 with more headers before
/// the transport's.
#[inline(always)]
pub(crate) const fn is_served_whole(family: Family, protocol: u8) -> bool {
    match family {
        Family::V4 => protocol == protocol::ICMP,
        Family::V6 => {
            is_extension(protocol) || matches!(protocol, protocol::ICMPV6 | protocol::FRAGMENT)
        }
    }
}

/// What a packet says about itself as a piece of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What all pieces of the datagram have in common; 16 bits for IPv4.
    pub id: u32,
    /// Where it stands in the datagram, in units of eight bytes.
    pub offset: u16,
    /// It is not the last.
    pub more: bool,
    /// What the datagram is: an IANA number.
    pub protocol: u8,
    /// Bytes between the IP header and what is a piece.
    pub header: usize,
}

/// Reads what a fragment says about itself: in the IPv4 header, or in a fragment header that follows the IPv6 header at
/// once. `None`: it ends before that.
#[inline(always)]
pub fn piece<F: Frame>(frame: &F, packet: &Packet) -> Option<Piece> {
    match packet.family {
        Family::V4 => {
            let ip = frame.header::<Ipv4Hdr>(L3)?;
            let fields = u16::from_be_bytes(ip.frags);
            Some(Piece {
                id: u16::from_be_bytes(ip.id) as u32,
                offset: fields & 0x1fff,
                more: fields & 0x2000 != 0,
                protocol: packet.protocol,
                header: 0,
            })
        }
        Family::V6 => {
            if !packet.holds(L4_V6, FRAGMENT_HEADER) {
                return None;
            }
            let [[next, _, high, low], id] = *frame.header::<[[u8; 4]; 2]>(L4_V6)?;
            let fields = u16::from_be_bytes([high, low]);
            Some(Piece {
                id: u32::from_be_bytes(id),
                offset: fields >> 3,
                more: fields & 1 != 0,
                protocol: next,
                header: FRAGMENT_HEADER,
            })
        }
    }
}

/// Bytes of an IPv6 fragment header (RFC 8200 section 4.5).
pub(crate) const FRAGMENT_HEADER: usize = 8;

/// Reads an IP header of one family.
#[inline(always)]
pub fn ip<F: Frame, const V4: bool>(frame: &F) -> Option<Packet> {
    match V4 {
        true => ipv4(frame),
        false => ipv6(frame),
    }
}

/// Where a transport header begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    /// Offset in the frame.
    pub(crate) at: usize,
    /// IANA number.
    pub(crate) protocol: u8,
}

impl Transport {
    /// Its ports; `None` when the packet ends before they do.
    #[inline(always)]
    pub(crate) fn ports<F: Frame>(self, frame: &F, packet: &Packet) -> Option<Ports> {
        if !packet.holds(self.at, size_of::<Ports>()) {
            return None;
        }
        frame.header::<Ports>(self.at).copied()
    }
}

impl Packet {
    /// Where the transport header begins.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        match self.family {
            Family::V4 => L4_V4,
            Family::V6 => L4_V6,
        }
    }

    /// Where the transport header begins, and whose it is; `PIECE`: of a first piece. `None`: it ends before that.
    #[inline(always)]
    pub(crate) fn transport<F: Frame, const PIECE: bool>(&self, frame: &F) -> Option<Transport> {
        let (at, protocol) = match PIECE {
            false => (self.l4(), self.protocol),
            true => {
                let piece = piece(frame, self)?;
                (self.l4().wrapping_add(piece.header), piece.protocol)
            }
        };
        Some(Transport { at, protocol })
    }

    /// Bytes of the IP packet by its own length field.
    #[inline(always)]
    pub const fn size(&self) -> u32 {
        self.end.wrapping_sub(L3) as u32
    }

    /// True for this family's ICMP.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        match self.family {
            Family::V4 => self.protocol == protocol::ICMP,
            Family::V6 => self.protocol == protocol::ICMPV6,
        }
    }

    /// True when `size` bytes of the packet, not of Ethernet's padding, stand at `offset`.
    #[inline(always)]
    pub const fn holds(&self, offset: usize, size: usize) -> bool {
        offset.wrapping_add(size) <= self.end
    }

    /// The ports of a packet that has some; `None` when it ends before they do.
    #[inline(always)]
    pub fn ports<F: Frame>(&self, frame: &F) -> Option<Ports> {
        if !self.holds(self.l4(), size_of::<Ports>()) {
            return None;
        }
        frame.header::<Ports>(self.l4()).copied()
    }

    /// Checks what only packets that are ours are checked for: that the frame holds the whole packet, and
    /// that the IPv4 header checksum is right.
    #[inline(always)]
    pub fn check_ip<F: Frame>(&self, frame: &F) -> Result<(), DropReason> {
        if self.end > frame.len() {
            return Err(DropReason::Truncated);
        }
        self.check_sum(frame)
    }

    /// Checks the IPv4 header checksum.
    #[inline(always)]
    pub fn check_sum<F: Frame>(&self, frame: &F) -> Result<(), DropReason> {
        if matches!(self.family, Family::V4) {
            let words = frame
                .header::<[[u8; 4]; 5]>(L3)
                .ok_or(DropReason::Truncated)?;
            if !checksum::ipv4_header_is_right(*words) {
                return Err(DropReason::BadIpChecksum);
            }
        }
        Ok(())
    }

    /// Checks the lengths in a TCP, UDP or SCTP header and says what the packet means for its flow.
    #[inline(always)]
    pub fn check_transport<F: Frame>(&self, frame: &F) -> Result<Arrival, DropReason> {
        if self.protocol == protocol::SCTP {
            return self.read_sctp(frame, self.l4());
        }
        let mut arrival = Arrival::MIDDLE;
        self.read_transport(frame, &mut arrival)?;
        Ok(arrival)
    }

    /// The same of TCP and UDP, with the answer in two places: an answer in one is a pair that the compiler packs and unpacks.
    #[inline(always)]
    pub(crate) fn read_transport<F: Frame>(
        &self,
        frame: &F,
        arrival: &mut Arrival,
    ) -> Result<(), DropReason> {
        match self.protocol {
            protocol::TCP => self.read_tcp(frame, arrival),
            _ => self.read_udp(frame, arrival),
        }
    }

    /// Zero, but the verifier takes it for any number: what is mixed with it is the same to it on all ways.
    #[inline(always)]
    pub fn blur(&self) -> u32 {
        u32::from(self.ttl ^ core::hint::black_box(self.ttl))
    }

    /// [`Self::check_transport`] of a backend's packet; `says`: what it says to a client that opens a connection: [`Handshake::Answered`] (SYN
    /// with ACK), [`Handshake::Refused`] (RST with ACK and the sequence number 0, which only who knows of no connection sends: RFC 9293
    /// section 3.10.7.1), or 0.
    ///
    /// Without a branch: the verifier would follow each answer through all that comes.
    #[inline(always)]
    pub fn check_reply<F: Frame>(&self, frame: &F, says: &mut u32) -> Result<Arrival, DropReason> {
        let (mut arrival, mut number) = (Arrival::MIDDLE, 0);
        match self.protocol {
            protocol::SCTP => arrival = self.read_sctp(frame, self.l4())?,
            protocol::TCP => self.read_segment(frame, &mut arrival, &mut number)?,
            _ => self.read_udp(frame, &mut arrival)?,
        }
        // Of other protocols no arrival is one of these.
        let yes = is_zero(u64::from(arrival.0 ^ ACCEPTS));
        let no = is_zero(u64::from(arrival.0 ^ REFUSES) | u64::from(number));
        let word = yes.wrapping_mul(Handshake::Answered as u64)
            | no.wrapping_mul(Handshake::Refused as u64);
        *says = word as u32 | self.blur();
        Ok(arrival)
    }

    /// The first answer to a SYN: SYN and ACK.
    #[inline(always)]
    pub fn accepts<F: Frame>(&self, frame: &F) -> bool {
        const ALL: u8 = flag::SYN | flag::ACK | flag::RST | flag::FIN;
        let flags = match self.protocol {
            protocol::TCP => frame.header::<Tcp>(self.l4()).map(|tcp| tcp.flags),
            _ => None,
        };
        flags.is_some_and(|flags| flags & ALL == flag::SYN | flag::ACK)
    }

    #[inline(always)]
    fn read_tcp<F: Frame>(&self, frame: &F, arrival: &mut Arrival) -> Result<(), DropReason> {
        self.read_segment(frame, arrival, &mut 0)
    }

    /// The same, and the sequence number in any order of bytes.
    #[inline(always)]
    fn read_segment<F: Frame>(
        &self,
        frame: &F,
        arrival: &mut Arrival,
        number: &mut u32,
    ) -> Result<(), DropReason> {
        let tcp = frame
            .header::<Tcp>(self.l4())
            .ok_or(DropReason::Truncated)?;
        let length = usize::from(tcp.offset >> 4).wrapping_mul(4);
        if !self.holds(self.l4(), size_of::<Tcp>()) {
            return Err(DropReason::Truncated);
        }
        if length < size_of::<Tcp>() {
            return Err(DropReason::Malformed);
        }
        if !self.holds(self.l4(), length) {
            return Err(DropReason::Truncated);
        }
        *arrival = Arrival::segment(tcp.flags);
        let [a, b, c, d, ..] = tcp.numbers;
        *number = u32::from_ne_bytes([a, b, c, d]);
        Ok(())
    }

    /// What an SCTP packet means for its flow, or the first piece of one; its header stands at `l4`.
    #[inline(always)]
    pub(crate) fn read_sctp<F: Frame>(&self, frame: &F, l4: usize) -> Result<Arrival, DropReason> {
        let sctp = frame.header::<Sctp>(l4).ok_or(DropReason::Truncated)?;
        if !self.holds(l4, size_of::<Sctp>()) {
            return Err(DropReason::Truncated);
        }
        match u16::from_be_bytes(sctp.length) {
            0..4 => Err(DropReason::Malformed),
            _ => Ok(Arrival::chunk(sctp.chunk)),
        }
    }

    #[inline(always)]
    fn read_udp<F: Frame>(&self, frame: &F, arrival: &mut Arrival) -> Result<(), DropReason> {
        let udp = frame
            .header::<UdpHdr>(self.l4())
            .ok_or(DropReason::Truncated)?;
        let length = u16::from_be_bytes(udp.len) as usize;
        if !self.holds(self.l4(), UdpHdr::LEN) {
            return Err(DropReason::Truncated);
        }
        if length < UdpHdr::LEN {
            return Err(DropReason::Malformed);
        }
        if !self.holds(self.l4(), length) {
            return Err(DropReason::Truncated);
        }
        *arrival = Arrival::DATAGRAM;
        Ok(())
    }
}
