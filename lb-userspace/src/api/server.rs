//! The daemon's end of the control socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::aside::aside;
use super::reserve::Reserved;
use super::{Admin, Done, Failback, Refused, Reload};
use crate::status::Status;
use crate::why::{Whom, Why};

/// A question or order for the owner of the state, with the way back.
#[derive(Debug)]
pub enum Request {
    /// What is the state?
    Status(oneshot::Sender<Box<Status>>),
    /// Why do these backends get new flows, or not?
    Why(Whom, oneshot::Sender<Result<Why, Refused>>),
    /// Change an admin state.
    Admin(Admin, oneshot::Sender<Result<Done, Refused>>),
    /// Let the flows of a service return.
    Failback(Failback, oneshot::Sender<Result<Done, Refused>>),
    /// Apply the configuration file.
    Reload(Reload, oneshot::Sender<Result<Done, Refused>>),
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the control socket {}: {source} (is run-dir writable?)", path.display())]
pub struct SocketError {
    path: PathBuf,
    source: std::io::Error,
}

/// Opens the socket with mode 0600. The daemon's lock is held by now, so a socket file that is
/// there already was left by a daemon that is dead.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let fail = |source| SocketError {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    // The directory is 0700, so nobody can connect before the mode is set.
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Serves until the token is cancelled.
pub async fn serve(
    listener: UnixListener,
    owner: mpsc::Sender<Request>,
    cancel: CancellationToken,
) {
    let app = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/why", get(why))
        .route("/v1/admin", post(admin))
        .route("/v1/reload", post(reload))
        .route("/v1/failback", post(failback))
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(owner);
    if let Err(error) = axum::serve(Reserved::new(listener), app)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
    {
        tracing::error!(%error, "the control socket failed");
    }
}

fn gone() -> Response {
    let error = "the daemon is stopping".to_owned();
    (StatusCode::SERVICE_UNAVAILABLE, Json(Refused { error })).into_response()
}

async fn status(State(owner): State<mpsc::Sender<Request>>) -> Response {
    let (reply, answer) = oneshot::channel();
    if owner.send(Request::Status(reply)).await.is_err() {
        return gone();
    }
    match answer.await {
        Ok(status) => aside(move || Json(*status).into_response()).await,
        Err(_) => gone(),
    }
}

/// What follows the path in a question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    backend: String,
}

async fn why(State(owner): State<mpsc::Sender<Request>>, Query(asked): Query<Asked>) -> Response {
    let whom = match asked.backend.parse() {
        Ok(whom) => whom,
        Err(error) => return (StatusCode::CONFLICT, Json(Refused { error })).into_response(),
    };
    let (reply, answer) = oneshot::channel();
    answered(owner.send(Request::Why(whom, reply)).await.is_ok(), answer).await
}

async fn admin(State(owner): State<mpsc::Sender<Request>>, Json(order): Json<Admin>) -> Response {
    let (reply, answer) = oneshot::channel();
    answered(
        owner.send(Request::Admin(order, reply)).await.is_ok(),
        answer,
    )
    .await
}

async fn reload(State(owner): State<mpsc::Sender<Request>>, Json(order): Json<Reload>) -> Response {
    let (reply, answer) = oneshot::channel();
    answered(
        owner.send(Request::Reload(order, reply)).await.is_ok(),
        answer,
    )
    .await
}

async fn failback(
    State(owner): State<mpsc::Sender<Request>>,
    Json(order): Json<Failback>,
) -> Response {
    let (reply, answer) = oneshot::channel();
    answered(
        owner.send(Request::Failback(order, reply)).await.is_ok(),
        answer,
    )
    .await
}

async fn answered<T: Serialize>(
    sent: bool,
    answer: oneshot::Receiver<Result<T, Refused>>,
) -> Response {
    if !sent {
        return gone();
    }
    match answer.await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(refused)) => (StatusCode::CONFLICT, Json(refused)).into_response(),
        Err(_) => gone(),
    }
}
