//! A run as a table for people.

use std::fmt::Write;

use super::{
    baseline::Baseline,
    machine::Machine,
    results::{FloorResults, Measured, Results, Row, Summary},
};

/// Width of the column of names.
const NAME: usize = 36;

/// The whole text.
pub fn render(results: &Results, baseline: Option<&Baseline>) -> String {
    let mut text = String::new();
    head(&mut text, results);
    columns(&mut text, results, baseline.is_some());
    floors(&mut text, &results.floors);
    for row in &results.rows {
        line(&mut text, row, baseline);
    }
    foot(&mut text, results, baseline);
    scale(&mut text, results);
    text
}

fn head(text: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = writeln!(text, "Linux {}, {}", machine.kernel, machine.cpu);
    for (letter, object) in ('A'..).zip(&results.objects) {
        let letter = match results.objects.len() {
            1 => String::new(),
            _ => format!("{letter} = "),
        };
        let _ = writeln!(
            text,
            "{letter}{}: {} instructions, {} verified",
            object.name, object.instructions, object.verified
        );
    }
    let _ = writeln!(
        text,
        "{} rounds of {} packets; ns a packet, net of null; half of all rounds lie within the spread
line: one load of another line of the flow table for each flow, and nothing else, x hash\n",
        results.rounds, results.packets
    );
}

fn columns(text: &mut String, results: &Results, has_baseline: bool) {
    let _ = write!(text, "{:<NAME$}", "path");
    for _ in &results.objects {
        let _ = write!(
            text,
            "{:>8}{:>8}{:>8}{:>8}{:>8}",
            "median", "min", "spread", "x hash", "spread"
        );
    }
    if results.objects.len() == 2 {
        let _ = write!(text, "{:>7}", "B / A");
    }
    let _ = write!(text, "{:>7}       {:>6}", "goal", "line");
    if has_baseline {
        let _ = write!(text, "  baseline");
    }
    text.push('\n');
}

fn floors(text: &mut String, floors: &FloorResults) {
    let unit = floors.hash_lookup.median;
    for (name, summary, multiple) in [
        ("floor: null, with the driver", floors.null, None),
        (
            "floor: MAC swap",
            floors.mac_swap,
            Some(floors.mac_swap.median / unit),
        ),
        (
            "floor: head moved by 20 bytes",
            floors.grow,
            Some(floors.grow.median / unit),
        ),
        ("floor: one hash lookup", floors.hash_lookup, Some(1.0)),
    ] {
        let _ = write!(text, "{name:<NAME$}");
        figures(text, &summary);
        if let Some(multiple) = multiple {
            let _ = write!(text, "{multiple:>8.2}");
        }
        text.push('\n');
    }
}

fn figures(text: &mut String, nanos: &Summary) {
    let spread = nanos.spread * 100.0;
    let _ = write!(
        text,
        "{:>8.1}{:>8.1}{spread:>7.1}%",
        nanos.median, nanos.min
    );
}

fn multiple(text: &mut String, multiple: &Summary) {
    let spread = multiple.spread * 100.0;
    let _ = write!(text, "{:>8.2}{spread:>7.1}%", multiple.median);
}

fn line(text: &mut String, row: &Row, baseline: Option<&Baseline>) {
    let _ = write!(text, "{:<NAME$}", row.name);
    for measured in &row.measured {
        figures(text, &measured.nanos);
        multiple(text, &measured.multiple);
        if let Some(by_first) = measured.by_first {
            let _ = write!(text, "{:>7.2}", by_first.median);
        }
    }
    let newest = row.measured.last().map(|measured| measured.multiple.median);
    match (row.goal, newest) {
        (Some(goal), Some(multiple)) => {
            let judgement = if multiple <= goal { "met" } else { "missed" };
            let _ = write!(text, "{goal:>7.1} {judgement:<6}");
        }
        _ => {
            let _ = write!(text, "{:>14}", "");
        }
    }
    let _ = match row.measured.last().and_then(|measured| measured.line) {
        Some(line) => write!(text, "{:>7.2}", line.median),
        None => write!(text, "{:>7}", ""),
    };
    if let Some(change) = baseline.and_then(|baseline| baseline.compare(row)) {
        let flag = if change.is_worse { "  WORSE" } else { "" };
        let _ = write!(text, "{:>+9.0}%{flag}", change.by * 100.0);
    }
    let trimmed = text.trim_end().len();
    text.truncate(trimmed);
    text.push('\n');
    for measured in &row.measured {
        notes(text, measured);
    }
}

/// What new flows did to the table, if it was anything but finding room.
fn notes(text: &mut String, measured: &Measured) {
    if measured.untracked > 0.0 || measured.evicted > 0.0 {
        let _ = writeln!(
            text,
            "    of these {:.1e} found no room in the flow table, {:.1e} pushed another flow out",
            measured.untracked, measured.evicted
        );
    }
}

fn foot(text: &mut String, results: &Results, baseline: Option<&Baseline>) {
    let goals = results.rows.iter().filter(|row| row.goal.is_some());
    let met = goals.clone().filter(|row| {
        let newest = row.measured.last().map(|measured| measured.multiple.median);
        newest
            .zip(row.goal)
            .is_some_and(|(multiple, goal)| multiple <= goal)
    });
    let (met, all) = (met.count(), goals.count());
    if all > 0 {
        let _ = writeln!(text, "\n{met} of {all} goals met");
    }
    let Some(baseline) = baseline else {
        return;
    };
    if baseline.machine != results.machine {
        let Machine { kernel, cpu } = &baseline.machine;
        let _ = writeln!(text, "the baseline was measured on Linux {kernel}, {cpu}");
    }
    let compare = |row| baseline.compare(row).is_some_and(|change| change.is_worse);
    match results.rows.iter().filter(|row| compare(row)).count() {
        0 => {}
        worse => {
            let _ = writeln!(
                text,
                "{worse} rows are worse than the baseline by more than their noise"
            );
        }
    }
}

fn scale(text: &mut String, results: &Results) {
    let mut axis = None;
    for point in &results.scale {
        if axis != Some(point.axis) {
            axis = Some(point.axis);
            let _ = writeln!(text, "\nas {} grow", point.axis);
        }
        let name = format!("{}, {} {}", point.traffic, point.value, point.axis);
        let _ = write!(text, "{name:<NAME$}");
        for measured in &point.measured {
            figures(text, &measured.nanos);
            multiple(text, &measured.multiple);
        }
        text.push('\n');
        for measured in &point.measured {
            notes(text, measured);
        }
    }
}
