//! Looks that are too far apart for the time that is to be looked back on: [`Rarity`]. Part of `passive`; pure.

/// So many in a row are no accident.
const ROW: u32 = 10;

/// Notices that looks are rare.
#[derive(Debug, Default)]
pub struct Rarity {
    /// In a row, up to [`ROW`].
    rare: u32,
    told: bool,
}

impl Rarity {
    /// Two looks were so far `apart`, and `window` is to be looked back on, both in nanoseconds. True: it is to be told that looks are
    /// rare, which is once. Two of them must fit into the window.
    pub fn note(&mut self, apart: u64, window: u64) -> bool {
        self.rare = match apart.saturating_mul(2) > window {
            true => self.rare.saturating_add(1).min(ROW),
            false => 0,
        };
        let tells = self.rare == ROW && !self.told;
        self.told |= tells;
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_looks_are_told_once_and_a_single_late_one_never() {
        let mut rarity = Rarity::default();
        for _ in 0..100 {
            assert!(!rarity.note(100, 500));
            assert!(!rarity.note(9_000, 500));
        }
        // Exactly two fit in.
        assert!((0..100).all(|_| !rarity.note(250, 500)));
        let told: Vec<u32> = (1..=100).filter(|_| rarity.note(251, 500)).collect();
        assert_eq!(told, [ROW]);
        assert!(!rarity.note(100, 500));
        assert!((0..100).all(|_| !rarity.note(251, 500)));
    }
}
