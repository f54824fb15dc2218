//! The HTTP/2 probe (RFC 9113): one request, good when status and body are as expected. Without TLS by prior knowledge,
//! over TLS when the target chooses `h2` (ALPN). Bounds and rules are those of [`super::http`]; all that is read, frames
//! that carry nothing included, is at most [`READ`].

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, USER_AGENT};
use hyper::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::full_size::Trial;
use super::http::{BODY_BYTES, HEAD_BYTES, Needle, expected, pad, unexpected};
use super::https::named;
use super::limited::Limited;
use super::peer::Peer;
use super::tcp::{Closing, connect, deadline};
use super::tls::{self, Clients, Shaken};
use super::verdict::{bad, failed, timed_out, void};
use crate::model::{HttpCheck, ProbeVerdict, TlsCheck};

/// The most bytes that are read: a body, a head and frames around them.
const READ: usize = 2 * BODY_BYTES;

const PROTOCOLS: &[&str] = &["h2"];

/// Probes `target`.
pub async fn probe(
    target: impl Into<Peer>,
    check: &HttpCheck,
    with: Option<&TlsCheck>,
    clients: &Clients,
    timeout: Duration,
) -> ProbeVerdict {
    let check = &with.map_or_else(|| check.clone(), |with| named(check, with));
    let target = target.into();
    let call = match call(target.address, check, with.is_some(), timeout) {
        Ok(call) => call,
        Err(verdict) => return verdict,
    };
    over(target, with, clients, call, async |response, limit| {
        judge(response, check, limit).await
    })
    .await
}

/// What is asked, unless it cannot be.
pub(super) fn call(
    target: SocketAddr,
    check: &HttpCheck,
    encrypted: bool,
    timeout: Duration,
) -> Result<Call, ProbeVerdict> {
    let request = uri(target, &check.path, check.host.as_deref(), encrypted).and_then(|uri| {
        Request::builder()
            .method(check.method.as_str())
            .uri(uri)
            .header(USER_AGENT, concat!("fairlead/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .body(())
    });
    Ok(Call {
        request: request
            .map_err(|error| void(&format!("request: {error} (correct the service's check)")))?,
        message: None,
        deadline: deadline(timeout),
        timeout,
    })
}

/// What an answer is worth.
pub(super) async fn judge(
    response: Response<RecvStream>,
    check: &HttpCheck,
    limit: Limit<'_>,
) -> ProbeVerdict {
    let (head, body) = response.into_parts();
    let status = head.status.as_u16();
    let is_expected = expected(status, &check.expect_status);
    limit.trial.inspect(|trial| trial.answered());
    if !is_expected {
        return bad(&unexpected(head.status, &check.expect_status));
    }
    match &check.expect_body {
        None => ProbeVerdict::Good,
        Some(text) => search(body, text, limit).await,
    }
}

/// Where a request goes.
pub(super) fn uri(
    target: SocketAddr,
    path: &str,
    host: Option<&str>,
    encrypted: bool,
) -> Result<Uri, hyper::http::Error> {
    let authority = host.map_or_else(|| target.to_string(), ToOwned::to_owned);
    Uri::builder()
        .scheme(if encrypted {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        })
        .authority(Authority::try_from(authority)?)
        .path_and_query(PathAndQuery::try_from(path)?)
        .build()
}

/// A request, and until when it is to be answered.
pub(super) struct Call {
    pub(super) request: Request<()>,
    /// Its body.
    pub(super) message: Option<Bytes>,
    pub(super) deadline: Instant,
    pub(super) timeout: Duration,
}

/// Until when, how long that was, and whether the size of packets is on trial.
#[derive(Clone, Copy)]
pub(super) struct Limit<'t> {
    deadline: Instant,
    timeout: Duration,
    pub(super) trial: Option<&'t Trial>,
}

impl Limit<'_> {
    /// What comes in time, or the verdict.
    pub(super) async fn wait<T>(
        self,
        phase: &str,
        coming: impl Future<Output = Result<T, h2::Error>>,
    ) -> Result<T, ProbeVerdict> {
        match timeout_at(self.deadline, coming).await {
            Ok(Ok(came)) => Ok(came),
            Ok(Err(error)) => {
                self.trial.inspect(|trial| trial.broke(error.get_io()));
                Err(broken(phase, &error))
            }
            Err(_) => Err(timed_out(phase, self.timeout)),
        }
    }
}

