//! Times as a line of marks, the higher the more of them: a histogram that lies beside others. Pure.

/// Bins up to the goal.
pub const BINS: usize = 22;

/// From few to many.
const MARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How many times fall into each bin of `goal / BINS`, and in the last place how many are above the goal.
pub fn count(times: &[f64], goal: f64) -> [usize; BINS + 1] {
    let mut counts = [0; BINS + 1];
    for time in times {
        // What is exactly at the goal belongs into the last bin below.
        let bin = match *time > goal {
            true => BINS,
            false => ((time / goal * BINS as f64) as usize).min(BINS - 1),
        };
        counts[bin] += 1;
    }
    counts
}

/// The bins up to the goal as one mark each; `most` in a bin is the highest mark.
pub fn marks(counts: &[usize; BINS + 1], most: usize) -> String {
    let mark = |count: usize| match count {
        0 => ' ',
        _ => MARKS[(count * MARKS.len()).div_ceil(most.max(count)) - 1],
    };
    counts[..BINS].iter().map(|count| mark(*count)).collect()
}
