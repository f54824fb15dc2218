//! A run as a table and a histogram for people.

use super::histogram::{self, BINS};
use super::results::{Figures, Kill, Results};
use super::{Checks, Fault};

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
        "{}, goal {:.0} ms ({})\n{:<16}{:>6}{:>9}{:>9}{:>9}{:>14}  goal\n",
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
        text.push_str(&line(row.fault.name(), &row.kills, results.goal_ms));
    }
    let all: Vec<Kill> = results.kills().copied().collect();
    text.push_str(&line("all", &all, results.goal_ms));
    text
}

fn line(name: &str, kills: &[Kill], goal: f64) -> String {
    let times: Vec<f64> = kills.iter().map(|kill| kill.failover_ms).collect();
    let flows: Vec<f64> = kills.iter().map(|kill| kill.flows as f64).collect();
    let (Some(of), Some(flows)) = (Figures::of(&times), Figures::of(&flows)) else {
        return format!("{name:<16}{:>6}\n", 0);
    };
    let over = times.iter().filter(|time| **time > goal).count();
    let verdict = match over {
        0 => "met".to_owned(),
        over => format!("missed by {over}"),
    };
    format!(
        "{name:<16}{:>6}{:>9.1}{:>9.1}{:>9.1}{:>14}  {verdict}\n",
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
        text.push_str(&format!("{name:<16}|{marks}|{beyond}\n"));
    }
    text.push_str(&format!(
        "{:<16} 0 ms {:>width$} ms; each place {:.0} ms, the highest mark {most}\n",
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
    let made = |fault: &&Fault| results.rows.iter().any(|row| row.fault == **fault);
    let unseen: Vec<&str> = Fault::ALL
        .iter()
        .filter(|fault| !made(fault))
        .map(|fault| fault.name())
        .collect();
    let unseen = match results.checks {
        Checks::Active => String::new(),
        Checks::Passive => format!(
            "no packet shows these in {}, they are left to the turns of the checks: {}\n",
            results.way.name(),
            unseen.join(", ")
        ),
    };
    format!(
        "connections begun after the failover time that failed: {failed}\n\
         the longest that a thread of this machine had to wait meanwhile: {late:.0} ms\n{unseen}"
    )
}
