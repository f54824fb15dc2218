//! What an ICMP error says of the packet that it quotes, in one word. Pure, part of `path`.

use crate::{frame::Frame, icmp, parse::Packet, service::NOWHERE};

/// Bits 0 to 15: what fits, in bytes; 16 to 31: UDP port of `gue`, host order, 0 without; 32 to 35: family inside, 4, 6 or 0 (not known);
/// 36 and 37: what stands before it, 0 where that is not known; 40 and 41: what is said; 42 to 58: the service whose
/// backend it is about, all set where that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said(pub u64);

const TOO_BIG: u64 = 1 << 40;
const UNREACHABLE: u64 = 1 << 41;
const SERVICE: u32 = 42;
const NO_SERVICE: u32 = 0x1_ffff;

const _: () = assert!(lb_common::limits::SERVICES.max <= NO_SERVICE as u64);

/// What fits, where a router before RFC 1191 does not say it, is this, by section 7 there, if it is below the size of what did not; or else
/// the least that is believed.
const PLATEAU: u32 = 1492;
/// Less than that no router of IPv6 may say (RFC 8201 section 4).
const LEAST_V6: u32 = 1280;

impl Said {
    /// A packet did not fit.
    #[inline(always)]
    pub const fn is_too_big(self) -> bool {
        self.0 & TOO_BIG != 0
    }

    /// A packet did not reach its destination for another reason.
    #[inline(always)]
    pub const fn is_unreachable(self) -> bool {
        self.0 & UNREACHABLE != 0
    }

    /// What fits.
    #[inline(always)]
    pub(super) const fn mtu(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    #[inline(always)]
    pub(super) const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub(super) const fn family(self) -> u8 {
        (self.0 >> 32) as u8 & 15
    }

    #[inline(always)]
    pub(super) const fn variant(self) -> u8 {
        (self.0 >> 36) as u8 & 3
    }

    #[inline(always)]
    pub(super) const fn service(self) -> u32 {
        match (self.0 >> SERVICE) as u32 & NO_SERVICE {
            NO_SERVICE => NOWHERE,
            index => index,
        }
    }

    /// With the service, or [`NOWHERE`].
    #[inline(always)]
    #[must_use]
    pub(super) const fn of(self, service: u32) -> Self {
        Self(self.0 | ((service & NO_SERVICE) as u64) << SERVICE)
    }

    /// With what the quoted packet is.
    #[inline(always)]
    #[must_use]
    pub(super) const fn about(self, port: u16, family: u8, variant: u8) -> Self {
        let what = (family as u64 & 15) << 32 | (variant as u64 & 3) << 36;
        Self(self.0 | (port as u64) << 16 | what)
    }
}

/// Reads an error whose quote is there; `None`: it says what cannot be.
#[inline(always)]
pub(super) fn read<F: Frame, const V4: bool>(frame: &F, packet: &Packet) -> Option<Said> {
    let [[kind, code, ..], rest] = *frame.header::<[[u8; 4]; 2]>(packet.l4())?;
    let [first, second] = *frame.header::<[[u8; 4]; 2]>(icmp::quoted_l3(packet))?;
    let too_big = match V4 {
        true => kind == 3 && code == 4,
        false => kind == 2,
    };
    if !too_big {
        // A host of IPv6 without the tunnel's end does not know the next header (RFC 4443 section 3.4).
        let unreachable = match V4 {
            true => kind == 3,
            false => kind == 1 || kind == 4 && code == 1,
        };
        return Some(Said(if unreachable { UNREACHABLE } else { 0 }));
    }
    let (size, said) = match V4 {
        true => {
            let [_, _, a, b] = first;
            let [_, _, c, d] = rest;
            let size = u32::from(u16::from_be_bytes([a, b]));
            match u32::from(u16::from_be_bytes([c, d])) {
                0 => (size, plateau(size)),
                said => (size, said),
            }
        }
        false => {
            let [a, b, ..] = second;
            let size = u32::from(u16::from_be_bytes([a, b])).wrapping_add(40);
            (size, u32::from_be_bytes(rest))
        }
    };
    // A packet that fits is no reason to complain.
    let can_be = said < size && said <= 0xffff && (V4 || said >= LEAST_V6);
    can_be.then_some(Said(TOO_BIG | said as u64))
}

/// What may fit where a packet of this size does not.
#[inline(always)]
const fn plateau(size: u32) -> u32 {
    match size > PLATEAU {
        true => PLATEAU,
        false => 1,
    }
}
