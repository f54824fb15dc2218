//! VLAN tags (IEEE 802.1Q: one; 802.1ad, "QinQ": two) as they stand in a frame, and where their interface is found.

use bytemuck::{Pod, Zeroable};

use crate::backend::{DEVICES, Device};

/// TPID of a customer's tag, network order.
pub const TPID_8021Q: [u8; 2] = [0x81, 0x00];
/// TPID of a provider's tag, network order.
pub const TPID_8021AD: [u8; 2] = [0x88, 0xa8];

/// The bits of a tag's third and fourth byte that are the VLAN's number; above them stand priority and drop eligibility.
const VID: [u8; 2] = [0x0f, 0xff];

/// One tag: TPID and TCI, network order. All zero: none.
pub type Tag = [u8; 4];

/// The tags of a frame, the first on the wire first. One tag stands first, with zeros behind it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tags(pub [Tag; 2]);

impl Tags {
    /// None.
    pub const NONE: Self = Self([[0; 4]; 2]);

    /// The tag of a VLAN, without priority. `vlan`: 0 to 4095.
    #[must_use]
    pub const fn tag([a, b]: [u8; 2], vlan: u16) -> Tag {
        let [c, d] = vlan.to_be_bytes();
        [a, b, c & VID[0], d]
    }

    /// How many there are.
    #[inline(always)]
    #[must_use]
    pub const fn count(&self) -> usize {
        let Self([[first, ..], [second, ..]]) = *self;
        match (first, second) {
            (0, _) => 0,
            (_, 0) => 1,
            _ => 2,
        }
    }

    /// Without priorities: what names an interface.
    #[inline(always)]
    #[must_use]
    pub const fn plain(&self) -> Self {
        let Self([[a, b, c, d], [e, f, g, h]]) = *self;
        Self([[a, b, c & VID[0], d], [e, f, g & VID[0], h]])
    }

    /// True where the tags name no VLAN: the first says no more than a priority (number 0).
    #[inline(always)]
    #[must_use]
    pub const fn is_priority_alone(&self) -> bool {
        let Self([[_, _, c, d], second]) = *self;
        c & VID[0] == 0 && d == 0 && second[0] == 0
    }

    /// With the priority and drop eligibility of the first of `other`'s on the first of these.
    #[inline(always)]
    #[must_use]
    pub const fn with_priority_of(&self, other: &Self) -> Self {
        let Self([[a, b, c, d], second]) = *self;
        let Self([[_, _, priority, _], _]) = *other;
        Self([[a, b, c | priority & !VID[0], d], second])
    }

    #[inline(always)]
    const fn word(self) -> u64 {
        let Self([[a, b, c, d], [e, f, g, h]]) = self;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Slots of `devices` from the home on that may say where a VLAN's interface stands.
pub const PROBES: u32 = 8;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The slot in `devices` whose [`Device::vlan`] may name the interface of these tags (as [`Tags::plain`] has them) on a
/// port; the first of [`PROBES`].
#[inline(always)]
#[must_use]
pub const fn home(port: u32, tags: Tags) -> u32 {
    let mixed = tags.word().wrapping_mul(GOLDEN) ^ port as u64;
    (mixed.wrapping_mul(GOLDEN) >> 52) as u32 & (DEVICES - 1)
}

impl Device {
    /// In [`Self::tagged`] of an interface whose frames carry tags. A bit that no slot has.
    pub const TAGGED: u16 = 1 << 15;

    /// An interface whose frames leave as they are.
    #[must_use]
    pub const fn plain(ifindex: u32, mtu: u32, mac: [u8; 6]) -> Self {
        Self {
            ifindex,
            mtu,
            mac,
            tagged: 0,
            port: ifindex,
            vlan: 0,
            tags: Tags::NONE,
        }
    }

    /// With other tags, and by another interface.
    #[must_use]
    pub const fn through(mut self, port: u32, tags: Tags) -> Self {
        self.port = port;
        self.tags = tags;
        self.tagged = match tags.count() {
            0 => 0,
            _ => Self::TAGGED,
        };
        self
    }
}

const _: () = assert!(Device::TAGGED as u32 >= DEVICES);
