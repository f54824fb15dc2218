//! `GET /metrics` on a TCP address, loopback unless configured otherwise.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Timings, classic, openmetrics};
use crate::api::aside::aside;
use crate::api::server::Request;
use crate::status::Status;

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "listen on {address} for metrics: {source} (is another process there? set daemon.metrics to another address or \"off\")"
)]
pub struct MetricsError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens the address, for tokio.
pub fn listen(address: SocketAddr) -> Result<std::net::TcpListener, MetricsError> {
    let listener = std::net::TcpListener::bind(address);
    listener
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| MetricsError { address, source })
}

#[derive(Clone)]
struct Source {
    owner: mpsc::Sender<Request>,
    timings: Timings,
}

/// Serves until the token is cancelled.
pub async fn serve(
    listener: TcpListener,
    owner: mpsc::Sender<Request>,
    timings: Timings,
    cancel: CancellationToken,
) {
    let app = Router::new()
        .route("/metrics", get(page))
        .with_state(Source { owner, timings });
    if let Err(error) = axum::serve(listener, app)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
    {
        tracing::error!(%error, "the metrics server failed");
    }
}

async fn page(State(source): State<Source>, headers: HeaderMap) -> Response {
    let (reply, answer) = oneshot::channel();
    if source.owner.send(Request::Status(reply)).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(status) = answer.await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let wants_openmetrics = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.contains("application/openmetrics-text"));
    aside(move || told(&status, &source.timings, wants_openmetrics)).await
}

fn told(status: &Status, timings: &Timings, wants_openmetrics: bool) -> Response {
    let Ok(text) = openmetrics(status, timings) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if wants_openmetrics {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    } else {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        (
            [(header::CONTENT_TYPE, kind)],
            classic::from_openmetrics(&text),
        )
            .into_response()
    }
}
