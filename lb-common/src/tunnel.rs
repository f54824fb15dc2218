//! How a packet is put into another one on its way to a backend, in one word.

use bytemuck::{Pod, Zeroable};

use crate::{Family, Forwarding, Nanos};

/// The UDP port of `gue` by default: the one that IANA has assigned to it.
pub const GUE_PORT: u16 = 6080;

/// TTL or hop limit of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OuterTtl {
    /// This one; not 0.
    Fixed(u8),
    /// What the packet inside has left.
    Inherit,
}

impl OuterTtl {
    /// What holds if nothing is said.
    pub const DEFAULT: Self = Self::Fixed(64);
}

/// What stands between UDP and the packet inside (draft-ietf-intarea-gue-09).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GueVariant {
    /// A header of four bytes that names the protocol.
    Header = 0,
    /// Nothing: the first bits of an IP header tell what it is.
    Direct = 1,
}

impl GueVariant {
    /// Bytes between UDP and the packet inside.
    #[inline(always)]
    pub const fn size(self) -> u32 {
        match self {
            Self::Header => 4,
            Self::Direct => 0,
        }
    }
}

/// The encapsulation of a backend's packets. All zero is the usual one, which the packet path knows by one comparison:
/// `ipip` with an outer header of the packet's own family and the default TTL, or none at all.
///
/// Otherwise bit 63 is set; bits 0 to 15 are the UDP port of `gue`, host order (0: `ipip`), 16 to 23 the TTL (0: the packet's own),
/// 24 is set for a GUE header of variant 0. The outer family is that of the backend's address. With `fullnat`, which is none, bits 0 to 7
/// are the kind of the TCP option that says who the client is.
///
/// Bits 25 to 62 are the data plane's: what it has learned of the path's MTU ([`Self::with_path`]), 0 where that is nothing. All others are the
/// control plane's, which writes them once.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Tunnel(pub u64);

const SET: u64 = 1 << 63;
const TTL_SHIFT: u32 = 16;
const WITH_HEADER: u64 = 1 << 24;
/// The largest packet that the path takes, in bytes; 0: nothing is known.
const PATH_SHIFT: u32 = 25;
/// When that was said, in units of 2^[`UNIT_SHIFT`] ns.
const SAID_SHIFT: u32 = 41;
const SAID: u64 = (1 << 22) - 1;
/// What the data plane writes.
const LEARNED: u64 = 0xffff << PATH_SHIFT | SAID << SAID_SHIFT;
/// log2 of 69 s, in nanoseconds.
const UNIT_SHIFT: u32 = 36;
/// What was said this long ago may be over: after 10 to 11 minutes (RFC 1191 section 6.3, RFC 8201 section 4).
const LASTS: u64 = 10;

impl Tunnel {
    /// The usual one.
    pub const USUAL: Self = Self(0);

    /// `ipip` for packets of a family to a backend with an address of another or the same.
    pub const fn ipip(inner: Family, outer: Family, ttl: OuterTtl) -> Self {
        match ttl {
            OuterTtl::DEFAULT if inner as u8 == outer as u8 => Self::USUAL,
            _ => Self(SET | ttl_bits(ttl)),
        }
    }

    /// `gue` to a UDP port, which is not 0.
    pub const fn gue(port: u16, variant: GueVariant, ttl: OuterTtl) -> Self {
        let header = match variant {
            GueVariant::Header => WITH_HEADER,
            GueVariant::Direct => 0,
        };
        Self(SET | port as u64 | ttl_bits(ttl) | header)
    }

    /// None: `fullnat` whose SYNs say who the client is, in a TCP option of this kind, which is not 0.
    pub const fn telling(kind: u8) -> Self {
        match kind {
            0 => Self::USUAL,
            _ => Self(SET | kind as u64),
        }
    }

    /// As the control plane has written it.
    #[inline(always)]
    #[must_use]
    pub const fn configured(self) -> Self {
        Self(self.0 & !LEARNED)
    }

