//! `status --watch`: the table, drawn again every second.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use crossterm::{cursor, queue, terminal};
use hyper::Method;

use super::{out, table};
use crate::api::client;
use crate::status::Status;

/// Draws until Ctrl-C. An unreachable daemon is told and asked again: a restart is when one
/// watches most.
pub async fn watch(socket: &Path, json: bool) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let mut before: Option<Status> = None;
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = &mut stop => return Ok(()),
        }
        let status = client::ask::<(), Status>(socket, Method::GET, "/v1/status", None).await;
        match (status, json) {
            (Ok(status), true) => out::line(serde_json::to_string(&status)?)?,
            (Ok(status), false) => {
                screen(&table::draw(&status, before.as_ref(), width(), colour()))?;
                before = Some(status);
            }
            (Err(error), true) => eprintln!("{error:#}"),
            (Err(error), false) => screen(&format!("{error:#}"))?,
        }
    }
}

/// Columns of the terminal; when there is none, nothing is cut.
pub fn width() -> usize {
    size().map_or(usize::from(u16::MAX), |(columns, _)| usize::from(columns))
}

fn size() -> Option<(u16, u16)> {
    std::io::stdout()
        .is_terminal()
        .then(|| terminal::size().ok())
        .flatten()
}

/// Colours are wanted: a terminal, and NO_COLOR (no-color.org) is not set or empty.
pub fn colour() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

/// Draws over what is there, line by line, so that nothing flickers.
fn screen(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let Some((_, rows)) = size() else {
        writeln!(out, "{text}")?;
        return Ok(out.flush()?);
    };
    let rows = usize::from(rows).saturating_sub(1);
    let hidden = text.lines().count().saturating_sub(rows);
    let shown = if hidden > 0 {
        rows.saturating_sub(1)
    } else {
        rows
    };
    queue!(out, cursor::MoveTo(0, 0))?;
    for line in text.lines().take(shown) {
        write!(out, "{line}")?;
        queue!(out, terminal::Clear(terminal::ClearType::UntilNewLine))?;
        writeln!(out)?;
    }
    queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
    if hidden > 0 {
        writeln!(out, "… and {} more lines", hidden.saturating_add(1))?;
    }
    Ok(out.flush()?)
}
