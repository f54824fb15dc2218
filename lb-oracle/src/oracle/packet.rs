//! A frame without tags, read field by field: RFC 791, RFC 8200, RFC 9293, RFC 768.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{DropReason, Protocol};

use super::{
    checksum::{field, sum, udp_field},
    sctp,
    whose::has_ports,
};

/// A MAC address.
pub(super) type Mac = [u8; 6];

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// An IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// Type of service, or traffic class.
    pub(super) class: u8,
    /// Where the packet ends in the frame by its own length.
    pub(super) end: usize,
    /// Why nothing behind the header counts.
    pub(super) odd: Option<DropReason>,
}

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A datagram, or a packet of a protocol without ports, or in the middle of an SCTP association.
    Datagram,
    /// SYN alone, or INIT.
    Opens,
    /// FIN.
    Closes,
    /// RST, whatever else.
    Resets,
    /// The end of an SCTP association.
    Leaves,
    Middle,
}

impl Meaning {
    /// A flow may begin with it.
    pub(super) fn may_begin(self) -> bool {
        !matches!(self, Self::Closes | Self::Resets | Self::Middle)
    }

    pub(super) fn ends(self) -> bool {
        matches!(self, Self::Closes | Self::Resets | Self::Leaves)
    }
}

/// One end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    From,
    To,
}

/// Four bytes as an IPv4 address, sixteen as an IPv6 one.
pub(super) fn ip_address(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("sixteen bytes")).into(),
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Reads the IP header of a frame; `None`: the frame is none of ours, whatever stands behind.
pub(super) fn read(frame: &[u8]) -> Option<Ip> {
    match frame[12..14] {
        [8, 0] if frame.len() >= ETHERNET + 20 => Some(read_v4(&frame[ETHERNET..])),
        // No VIP on the wire is IPv4-mapped.
        [0x86, 0xdd] if frame.len() >= ETHERNET + 40 => Some(read_v6(&frame[ETHERNET..]))
            .filter(|ip| !matches!(ip.destination, IpAddr::V6(a) if a.to_ipv4_mapped().is_some())),
        _ => None,
    }
}

/// True for TCP and UDP.
pub(super) fn balanced(protocol: u8) -> bool {
    matches!(
        Protocol::from_u8(protocol),
        Some(Protocol::Tcp | Protocol::Udp)
    )
}

/// A segment with SYN, of either side.
pub(super) fn is_syn(frame: &[u8], ip: &Ip) -> bool {
    ip.protocol == TCP && frame[ip.transport() + 13] & 2 != 0
}

fn read_v4(header: &[u8]) -> Ip {
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let odd = match (header[0] >> 4, header[0] & 15) {
        (4, 5) if length < 20 => Some(DropReason::Malformed),
        (4, 5) if fragment => Some(DropReason::Fragment),
        (4, 5) => None,
        (4, 6..) => Some(DropReason::IpOptions),
        _ => Some(DropReason::Malformed),
    };
    Ip {
        source: ip_address(&header[12..16]),
        destination: ip_address(&header[16..20]),
        protocol: header[9],
        ttl: header[8],
        class: header[1],
        end: ETHERNET + length,
        odd,
    }
}

fn read_v6(header: &[u8]) -> Ip {
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let odd = match (header[0] >> 4, header[6]) {
        (6, 44) => Some(DropReason::Fragment),
        // Hop-by-hop, routing, authentication, destination options, mobility.
        (6, 0 | 43 | 51 | 60 | 135) => Some(DropReason::ExtensionHeader),
        (6, _) => None,
        _ => Some(DropReason::Malformed),
    };
    Ip {
        source: ip_address(&header[8..24]),
        destination: ip_address(&header[24..40]),
        protocol: header[6],
        ttl: header[7],
        class: header[0] << 4 | header[1] >> 4,
        end: ETHERNET + 40 + payload,
        odd,
    }
}

impl Ip {
    pub(super) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Bytes of the IP header.
    pub(super) fn header(&self) -> usize {
        if self.is_v4() { 20 } else { 40 }
    }

    /// Where the transport header begins in the frame.
    pub(super) fn transport(&self) -> usize {
        ETHERNET + self.header()
    }

