//! Which (address, port, protocol) is ours: VIPs, and the backends whose replies we translate.
//!
//! An open-addressed table, two generations of it; `Control::live` names the live one.
//! The control plane picks a seed under which no key is further than [`MAX_PROBES`] slots from
//! its home, so that a lookup is a bounded loop without a hash map.

use bytemuck::{Pod, Zeroable};

use crate::Family;

/// Slots that a lookup looks at, from the key's home on.
pub const MAX_PROBES: u32 = 4;

/// An IPv4 or IPv6 address in 16 bytes, network order. IPv4 is IPv4-mapped (`::ffff:a.b.c.d`,
/// RFC 4291 section 2.5.5.2); frames of IPv6 that carry such an address are not ours.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// From the four bytes of an IPv4 address.
    #[inline(always)]
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3],
        ])
    }

    /// From the sixteen bytes of an IPv6 address.
    #[inline(always)]
    pub const fn v6(a: [u8; 16]) -> Self {
        Self(a)
    }

    /// Its two halves as they stand in memory, for hashing and comparing. A cast: taken apart byte by
    /// byte, each costs the data plane a dozen instructions.
    #[inline(always)]
    pub fn words(self) -> [u64; 2] {
        bytemuck::cast(self.0)
    }

    /// From [`Self::words`].
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Self {
        Self(bytemuck::cast(words))
    }

    /// True for an IPv4-mapped address.
    #[inline(always)]
    pub fn is_v4(self) -> bool {
        let [high, low] = self.words();
        high == 0 && u64::from_be(low) >> 32 == 0xffff
    }

    /// Its family.
    #[inline(always)]
    pub fn family(self) -> Family {
        match self.is_v4() {
            true => Family::V4,
            false => Family::V6,
        }
    }
}

/// What an endpoint leads to.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointKind {
    /// (VIP, port, protocol): `index` is a service index.
    Vip = 1,
    /// (VIP, 0, 0): the address is a VIP of some service; `index` is unused. For echo,
    /// fragments and whatever else has no port. Addresses of a prefix have none.
    VipAddress = 2,
    /// (backend address, port, protocol) of a `dnat` service: `index` is a BackendId. The only
    /// kind that may stand several times under one key (a server in several services). Port 0: one that keeps the
    /// port that the client chose.
    Backend = 3,
    /// (a prefix's first address, its length, 0): `index` is where its rules begin in `rules`, see
    /// [`crate::rule`].
    Prefix = 4,
    /// As [`Self::Vip`], of a service whose packets always go the long way: what only it needs costs no other. Asked
    /// for where the generation has [`crate::header::RANGES`].
    Aside = 5,
    /// [`crate::quic::key`]: `index` is the BackendId that the connection id names.
    ServerId = 6,
    /// [`tunnel_key`]: `index` is the BackendId of one of the backends at this address whose packets go by a tunnel.
    Tunnel = 7,
}

/// Protocol number of [`tunnel_key`], which no packet has (IANA: reserved).
const NO_PROTOCOL: u8 = 255;

/// The key of one of the backends at an address, from place 0 on without a gap.
#[inline(always)]
pub const fn tunnel_key(address: Address, place: u16) -> EndpointKey {
    EndpointKey {
        address,
        port: place.to_be_bytes(),
        protocol: NO_PROTOCOL,
    }
}

/// Backends at one address that are told what is learned of the path to it: those at the first places.
pub const MAX_TUNNELS: u16 = 256;

/// What a frame is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// VIP or backend.
    pub address: Address,
    /// Network order; `[0, 0]` for [`EndpointKind::VipAddress`]; a length in bits for [`EndpointKind::Prefix`].
    pub port: [u8; 2],
    /// IANA protocol number; 0 for [`EndpointKind::VipAddress`] and [`EndpointKind::Prefix`].
    pub protocol: u8,
}

/// A slot of the table. Map `endpoints`. Half a cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EndpointSlot {
    /// As [`Address`].
    pub address: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// An [`EndpointKind`]; 0: empty.
    pub kind: u8,
    /// By kind: service index, BackendId or index of a rule. Host order.
    pub index: u32,
    /// Zero.
    pub reserved: u64,
}

impl EndpointKey {
    /// Port and protocol in one word, as they are compared and hashed.
    #[inline(always)]
    pub const fn tail(&self) -> u32 {
        u16::from_ne_bytes(self.port) as u32 | (self.protocol as u32) << 16
    }

    /// The home slot under a generation's seed; `mask` is slots minus one. The seed's highest bit does not count.
    ///
    /// A sum of products, mixed and multiplied by the seed. Not keyed by a secret: only the operator's own
    /// configuration fills this table, so nobody can aim at it.
    #[inline(always)]
    pub fn home(&self, seed: u64, mask: u32) -> u32 {
        let [a, b] = self.address.words();
        let sum = a
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(b.wrapping_mul(0xd6e8_feb8_6659_fd93))
            .wrapping_add((self.tail() as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        // Odd, so that the multiplication alone makes no two sums equal.
        let mixed = (sum ^ sum >> 32).wrapping_mul(seed << 1 | 1);
        (mixed >> 32) as u32 & mask
    }
}

impl EndpointSlot {
    /// True when the slot holds this key with this kind.
    #[inline(always)]
    pub fn holds(&self, key: &EndpointKey, kind: EndpointKind) -> bool {
        let here = EndpointKey {
            address: Address(self.address),
            port: self.port,
            protocol: self.protocol,
        };
        here.tail() | u32::from(self.kind) << 24 == key.tail() | (kind as u32) << 24
            && here.address.words() == key.address.words()
    }

    /// True when the slot holds this key, whatever its kind.
    #[inline(always)]
    pub fn matches(&self, key: &EndpointKey) -> bool {
        let here = EndpointKey {
            address: Address(self.address),
            port: self.port,
            protocol: self.protocol,
        };
        self.kind != 0 && here.address.words() == key.address.words() && here.tail() == key.tail()
    }
}
