//! What the lab shows: a table that is drawn again and again on a terminal, lines elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::style::{Attribute, Color, ContentStyle, StyledContent, Stylize};
use crossterm::terminal::{Clear, ClearType};

use super::{Outcome, Phase};
use crate::daemon::{Backend, Status};

/// Where to show.
pub(super) struct Screen {
    output: Output,
    /// The last counters of each backend, for rates.
    before: Option<(Instant, BTreeMap<String, Rates>)>,
    drawn: bool,
    last_line: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Standard output is a terminal.
    Terminal,
    /// Lines on standard output.
    Lines,
    /// Standard output belongs to the JSON object: lines on standard error.
    Json,
}

#[derive(Clone, Copy, Default)]
struct Rates {
    packets: u64,
    new_flows: u64,
}

/// One moment.
pub(super) struct View<'a> {
    pub(super) at: Instant,
    pub(super) elapsed: Duration,
    pub(super) phase: Phase,
    pub(super) status: &'a Status,
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) long: usize,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let output = match (json, std::io::stdout().is_terminal()) {
            (true, _) => Output::Json,
            (false, true) => Output::Terminal,
            (false, false) => Output::Lines,
        };
        Self {
            output,
            before: None,
            drawn: false,
            last_line: None,
        }
    }

    /// One line for people.
    pub(super) fn say(&self, line: &str) {
        match self.output {
            Output::Json => eprintln!("{line}"),
            Output::Terminal | Output::Lines => println!("{line}"),
        }
    }

    /// A phase begins.
    pub(super) fn phase(&mut self, phase: Phase) {
        if self.output != Output::Terminal {
            self.say(&format!("--- {}", phase.title()));
            self.last_line = None;
        }
    }

    pub(super) fn show(&mut self, view: &View<'_>) -> Result<()> {
        let rates = self.rates(view);
        if self.output == Output::Terminal {
            return self.draw(&table(view, &rates)).context("draw the table");
        }
        let due = self
            .last_line
            .is_none_or(|last| last.elapsed() >= Duration::from_millis(900));
        if due {
            self.last_line = Some(Instant::now());
            self.say(&line(view, &rates));
        }
        Ok(())
    }

    /// Per second, of each backend, since the last view.
    fn rates(&mut self, view: &View<'_>) -> BTreeMap<String, Rates> {
        let now: BTreeMap<_, _> = each_backend(view.status)
            .map(|(key, backend)| {
                let traffic = backend.traffic;
                (
                    key,
                    Rates {
                        packets: traffic.packets,
                        new_flows: traffic.new_flows,
                    },
                )
            })
            .collect();
        let before = self.before.replace((view.at, now.clone()));
        let Some((then, before)) = before else {
            return BTreeMap::new();
        };
        let seconds = (view.at - then).as_secs_f64().max(0.001);
        let per_second = |now: u64, then: u64| (now.saturating_sub(then) as f64 / seconds) as u64;
        now.into_iter()
            .map(|(key, now)| {
                let then = before.get(&key).copied().unwrap_or_default();
                let packets = per_second(now.packets, then.packets);
                let new_flows = per_second(now.new_flows, then.new_flows);
                (key, Rates { packets, new_flows })
            })
            .collect()
    }

    fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if !self.drawn {
            queue!(out, Clear(ClearType::All))?;
            self.drawn = true;
        }
        queue!(out, MoveTo(0, 0))?;
        let (_, height) = crossterm::terminal::size().unwrap_or((80, 50));
        // The last row stays free, or the terminal scrolls.
        for line in lines.iter().take(usize::from(height).saturating_sub(1)) {
            write!(out, "{line}")?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
            write!(out, "\r\n")?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// The result.
    pub(super) fn finish(&mut self, outcome: &Outcome) -> Result<()> {
        self.say("");
        for promise in &outcome.promises {
            let word = if promise.held { "held  " } else { "BROKEN" };
            let (measured, goal) = (promise.measured, promise.goal);
            self.say(&format!(
                "{word}  {}: {measured} (goal {goal})",
                promise.name
            ));
        }
        let failed = outcome.failed_requests;
        self.say(&format!(
            "{} requests, {} failed, {} of them outside the failover window; last packet to the \
             dead backend {} ms after its kill; {} connections cut by the drain",
            outcome.requests,
            failed.total,
            failed.outside_failover_window,
            outcome.kill_to_last_packet_ms,
            outcome.flows_cut_by_drain,
        ));
        if self.output == Output::Json {
            println!("{}", serde_json::to_string(outcome)?);
        }
        Ok(())
    }
}

