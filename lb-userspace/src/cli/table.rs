//! The status as a table for people.

use std::net::SocketAddr;

use lb_common::losses::Loss;

use super::columns::{self, Cell, shorten};
use crate::model::{AdminState, Health, endpoint};
use crate::status::{Backend, Hook, Service, Status};

/// Fewer columns than this leave no room for the weight, the time and the reason of each backend.
const WIDE: usize = 100;

/// Draws the whole status, at most `width` columns wide. With an earlier one, new flows and packets
/// are those per second since then; without, all of them.
pub fn draw(status: &Status, before: Option<&Status>, width: usize, colour: bool) -> String {
    let look = Look {
        width,
        colour,
        rates: before.and_then(|before| Rates::new(before, status)),
    };
    let mut lines = headline(status, width);
    for service in &status.services {
        lines.push(String::new());
        lines.push(shorten(&service_line(service), width));
        lines.extend(look.backends(service));
    }
    lines.push(String::new());
    lines.extend(packets(status).iter().map(|line| shorten(line, width)));
    lines.join("\n")
}

/// How to draw.
struct Look<'a> {
    width: usize,
    colour: bool,
    rates: Option<Rates<'a>>,
}

/// What an earlier status says.
struct Rates<'a> {
    before: &'a Status,
    elapsed_ms: u64,
}

impl<'a> Rates<'a> {
    /// None when the daemon was started anew in between.
    fn new(before: &'a Status, now: &Status) -> Option<Self> {
        let elapsed_ms = now.uptime_ms.checked_sub(before.uptime_ms)?;
        (before.pid == now.pid && elapsed_ms > 0).then_some(Self { before, elapsed_ms })
    }

    fn per_second(
        &self,
        service: &Service,
        backend: &Backend,
        count: fn(&Backend) -> u64,
    ) -> Option<u64> {
        let same = self.before.services.iter().find(|s| s.name == service.name);
        let same = same?.backends.iter().find(|b| b.name == backend.name)?;
        let more = count(backend).saturating_sub(count(same));
        more.saturating_mul(1000).checked_div(self.elapsed_ms)
    }
}

fn headline(status: &Status, width: usize) -> Vec<String> {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let up = ago(status.uptime_ms);
    let mut lines = vec![format!(
        "fairlead {}  {ready}  config {}  up {up}",
        status.version, status.config_revision,
    )];
    let interfaces = status.attachments.iter();
    for a in interfaces {
        let vlans = match a.vlans.is_empty() {
            true => String::new(),
            false => format!(", with {}", a.vlans.join(", ")),
        };
        lines.push(format!("{} ({}): {}{vlans}", a.interface, a.mode, a.state));
        lines.extend(
            a.trouble
                .iter()
                .map(|trouble| format!("{}: {trouble}", a.interface)),
        );
    }
    lines.extend(losses(status));
    if status.checker_suspect {
        let text = "all probes fail at once: the checker is suspected, health is held as it was";
        lines.push(text.to_owned());
    }
    let mut lines: Vec<String> = lines.iter().map(|line| shorten(line, width)).collect();
    lines.extend(status.hooks.iter().map(|h| shorten(&hook_line(h), width)));
    if let Some(trouble) = &status.storage.trouble {
        lines.push(format!(
            "the state is not on disk: {trouble}; forwarding and verdicts go on"
        ));
    }
    if let Some(error) = &status.config_error {
        lines.push(format!("the configuration file is not what runs: {error}"));
    }
    lines
}

/// What is lost behind the data plane: nothing is no line.
fn losses(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for loss in Loss::ALL {
        let at: Vec<String> = status
            .losses
            .lost
            .iter()
            .filter(|lost| lost.how == loss.label() && lost.packets > 0)
            .map(|lost| format!("{} at {}", lost.packets, lost.interface))
            .collect();
        if !at.is_empty() {
            let (what, at) = (loss.label(), at.join(", "));
            lines.push(format!(
                "LOST behind the program ({what}): {at}: {}",
                loss.help()
            ));
        }
    }
    if let Some(why) = &status.losses.trouble {
        lines.push(format!("nobody counts what drivers lose: {why}"));
    }
    lines
}

