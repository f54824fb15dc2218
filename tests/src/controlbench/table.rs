//! A run as a table for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Goal, MB, Row, Values};
use crate::bench::machine::Machine;

/// The whole text.
pub fn render(machine: &Machine, rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    let mut text = format!(
        "Linux {}, {}\n\n{:<width$}{:>12}{:>12}{:>7}{:>12}\n",
        machine.kernel, machine.cpu, "", "median", "worst", "of", "goal"
    );
    for row in rows {
        let (median, worst, count) = figures(&row.values);
        let (goal, met) = match row.goal {
            Goal::Time(time) => (show(time), meets(row)),
            Goal::Bytes(bytes) => (megabytes(bytes), meets(row)),
            Goal::None => (String::new(), true),
        };
        let mark = if met { "" } else { "  missed" };
        let _ = writeln!(
            text,
            "{:<width$}{median:>12}{worst:>12}{count:>7}{goal:>12}{mark}",
            row.what
        );
    }
    text
}

/// The median is within the goal.
fn meets(row: &Row) -> bool {
    match (&row.values, row.goal) {
        (Values::Times(times), Goal::Time(goal)) => middle(times) <= goal,
        (Values::Bytes(bytes), Goal::Bytes(goal)) => middle(bytes) <= goal,
        _ => true,
    }
}

fn figures(values: &Values) -> (String, String, usize) {
    match values {
        Values::Times(times) => (
            show(middle(times)),
            show(times.iter().max().copied().unwrap_or_default()),
            times.len(),
        ),
        Values::Bytes(bytes) => (
            megabytes(middle(bytes)),
            megabytes(bytes.iter().max().copied().unwrap_or_default()),
            bytes.len(),
        ),
    }
}

fn middle<T: Copy + Ord + Default>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn show(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{micros} us"),
        10_000..1_000_000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / MB)
}
