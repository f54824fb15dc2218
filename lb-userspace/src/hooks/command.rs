//! Tells an event to a command: JSON on its standard input, and the most of it in its environment. It runs as the
//! command of a check does.

use std::time::Duration;

use super::message::Message;
use crate::health::exec;
use crate::model::{ExecCheck, ProbeVerdict};

/// Runs it to its end, which is good with 0.
pub(crate) async fn tell(
    command: &ExecCheck,
    hook: &str,
    message: &Message,
    host: &str,
    timeout: Duration,
) -> ProbeVerdict {
    let mut input = message.json(hook, host).into_bytes();
    input.push(b'\n');
    let environment = message.environment(hook);
    match exec::run(command, environment, input, timeout).await {
        Ok(ended) => ended.verdict(),
        Err(verdict) => verdict,
    }
}
