//! How long it takes to fill a large ring.

use std::time::{Duration, Instant};

use lb_common::HashKey;
use lb_userspace::maglev::{self, Member};

use super::{Goal, Row};

/// Slots.
const SLOTS: u32 = 65_537;
/// Backends, with weights from 1 to 10.
const BACKENDS: u32 = 1000;
/// Fills that are timed.
const FILLS: usize = 21;

/// Fills the ring again and again.
pub fn fill() -> Row {
    let names: Vec<String> = (0..BACKENDS).map(|n| format!("web/b{n}")).collect();
    let members: Vec<Member<'_>> = (0..)
        .zip(&names)
        .map(|(id, name)| Member {
            id,
            name,
            weight: id % 10 + 1,
        })
        .collect();
    let once = |_| {
        let began = Instant::now();
        let ring = maglev::fill(&members, SLOTS, HashKey([5, 6]));
        let took = began.elapsed();
        assert_eq!(ring.len(), SLOTS as usize);
        took
    };
    Row::times(
        format!("fill a ring of {SLOTS} slots with {BACKENDS} weighted backends"),
        (0..FILLS).map(once).collect(),
        Goal::Time(Duration::from_millis(10)),
    )
}