    /// Bytes of the packet.
    pub(super) fn size(&self) -> u32 {
        (self.end - ETHERNET) as u32
    }

    pub(super) fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v4() { ICMP } else { ICMPV6 }
    }

    pub(super) fn is_balanced(&self) -> bool {
        balanced(self.protocol)
    }

    /// The bytes of packet and frame at an offset, if both hold them.
    pub(super) fn bytes<'a>(&self, frame: &'a [u8], at: usize, count: usize) -> Option<&'a [u8]> {
        if at + count > self.end {
            return None;
        }
        frame.get(at..at + count)
    }

    /// Source and destination port; 0 where the protocol has none.
    pub(super) fn ports(&self, frame: &[u8]) -> Option<[u16; 2]> {
        if !has_ports(self.protocol) {
            return Some([0, 0]);
        }
        let ports = self.bytes(frame, self.transport(), 4)?;
        Some([0, 2].map(|at| u16::from_be_bytes([ports[at], ports[at + 1]])))
    }

    /// A packet that says its ports, if it has some; of TCP and UDP in a frame with room for the smallest transport header.
    pub(super) fn is_readable(&self, frame: &[u8]) -> bool {
        let room = if self.is_balanced() { 8 } else { 0 };
        self.odd.is_none() && self.ports(frame).is_some() && frame.len() >= self.transport() + room
    }

    /// A source that no client of this destination can have (RFC 1122 section 3.2.1.3).
    pub(super) fn is_martian(&self) -> bool {
        self.source == self.destination
            || match self.source {
                IpAddr::V4(a) => {
                    a.is_loopback() || a.is_multicast() || a.is_unspecified() || a.is_broadcast()
                }
                IpAddr::V6(a) => {
                    a.is_loopback()
                        || a.is_multicast()
                        || a.is_unspecified()
                        || a.to_ipv4_mapped().is_some()
                }
            }
    }

    /// The pseudo-header's sum. Its length is constant over all that is done to a packet, so it does not count.
    fn pseudo(&self, frame: &[u8]) -> u64 {
        let (at, size) = if self.is_v4() { (12, 8) } else { (8, 32) };
        sum(&frame[ETHERNET + at..][..size])
    }
}

/// The sum of a pseudo-header: addresses, protocol, length.
pub(super) fn pseudo_of(ip: &Ip, protocol: u8, length: usize) -> u64 {
    let ends = [octets(ip.source), octets(ip.destination)].concat();
    sum(&ends) + u64::from(protocol) + length as u64
}

/// Who sent the frame.
pub(super) fn sender(frame: &[u8]) -> Mac {
    frame[6..12].try_into().expect("six bytes")
}

/// The IPv4 header sums up to all ones; IPv6 has no checksum.
pub(super) fn header_is_right(frame: &[u8], ip: &Ip) -> bool {
    !ip.is_v4() || sum(&frame[ETHERNET..ETHERNET + 20]) == 0
}

/// The transport header's lengths, and what the packet means for its flow.
pub(super) fn meaning(frame: &[u8], ip: &Ip) -> Result<Meaning, DropReason> {
    if !balanced(ip.protocol) {
        return match has_ports(ip.protocol) {
            true => sctp::meaning(frame, ip, ip.transport()),
            // Nothing of theirs is read.
            false => Ok(Meaning::Datagram),
        };
    }
    let at = ip.transport();
    let least = if ip.protocol == TCP { 20 } else { 8 };
    let header = ip.bytes(frame, at, least).ok_or(DropReason::Truncated)?;
    let length = match ip.protocol {
        TCP => usize::from(header[12] >> 4) * 4,
        _ => usize::from(u16::from_be_bytes([header[4], header[5]])),
    };
    if length < least {
        return Err(DropReason::Malformed);
    }
    if at + length > ip.end {
        return Err(DropReason::Truncated);
    }
    if ip.protocol != TCP {
        return Ok(Meaning::Datagram);
    }
    Ok(flags(header[13]))
}

/// A server's first answer to a SYN.
pub(super) fn accepts(frame: &[u8], ip: &Ip) -> bool {
    let header = ip.bytes(frame, ip.transport(), 20);
    header.is_some_and(|header| ip.protocol == TCP && header[13] & 0x17 == 0x12)
}

