//! What can be forged about a tunnel.

use super::{Frames, GUE_PORT, Plan, Wrap};
use crate::generate::Choices;

macro_rules! lies {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One thing that no balancer does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Lie {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Lie {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

lies! {
    /// It comes from somebody else.
    Source,
    /// The outer header has options or an extension header.
    OuterOptions,
    /// The outer packet is a piece.
    OuterPiece,
    /// The outer packet says a wrong length.
    OuterLength,
    /// The outer header says another version.
    OuterVersion,
    /// The outer checksum is wrong.
    OuterSum,
    /// The frame ends first.
    Cut,
    /// Inside is for somebody else.
    Destination,
    /// Inside is from where no client is.
    Martian,
    /// Inside is from the VIP that it is for.
    Land,
    /// Inside is from an address of the machine.
    OwnSource,
    /// Inside is from a balancer's tunnel source.
    BalancerSource,
    /// Inside is a tunnel.
    Nested,
    /// Inside is a datagram to the port of `gue`.
    NestedDatagram,
    /// Inside is GRE.
    Gre,
    /// Inside has no hop to live.
    Ttl,
    /// Inside has options or extension headers.
    InnerOptions,
    /// Inside says that it is longer.
    InnerLength,
    /// Inside says another version.
    InnerVersion,
    /// Inside is a piece of a tunnel.
    InnerPiece,
    /// A router marked what does not know of marks.
    Mark,
    /// Variant 2 or 3 of GUE.
    Variant,
    /// A control message of GUE.
    Control,
    /// Flags or options of GUE.
    Flags,
    /// Something else in GUE.
    Number,
    /// The datagram says a wrong length.
    DatagramLength,
}

impl Frames {
    /// Puts a lie into a plan.
    pub(super) fn lie(&self, choices: &mut Choices<'_>, plan: &mut Plan) -> Lie {
        let lie = *choices.of(Lie::ALL);
        let inside = self.side(plan.inner.is_v4());
        let outside = self.side(plan.outer.is_v4());
        match lie {
            Lie::Source => plan.outer.source = choices.of(&outside.strangers).clone(),
            Lie::OuterOptions => match plan.outer.is_v4() {
                true => plan.outer.options = 1 + choices.below(10) as u8,
                false => {
                    let number = *choices.of(&[0, 43, 60]);
                    let eights = choices.below(3);
                    let mut bytes = vec![0; 8 + 8 * eights];
                    bytes[1] = eights as u8;
                    plan.outer.extension = Some((number, bytes));
                }
            },
            Lie::OuterPiece => match plan.outer.is_v4() {
                true => plan.outer.frags = *choices.of(&[0x2000, 0x2009, 9]),
                false => {
                    let place = *choices.of(&[1, 9, 8]);
                    plan.outer.extension = Some((44, vec![0, 0, 0, place, 0, 0, 0, 7]));
                }
            },
            Lie::OuterLength => {
                plan.outer.longer = match choices.one_in(2) {
                    true => 1 + plan.padding as i16 + choices.below(9) as i16,
                    false => -1 - choices.below(40) as i16,
                }
            }
            Lie::OuterVersion => plan.outer.version = Some(*choices.of(&[0, 5, 7, 15])),
            Lie::OuterSum => {
                // A header of IPv6 has none.
                plan.outer.wrong = 2 + u16::from(choices.byte());
                if !plan.outer.is_v4() {
                    plan.outer.source = choices.of(&outside.strangers).clone();
                }
            }
            Lie::Cut => {
                plan.padding = 0;
                plan.cut = 1 + choices.below(40);
            }
            Lie::Destination => plan.inner.destination = choices.of(&inside.beside).clone(),
            Lie::Martian => plan.inner.source = choices.of(&inside.martians).clone(),
            Lie::Land => plan.inner.source = plan.inner.destination.clone(),
            Lie::OwnSource => {
                let ours = *choices.of(&[&inside.own, &inside.vips]);
                plan.inner.source = choices.of(ours).clone();
            }
            Lie::BalancerSource => plan.inner.source = choices.of(&inside.balancers).clone(),
            Lie::Nested => plan.protocol = *choices.of(&[4, 41]),
            Lie::NestedDatagram => {
                plan.protocol = 17;
                plan.inner.frags = *choices.of(&[0, 0x4000, 0x2000]);
                let [a, b] = GUE_PORT.to_be_bytes();
                plan.payload[2..4].copy_from_slice(&[a, b]);
            }
            Lie::Gre => plan.protocol = 47,
            Lie::Ttl => plan.inner.ttl = choices.below(2) as u8,
            Lie::InnerOptions => match plan.inner.is_v4() {
                true => plan.inner.options = 1 + choices.below(10) as u8,
                false => plan.protocol = *choices.of(&[0, 43, 51, 60, 135]),
            },
            Lie::InnerLength => plan.inner.longer = 1 + choices.below(400) as i16,
            Lie::InnerVersion => plan.inner.version = Some(*choices.of(&[0, 5, 7, 15])),
            Lie::InnerPiece => match plan.inner.is_v4() {
                true => plan.protocol = *choices.of(&[4, 41]),
                false => {
                    plan.protocol = 44;
                    plan.payload[0] = *choices.of(&[4, 41, 47, 0, 60, 44]);
                }
            },
            Lie::Mark => {
                plan.outer.class |= 3;
                plan.inner.class &= !3;
            }
            Lie::Variant | Lie::Control | Lie::Flags | Lie::Number => {
                plan.wrap = Wrap::Header;
                let [first, number, a, b] = &mut plan.gue;
                match lie {
                    Lie::Variant => *first = 0x80 | choices.byte(),
                    Lie::Control => *first = 0x20,
                    Lie::Number => *number = *choices.of(&[0, 6, 17, 47, 59, 143]),
                    _ => match choices.below(3) {
                        0 => *first = 1 + choices.below(31) as u8,
                        1 => *a = 1 << choices.below(8),
                        _ => *b = 1 << choices.below(8),
                    },
                }
            }
            Lie::DatagramLength => {
                if plan.wrap == Wrap::Plain {
                    plan.wrap = Wrap::Direct;
                }
                plan.longer = match choices.one_in(2) {
                    true => 1 + choices.below(99) as i16,
                    false => -1 - choices.below(60) as i16,
                }
            }
        }
        lie
    }
}
