//! What the benchmark's driver program and its host share: the plan of a run, its progress, and
//! which flow a packet belongs to.
//!
//! The driver (`bench/driver.rs`) makes a fresh packet before each run of the program under test: it
//! restores the length and the headers from the plan's template and steps the source on to the next flow
//! and the destination on to the next service, checksums included.

use bytemuck::{Pod, Zeroable};

/// Bytes of a template of IPv4; frames are at least as long.
pub const V4_BYTES: usize = 64;
/// Bytes of a template of IPv6; frames are at least as long.
pub const V6_BYTES: usize = 80;

/// The slot of the driver's program array that it calls.
pub const TARGET: u32 = 0;

/// Where a template's fields lie.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// Ethernet, IPv4 without options, TCP.
    V4Tcp = 0,
    /// Ethernet, IPv4 without options, UDP.
    V4Udp = 1,
    /// Ethernet, IPv6 without extension headers, TCP.
    V6Tcp = 2,
    /// Ethernet, IPv6 without extension headers, UDP.
    V6Udp = 3,
}

/// Offsets in a frame, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The last two bytes of the source address.
    pub source: usize,
    /// The last two bytes of the destination address.
    pub destination: usize,
    /// The source port.
    pub port: usize,
    /// The IPv4 header checksum.
    pub ip_check: Option<usize>,
    /// The transport checksum.
    pub check: usize,
}

impl Shape {
    /// Where the fields are.
    #[inline(always)]
    pub const fn offsets(self) -> Offsets {
        let (source, destination, port, ip_check) = match self {
            Self::V4Tcp | Self::V4Udp => (28, 32, 34, Some(24)),
            Self::V6Tcp | Self::V6Udp => (36, 52, 54, None),
        };
        let check = match self {
            Self::V4Tcp => 50,
            Self::V4Udp => 40,
            Self::V6Tcp => 70,
            Self::V6Udp => 60,
        };
        Offsets {
            source,
            destination,
            port,
            ip_check,
            check,
        }
    }

    /// Bytes of its template.
    #[inline(always)]
    pub const fn bytes(self) -> usize {
        match self {
            Self::V4Tcp | Self::V4Udp => V4_BYTES,
            Self::V6Tcp | Self::V6Udp => V6_BYTES,
        }
    }

    /// True for IPv6.
    #[inline(always)]
    pub const fn is_v6(self) -> bool {
        matches!(self, Self::V6Tcp | Self::V6Udp)
    }
}

/// One run of the driver. Map `plan`, one entry. Host order unless said otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Plan {
    /// The first bytes of every packet, as they lie on the wire.
    pub template: [u64; V6_BYTES / 8],
    /// Packets to run.
    pub packets: u64,
    /// Packets of a chunk, a power of two, minus one; the clock is read before each.
    pub chunk_mask: u64,
    /// log2 of a chunk's packets.
    pub chunk_shift: u64,
    /// Flows in turn; at least 1.
    pub flows: u64,
    /// Services in turn, a divisor of `flows`: flow `n` belongs to service `n` modulo this.
    pub services: u64,
    /// The last two bytes of service 0's address; the next service's are one more.
    pub first_service: u64,
    /// Length of the frame, in bytes.
    pub length: u64,
    /// Ones' complement sum of the IPv4 header without its checksum and without what is stepped (addresses'
    /// ends, source port), as the machine reads 16-bit words on the wire; 0 for IPv6.
    pub ip_sum: u64,
    /// The same of the transport checksum.
    pub sum: u64,
    /// A [`Shape`].
    pub shape: u32,
    /// 1: the flow-table entry at `set` and `way` is freed before each packet.
    pub clears: u32,
    /// Index into map `flows`.
    pub set: u32,
    /// Position in the set.
    pub way: u32,
    /// Sets of map `flows`, a power of two, minus one: where the floor `flow_line` looks.
    pub set_mask: u64,
}

/// How far a run has come. Map `progress`, one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Progress {
    /// Packets so far.
    pub packets: u64,
    /// The flow of the next packet.
    pub flow: u64,
    /// Its service.
    pub service: u64,
}

/// Where the driver's packets go when they are sent. Map `wire`, one entry. Host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Wire {
    /// The interface that they leave by.
    pub ifindex: u32,
}

/// The first two bytes of the source address of every packet on a wire, as they lie there: half of
/// 198.18.0.0/15, which is for benchmarks (RFC 2544).
pub const WIRE_SOURCE: [u8; 2] = [198, 18];

/// Entries of map `stamps`: the kernel's clock before each chunk and after the last whole one, in ns.
pub const STAMPS: u32 = 4096;

/// The part of a flow's number that is in its port.
const PORT_BITS: u32 = 14;
/// The lowest source port.
const FIRST_PORT: u16 = 16_384;
/// Flows that have different addresses or ports.
pub const MAX_FLOWS: u64 = 1 << (16 + PORT_BITS);

/// The last two bytes of a flow's source address and its source port, in host order.
#[inline(always)]
pub const fn source(flow: u64) -> (u16, u16) {
    let port = (flow as u16 & ((1 << PORT_BITS) - 1)) | FIRST_PORT;
    ((flow >> PORT_BITS) as u16, port)
}

/// The Internet checksum of a sum of 16-bit words.
#[inline(always)]
pub const fn check(sum: u64) -> u16 {
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flows_have_one_source() {
        let last = MAX_FLOWS - 1;
        assert_eq!(source(0), (0, FIRST_PORT));
        assert_eq!(source(last), (u16::MAX, (1 << (PORT_BITS + 1)) - 1));
        let mut seen: Vec<(u16, u16)> = (0..200_000).map(source).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 200_000);
    }

    #[test]
    fn a_checksum_folds_both_carries() {
        // RFC 1071 section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2 with their carries.
        assert_eq!(check(0x0001 + 0xf203 + 0xf4f5 + 0xf6f7), !0xddf2);
        // A carry out of the first fold.
        assert_eq!(check(0xffff_ffff), 0);
        assert_eq!(check(0), u16::MAX);
    }

    #[test]
    fn fields_lie_within_their_template() {
        for shape in [Shape::V4Tcp, Shape::V4Udp, Shape::V6Tcp, Shape::V6Udp] {
            let offsets = shape.offsets();
            for offset in [
                offsets.source,
                offsets.destination,
                offsets.port,
                offsets.check,
                offsets.ip_check.unwrap_or(0),
            ] {
                assert!(offset + 2 <= shape.bytes(), "{shape:?} {offset}");
            }
        }
    }
}