/// What TCP's flags mean for a flow.
pub(super) fn flags(flags: u8) -> Meaning {
    let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|flag| flags & flag != 0);
    match (fin, syn, ack) {
        _ if rst => Meaning::Resets,
        (true, ..) => Meaning::Closes,
        (false, true, false) => Meaning::Opens,
        _ => Meaning::Middle,
    }
}

/// The frame with one hop less to live, and a right IPv4 header checksum.
pub(super) fn aged(frame: &[u8], ip: &Ip) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[ETHERNET + if ip.is_v4() { 8 } else { 7 }] -= 1;
    seal(&mut out, ip);
    out
}

/// Computes the IPv4 header checksum anew; IPv6 has none.
pub(super) fn seal(frame: &mut [u8], ip: &Ip) {
    if ip.is_v4() {
        let header = &mut frame[ETHERNET..ETHERNET + 20];
        header[10..12].fill(0);
        let check = field(0, sum(header));
        header[10..12].copy_from_slice(&check);
    }
}

/// Writes an address into the IP header.
pub(super) fn put_address(frame: &mut [u8], ip: &Ip, end: End, address: IpAddr) {
    let (at, size) = if ip.is_v4() { (12, 4) } else { (8, 16) };
    let at = ETHERNET + at + if end == End::To { size } else { 0 };
    frame[at..at + size].copy_from_slice(&octets(address));
}

/// The frame with another address and port at one end (0: the port stays) and one hop less to live. The transport checksum
/// is as right or as wrong as it was.
pub(super) fn readdressed(frame: &[u8], ip: &Ip, end: End, to: SocketAddr) -> Vec<u8> {
    moved(frame, ip, Some((ip.transport(), ip.protocol)), end, to)
}

/// The same, with the transport header of this protocol at this offset, or without one. What the checksum covers and is
/// not here does not change.
pub(super) fn moved(
    frame: &[u8],
    ip: &Ip,
    transport: Option<(usize, u8)>,
    end: End,
    to: SocketAddr,
) -> Vec<u8> {
    let mut out = aged(frame, ip);
    rewrite(&mut out, ip, transport, end, to);
    out
}

/// The frame with other addresses and ports at both ends and one hop less to live.
pub(super) fn exchanged(frame: &[u8], ip: &Ip, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let transport = Some((ip.transport(), ip.protocol));
    exchanged_piece(frame, ip, transport, from, to)
}

/// The same, with the transport header as in [`moved`].
pub(super) fn exchanged_piece(
    frame: &[u8],
    ip: &Ip,
    transport: Option<(usize, u8)>,
    from: SocketAddr,
    to: SocketAddr,
) -> Vec<u8> {
    let mut out = aged(frame, ip);
    rewrite(&mut out, ip, transport, End::From, from);
    rewrite(&mut out, ip, transport, End::To, to);
    out
}

/// Writes one end, and mends what covers it.
fn rewrite(out: &mut [u8], ip: &Ip, transport: Option<(usize, u8)>, end: End, to: SocketAddr) {
    // The pseudo-header is part of what the transport's sum covers.
    let total = |out: &[u8], at: usize| ip.pseudo(out) + sum(&out[at..ip.end]);
    let before = transport.map(|(at, _)| total(out, at));
    put_address(out, ip, end, to.ip());
    seal(out, ip);
    let (Some((at, protocol)), Some(before)) = (transport, before) else {
        return;
    };
    let check = at + if protocol == TCP { 16 } else { 6 };
    let port = at + if end == End::To { 2 } else { 0 };
    if to.port() != 0 {
        out[port..port + 2].copy_from_slice(&to.port().to_be_bytes());
    }
    // SCTP's CRC32c covers no address, and its ports stay.
    let absent = protocol != TCP && out[check..check + 2] == [0, 0];
    if !absent && balanced(protocol) {
        out[check..check + 2].fill(0);
        let rest = total(out, at);
        let sum = match protocol {
            TCP => field(before, rest),
            _ => udp_field(before, rest),
        };
        out[check..check + 2].copy_from_slice(&sum);
    }
}
