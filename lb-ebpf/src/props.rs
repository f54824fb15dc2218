//! Property tests of the data plane: what holds for every packet, table and clock, not only for
//! those of the fixtures.

mod checksums;
mod clock;
mod hashing;
mod lookup;
mod model;
mod mutants;
mod ranges;
mod table;
mod tunnel;

/// A generator of numbers that are the same in every run (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Iterator for Numbers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(x ^ (x >> 31))
    }
}