    /// What the data plane has written, alone.
    #[inline(always)]
    #[must_use]
    pub const fn learned(self) -> Self {
        Self(self.0 & LEARNED)
    }

    /// With an MTU of the path to the backend, outer header included, in bytes: 1 to 65535.
    #[inline(always)]
    #[must_use]
    pub const fn with_path(self, mtu: u32, now: Nanos) -> Self {
        let said = (now >> UNIT_SHIFT) & SAID;
        Self(self.0 & !LEARNED | (mtu as u64 & 0xffff) << PATH_SHIFT | said << SAID_SHIFT)
    }

    /// That MTU while it holds; 0: nothing is known.
    #[inline(always)]
    pub const fn path(self, now: Nanos) -> u32 {
        let said = self.0 >> SAID_SHIFT & SAID;
        let age = (now >> UNIT_SHIFT).wrapping_sub(said) & SAID;
        // The clock of the CPU that wrote it may be ahead by a tick.
        match age < LASTS || age > SAID / 2 {
            true => (self.0 >> PATH_SHIFT) as u32 & 0xffff,
            false => 0,
        }
    }

    /// As it would be if the clock read `to` where it reads `from`.
    #[must_use]
    pub const fn moved(self, from: Nanos, to: Nanos) -> Self {
        if self.learned().0 == 0 {
            return self;
        }
        let by = (to >> UNIT_SHIFT).wrapping_sub(from >> UNIT_SHIFT);
        let said = (self.0 >> SAID_SHIFT).wrapping_add(by) & SAID;
        Self(self.0 & !(SAID << SAID_SHIFT) | said << SAID_SHIFT)
    }

    /// The kind of that option; 0: there is none.
    #[inline(always)]
    pub const fn option_kind(self) -> u8 {
        self.0 as u8
    }

    /// False for a word that nobody writes for a backend of this forwarding.
    pub const fn is_known(self, forwarding: Forwarding) -> bool {
        let known = SET | 0xff_ffff | WITH_HEADER;
        match forwarding {
            Forwarding::Dnat | Forwarding::L2dsr => self.0 == 0,
            Forwarding::Fullnat => self.0 == 0 || self.0 & !0xff == SET && self.0 as u8 != 0,
            Forwarding::Ipip => {
                self.0 == 0 || self.0 & SET != 0 && self.0 & !(SET | 0xff_0000) == 0
            }
            Forwarding::Gue => self.0 & SET != 0 && self.0 & !known == 0 && self.0 as u16 != 0,
        }
    }

    /// The UDP port, host order; 0: no UDP.
    #[inline(always)]
    pub const fn gue_port(self) -> u16 {
        self.0 as u16
    }

    /// What stands between UDP and the packet inside.
    #[inline(always)]
    pub const fn variant(self) -> GueVariant {
        match self.0 & WITH_HEADER {
            0 => GueVariant::Direct,
            _ => GueVariant::Header,
        }
    }

    /// The outer TTL for a packet that has this one left.
    #[inline(always)]
    pub const fn ttl(self, left: u8) -> u8 {
        match (self.configured().0, (self.0 >> TTL_SHIFT) as u8) {
            (0, _) => 64,
            (_, 0) => left,
            (_, fixed) => fixed,
        }
    }

    /// Bytes between the outer IP header and the packet inside.
    #[inline(always)]
    pub const fn between(self) -> u32 {
        match self.gue_port() {
            0 => 0,
            _ => 8_u32.wrapping_add(self.variant().size()),
        }
    }

    /// Bytes that a packet grows by, to a backend with an address of this family.
    #[inline(always)]
    pub const fn growth(self, outer: Family) -> u32 {
        let header = match outer {
            Family::V4 => 20_u32,
            Family::V6 => 40,
        };
        header.wrapping_add(self.between())
    }
}

