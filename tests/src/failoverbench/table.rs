//! A run as a table and a histogram for people.

use super::histogram::{self, BINS};
use super::results::{Figures, Kill, Results, Row};
use super::{Checks, Effort};

/// The whole text.
pub fn render(results: &Results) -> String {
    let Results {
        interval_ms,
        timeout_ms,
        fall,
        per_second,
        way,
        ..
    } = results;
    let way = way.name();
    format!(
        "Linux {}, {}, {} CPUs; load average of the minute before: {:.2}\n\
         3 servers ({way}), {per_second} new connections per second; HTTP probes: interval {interval_ms} ms, \
         timeout {timeout_ms} ms, fall {fall}\n\
         ms from the fault to the last new flow to the failed server; flows: new ones that it got meanwhile\n\n\
         {}\n{}\n{}",
        results.machine.kernel,
        results.machine.cpu,
        results.cpus,
        results.load_before,
        table(results),
        plot(results),
        remarks(results)
    )
}

fn table(results: &Results) -> String {
    let mut text = format!(
        "{}, goal {:.0} ms ({})\n{:<18}{:>6}{:>9}{:>9}{:>9}{:>14}  goal\n",
        results.checks.name(),
        results.goal_ms,
        results.goal_in_words,
        "",
        "kills",
        "median",
        "p99",
        "worst",
        "flows, median"
    );
    for row in &results.rows {
        let goal = has_goal(results, row).then_some(results.goal_ms);
        text.push_str(&line(row.fault.name(), &row.kills, goal));
    }
    let with_goal = results.rows.iter().filter(|row| has_goal(results, row));
    let shown: Vec<Kill> = with_goal.flat_map(|row| row.kills.clone()).collect();
    let all: Vec<Kill> = results.kills().copied().collect();
    if shown.len() < all.len() {
        text.push_str(&line("that packets show", &shown, Some(results.goal_ms)));
        text.push_str(&line("all", &all, None));
    } else {
        text.push_str(&line("all", &all, Some(results.goal_ms)));
    }
    text
}

fn has_goal(results: &Results, row: &Row) -> bool {
    Effort::has_goal(results.checks, row.fault)
}

/// Of faults without a goal there is none to meet.
fn line(name: &str, kills: &[Kill], goal: Option<f64>) -> String {
    let times: Vec<f64> = kills.iter().map(|kill| kill.failover_ms).collect();
    let flows: Vec<f64> = kills.iter().map(|kill| kill.flows as f64).collect();
    let (Some(of), Some(flows)) = (Figures::of(&times), Figures::of(&flows)) else {
        return format!("{name:<18}{:>6}\n", 0);
    };
    let over = goal.map(|goal| times.iter().filter(|time| **time > goal).count());
    let verdict = match over {
        None => "-".to_owned(),
        Some(0) => "met".to_owned(),
        Some(over) => format!("missed by {over}"),
    };
    format!(
        "{name:<18}{:>6}{:>9.1}{:>9.1}{:>9.1}{:>14}  {verdict}\n",
        kills.len(),
        of.median,
        of.p99,
        of.worst,
        flows.median
    )
}

fn plot(results: &Results) -> String {
    let goal = results.goal_ms;
    let rows: Vec<_> = results
        .rows
        .iter()
        .map(|row| (row.fault.name(), histogram::count(&row.times(), goal)))
        .collect();
    let most = rows.iter().flat_map(|(_, counts)| &counts[..BINS]);
    let most = most.copied().max().unwrap_or(0);
    let mut text = String::new();
    for (name, counts) in &rows {
        let beyond = match counts[BINS] {
            0 => String::new(),
            over => format!(" {over} beyond"),
        };
        let marks = histogram::marks(counts, most);
        text.push_str(&format!("{name:<18}|{marks}|{beyond}\n"));
    }
    text.push_str(&format!(
        "{:<18} 0 ms {:>width$} ms; each place {:.0} ms, the highest mark {most}\n",
        "",
        format!("{goal:.0}"),
        goal / BINS as f64,
        width = BINS - 8
    ));
    text
}

fn remarks(results: &Results) -> String {
    let late = results.kills().map(|kill| kill.late_ms).fold(0.0, f64::max);
    let failed: u64 = results.kills().map(|kill| kill.failed_later).sum();
    let left = results.rows.iter().filter(|row| !has_goal(results, row));
    let early = left.clone().flat_map(|row| &row.kills);
    let early = early.filter(|kill| kill.by_packets).count();
    let left: Vec<&str> = left.map(|row| row.fault.name()).collect();
    let left = match results.checks {
        Checks::Active => String::new(),
        Checks::Passive => format!(
            "no packet shows these in {}, they are left to the turns of the checks, {} ms apart, and fewer of them are made: {}\n\
             of these, found for what packets showed all the same (clients that come again from a port): {early}\n",
            results.way.name(),
            results.interval_ms,
            left.join(", ")
        ),
    };
    format!(
        "connections begun after the failover time that failed: {failed}\n\
         the longest that a thread of this machine had to wait meanwhile: {late:.0} ms\n{left}"
    )
}
