//! The status as a table for people.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::model::{AdminState, Health};
use crate::status::{Backend, Service, Status};

/// Draws the whole status, at most `width` columns wide.
pub fn draw(status: &Status, width: u16, colour: bool) -> String {
    let mut out = headline(status);
    for service in &status.services {
        out.push('\n');
        out.push_str(&service_line(service));
        out.push('\n');
        out.push_str(&backends(service, width, colour));
        out.push('\n');
    }
    out.push('\n');
    out.push_str(&packets(status));
    out
}

fn headline(status: &Status) -> String {
    let mut out = format!(
        "fairlead {}  {}  config {}  up {}\n",
        status.version,
        if status.ready { "ready" } else { "NOT READY" },
        status.config_revision,
        ago(status.uptime_ms),
    );
    for a in &status.attachments {
        out.push_str(&format!("{} ({}): {}\n", a.interface, a.mode, a.state));
    }
    if let Some(error) = &status.config_error {
        out.push_str(&format!(
            "the configuration file is not what runs: {error}\n"
        ));
    }
    if status.checker_suspect {
        out.push_str(
            "all probes fail at once: the checker is suspected, health is held as it was\n",
        );
    }
    out
}

fn service_line(s: &Service) -> String {
    let address = match s.address {
        std::net::IpAddr::V4(a) => format!("{a}:{}", s.port),
        std::net::IpAddr::V6(a) => format!("[{a}]:{}", s.port),
    };
    let takers = s.backends.iter().filter(|b| b.takes_new).count();
    let open = if s.fail_open {
        "  FAIL-OPEN: all backends are down"
    } else {
        ""
    };
    format!(
        "{}  {address}/{}  {} {}  {takers} of {} take new flows{open}",
        s.name,
        s.protocol,
        s.forwarding,
        s.scheduler,
        s.backends.len()
    )
}

fn backends(service: &Service, width: u16, colour: bool) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    table.set_header([
        "backend", "address", "wt", "admin", "health", "since", "flows", "new", "packets", "why",
    ]);
    for b in &service.backends {
        let (health, tint) = match b.health {
            Health::Up => ("up", Color::Green),
            Health::Down => ("down", Color::Red),
            Health::Unknown => ("unknown", Color::Yellow),
        };
        let health = if colour {
            Cell::new(health).fg(tint)
        } else {
            Cell::new(health)
        };
        table.add_row([
            Cell::new(&b.name),
            Cell::new(format!("{} :{}", b.address, b.port)),
            Cell::new(b.weight),
            Cell::new(admin(b)),
            health,
            Cell::new(ago(b.health_for_ms)),
            Cell::new(b.traffic.live_flows),
            Cell::new(b.traffic.new_flows),
            Cell::new(short(b.traffic.packets)),
            Cell::new(b.held.as_deref().unwrap_or(&b.reason)),
        ]);
    }
    table.to_string()
}

fn admin(b: &Backend) -> String {
    match (b.admin, &b.drain) {
        (AdminState::Enabled, _) => "enabled".to_owned(),
        (AdminState::Disabled, _) => "disabled".to_owned(),
        (AdminState::Draining, Some(d)) if d.done => "drained".to_owned(),
        (AdminState::Draining, Some(d)) => match d.deadline_in_ms {
            Some(ms) => format!("draining, {} left, {}", d.left, ago(ms)),
            None => format!("draining, {} left", d.left),
        },
        (AdminState::Draining, None) => "draining".to_owned(),
    }
}

fn packets(status: &Status) -> String {
    let d = &status.data_plane;
    let mut out = format!(
        "packets: {} in = {} passed + {} sent + {} redirected + {} dropped\nflows: {} of {}",
        d.rx,
        d.pass,
        d.tx,
        d.redirect,
        d.drops.values().fold(0u64, |sum, n| sum.saturating_add(*n)),
        d.flows,
        d.flow_capacity,
    );
    let reasons: Vec<String> = d
        .drops
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(r, n)| format!("{r} {n}"))
        .collect();
    if !reasons.is_empty() {
        out.push_str("\ndropped: ");
        out.push_str(&reasons.join(", "));
    }
    out
}

/// A duration in milliseconds, in its largest unit.
fn ago(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

/// A count in at most five characters.
fn short(n: u64) -> String {
    match n {
        0..=99_999 => n.to_string(),
        100_000..=999_999 => format!("{} k", n / 1000),
        1_000_000..=999_999_999 => format!("{} M", n / 1_000_000),
        _ => format!("{} G", n / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_are_short() {
        let shown: Vec<String> = [0, 999, 1000, 119_999, 120_000, 7_200_000, 172_800_000]
            .map(ago)
            .into();
        assert_eq!(
            shown,
            ["0 ms", "999 ms", "1 s", "119 s", "2 min", "2 h", "2 d"]
        );
        let shown: Vec<String> = [5, 99_999, 123_456, 7_000_000, 8_000_000_000]
            .map(short)
            .into();
        assert_eq!(shown, ["5", "99999", "123 k", "7 M", "8 G"]);
    }
}
