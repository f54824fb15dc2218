//! `[[hook]]` in the canonical form. Pure.

use std::fmt::{Result, Write};

use super::health::{exec, files};
use super::{text, word};
use crate::config::hook::TOPICS;
use crate::config::value::duration;
use crate::model::{Call, Hook};

/// Writes the table.
pub(super) fn write(out: &mut String, hook: &Hook) -> Result {
    writeln!(out, "\n[[hook]]")?;
    writeln!(out, "name = {}", text(hook.name.as_str()))?;
    let on: Vec<String> = hook.on.iter().map(|topic| word(TOPICS, *topic)).collect();
    writeln!(out, "on = [{}]", on.join(", "))?;
    if !hook.services.is_empty() {
        let names = hook.services.iter().map(|name| text(name.as_str()));
        writeln!(out, "services = [{}]", names.collect::<Vec<_>>().join(", "))?;
    }
    match &hook.call {
        Call::Command(command) => exec(out, command)?,
        Call::Webhook(webhook) => {
            writeln!(out, "url = {}", text(&webhook.url()))?;
            if let Some(tls) = &webhook.tls {
                files(out, tls)?;
            }
        }
    }
    writeln!(out, "timeout = {}", text(&duration(hook.timeout)))?;
    writeln!(out, "retries = {}", hook.retries)?;
    writeln!(out, "rate = {}", hook.rate)?;
    writeln!(out, "queue = {}", hook.queue)
}
