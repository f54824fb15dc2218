//! The order in which backends take turns: from a weighted pool to a ring that is walked slot by slot.
//!
//! Of n turns in a row from the first on each backend has its share, up to less than one turn: its k-th turn lies
//! in the window of slots in which the k-th part of its share does, and of those whose window has come that goes first whose window
//! ends first (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", Algorithmica 15, 1996, on one machine). So a heavy
//! backend does not take its turns in a row, as with smooth weighted round-robin, and a round costs n log n instead of n times
//! the size of the pool.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::maglev::Member;

/// A member and its turns so far.
struct Player {
    id: u32,
    weight: u64,
    turns: u64,
}

impl Player {
    /// The slot that the window of its next turn begins with.
    fn from(&self, round: u64) -> u64 {
        let whole = self.turns.saturating_mul(round);
        whole.checked_div(self.weight).unwrap_or(u64::MAX)
    }

    /// The slot before which it ends.
    fn until(&self, round: u64) -> u64 {
        let whole = self.turns.saturating_add(1).saturating_mul(round);
        whole.div_ceil(self.weight.max(1))
    }
}

/// The turns of one round: as many for each member as its weight, all divided by what they have in common, in at most `size` slots. Where
/// the round is longer, it is cut, and each member's share of it is right up to one slot. Empty when nobody has weight.
pub fn fill(members: &[Member<'_>], size: u32) -> Vec<u32> {
    let mut pool: Vec<_> = members.iter().filter(|m| m.weight > 0).collect();
    pool.sort_unstable_by_key(|m| m.name);
    let common = pool.iter().fold(0, |a, m| divisor(a, m.weight)).max(1);
    let player = |m: &&Member<'_>| Player {
        id: m.id,
        weight: u64::from(m.weight.checked_div(common).unwrap_or(m.weight)),
        turns: 0,
    };
    let mut pool: Vec<Player> = pool.iter().map(player).collect();
    let round = pool.iter().map(|p| p.weight).fold(0, u64::saturating_add);
    let mut waiting: BinaryHeap<_> = (0..pool.len()).map(|n| Reverse((0, n))).collect();
    let mut ready = BinaryHeap::new();
    let mut ring = Vec::new();
    for slot in 0..round.min(u64::from(size)) {
        while let Some(Reverse((_, n))) = waiting.peek().filter(|next| next.0.0 <= slot).copied() {
            waiting.pop();
            if let Some(player) = pool.get(n) {
                ready.push(Reverse((player.until(round), n)));
            }
        }
        // There always is one: so far as many shares have begun as there are slots, and one more.
        let Some(Reverse((_, n))) = ready.pop() else {
            break;
        };
        if let Some(player) = pool.get_mut(n) {
            ring.push(player.id);
            player.turns = player.turns.saturating_add(1);
            waiting.push(Reverse((player.from(round), n)));
        }
    }
    ring
}

const fn divisor(mut a: u32, mut b: u32) -> u32 {
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(weights: &[u32], size: u32) -> Vec<u32> {
        let names: Vec<String> = (0..weights.len()).map(|n| format!("web/b{n:03}")).collect();
        let members: Vec<Member<'_>> = (0..)
            .zip(&names)
            .zip(weights)
            .map(|((id, name), &weight)| Member { id, name, weight })
            .collect();
        fill(&members, size)
    }

    #[test]
    fn equal_backends_take_turns_in_the_order_of_their_names() {
        assert_eq!(ring(&[1, 1, 1], 100), [0, 1, 2]);
        assert_eq!(ring(&[7, 7, 0, 7], 100), [0, 1, 3]);
        assert_eq!(ring(&[5], 100), [0]);
        assert!(ring(&[0, 0], 100).is_empty() && ring(&[], 100).is_empty());
        assert!(ring(&[1], 0).is_empty());
    }

    #[test]
    fn a_heavy_backend_does_not_take_its_turns_in_a_row() {
        assert_eq!(ring(&[5, 1, 1], 100), [0, 0, 0, 1, 0, 0, 2]);
        assert_eq!(ring(&[4, 2, 2], 100), [0, 1, 0, 2]);
        assert_eq!(ring(&[3, 1], 100), [0, 0, 0, 1]);
    }

    proptest! {
        #[test]
        fn a_round_has_each_backend_as_often_as_its_weight_says(
            weights in proptest::collection::vec(0_u32..=1000, 1..40),
        ) {
            let common = weights.iter().fold(0, |a, b| divisor(a, *b)).max(1);
            let ring = ring(&weights, u32::MAX);
            for (id, weight) in (0..).zip(&weights) {
                let turns = ring.iter().filter(|slot| **slot == id).count();
                prop_assert_eq!(turns, (weight / common) as usize);
            }
        }

        #[test]
        fn of_any_turns_from_the_first_on_each_backend_has_its_share_up_to_one(
            weights in proptest::collection::vec(1_u32..=100, 1..20),
            size in 1_u32..2000,
        ) {
            let ring = ring(&weights, size);
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            let mut taken = vec![0_u64; weights.len()];
            for (n, id) in (1_u64..).zip(&ring) {
                taken[*id as usize] += 1;
                for (turns, weight) in taken.iter().zip(&weights) {
                    // Rounds are alike, so this holds over any number of them. In units of one turn by all weights.
                    let (have, fair) = (turns * total, n * u64::from(*weight));
                    prop_assert!(have.abs_diff(fair) < total, "{taken:?} of {n} for {weights:?}");
                }
            }
        }
    }
}