fn each_backend(status: &Status) -> impl Iterator<Item = (String, &Backend)> {
    status.services.iter().flat_map(|service| {
        let key = |backend: &Backend| format!("{}/{}", service.name, backend.name);
        service
            .backends
            .iter()
            .map(move |backend| (key(backend), backend))
    })
}

/// The table as lines.
fn table(view: &View<'_>, rates: &BTreeMap<String, Rates>) -> Vec<String> {
    let data = &view.status.data_plane;
    let title = format!(
        "Fairlead lab   {:>5.1} s   {}",
        view.elapsed.as_secs_f64(),
        view.phase.title()
    );
    let failed = view.failed.to_string();
    let failed = if view.failed == 0 {
        failed.green()
    } else {
        failed.yellow()
    };
    let mut lines = vec![
        StyledContent::new(ContentStyle::new().attribute(Attribute::Bold), title).to_string(),
        String::new(),
        format!(
            "client     requests {}   failed {failed}   long connections {}",
            view.requests, view.long
        ),
        format!(
            "balancer   rx {}   tx {}   redirect {}   pass {}   untracked {}",
            data.rx, data.tx, data.redirect, data.pass, data.untracked
        ),
        format!("drops      {}", drops(view)),
        String::new(),
        format!(
            "{:<8} {:<8} {:<9} {:<8} {:>11} {:>10} {:>10}",
            "SERVICE", "BACKEND", "ADMIN", "HEALTH", "NEW FLOWS/s", "PACKETS/s", "LIVE FLOWS"
        ),
    ];
    for service in &view.status.services {
        for (index, backend) in service.backends.iter().enumerate() {
            let name = if index == 0 {
                service.name.as_str()
            } else {
                ""
            };
            let rate = rates.get(&format!("{}/{}", service.name, backend.name));
            let rate = rate.copied().unwrap_or_default();
            lines.push(format!(
                "{name:<8} {:<8} {} {} {:>11} {:>10} {:>10}",
                backend.name,
                colored(&backend.admin, 9, "enabled", Color::Yellow),
                colored(&backend.health, 8, "up", Color::Red),
                rate.new_flows,
                rate.packets,
                backend.traffic.live_flows,
            ));
        }
    }
    lines.push(String::new());
    lines.push("Ctrl-C removes everything".to_owned());
    lines
}

fn colored(text: &str, width: usize, good: &str, bad: Color) -> String {
    let color = if text == good { Color::Green } else { bad };
    format!("{text:<width$}").with(color).to_string()
}

fn drops(view: &View<'_>) -> String {
    let drops = view
        .status
        .data_plane
        .drops
        .iter()
        .filter(|(_, count)| **count > 0);
    let drops: Vec<_> = drops
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if drops.is_empty() {
        "none".to_owned()
    } else {
        drops.join("   ")
    }
}

/// One line that says the most important.
fn line(view: &View<'_>, rates: &BTreeMap<String, Rates>) -> String {
    let backends = each_backend(view.status).filter_map(|(key, backend)| {
        let rate = rates.get(&key)?;
        let name = key.strip_prefix("web4/")?;
        Some(format!(
            "{name} {} {} {}/s",
            backend.admin, backend.health, rate.new_flows
        ))
    });
    let backends: Vec<_> = backends.collect();
    format!(
        "{:5.1} s  requests {}  failed {}  long {}  drops {}  web4: {}",
        view.elapsed.as_secs_f64(),
        view.requests,
        view.failed,
        view.long,
        drops(view),
        backends.join(", ")
    )
}
