//! Headers as they stand on the wire: those of `network-types`, and a few of our own where its
//! types are aligned or name too much.

use lb_common::{Address, quic::PREFIX, vlan::Tag};
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::frame::Header;

/// EtherType of IPv4, network order.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6, network order.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Bytes of an Ethernet header without tags, which is where the IP header begins.
pub const L3: usize = 14;
/// Where the transport header of an IPv4 packet without options begins.
pub const L4_V4: usize = L3 + Ipv4Hdr::LEN;
/// Where the transport header of an IPv6 packet without extension headers begins.
pub const L4_V6: usize = L3 + Ipv6Hdr::LEN;

/// IANA numbers of the protocols that the data plane tells apart.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation (RFC 2784).
    pub const GRE: u8 = 47;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// Reserved: none of them.
    pub const NONE: u8 = 255;
}

/// An Ethernet header (IEEE 802.3 section 3.2). `network_types::eth::EthHdr` has alignment 2.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// MAC address of the receiver.
    pub destination: [u8; 6],
    /// MAC address of the sender.
    pub source: [u8; 6],
    /// Network order.
    pub ether_type: [u8; 2],
}

/// The two addresses of an Ethernet header as two words: few, wide loads and stores.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MacWords {
    /// The receiver, and the sender's first two bytes.
    low: [u8; 8],
    /// The rest of the sender.
    high: [u8; 4],
}

/// The front of a frame with VLAN tags (IEEE 802.1Q section 9.3).
#[repr(C)]
pub struct Tagged<const N: usize> {
    /// Both addresses.
    pub macs: MacWords,
    /// The tags.
    pub tags: [Tag; N],
    /// Of what follows them; network order.
    pub ether_type: [u8; 2],
}

const _: () = assert!(size_of::<Tagged<1>>() == 18 && size_of::<Tagged<2>>() == 22);

// SAFETY: arrays of bytes only: alignment 1, no padding, any bit pattern valid.
unsafe impl<const N: usize> Header for Tagged<N> {}

/// A MAC address in the low 48 bits: its first byte lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub u64);

impl Mac {
    /// The low 48 bits of a word; what stands above is another field's.
    #[inline(always)]
    pub const fn low(word: u64) -> Self {
        Self(word & 0xffff_ffff_ffff)
    }

    /// The sender in an Ethernet header.
    #[inline(always)]
    pub fn source(words: &MacWords) -> Self {
        let MacWords { low, high } = *words;
        Self(u64::from_le_bytes(low) >> 48 | u64::from(u32::from_le_bytes(high)) << 16)
    }

    /// The receiver in an Ethernet header.
    #[inline(always)]
    pub fn destination(words: &MacWords) -> Self {
        Self::low(u64::from_le_bytes(words.low))
    }

    /// Both addresses of an Ethernet header.
    #[inline(always)]
    pub const fn words(destination: Self, source: Self) -> MacWords {
        let (d, s) = (destination.0, source.0);
        MacWords {
            low: (d | s << 48).to_le_bytes(),
            high: ((s >> 16) as u32).to_le_bytes(),
        }
    }
}

/// The first four bytes of TCP, UDP and SCTP; network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Sender's port.
    pub source: [u8; 2],
    /// Receiver's port.
    pub destination: [u8; 2],
}

/// The first bytes of every TCP or UDP packet over IPv4 that is whole: one bounds check for all that decides
/// its way.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FrontV4 {
    /// Addresses.
    pub macs: MacWords,
    /// EtherType.
    pub ether_type: [u8; 2],
    /// IP header.
    pub ip: Ipv4Hdr,
    /// Ports.
    pub ports: Ports,
    /// The rest of a UDP header: length and checksum.
    pub udp: [[u8; 2]; 2],
}

/// The same over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FrontV6 {
    /// Addresses.
    pub macs: MacWords,
    /// EtherType.
    pub ether_type: [u8; 2],
    /// IP header.
    pub ip: Ipv6Hdr,
    /// Ports.
    pub ports: Ports,
    /// The rest of a UDP header: length and checksum.
    pub udp: [[u8; 2]; 2],
}

/// An Ethernet header and the outer IPv4 header behind it, as words.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OuterV4 {
    /// Addresses.
    pub macs: MacWords,
    /// EtherType.
    pub ether_type: [u8; 2],
    /// The IPv4 header (RFC 791 section 3.1).
    pub ip: [[u8; 4]; 5],
}

/// An Ethernet header and the outer IPv6 header behind it, as words.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OuterV6 {
    /// Addresses.
    pub macs: MacWords,
    /// EtherType.
    pub ether_type: [u8; 2],
    /// Version, traffic class, flow label (RFC 8200 section 3).
    pub first: [u8; 4],
    /// Payload length, next header, hop limit.
    pub second: [u8; 4],
    /// Source and destination, two words each.
    pub addresses: [[u8; 8]; 4],
}

