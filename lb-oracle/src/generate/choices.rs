//! Where choices come from: a generator of numbers, or a fuzzer's bytes.

/// Choices, one after the other.
pub struct Choices<'a>(Source<'a>);

enum Source<'a> {
    /// splitmix64, its state.
    Numbers(u64),
    /// When they are used up, the first of everything is chosen.
    Bytes(&'a [u8]),
}

impl<'a> Choices<'a> {
    /// By a number.
    pub fn numbered(number: u64) -> Self {
        // Neighbours begin far from each other.
        Self(Source::Numbers(number.wrapping_mul(0xd6e8_feb8_6659_fd93)))
    }

    /// By these bytes.
    pub fn given(bytes: &'a [u8]) -> Self {
        Self(Source::Bytes(bytes))
    }

    /// Any number.
    pub fn word(&mut self) -> u64 {
        match &mut self.0 {
            Source::Numbers(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                x ^ (x >> 31)
            }
            Source::Bytes(bytes) => {
                let (now, rest) = bytes.split_at(bytes.len().min(2));
                *bytes = rest;
                now.iter()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
            }
        }
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        match &mut self.0 {
            Source::Numbers(_) => self.word() as u8,
            Source::Bytes(bytes) => match bytes.split_first() {
                Some((first, rest)) => {
                    *bytes = rest;
                    *first
                }
                None => 0,
            },
        }
    }

    /// A number below a limit, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        match limit {
            0..=256 => usize::from(self.byte()) % limit,
            _ => (self.word() % limit as u64) as usize,
        }
    }

    /// True once in so many times; a fuzzer without bytes gets false.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of a list, which is not empty.
    pub fn of<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.below(list.len())]
    }
}
