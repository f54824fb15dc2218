//! What the usual way of a packet leaves to the rest of the program.

use super::{PackedOutcome, Parcel, Refusal};

/// No outcome yet: the packet's way goes on aside, with a stack of its own. Bits 48 to 50: which way; below, what that needs.
const ASIDE: u64 = 1 << 60;
const KIND: u64 = 7 << 48;
const THROUGH_NAT: u64 = ASIDE | 5 << 48;
const TAGGED: u64 = ASIDE | 6 << 48;

/// How a packet's way goes on that is not the usual one. The frame is as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// It is no whole segment or datagram.
    Rest,
    /// No endpoint takes it, and it may be a backend's reply.
    Reply,
    /// No endpoint takes it, and there are services with ranges.
    Ranges,
    /// It is to a service whose new flows are not scheduled by their hash alone.
    Schedule,
    /// It has VLAN tags.
    Tagged,
    /// It goes to its backend from an address of ours.
    Nat(Parcel),
    /// It does not reach its backend, and there is more to do than to drop it.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The service's index.
        service: u32,
    },
}

impl From<Aside> for PackedOutcome {
    #[inline(always)]
    fn from(aside: Aside) -> Self {
        let (kind, rest) = match aside {
            Aside::Rest => (0, 0),
            Aside::Reply => (1, 0),
            Aside::Ranges => (2, 0),
            Aside::Schedule => (3, 0),
            Aside::Tagged => (6, 0),
            Aside::Nat(parcel) => (5, parcel.word()),
            Aside::Refused { refusal, service } => {
                (4, refusal.0 as u64 | (service as u64 & 0xffff) << 32)
            }
        };
        Self(ASIDE | kind << 48 | rest)
    }
}

impl PackedOutcome {
    /// True for an [`Aside`].
    #[inline(always)]
    pub const fn is_aside(self) -> bool {
        self.0 & ASIDE != 0
    }

    /// True for [`Aside::Tagged`].
    #[inline(always)]
    pub const fn is_tagged(self) -> bool {
        self.0 == TAGGED
    }

    /// What is an [`Aside::Nat`].
    #[inline(always)]
    pub const fn through_nat(self) -> Option<Parcel> {
        match self.0 & (ASIDE | KIND) {
            THROUGH_NAT => Some(Parcel::open(self.0 & !(ASIDE | KIND), 0)),
            _ => None,
        }
    }

    /// The way on of one for which [`Self::is_aside`] holds.
    #[inline(always)]
    pub fn way_on(self) -> Aside {
        match (self.0 & KIND) >> 48 {
            0 => Aside::Rest,
            1 => Aside::Reply,
            2 => Aside::Ranges,
            3 => Aside::Schedule,
            6 => Aside::Tagged,
            5 => Aside::Nat(Parcel::open(self.0 & !(ASIDE | KIND), 0)),
            _ => Aside::Refused {
                refusal: Refusal(self.0 as u32),
                service: (self.0 >> 32) as u32 & 0xffff,
            },
        }
    }
}

const _: () = assert!(lb_common::limits::SERVICES.max <= 1 << 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::Origin,
        parse::Arrival,
        verdict::{Sent, Verdict},
    };

    #[test]
    fn each_way_on_survives_its_word() {
        let sent = Sent {
            backend: 0x1_ffff,
            origin: Origin::NotAdmitted,
            arrival: Arrival::DATAGRAM,
            bytes: 0,
        };
        for aside in [
            Aside::Nat(Parcel::new(&sent, Verdict::redirect(0xffff))),
            Aside::Rest,
            Aside::Reply,
            Aside::Ranges,
            Aside::Schedule,
            Aside::Tagged,
            Aside::Refused {
                refusal: Refusal::too_big(65_535),
                service: 65_535,
            },
        ] {
            let word = PackedOutcome::from(aside);
            assert!(word.is_aside());
            assert_eq!(word.through_nat().is_some(), matches!(aside, Aside::Nat(_)));
            assert_eq!(word.way_on(), aside);
            assert_eq!(word.is_tagged(), aside == Aside::Tagged);
        }
        assert!(!PackedOutcome::PASS.is_aside());
        assert!(!PackedOutcome::counted(Verdict::redirect(0xffff)).is_aside());
        assert!(!PackedOutcome::service_drop(31, u32::MAX).is_aside());
    }
}