fn hook_line(hook: &Hook) -> String {
    let mut line = format!("hook {} ({}): {} told", hook.name, hook.call, hook.sent);
    for (count, what) in [
        (hook.waiting, "waiting"),
        (hook.failed, "FAILED"),
        (hook.dropped, "DROPPED"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    match &hook.trouble {
        Some(why) => format!("{line}; the last attempt: {why}"),
        None => line,
    }
}

/// Of Ethernet: who sends as much is not told.
const USUAL_MTU: u32 = 1500;

/// Who gets flows where there is nothing to tell.
const USUAL_TIER: &str = "tier 0: 100 %";

fn service_line(s: &Service) -> String {
    let address = endpoint(s.address, s.port);
    let takers = s.backends.iter().filter(|b| b.takes_new).count();
    let open = if s.fail_open {
        "  FAIL-OPEN: too few backends are healthy".to_owned()
    } else if s.flows_to == USUAL_TIER || s.flows_to.is_empty() {
        String::new()
    } else {
        format!("  flows to {}", s.flows_to)
    };
    let waits = match &s.claim_waits {
        Some(why) => format!("  NOT CLAIMED: {why}"),
        None => String::new(),
    };
    let fits = match (&s.trouble, s.largest_packet) {
        (Some(trouble), _) => format!("  TOO NARROW: {trouble}"),
        (None, Some(bytes)) if bytes < USUAL_MTU => format!("  packets up to {bytes} bytes"),
        _ => String::new(),
    };
    format!(
        "{}  {address}/{}  {} {}  {takers} of {} take new flows{fits}{open}{waits}",
        s.name,
        s.protocol,
        s.forwarding,
        s.scheduler,
        s.backends.len()
    )
}

impl Look<'_> {
    fn backends(&self, service: &Service) -> Vec<String> {
        let wide = self.width >= WIDE;
        let mut heads = vec!["backend", "address"];
        heads.extend(wide.then_some("weight"));
        heads.extend(["admin", "health"]);
        heads.extend(wide.then_some("for"));
        heads.extend(match self.rates {
            Some(_) => ["flows", "new/s", "packets/s"],
            None => ["flows", "new", "packets"],
        });
        heads.extend(wide.then_some("why"));
        let heads = heads.into_iter().map(|head| match head {
            "weight" | "flows" | "new" | "new/s" | "packets" | "packets/s" => Cell::number(head),
            _ => Cell::text(head),
        });
        let mut rows: Vec<Vec<Cell>> = vec![heads.collect()];
        rows.extend(service.backends.iter().map(|b| self.row(service, b, wide)));
        let mut drawn = columns::draw(&rows, self.width.saturating_sub(2)).into_iter();
        let mut lines: Vec<String> = drawn
            .next()
            .map(|head| format!("  {head}"))
            .into_iter()
            .collect();
        for (line, backend) in drawn.zip(&service.backends) {
            lines.push(format!("  {line}"));
            if !wide && (backend.health != Health::Up || backend.held.is_some()) {
                lines.push(shorten(&format!("    {}", why(backend)), self.width));
            }
        }
        lines
    }

    fn row(&self, service: &Service, b: &Backend, wide: bool) -> Vec<Cell> {
        let (health, tint) = match b.health {
            Health::Up => ("up", 32),
            Health::Down => ("down", 31),
            Health::Unknown => ("unknown", 33),
        };
        let count = |count: fn(&Backend) -> u64| match &self.rates {
            Some(rates) => rates
                .per_second(service, b, count)
                .map_or_else(|| "-".to_owned(), short),
            None => short(count(b)),
        };
        let mut row = vec![
            Cell::text(&b.name),
            Cell::text(match b.port {
                Some(port) => SocketAddr::from((b.address, port)).to_string(),
                None => b.address.to_string(),
            }),
        ];
        row.extend(wide.then(|| Cell::number(b.weight)));
        row.push(Cell::text(admin(b)));
        row.push(Cell::text(health).colour(self.colour.then_some(tint)));
        row.extend(wide.then(|| Cell::text(ago(b.health_for_ms))));
        row.push(Cell::number(short(b.traffic.live_flows)));
        row.push(Cell::number(count(|b| b.traffic.new_flows)));
        row.push(Cell::number(count(|b| b.traffic.packets)));
        row.extend(wide.then(|| Cell::text(why(b))));
        row
    }
}

/// Of one that is well and gets no flows, that is what one wants to know.
fn why(b: &Backend) -> &str {
    let idle = b.health == Health::Up && b.admin == AdminState::Enabled && b.share == 0;
    let reason = if idle && !b.share_why.is_empty() {
        &b.share_why
    } else {
        &b.reason
    };
    b.held.as_deref().unwrap_or(reason)
}

fn admin(b: &Backend) -> String {
    match (b.admin, &b.drain) {
        (AdminState::Enabled, _) => "enabled".to_owned(),
        (AdminState::Disabled, _) => "disabled".to_owned(),
        (AdminState::Draining, Some(d)) if d.done && d.left == 0 => "drained".to_owned(),
        (AdminState::Draining, Some(d)) if d.done => format!("drain over, {} left", d.left),
        (AdminState::Draining, Some(d)) => match d.deadline_in_ms {
            Some(ms) => format!("draining, {} left, {}", d.left, ago(ms)),
            None => format!("draining, {} left", d.left),
        },
        (AdminState::Draining, None) => "draining".to_owned(),
    }
}

fn packets(status: &Status) -> Vec<String> {
    let d = &status.data_plane;
    let dropped = d.drops.values().fold(0u64, |sum, n| sum.saturating_add(*n));
    let mut lines = vec![
        format!(
            "packets  {} in = {} passed + {} sent + {} redirected + {dropped} dropped",
            d.rx, d.pass, d.tx, d.redirect,
        ),
        format!("flows    {} of {}", d.flows, d.flow_capacity),
    ];
    if status.services.iter().any(|s| s.forwarding == "fullnat") {
        lines.push(format!("fullnat  {} of {}", d.nat_flows, d.nat_capacity));
    }
    let reasons = d.drops.iter().filter(|(_, n)| **n > 0);
    let reasons: Vec<String> = reasons.map(|(r, n)| format!("{r} {n}")).collect();
    if !reasons.is_empty() {
        lines.push(format!("dropped  {}", reasons.join(", ")));
    }
    lines
}

/// A duration in milliseconds, in its largest unit.
pub(super) fn ago(ms: u64) -> String {
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
pub(super) fn short(n: u64) -> String {
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
