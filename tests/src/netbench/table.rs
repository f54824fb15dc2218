//! A run as a table for people.

use std::fmt::Write;

use super::load::BULK_CONNECTIONS;
use super::results::{Figure, GOAL_OF_MAC_SWAP, GOAL_OF_NFTABLES, Results, Row};
use crate::bench::results::Summary;

/// Width of the column of names.
const NAME: usize = 16;

/// The whole text.
pub fn render(results: &Results) -> String {
    let mut text = String::new();
    head(&mut text, results);
    for row in &results.rows {
        line(&mut text, row);
    }
    goals(&mut text, results);
    text
}

fn head(text: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = write!(
        text,
        "Linux {}, {}, {} CPUs; {} rounds, medians, ± half the distance of the quartiles
Mpps: {} UDP packets of 64 bytes, {} flows in turn, all on one CPU, that came back
conn/s: {} clients, connect, 1 KiB there and back, close, {} s; Gbit/s: {BULK_CONNECTIONS} connections to the backends, {} s
p99: of a second client's {} connections per second meanwhile, in ms; x nft, x swap: as multiples within each round

{:<NAME$}{:>13}{:>8}{:>8}{:>15}{:>7}{:>7}{:>14}{:>7}{:>7}
",
        machine.kernel,
        machine.cpu,
        results.cpus,
        results.rounds,
        results.packets,
        results.flows,
        results.clients,
        results.seconds,
        results.seconds,
        results.light_per_second,
        "",
        "Mpps",
        "x swap",
        "x nft",
        "conn/s",
        "x nft",
        "p99",
        "Gbit/s",
        "x nft",
        "p99",
    );
}

fn line(text: &mut String, row: &Row) {
    let _ = write!(text, "{:<NAME$}", row.candidate.name());
    let packets = row.packets_per_second.as_ref();
    value(text, packets, 13, 1e6, 2);
    multiple(text, packets.and_then(|figure| figure.by_mac_swap), 8);
    multiple(text, packets.map(|figure| figure.by_nftables), 8);
    let connections = row.connections_per_second.as_ref();
    value(text, connections, 15, 1.0, 0);
    multiple(text, connections.map(|figure| figure.by_nftables), 7);
    millis(text, row.connections_p99_us);
    let bits = row.bits_per_second.as_ref();
    value(text, bits, 14, 1e9, 2);
    multiple(text, bits.map(|figure| figure.by_nftables), 7);
    millis(text, row.bits_p99_us);
    text.push('\n');
}

fn value(text: &mut String, figure: Option<&Figure>, width: usize, unit: f64, digits: usize) {
    let shown = figure.map(|figure| {
        let half = figure.value.median * figure.value.spread / 2.0;
        format!(
            "{:.digits$} ±{:.digits$}",
            figure.value.median / unit,
            half / unit
        )
    });
    let _ = write!(text, "{:>width$}", shown.unwrap_or_else(dash));
}

fn multiple(text: &mut String, multiple: Option<Summary>, width: usize) {
    let shown = multiple.map(|multiple| format!("{:.2}", multiple.median));
    let _ = write!(text, "{:>width$}", shown.unwrap_or_else(dash));
}

fn millis(text: &mut String, micros: Option<Summary>) {
    let shown = micros.map(|micros| format!("{:.1}", micros.median / 1000.0));
    let _ = write!(text, "{:>7}", shown.unwrap_or_else(dash));
}

fn dash() -> String {
    "-".to_owned()
}

fn goals(text: &mut String, results: &Results) {
    text.push('\n');
    let ours = results
        .rows
        .iter()
        .filter(|row| row.candidate.is_fairlead());
    for row in ours {
        let Some(packets) = &row.packets_per_second else {
            continue;
        };
        let name = row.candidate.name();
        let of_swap = packets.by_mac_swap.map_or(0.0, |by| by.median);
        let met = |is: bool| if is { "met" } else { "missed" };
        let _ = writeln!(
            text,
            "{name}: {of_swap:.2} of a MAC swap's packets (goal {GOAL_OF_MAC_SWAP}: {}), {:.1} times those of nftables DNAT (goal {GOAL_OF_NFTABLES}: {})",
            met(of_swap >= GOAL_OF_MAC_SWAP),
            packets.by_nftables.median,
            met(packets.by_nftables.median >= GOAL_OF_NFTABLES),
        );
    }
    for row in &results.rows {
        if let Some(lost) = row.packets_lost.filter(|lost| *lost > 0.0005) {
            let _ = writeln!(
                text,
                "{}: {:.1} % of the packets did not come back",
                row.candidate.name(),
                lost * 100.0
            );
        }
    }
}
