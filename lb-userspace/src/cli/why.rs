//! `why`: what stands in the way of a backend, for people. See [`crate::why`].

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use hyper::Method;

use super::columns::{self, Cell, shorten};
use super::table::{ago, short};
use super::{out, watch};
use crate::api::client;
use crate::model::{AdminState, Health, ProbeResult, ProbeVerdict};
use crate::status::{Backend, Drain};
use crate::why::{Explained, Why};

/// `why`.
pub async fn why(socket: &Path, args: &super::Why) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/why?backend={}", args.backend);
    let why = client::ask::<(), Why>(socket, Method::GET, &path, None).await?;
    out::line(match args.json {
        true => serde_json::to_string(&why)?,
        false => draw(&why, watch::width(), watch::colour()),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Draws the answer, at most `width` columns wide.
pub fn draw(why: &Why, width: usize, colour: bool) -> String {
    let told = why.backends.iter().map(|explained| {
        let mut lines = vec![shorten(&headline(explained), width)];
        let facts = facts(explained, colour);
        let inner = width.saturating_sub(2);
        lines.extend(
            columns::draw(&facts, inner)
                .iter()
                .map(|l| format!("  {l}")),
        );
        let results: Vec<Vec<Cell>> = explained
            .backend
            .last_results
            .iter()
            .rev()
            .map(|r| result(why.now, r, colour))
            .collect();
        if !results.is_empty() {
            lines.push("  last checks, newest first".to_owned());
            let inner = width.saturating_sub(4);
            lines.extend(
                columns::draw(&results, inner)
                    .iter()
                    .map(|l| format!("    {l}")),
            );
        }
        lines.join("\n")
    });
    told.collect::<Vec<_>>().join("\n\n")
}

fn headline(e: &Explained) -> String {
    let b = &e.backend;
    let address = match b.port {
        Some(port) => SocketAddr::from((b.address, port)).to_string(),
        None => b.address.to_string(),
    };
    format!(
        "{}/{}  {address}/{}  {}  weight {}  tier {}",
        e.service, b.name, e.protocol, e.forwarding, b.weight, b.tier
    )
}

fn facts(e: &Explained, colour: bool) -> Vec<Vec<Cell>> {
    let b = &e.backend;
    let tint = |tint| colour.then_some(tint);
    let (new, shade) = new_flows(e);
    let mut rows = vec![vec![
        Cell::text("new flows"),
        Cell::text(new).colour(tint(shade)),
    ]];
    let mut row = |name: &str, text: String| rows.push(vec![Cell::text(name), Cell::text(text)]);
    let cures = e.obstacles.iter().enumerate();
    for (n, obstacle) in cures {
        row(if n == 0 { "it takes" } else { "" }, obstacle.cure.clone());
    }
    row(
        "health",
        format!(
            "{} for {}{}",
            health(b.health),
            ago(b.health_for_ms),
            reason(&b.reason)
        ),
    );
    if let Some(held) = &b.held {
        row("held", held.clone());
    }
    if let Some(suspicion) = &b.suspicion {
        row("packets say", suspicion.clone());
    }
    if let Some(warning) = &b.warning {
        row("warning", warning.clone());
    }
    row("admin", admin(b));
    row("way", b.route.clone());
    if let Some(mtu) = b.path_mtu {
        let what = format!("{mtu} bytes fit, its tunnel's headers among them, as a router said");
        row("path", what);
    }
    let t = &b.traffic;
    row(
        "flows",
        format!(
            "{} live, {} begun, {} moved here; {} packets{}",
            short(t.live_flows),
            short(t.new_flows),
            short(t.moved_in),
            short(t.packets),
            stay(b)
        ),
    );
    row("check", check(e));
    rows
}

/// Whether it gets any and why, and the colour of that.
fn new_flows(e: &Explained) -> (String, u8) {
    let what: Vec<&str> = e.obstacles.iter().map(|o| o.what.as_str()).collect();
    let what = what.join("; ");
    if !e.backend.takes_new {
        return (format!("no: {what}"), 31);
    }
    let (share, because) = (e.backend.share, &e.backend.share_why);
    let share = format!("{}.{} % of all: {because}", share / 10, share % 10);
    match e.obstacles.is_empty() {
        true => (format!("yes, {share}"), 32),
        false => (format!("yes, {share}, though {what}"), 33),
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Up => "up",
        Health::Down => "down",
        Health::Unknown => "unknown",
    }
}

fn reason(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    }
}

fn admin(b: &Backend) -> String {
    match (b.admin, &b.drain) {
        (AdminState::Enabled, _) => "enabled".to_owned(),
        (AdminState::Disabled, _) => "disabled".to_owned(),
        (AdminState::Draining, None) => "draining".to_owned(),
        (AdminState::Draining, Some(drain)) => draining(drain),
    }
}

/// What becomes of its flows, where that is not plain.
fn stay(b: &Backend) -> String {
    match b.outage {
        _ if !b.keeps => "; it may not keep flows".to_owned(),
        None => String::new(),
        Some(outage) if outage.done && outage.left == 0 => "; none is left".to_owned(),
        Some(outage) => match outage.deadline_in_ms.filter(|_| !outage.done) {
            Some(ms) => format!("; they stay, on-down acts in {}", ago(ms)),
            None => "; they stay".to_owned(),
        },
    }
}

fn draining(drain: &Drain) -> String {
    let left = match drain.left {
        1 => "1 flow left".to_owned(),
        left => format!("{left} flows left"),
    };
    match (drain.done, drain.deadline_in_ms) {
        (true, _) if drain.left == 0 => "drained".to_owned(),
        (true, _) => format!("draining, its deadline has passed, {left}"),
        (false, Some(ms)) => format!("draining, {left}, the deadline is in {}", ago(ms)),
        (false, None) => format!("draining, {left}, without a deadline"),
    }
}

fn check(e: &Explained) -> String {
    let Some(check) = &e.check else {
        return "none".to_owned();
    };
    let port = match check.port {
        Some(port) => format!(" to port {port}"),
        None => String::new(),
    };
    let (every, timeout) = (exact(check.interval_ms), exact(check.timeout_ms));
    let turn = match (check.good_until_up, check.bad_until_down) {
        (_, Some(bad)) => format!("; down after {bad} more bad in a row"),
        (Some(_), None) | (None, None) => String::new(),
    };
    format!(
        "{}{port} every {every}, timeout {timeout}{turn}",
        check.kind
    )
}

fn result(now: u64, r: &ProbeResult, colour: bool) -> Vec<Cell> {
    let (word, reason, tint) = match &r.verdict {
        ProbeVerdict::Good => ("good", "", 32),
        ProbeVerdict::Warned(words) | ProbeVerdict::Expiring(words) => ("good", words.as_str(), 33),
        ProbeVerdict::Bad(words) => ("bad", words.as_str(), 31),
        ProbeVerdict::Void(words) => ("void", words.as_str(), 33),
    };
    let age = now.saturating_sub(r.ended) / 1_000_000;
    let took = r.ended.saturating_sub(r.started) / 1000;
    vec![
        Cell::number(format!("{} ago", ago(age))),
        Cell::number(format!("took {}.{} ms", took / 1000, took % 1000 / 100)),
        Cell::text(word).colour(colour.then_some(tint)),
        Cell::text(reason),
    ]
}

/// Without loss: as in the configuration.
fn exact(ms: u64) -> humantime::FormattedDuration {
    humantime::format_duration(std::time::Duration::from_millis(ms))
}