const fn ttl_bits(ttl: OuterTtl) -> u64 {
    match ttl {
        OuterTtl::Fixed(ttl) => (ttl as u64) << TTL_SHIFT,
        OuterTtl::Inherit => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_tunnel_is_the_word_zero_and_every_other_says_what_it_is() {
        let usual = OuterTtl::DEFAULT;
        assert_eq!(Tunnel::ipip(Family::V4, Family::V4, usual), Tunnel::USUAL);
        assert_eq!(Tunnel::ipip(Family::V6, Family::V6, usual), Tunnel::USUAL);
        assert_eq!(Tunnel::USUAL.ttl(7), 64);
        for (inner, outer) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
            let mixed = Tunnel::ipip(inner, outer, usual);
            assert_ne!(mixed, Tunnel::USUAL);
            assert_eq!((mixed.ttl(7), mixed.between()), (64, 0));
        }
        let own = Tunnel::ipip(Family::V4, Family::V4, OuterTtl::Inherit);
        assert_eq!((own.ttl(7), own.growth(Family::V4)), (7, 20));
        for (variant, between) in [(GueVariant::Direct, 8), (GueVariant::Header, 12)] {
            let gue = Tunnel::gue(65_535, variant, OuterTtl::Fixed(255));
            assert_eq!((gue.gue_port(), gue.variant()), (65_535, variant));
            assert_eq!((gue.ttl(7), gue.between()), (255, between));
            assert_eq!(gue.growth(Family::V6), 40 + between);
            assert_eq!(Tunnel::gue(1, variant, OuterTtl::Inherit).ttl(7), 7);
        }
    }

    #[test]
    fn a_learned_path_holds_for_ten_minutes_and_changes_nothing_else() {
        const SECOND: Nanos = 1_000_000_000;
        let mixed = Tunnel::ipip(Family::V4, Family::V6, OuterTtl::DEFAULT);
        let gue = Tunnel::gue(65_535, GueVariant::Header, OuterTtl::Fixed(255));
        for word in [Tunnel::USUAL, mixed, gue] {
            for start in [0, 7 * SECOND, (1 << 58) - SECOND, u64::MAX - 900 * SECOND] {
                for mtu in [1, 1280, 65_535] {
                    let knows = word.with_path(mtu, start);
                    assert_ne!(knows, Tunnel::USUAL);
                    assert_eq!(
                        (knows.configured(), knows.learned().configured().0),
                        (word, 0)
                    );
                    assert_eq!(knows.with_path(700, start), word.with_path(700, start));
                    let (ttl, growth) = (knows.ttl(7), knows.growth(Family::V4));
                    assert_eq!((ttl, growth), (word.ttl(7), word.growth(Family::V4)));
                    assert_eq!(knows.path(start), mtu);
                    assert_eq!(knows.path(start + 600 * SECOND), mtu);
                    assert_eq!(knows.path(start + 688 * SECOND), 0);
                }
            }
            assert_eq!(word.path(3), 0);
        }
    }

    #[test]
    fn words_that_nobody_writes_are_known_as_such() {
        let ttl = OuterTtl::DEFAULT;
        let mixed = Tunnel::ipip(Family::V4, Family::V6, ttl);
        let gue = Tunnel::gue(GUE_PORT, GueVariant::Header, ttl);
        for (forwarding, good) in [
            (Forwarding::Dnat, &[Tunnel::USUAL][..]),
            (Forwarding::L2dsr, &[Tunnel::USUAL]),
            (Forwarding::Fullnat, &[Tunnel::USUAL, Tunnel::telling(254)]),
            (Forwarding::Ipip, &[Tunnel::USUAL, mixed]),
            (Forwarding::Gue, &[gue]),
        ] {
            for word in [
                Tunnel::USUAL,
                mixed,
                gue,
                Tunnel(1),
                Tunnel(1 << 62),
                Tunnel(gue.0 | 1 << 40),
            ] {
                let known = word.is_known(forwarding);
                assert_eq!(known, good.contains(&word), "{forwarding:?} {word:?}");
            }
        }
    }
}
