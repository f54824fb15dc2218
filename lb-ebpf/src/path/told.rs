//! How far the backends at an address have been told what was said of the path to it, in one word. Pure, part of `path`.

/// Bits 0 to 15: the next place; 16 to 31: how many it is about; 32 to 48: the last of them; 49 and 50: the most that came of it; 63: there is
/// no further one.
#[derive(Clone, Copy)]
pub(super) struct Told(pub(super) u64);

const LAST: u32 = 32;
const MOST: u32 = 49;
const ALL: u64 = 1 << 63;

const _: () = assert!(lb_common::limits::BACKENDS.max <= 1 << 17);

impl Told {
    #[inline(always)]
    pub(super) const fn place(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub(super) const fn count(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    #[inline(always)]
    pub(super) const fn last(self) -> u32 {
        (self.0 >> LAST) as u32 & 0x1_ffff
    }

    #[inline(always)]
    pub(super) const fn most(self) -> u32 {
        (self.0 >> MOST) as u32 & 3
    }

    #[inline(always)]
    pub(super) const fn all(self) -> bool {
        self.0 & ALL != 0
    }

    /// There is no further one.
    #[inline(always)]
    pub(super) const fn ended(self) -> Self {
        Self(self.0 | ALL)
    }

    /// One more, and what came of it.
    #[inline(always)]
    pub(super) fn with(self, id: u32, came: u32) -> Self {
        let place = u64::from(self.place().wrapping_add(1));
        let (count, last) = match came {
            0 => (self.count(), self.last()),
            _ => (self.count().wrapping_add(1), id),
        };
        let most = u64::from(self.most().max(came));
        Self(place | u64::from(count) << 16 | u64::from(last) << LAST | most << MOST)
    }
}
