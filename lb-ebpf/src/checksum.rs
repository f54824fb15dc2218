//! The Internet checksum, changed by differences (RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! The sum is kept in the byte order of the machine; ones' complement addition does not mind
//! (RFC 1071 section 2B). A wrong checksum stays exactly as wrong as it was.

/// Differences to apply to checksums: pairs of what stood there and what stands there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// No difference.
    pub const NONE: Self = Self(0);

    /// Two bytes at an even offset became others.
    #[inline(always)]
    pub fn swap2(self, old: [u8; 2], new: [u8; 2]) -> Self {
        let old = !u16::from_ne_bytes(old);
        let new = u16::from_ne_bytes(new);
        Self(
            self.0
                .wrapping_add(u64::from(old))
                .wrapping_add(u64::from(new)),
        )
    }

    /// Four bytes at an even offset became others.
    #[inline(always)]
    pub fn swap4(self, old: [u8; 4], new: [u8; 4]) -> Self {
        let old = !u32::from_ne_bytes(old);
        let new = u32::from_ne_bytes(new);
        // A 32-bit word is congruent to the sum of its halves modulo 65535.
        Self(
            self.0
                .wrapping_add(u64::from(old))
                .wrapping_add(u64::from(new)),
        )
    }

    /// Sixteen bytes at an even offset, each as two words in the machine's order, became others.
    #[inline(always)]
    pub const fn swap16(self, old: [u64; 2], new: [u64; 2]) -> Self {
        let [a, b] = old;
        let [c, d] = new;
        let old = halves(!a).wrapping_add(halves(!b));
        let new = halves(c).wrapping_add(halves(d));
        Self(self.0.wrapping_add(old).wrapping_add(new))
    }

    /// Both differences.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The checksum after the differences. At most some dozens of swaps lie in a delta, so the
    /// 64-bit sum cannot overflow.
    #[inline(always)]
    pub fn apply(self, check: [u8; 2]) -> [u8; 2] {
        let sum = u64::from(!u16::from_ne_bytes(check)).wrapping_add(self.0);
        (!fold(sum)).to_ne_bytes()
    }

    /// The same for UDP (RFC 768): zero means "none" and stays, and a computed zero is sent as all
    /// ones.
    #[inline(always)]
    pub fn apply_udp(self, check: [u8; 2]) -> [u8; 2] {
        if check == [0, 0] {
            return check;
        }
        match self.apply(check) {
            [0, 0] => [0xff, 0xff],
            other => other,
        }
    }
}

/// The sum of a word's halves, which is congruent to it modulo 65535.
#[inline(always)]
const fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff).wrapping_add(word >> 32)
}

/// A sum of 32-bit words, for a checksum that is made and not changed.
#[derive(Clone, Copy, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    pub const NONE: Self = Self(0);
    /// Of words that sum up to zero without all being zero.
    pub const ZERO: Self = Self(0xffff);

    /// From [`Self::raw`].
    #[inline(always)]
    pub const fn of(raw: u64) -> Self {
        Self(raw)
    }

    /// As a number that travels in a register.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// With these words. Far fewer than 2^32 of them in all.
    #[inline(always)]
    pub fn words<const N: usize>(self, words: &[[u8; 4]; N]) -> Self {
        let mut sum = self.0;
        for word in words {
            sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
        Self(sum)
    }

    /// Without these words: their complements are added. Never a sum of nothing.
    #[inline(always)]
    pub fn without<const N: usize>(self, words: &[[u8; 4]; N]) -> Self {
        let mut sum = self.0;
        for word in words {
            sum = sum.wrapping_add(u64::from(!u32::from_ne_bytes(*word)));
        }
        Self(sum)
    }

    /// The checksum, where the field itself was summed as zero.
    #[inline(always)]
    pub const fn check(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }

    /// The same in the last two bytes of a word, which are zero.
    #[inline(always)]
    pub const fn put_last(self, word: [u8; 4]) -> [u8; 4] {
        let check = !fold(self.0) as u32;
        let check = match cfg!(target_endian = "little") {
            true => check << 16,
            false => check,
        };
        (u32::from_ne_bytes(word) | check).to_ne_bytes()
    }
}

/// Folds a sum of fewer than 65,535 words of 32 bits to sixteen bits with end-around carry. With so few, the first
/// step leaves at most 2^32 + 65,533, the second at most 0x1fffe, and the third nothing to carry.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    sum as u16
}

/// The checksum of an IPv4 header after its TTL went down by one. As by [`Delta`], but without a fold: the word
/// of TTL and protocol became 0x100 less, so the checksum becomes as much more (RFC 1141 section 2), and
/// never "minus zero", which no header's sum is (RFC 1624 section 3).
#[inline(always)]
pub fn after_one_hop(check: [u8; 2]) -> [u8; 2] {
    let sum =
        u32::from(u16::from_ne_bytes(check)).wrapping_add(u32::from(u16::from_ne_bytes([1, 0])));
    (sum.wrapping_add(u32::from(sum >= 0xffff)) as u16).to_ne_bytes()
}

/// True when the twenty bytes of an IPv4 header sum up to all ones.
#[inline(always)]
pub fn ipv4_header_is_right(words: [[u8; 4]; 5]) -> bool {
    let sum = Sum::NONE.words(&words).0;
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    // At most 0x1ffff now, and no header is all zero: the multiples of 65,535 that are left.
    sum == 0xffff || sum == 0x1_fffe
}
