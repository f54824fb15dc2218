//! What the commands that talk to a running daemon do.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper::Method;

use super::{Disable, Drain, out, table, watch};
use crate::api::{Admin, Done, Failback, Reload, client};
use crate::model::{AdminState, BackendKey};
use crate::status::{Backend, Status};

/// Exit status of `drain --wait` when the deadline passes with flows left, as of timeout(1).
const DEADLINE_PASSED: u8 = 124;

/// `status`.
pub async fn status(socket: &Path, args: &super::Status) -> anyhow::Result<ExitCode> {
    if args.watch {
        watch::watch(socket, args.json).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let status = fetch(socket).await?;
    if args.json {
        out::line(serde_json::to_string(&status)?)?;
    } else {
        out::line(table::draw(&status, None, watch::width(), watch::colour()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn fetch(socket: &Path) -> anyhow::Result<Status> {
    client::ask::<(), Status>(socket, Method::GET, "/v1/status", None).await
}

async fn admin(socket: &Path, order: Admin) -> anyhow::Result<()> {
    let done: Done = client::ask(socket, Method::POST, "/v1/admin", Some(&order)).await?;
    out::line(done.message)?;
    Ok(())
}

/// `enable`.
pub async fn enable(socket: &Path, backend: BackendKey) -> anyhow::Result<ExitCode> {
    let state = AdminState::Enabled;
    admin(
        socket,
        Admin {
            backend,
            state,
            deadline_ms: None,
            force: false,
        },
    )
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// `disable`.
pub async fn disable(socket: &Path, args: Disable) -> anyhow::Result<ExitCode> {
    let state = AdminState::Disabled;
    let order = Admin {
        backend: args.backend,
        state,
        deadline_ms: None,
        force: args.force,
    };
    admin(socket, order).await?;
    Ok(ExitCode::SUCCESS)
}

/// `failback`.
pub async fn failback(socket: &Path, args: super::Failback) -> anyhow::Result<ExitCode> {
    let service = args.service;
    let order = Failback { service };
    let done: Done = client::ask(socket, Method::POST, "/v1/failback", Some(&order)).await?;
    out::line(done.message)?;
    Ok(ExitCode::SUCCESS)
}

/// `reload`.
pub async fn reload(socket: &Path, allow_shrink: bool) -> anyhow::Result<ExitCode> {
    let order = Reload { allow_shrink };
    let done: Done = client::ask(socket, Method::POST, "/v1/reload", Some(&order)).await?;
    out::line(done.message)?;
    Ok(ExitCode::SUCCESS)
}

/// `drain`, and with `--wait` until it is done.
pub async fn drain(socket: &Path, args: Drain) -> anyhow::Result<ExitCode> {
    let deadline_ms = args
        .deadline
        .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let order = Admin {
        backend: args.backend.clone(),
        state: AdminState::Draining,
        deadline_ms,
        force: args.force,
    };
    admin(socket, order).await?;
    if args.wait {
        wait(socket, &args.backend, args.deadline).await
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

async fn wait(
    socket: &Path,
    key: &BackendKey,
    deadline: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut shown = None;
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    loop {
        beat.tick().await;
        let status = fetch(socket).await?;
        let backend = find(&status, key)
            .with_context(|| format!("{key} is not configured any more: the wait ends"))?;
        let Some(drain) = backend
            .drain
            .filter(|_| backend.admin == AdminState::Draining)
        else {
            anyhow::bail!(
                "{key} does not drain any more: somebody said {:?}",
                backend.admin
            );
        };
        if shown != Some(drain.left) && !drain.done {
            let (left, after) = (flows(drain.left), began.elapsed());
            out::line(format!("{key}: {left} left after {after:.1?}"))?;
            shown = Some(drain.left);
        }
        if drain.done && drain.left == 0 {
            out::line(format!("{key}: drained after {:.1?}", began.elapsed()))?;
            return Ok(ExitCode::SUCCESS);
        }
        if drain.done
            || deadline.is_some_and(|d| began.elapsed() > d.saturating_add(Duration::from_secs(1)))
        {
            let left = flows(drain.left);
            out::line(format!("{key}: the deadline passed with {left} left"))?;
            return Ok(ExitCode::from(DEADLINE_PASSED));
        }
    }
}

fn flows(count: u64) -> String {
    match count {
        1 => "1 flow".to_owned(),
        _ => format!("{count} flows"),
    }
}

fn find<'a>(status: &'a Status, key: &BackendKey) -> Option<&'a Backend> {
    let service = status
        .services
        .iter()
        .find(|s| s.name == key.service.as_str())?;
    service
        .backends
        .iter()
        .find(|b| b.name == key.backend.as_str())
}