/// A TCP header without options (RFC 9293 section 3.1). `network_types::tcp::TcpHdr` hides the
/// flags in a bit field that costs instructions.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Ports.
    pub ports: Ports,
    /// Sequence and acknowledgement numbers.
    pub numbers: [u8; 8],
    /// Header length in 32-bit words, in the high four bits.
    pub offset: u8,
    /// [`flag`] bits.
    pub flags: u8,
    /// Receive window.
    pub window: [u8; 2],
    /// Checksum.
    pub check: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// An SCTP common header and the head of the first chunk behind it (RFC 9260 sections 3.1 and 3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sctp {
    /// Ports.
    pub ports: Ports,
    /// Verification tag.
    pub tag: [u8; 4],
    /// CRC32c of header and chunks, which covers no address: it stays right when only addresses change.
    pub check: [u8; 4],
    /// [`chunk`].
    pub chunk: u8,
    /// By type.
    pub flags: u8,
    /// Bytes of the chunk with its head, network order.
    pub length: [u8; 2],
}

/// Types of SCTP chunks that begin or end an association (RFC 9260 section 3.2).
pub mod chunk {
    /// The association begins.
    pub const INIT: u8 = 1;
    /// It is cut.
    pub const ABORT: u8 = 6;
    /// It ends, and the sender has seen that the other side wants that.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// It has ended.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// TCP flags.
pub mod flag {
    /// The sender has no more to say.
    pub const FIN: u8 = 1;
    /// The connection begins.
    pub const SYN: u8 = 2;
    /// The connection is cut.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// An IPv4 address as everywhere in the maps: IPv4-mapped. As `Address::v4`, but made of words.
#[inline(always)]
pub fn v4(octets: [u8; 4]) -> Address {
    let low = u64::from(u32::from_le_bytes(octets));
    Address::from_words([0, (low << 32 | 0xffff_0000).to_le()])
}

/// A GUE header of variant 0 without options (draft-ietf-intarea-gue-09): variant (two bits), control, length of the options in
/// 32-bit words (five bits); protocol; flags.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Gue(pub [u8; 4]);

/// A TCP segment's headers over IPv4, without TCP's options.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HeadV4 {
    /// Ethernet and IP.
    pub outer: OuterV4,
    /// TCP.
    pub tcp: Tcp,
}

/// The same over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HeadV6 {
    /// Ethernet and IP.
    pub outer: OuterV6,
    /// TCP.
    pub tcp: Tcp,
}

/// A SYN over IPv4 that begins its options with who its client is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SynV4 {
    /// All that stands before.
    pub head: HeadV4,
    /// Kind, length, port, address.
    pub option: [[u8; 4]; 2],
}

/// The same over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SynV6 {
    /// All that stands before.
    pub head: HeadV6,
    /// Kind, length, port.
    pub option: [u8; 4],
    /// Address.
    pub address: [[u8; 8]; 2],
}

/// The beginning of a QUIC packet with a short header (RFC 8999 section 5.2). How long the connection id is, only its
/// server knows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ShortHeader {
    /// Its first bit is 0.
    pub first: u8,
    /// The destination connection id, and what follows it.
    pub connection_id: [u8; PREFIX],
}

/// The beginning of a QUIC packet with a long header (RFC 8999 section 5.1).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LongHeader {
    /// Its first bit is 1.
    pub first: u8,
    /// The version.
    pub version: [u8; 4],
    /// Bytes of the destination connection id.
    pub length: u8,
    /// The destination connection id, and what follows it.
    pub connection_id: [u8; PREFIX],
}

/// One checksum field, wherever it stands.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Check(pub [u8; 2]);

macro_rules! headers {
    ($($name:ty = $size:expr),+ $(,)?) => { $(
        // SAFETY: made of bytes only, with this size and alignment 1 (asserted below), so there is
        // no padding and no invalid value.
        unsafe impl Header for $name {}
        const _: () = assert!(align_of::<$name>() == 1 && size_of::<$name>() == $size);
    )+ };
}

headers! {
    [u8; 1] = 1,
    [u8; 2] = 2,
    [u8; 4] = 4,
    ShortHeader = 17,
    LongHeader = 22,
    [[u8; 4]; 2] = 8,
    [[u8; 4]; 5] = 20,
    [[u8; 4]; 8] = 32,
    [[u8; 8]; 4] = 32,
    [[u8; 4]; 16] = 64,
    [[u8; 4]; 24] = 96,
    MacWords = 12,
    Ethernet = 14,
    Ipv4Hdr = 20,
    Ipv6Hdr = 40,
    Ports = 4,
    Tcp = 20,
    Sctp = 16,
    UdpHdr = 8,
    Icmpv4Hdr = 8,
    Check = 2,
    Gue = 4,
    FrontV4 = 42,
    FrontV6 = 62,
    OuterV4 = 34,
    OuterV6 = 54,
    HeadV4 = 54,
    HeadV6 = 74,
    SynV4 = 62,
    SynV6 = 94,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ethernet_header_of_network_types_is_aligned_so_we_need_our_own() {
        assert_eq!(align_of::<network_types::eth::EthHdr>(), 2);
        assert_eq!(
            size_of::<network_types::eth::EthHdr>(),
            size_of::<Ethernet>()
        );
    }
}
