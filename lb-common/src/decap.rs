//! What a backend's decapsulator and its loader share: addresses, which sources are trusted, and what became of packets.
//!
//! Maps of the object `fairlead-decap`: `trusted` and `vip_prefixes` (arrays of [`AddressPrefix`]), `addresses` (hash from an
//! [`Address`] to a [`Standing`] as `u32`), `gue_port` (array of one `u32`: the UDP port of `gue`, host order, 0 for none), `fates` (per-CPU array of `u64`, by [`Fate`]).

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Slots in `trusted`; the first empty one ends the list.
pub const TRUSTED_SOURCES: u32 = 16;
/// Slots in `vip_prefixes`; the first empty one ends the list.
pub const VIP_PREFIXES: u32 = 16;
/// Entries in `addresses`.
pub const ADDRESSES: u32 = 65_536;

/// Addresses that equal `address` in the bits of `mask`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AddressPrefix {
    /// As [`crate::Address`]; zero where `mask` is.
    pub address: [u8; 16],
    /// Network order; all zero: the slot is empty.
    pub mask: [u8; 16],
}

impl AddressPrefix {
    /// Nothing.
    pub const EMPTY: Self = Self {
        address: [0; 16],
        mask: [0; 16],
    };

    /// True for an address that it covers. The empty one covers none.
    #[inline(always)]
    pub fn contains(&self, address: Address) -> bool {
        let [a, b] = address.words();
        let [c, d] = Address(self.address).words();
        let [m, n] = Address(self.mask).words();
        (a ^ c) & m == 0 && (b ^ d) & n == 0 && m | n != 0
    }
}

/// What an address is to the machine that takes packets out of tunnels.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Somebody else's.
    Foreign = 0,
    /// One of the machine's own: tunnels end there.
    Own = 1,
    /// A VIP that the machine serves: packets inside of tunnels go there.
    Vip = 2,
}

impl Standing {
    /// From the number in the map.
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Own,
            2 => Self::Vip,
            _ => Self::Foreign,
        }
    }
}

macro_rules! fates {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal;)+) => {
        /// What became of a packet. The number is the counter's index and the label its name. Append-only:
        /// numbers stand in pinned maps.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fate {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Fate {
            /// Every fate, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name in output and JSON.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

fates! {
    /// No tunnel that ends here: given to the kernel as it came.
    Passed = 0, "passed";
    /// Taken out of its tunnel and given to the kernel.
    Delivered = 1, "delivered";
    /// A header promises more than the frame or the packet around it holds.
    Truncated = 2, "truncated";
    /// A header contradicts itself.
    Malformed = 3, "malformed";
    /// The checksum of the outer IPv4 header is wrong.
    BadIpChecksum = 4, "bad_ip_checksum";
    /// An IPv4 header has options.
    IpOptions = 5, "ip_options";
    /// A fragment, outside or inside: balancers send none.
    Fragment = 6, "fragment";
    /// The outer source is not one of the balancers'.
    UnknownSource = 7, "unknown_source";
    /// The packet inside is not for a VIP of this machine.
    UnknownDestination = 8, "unknown_destination";
    /// The inner source is one that no client can have.
    MartianSource = 9, "martian_source";
    /// The inner source is an address of this machine or lies among the balancers' tunnel sources.
    OwnSource = 10, "own_source";
    /// A tunnel within the tunnel.
    Nested = 11, "nested";
    /// Inside is neither IPv4 nor IPv6, or in that GRE, or IPv6 with more headers before what it carries.
    OtherProtocol = 12, "other_protocol";
    /// The inner TTL or hop limit is used up.
    TtlExpired = 13, "ttl_expired";
    /// A router marked congestion on a packet whose ends do not know of such marks (RFC 6040 section 4.2).
    Congestion = 14, "congestion";
    /// A datagram to the port of GUE whose variant is neither 0 nor 1.
    GueVariant = 15, "gue_variant";
    /// A GUE control message.
    GueControl = 16, "gue_control";
    /// A GUE header with flags or options.
    GueOptions = 17, "gue_options";
}

impl Fate {
    /// Given to the kernel, changed or not.
    pub const fn is_passed_on(self) -> bool {
        matches!(self, Self::Passed | Self::Delivered)
    }
}