/// Connects, asks, and lets `judge` say what the answer is worth.
pub(super) async fn over(
    target: Peer,
    with: Option<&TlsCheck>,
    clients: &Clients,
    call: Call,
    judge: impl AsyncFnOnce(Response<RecvStream>, Limit<'_>) -> ProbeVerdict,
) -> ProbeVerdict {
    let (deadline, timeout) = (call.deadline, call.timeout);
    let trial = target.trial.clone();
    let trial = trial.as_deref();
    let Some(with) = with else {
        return match connect(target, Closing::Orderly, deadline, timeout).await {
            Ok(stream) => converse(stream, call, trial, judge).await,
            Err(verdict) => verdict,
        };
    };
    match tls::shake(target, with, PROTOCOLS, clients, deadline, timeout).await {
        Ok(Shaken { stream, warning }) => {
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return bad("tls: the target does not choose h2 (ALPN)");
            }
            tls::with(converse(stream, call, trial, judge).await, warning)
        }
        Err(verdict) => verdict,
    }
}

/// Asks over an open connection, which it closes.
pub(super) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut call: Call,
    trial: Option<&Trial>,
    judge: impl AsyncFnOnce(Response<RecvStream>, Limit<'_>) -> ProbeVerdict,
) -> ProbeVerdict {
    let limit = Limit {
        deadline: call.deadline,
        timeout: call.timeout,
        trial,
    };
    // What the rest of the request takes is known to the encoder alone.
    trial.inspect(|trial| pad(call.request.headers_mut(), trial, 0));
    let handshake = client::Builder::new()
        .enable_push(false)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .handshake(Limited::new(stream, READ));
    let (sender, connection) = match limit.wait("http2", handshake).await {
        Ok(both) => both,
        Err(verdict) => return verdict,
    };
    // The exchange makes progress only while the connection is polled beside it.
    let exchange = pin!(exchange(sender, call, limit, judge));
    match select(exchange, pin!(connection)).await {
        Either::Left((verdict, _closed_on_drop)) => verdict,
        Either::Right((_told_to_the_exchange, exchange)) => exchange.await,
    }
}

async fn exchange(
    sender: SendRequest<Bytes>,
    call: Call,
    limit: Limit<'_>,
    judge: impl AsyncFnOnce(Response<RecvStream>, Limit<'_>) -> ProbeVerdict,
) -> ProbeVerdict {
    let answered = async {
        let mut sender = limit.wait("http2", sender.ready()).await?;
        limit.trial.inspect(|trial| trial.asks());
        let (response, mut body) = sender
            .send_request(call.request, call.message.is_none())
            .map_err(|error| broken("request", &error))?;
        if let Some(message) = call.message {
            body.send_data(message, true)
                .map_err(|error| broken("request", &error))?;
        }
        limit.wait("headers", response).await
    };
    match answered.await {
        Ok(response) => judge(response, limit).await,
        Err(verdict) => verdict,
    }
}

/// The next piece of a body; `None`: it ended.
pub(super) async fn piece(
    body: &mut RecvStream,
    limit: Limit<'_>,
) -> Result<Option<Bytes>, ProbeVerdict> {
    let next = async { body.data().await.transpose() };
    let data = limit.wait("body", next).await?;
    if let Some(data) = &data {
        // Without this the target would stop at the end of its window.
        let released = body.flow_control().release_capacity(data.len());
        released.map_err(|error| broken("body", &error))?;
    }
    Ok(data)
}

/// Reads the body until it holds `text`, ends, or is too long.
async fn search(mut body: RecvStream, text: &str, limit: Limit<'_>) -> ProbeVerdict {
    let mut needle = Needle::new(text.as_bytes());
    let mut left = BODY_BYTES;
    loop {
        let data = match piece(&mut body, limit).await {
            Ok(Some(data)) => data,
            Ok(None) => return bad(&format!("body lacks '{text}'")),
            Err(verdict) => return verdict,
        };
        if needle.found_in(data.get(..left).unwrap_or(&data)) {
            return ProbeVerdict::Good;
        }
        left = left.saturating_sub(data.len());
        if left == 0 {
            return bad(&format!("body lacks '{text}' in its first 64 KiB"));
        }
    }
}

/// The verdict when the target broke off, or spoke something else.
fn broken(phase: &str, error: &h2::Error) -> ProbeVerdict {
    if let Some(cause) = error.get_io() {
        return match cause.raw_os_error() {
            Some(_) => failed(phase, cause),
            // Words of the protocol below, or of the limit.
            None => bad(&format!("{phase}: {cause}")),
        };
    }
    match error.reason() {
        Some(Reason::NO_ERROR) | None => bad(&format!("{phase}: {error}")),
        Some(reason) => bad(&format!(
            "{phase}: {reason:?} ({})",
            match error.is_remote() {
                true => "the target says",
                false => "no HTTP/2",
            }
        )),
    }
}

#[cfg(test)]
mod tests;
