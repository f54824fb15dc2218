//! `status --watch`: the table, drawn again every second.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use crossterm::{cursor, execute, terminal};
use hyper::Method;

use super::table;
use crate::api::client;
use crate::status::Status;

/// Draws until Ctrl-C. An unreachable daemon is told and asked again: a restart is when one
/// watches most.
pub async fn watch(socket: &Path, json: bool) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = &mut stop => return Ok(()),
        }
        let status = client::ask::<(), Status>(socket, Method::GET, "/v1/status", None).await;
        match (status, json) {
            (Ok(status), true) => println!("{}", serde_json::to_string(&status)?),
            (Ok(status), false) => screen(&table::draw(&status, width(), colour()))?,
            (Err(error), _) => screen(&format!("{error:#}"))?,
        }
    }
}

/// Columns of the terminal; 120 when there is none.
pub fn width() -> u16 {
    terminal::size().map_or(120, |(columns, _)| columns)
}

/// Colours are wanted: a terminal, and NO_COLOR (no-color.org) is not set.
pub fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn screen(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        execute!(
            out,
            terminal::Clear(terminal::ClearType::All),
            cursor::MoveTo(0, 0)
        )?;
    }
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}
