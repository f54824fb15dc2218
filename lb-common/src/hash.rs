//! Keyed hashes: of a flow, for every packet, and of names, for rings and keys.
//!
//! **Flows**: a multilinear hash (Lemire and Kaser, "Strongly universal string hashing is fast", The Computer
//! Journal 57, 2014): the sum of each 32-bit word times a secret 64-bit multiplier of its own, which no
//! two inputs share with a probability above 2^-32 over the choice of the key, then two
//! rounds of xor-shift and multiplication by secret odd numbers. The sum itself is never seen: whoever can watch
//! which backend a flow gets, or that an entry was evicted, sees some bits of its nonlinear image
//! under unknown multipliers. So an attacker without the key can aim neither at a set of
//! the flow table nor at a slot of a ring; what he can do is measured in `lb-ebpf/src/props/hashing.rs`. All
//! products are independent, so the hash costs a fifth of SipHash-1-3, which BPF, without a rotate
//! instruction, runs at a third of its native speed.
//!
//! **Names**: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012), with
//! the input's length folded into the key set-up in place of the paper's last block. The flow
//! hash's multipliers are made with it from the 128-bit key ([`HashKey::expand`]).

use crate::Address;

/// The secret 128-bit key, host order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; 2]);

impl core::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// The hash of a flow; all choices about the flow are functions of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowHash(pub u64);

/// A flow as the client sees it, whichever direction the packet in hand goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTuple {
    /// The client.
    pub client: Address,
    /// The VIP.
    pub vip: Address,
    /// Client's port, network order.
    pub client_port: [u8; 2],
    /// Service's port, network order.
    pub vip_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
}

struct Sip {
    v: [u64; 4],
}

impl Sip {
    #[inline(always)]
    const fn new(key: HashKey, length: u64) -> Self {
        let [k0, k1] = key.0;
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573 ^ length,
            ],
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }

    #[inline(always)]
    fn word(&mut self, m: u64) {
        let [a, b, c, d] = self.v;
        self.v = [a, b, c, d ^ m];
        self.round();
        let [a, b, c, d] = self.v;
        self.v = [a ^ m, b, c, d];
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        let [a, b, c, d] = self.v;
        self.v = [a, b, c ^ 0xff, d];
        self.round();
        self.round();
        self.round();
        let [a, b, c, d] = self.v;
        a ^ b ^ c ^ d
    }
}

/// The multipliers of the flow hash, from [`HashKey::expand`]. Host order. The first eight, which are one
/// cache line, are all that IPv4 needs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct FlowKey {
    /// Added to every sum.
    pub offset: u64,
    /// Of the two rounds at the end; odd.
    pub finish: [u64; 2],
    /// Of the ports, client's first.
    pub ports: u64,
    /// Of the protocol.
    pub protocol: u64,
    /// Of the last four bytes of the client's address: IPv4's whole.
    pub client: u64,
    /// Of the last four bytes of the VIP.
    pub vip: u64,
    /// Of what the wire may show of a hash ([`FlowHash::shown`]); odd.
    pub shown: u64,
    /// Of the first twelve bytes of an IPv6 client's address.
    pub client_rest: [u64; 3],
    /// Of the first twelve bytes of an IPv6 VIP.
    pub vip_rest: [u64; 3],
    /// Zero.
    pub reserved2: [u64; 2],
}

impl core::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlowKey(secret)")
    }
}

/// A 32-bit word times its multiplier, modulo 2^64.
#[inline(always)]
const fn product(word: u64, multiplier: u64) -> u64 {
    (word & 0xffff_ffff).wrapping_mul(multiplier)
}

impl FlowTuple {
    /// Ports and protocol, which both families begin with.
    #[inline(always)]
    fn begin(&self, key: &FlowKey) -> u64 {
        let [a, b] = self.client_port;
        let [c, d] = self.vip_port;
        key.offset
            .wrapping_add(product(
                u64::from(u32::from_le_bytes([a, b, c, d])),
                key.ports,
            ))
            .wrapping_add(product(u64::from(self.protocol), key.protocol))
    }

