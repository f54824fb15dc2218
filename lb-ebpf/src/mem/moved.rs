//! Maps as they would be at another time: how they travel between a test's clock and the kernel's.

use lb_common::{
    Nanos, affinity,
    nat::{Stage, State},
};

use crate::admission;

/// Lines of `fragments` as they would be if the clock read `to` where it reads `from`.
pub fn moved_fragments(lines: &[[u64; 8]], from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
    let by = admission::second(to).wrapping_sub(admission::second(from));
    let moved = |line: &[u64; 8]| {
        let mut line = *line;
        for first in line.iter_mut().step_by(2).filter(|first| **first != 0) {
            let second = (*first as u32).wrapping_add(by) & 0xff_ffff;
            *first = *first >> 24 << 24 | u64::from(second);
        }
        line
    };
    lines.iter().map(moved).collect()
}

/// Lines of `nat_flows` as they would be if the clock read `to` where it reads `from`.
pub fn moved_nat_flows(lines: &[[u64; 8]], from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
    let by = admission::second(to).wrapping_sub(admission::second(from));
    let moved = |line: &[u64; 8]| {
        let mut line = *line;
        let [first, ..] = &mut line;
        let state = State(*first);
        if state.stage() != Stage::Free {
            *first = state.moved(by).0;
        }
        line
    };
    lines.iter().map(moved).collect()
}

/// Lines of `affinities` as they would be if the clock read `to` where it reads `from`.
pub fn moved_affinities(lines: &[[u64; 8]], from: Nanos, to: Nanos) -> Vec<[u64; 8]> {
    let (from, to) = (admission::second(from), admission::second(to));
    let moved = |line: &[u64; 8]| line.map(|word| affinity::Entry(word).moved(from, to).0);
    lines.iter().map(moved).collect()
}
