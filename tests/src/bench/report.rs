//! What the rounds say, for people.

use std::fmt::Write;

use super::{
    Case,
    rounds::{Floors, Samples},
};

/// Median, minimum and spread of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the two middle ones.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// From the first quartile to the third, as a share of the median: half of all rounds lie within.
    pub spread: f64,
}

/// The value below which this share of a series lies, between its neighbours in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len().saturating_sub(1)) as f64;
    let (low, high) = (position.floor(), position.ceil());
    let (a, b) = (sorted[low as usize], sorted[high as usize]);
    a + (b - a) * (position - low)
}

/// Of a series that is not empty.
pub fn summary(series: &[f64]) -> Summary {
    let mut sorted = series.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = quantile(&sorted, 0.5);
    Summary {
        median,
        min: sorted[0],
        spread: (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / median.abs(),
    }
}

/// Multiples of the hash lookup of the same round.
pub fn multiples(net: &[f64], floors: &Floors) -> Vec<f64> {
    net.iter()
        .zip(&floors.hash_lookup)
        .map(|(a, b)| a / b)
        .collect()
}

/// One line: a name, what each object measured, and the goal.
fn line(text: &mut String, name: &str, columns: &[(Summary, f64)], goal: Option<f64>) {
    let _ = write!(text, "{name:<38}");
    for (net, multiple) in columns {
        let _ = write!(
            text,
            "  {:>7.1} {:>7.1} {:>5.1}% {:>7.2}",
            net.median,
            net.min,
            net.spread * 100.0,
            multiple
        );
    }
    if let Some(goal) = goal {
        let met = columns.iter().all(|(_, multiple)| *multiple <= goal);
        let _ = write!(text, "  {goal:>5.1} {}", if met { "met" } else { "missed" });
    }
    text.push('\n');
}

/// The whole table: per case the samples of each object.
pub fn table(objects: &[String], floors: &Floors, rows: &[(Case, Vec<Samples>)]) -> String {
    let mut text = String::new();
    if objects.len() > 1 {
        for (name, object) in ["A", "B"].iter().zip(objects) {
            let _ = writeln!(text, "{name} = {object}");
        }
    }
    let _ = write!(text, "{:<38}", "ns a packet, net of null");
    for _ in objects {
        let _ = write!(
            text,
            "  {:>7} {:>7} {:>6} {:>7}",
            "median", "min", "spread", "x hash"
        );
    }
    let _ = writeln!(text, "  {:>5}", "goal");
    for (name, series) in [
        ("floor: null (gross)", &floors.null),
        ("floor: MAC swap", &floors.mac_swap),
        ("floor: one hash lookup", &floors.hash_lookup),
    ] {
        let multiple = summary(&multiples(series, floors)).median;
        line(&mut text, name, &[(summary(series), multiple)], None);
    }
    for (case, samples) in rows {
        let columns: Vec<(Summary, f64)> = samples
            .iter()
            .map(|samples| {
                let net = samples.net();
                let multiple = summary(&multiples(&net, floors)).median;
                let least = |s: &[f64]| s.iter().copied().fold(f64::MAX, f64::min);
                let mut sum = summary(&net);
                sum.min = least(&samples.gross) - least(&samples.null);
                (sum, multiple)
            })
            .collect();
        line(&mut text, &case.name, &columns, case.goal);
        for samples in samples {
            if samples.untracked + samples.evicted > 0 {
                let _ = writeln!(
                    text,
                    "  (of its new flows {} were untracked, {} evicted another)",
                    samples.untracked, samples.evicted
                );
            }
        }
    }
    text
}