    /// Hashes an IPv4 flow: the low four bytes of each address.
    #[inline(always)]
    pub fn hash_v4(&self, key: &FlowKey) -> FlowHash {
        let [_, client] = self.client.words().map(u64::from_le);
        let [_, vip] = self.vip.words().map(u64::from_le);
        finish(
            self.begin(key)
                .wrapping_add(product(client >> 32, key.client))
                .wrapping_add(product(vip >> 32, key.vip)),
            key,
        )
    }

    /// Hashes an IPv6 flow.
    #[inline(always)]
    pub fn hash_v6(&self, key: &FlowKey) -> FlowHash {
        let [a, b] = self.client.words().map(u64::from_le);
        let [c, d] = self.vip.words().map(u64::from_le);
        let [k0, k1, k2] = key.client_rest;
        let [m0, m1, m2] = key.vip_rest;
        finish(
            self.begin(key)
                .wrapping_add(product(a, k0))
                .wrapping_add(product(a >> 32, k1))
                .wrapping_add(product(b, k2))
                .wrapping_add(product(b >> 32, key.client))
                .wrapping_add(product(c, m0))
                .wrapping_add(product(c >> 32, m1))
                .wrapping_add(product(d, m2))
                .wrapping_add(product(d >> 32, key.vip)),
            key,
        )
    }

    /// Hashes the flow by its family.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        if self.vip.is_v4() {
            self.hash_v4(key)
        } else {
            self.hash_v6(key)
        }
    }
}

/// Two rounds over a sum, so that every bit of it bears on every bit of the hash.
#[inline(always)]
const fn finish(sum: u64, key: &FlowKey) -> FlowHash {
    let [first, second] = key.finish;
    let mut x = sum;
    x = (x ^ x >> 32).wrapping_mul(first);
    x = (x ^ x >> 29).wrapping_mul(second);
    FlowHash(x ^ x >> 32)
}

impl FlowHash {
    /// Bits for headers that others can read, best from the top: a tunnel's source and flow label. The hash itself
    /// says where in the flow table the flow stands.
    #[inline(always)]
    pub const fn shown(self, key: &FlowKey) -> u64 {
        self.0.wrapping_mul(key.shown)
    }

    /// The hash of the `number`th packet of a flow whose packets are scheduled one by one.
    #[inline(always)]
    #[must_use]
    pub const fn nth(self, number: u64) -> Self {
        Self(
            self.0
                .wrapping_add(number.wrapping_mul(0xd6e8_feb8_6659_fd93)),
        )
    }

    /// The slot of a ring of `size` slots that attempt number `attempt` (0, 1, ...) tries.
    ///
    /// The hash is remixed per attempt (splitmix64's finaliser) and scaled by multiplication,
    /// so that any size works and the table index does not correlate with the slot.
    #[inline(always)]
    pub const fn ring_slot(self, size: u32, attempt: u32) -> u32 {
        let mut x = self.0.wrapping_add(
            (attempt as u64)
                .wrapping_add(1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((x >> 32).wrapping_mul(size as u64)) >> 32) as u32
    }
}

impl HashKey {
    /// The multipliers of the flow hash that belong to this key.
    pub fn expand(self) -> FlowKey {
        let word = |number: u64| {
            let mut sip = Sip::new(self, 1 << 30);
            sip.word(number);
            sip.finish()
        };
        FlowKey {
            offset: word(0),
            finish: [word(1) | 1, word(2) | 1],
            ports: word(3),
            protocol: word(4),
            client: word(5),
            vip: word(6),
            shown: word(13) | 1,
            client_rest: [word(7), word(8), word(9)],
            vip_rest: [word(10), word(11), word(12)],
            reserved2: [0; 2],
        }
    }

    /// Hashes bytes of any length: the name of a backend, when a ring is filled. Not for packets.
    pub fn hash_bytes(self, bytes: &[u8]) -> u64 {
        // The length in bytes stands in the upper half, so that no text collides with what [`HashKey::expand`] hashes.
        let mut sip = Sip::new(self, (bytes.len() as u64) << 32 | 1 << 31);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            sip.word(u64::from_le_bytes(word));
        }
        sip.finish()
    }
}
