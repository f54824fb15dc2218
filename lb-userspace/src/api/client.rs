//! The command line's end of the control socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Refused;

/// An answer longer than this is not the daemon's.
const MAX_ANSWER: usize = 256 << 20;

/// Asks the daemon; gives up after this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Sends one request and waits for its answer.
pub async fn ask<B: Serialize, A: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&B>,
) -> anyhow::Result<A> {
    let answer = tokio::time::timeout(PATIENCE, exchange(socket, method, path, body)).await;
    answer.with_context(|| {
        format!(
            "the daemon at {} did not answer in {PATIENCE:?}",
            socket.display()
        )
    })?
}

async fn exchange<B: Serialize, A: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&B>,
) -> anyhow::Result<A> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "connect to the daemon at {} (does 'fairlead run' run? is it this socket, see --socket? are you its owner?)",
            socket.display()
        )
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("talk HTTP to the daemon")?;
    let driver = tokio::spawn(connection);
    let bytes = match body {
        Some(body) => Bytes::from(serde_json::to_vec(body)?),
        None => Bytes::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "fairlead")
        .header("content-type", "application/json")
        .body(Full::new(bytes))?;
    let answer = sender
        .send_request(request)
        .await
        .context("send the request to the daemon")?;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!("read the daemon's answer: {e}"))?
        .to_bytes();
    driver.abort();
    if status.is_success() {
        return serde_json::from_slice(&bytes)
            .context("understand the daemon's answer (are both of the same version?)");
    }
    match serde_json::from_slice::<Refused>(&bytes) {
        Ok(refused) => bail!("{}", refused.error),
        Err(_) => bail!(
            "the daemon answered {status}: {}",
            String::from_utf8_lossy(&bytes)
        ),
    }
}
