//! The keyed hash of a flow: SipHash-1-3 over fixed-length input.
//!
//! One round per word and three to finish, as in Aumasson and Bernstein, "SipHash: a fast
//! short-input PRF" (INDOCRYPT 2012), with the fixed input length folded into the key set-up
//! in place of the paper's last block. An attacker who does not know the 128-bit key can aim
//! neither at a set of the flow table nor at a slot of a ring.

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

impl FlowTuple {
    /// Ports and protocol in one word.
    #[inline(always)]
    fn tail(&self) -> u64 {
        let [a, b] = self.client_port;
        let [c, d] = self.vip_port;
        u64::from_ne_bytes([a, b, c, d, self.protocol, 0, 0, 0])
    }

    /// Hashes an IPv4 flow: the low four bytes of each address.
    #[inline(always)]
    pub fn hash_v4(&self, key: HashKey) -> FlowHash {
        let [_, client] = self.client.words().map(u64::from_le);
        let [_, vip] = self.vip.words().map(u64::from_le);
        let mut sip = Sip::new(key, 2);
        sip.word((client >> 32 | vip & 0xffff_ffff_0000_0000).to_le());
        sip.word(self.tail());
        FlowHash(sip.finish())
    }

    /// Hashes an IPv6 flow.
    #[inline(always)]
    pub fn hash_v6(&self, key: HashKey) -> FlowHash {
        let [a, b] = self.client.words();
        let [c, d] = self.vip.words();
        let mut sip = Sip::new(key, 5);
        sip.word(a);
        sip.word(b);
        sip.word(c);
        sip.word(d);
        sip.word(self.tail());
        FlowHash(sip.finish())
    }

    /// Hashes the flow by its family.
    #[inline(always)]
    pub fn hash(&self, key: HashKey) -> FlowHash {
        if self.vip.is_v4() {
            self.hash_v4(key)
        } else {
            self.hash_v6(key)
        }
    }
}

impl FlowHash {
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
    /// Hashes bytes of any length: the name of a backend, when a ring is filled. Not for packets.
    pub fn hash_bytes(self, bytes: &[u8]) -> u64 {
        // The length in bytes stands in the upper half, so that no text collides with a flow's input.
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
