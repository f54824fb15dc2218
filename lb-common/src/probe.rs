//! What the program that takes health checks to the VIP and its loader share.
//!
//! Maps of the object `fairlead-probe`: `paths` (array of [`ProbePath`], by mark - the first mark), `sessions` (LRU hash from
//! a [`Session`] to the address that the check's socket is connected to).

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Marks (SO_MARK) that are kept for checks, from a multiple of this on.
pub const MARKS: u32 = 65_536;
/// Checks that are remembered at once: many times as many as are under way.
pub const SESSIONS: u32 = 8192;

/// How the packets of a check with one mark become those of a client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct ProbePath {
    /// The VIP, as [`Address`], in two words. All zero: there is no such path.
    pub vip: [u64; 2],
    /// Where tunnels come from, of the backend's family, as [`Address`] in two words; host bits are zero. All zero: no
    /// tunnel.
    pub source: [u64; 2],
    /// The host bits of it that a flow's hash may fill, in the last four bytes; host order.
    pub spread: u64,
    /// As [`crate::Tunnel`], where there is a tunnel.
    pub tunnel: u64,
}

impl ProbePath {
    /// None.
    pub const NONE: Self = Self {
        vip: [0; 2],
        source: [0; 2],
        spread: 0,
        tunnel: 0,
    };

    /// Its packets are put into others.
    #[inline(always)]
    pub const fn is_tunnel(&self) -> bool {
        self.source[0] | self.source[1] != 0
    }

    /// The outer source of a flow.
    #[inline(always)]
    pub fn source_of(&self, hash: u64) -> Address {
        let [a, b] = self.source;
        Address::from_words([a, (u64::from_be(b) | hash & self.spread).to_be()])
    }
}

/// One check's connection, as its answers name it; padded with zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Session {
    /// Our own address, as [`Address`] in two words.
    pub local: [u64; 2],
    /// The VIP, as [`Address`] in two words.
    pub vip: [u64; 2],
    /// Our own port, the other's (network order both, first bytes lowest), the protocol.
    pub rest: u64,
}

impl Session {
    /// Of these ends and this protocol; ports in network order.
    #[inline(always)]
    pub fn new(local: Address, vip: Address, ports: [[u8; 2]; 2], protocol: u8) -> Self {
        let [[a, b], [c, d]] = ports;
        let ports = u32::from_le_bytes([a, b, c, d]);
        Self {
            local: local.words(),
            vip: vip.words(),
            rest: ports as u64 | (protocol as u64) << 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_bits_of_the_outer_source_are_the_flows() {
        let prefix = Address::v4([10, 9, 0, 0]);
        let path = ProbePath {
            source: prefix.words(),
            spread: 0xff,
            ..ProbePath::NONE
        };
        assert!(path.is_tunnel() && !ProbePath::NONE.is_tunnel());
        assert_eq!(path.source_of(0), prefix);
        assert_eq!(path.source_of(u64::MAX), Address::v4([10, 9, 0, 255]));
    }

    #[test]
    fn sessions_that_differ_in_anything_differ() {
        let (a, b) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2]));
        let one = Session::new(a, b, [[1, 2], [3, 4]], 6);
        assert_ne!(one, Session::new(b, a, [[1, 2], [3, 4]], 6));
        assert_ne!(one, Session::new(a, b, [[3, 4], [1, 2]], 6));
        assert_ne!(one, Session::new(a, b, [[1, 2], [3, 4]], 17));
    }
}
