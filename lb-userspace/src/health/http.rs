//! The HTTP/1.1 probe (RFC 9110, RFC 9112): one request on a connection of its own, good when
//! status and body are as expected.
//!
//! It trusts nobody: no redirect is followed and no name resolved, so a target cannot send the
//! prober elsewhere; a head ends at 16 KiB, a body at 64 KiB, all together at [`READ`], and everything at the timeout. The
//! body is searched as it comes and not kept. The verdict is known, and the connection closed, as
//! soon as nothing that may still come can change it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use hyper::http::request;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::full_size::{self, Trial};
use super::hearing::{FIELD, Hearing};
use super::limited::Limited;
use super::peer::Peer;
use super::tcp::{Closing, connect, deadline};
use super::verdict::{bad, failed, timed_out, void};
use crate::model::{AgentSource, HttpCheck, ProbeVerdict};

/// The most bytes of a response's head, and of what hyper buffers.
pub(super) const HEAD_BYTES: usize = 16 * 1024;

/// The most bytes of a body that are looked at.
pub(super) const BODY_BYTES: usize = 64 * 1024;

/// The most bytes that are read: head, body, what stands around its pieces, and what hyper reads ahead. A target could send
/// interim answers, or the zeros of a chunk's size, without end.
const READ: usize = HEAD_BYTES + 2 * BODY_BYTES;

/// The request of a probe.
pub(super) type Probe = Request<Empty<Bytes>>;

/// A request that tells something.
pub(crate) type Post = Request<Full<Bytes>>;

/// What a request may carry: all of it is there.
pub(crate) trait Content: Body<Data = Bytes, Error = Infallible> + Send + 'static {}

impl<B: Body<Data = Bytes, Error = Infallible> + Send + 'static> Content for B {}

/// Probes `target`.
pub async fn probe(
    target: impl Into<Peer>,
    check: &HttpCheck,
    timeout: Duration,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let target = target.into();
    let mut request = match request(target.address, check) {
        Ok(request) => request,
        Err(verdict) => return verdict,
    };
    let trial = target.trial.clone();
    match connect(target, Closing::Orderly, deadline, timeout).await {
        Ok(stream) => {
            let limit = Limit {
                deadline,
                timeout,
                trial: trial.as_deref(),
            };
            limit.fill(&mut request);
            converse(stream, request, check, limit, hearing).await
        }
        Err(verdict) => verdict,
    }
}

/// Asks over an open connection, which it closes, and judges the answer.
pub(crate) async fn converse<B: Content>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<B>,
    check: &HttpCheck,
    limit: Limit<'_>,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let handshake = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(Limited::new(stream, READ)))
        .await;
    let (sender, connection) = match handshake {
        Ok(both) => both,
        Err(error) => return not_answered("headers", &error),
    };
    // The exchange makes progress only while the connection is polled beside it.
    let exchange = pin!(exchange(sender, request, check, limit, hearing));
    match select(exchange, pin!(connection)).await {
        Either::Left((verdict, _closed_on_drop)) => verdict,
        Either::Right((_told_to_the_exchange, exchange)) => exchange.await,
    }
}

/// Until when, how long that was, and whether the size of packets is on trial.
#[derive(Clone, Copy)]
pub(crate) struct Limit<'t> {
    pub(crate) deadline: Instant,
    pub(crate) timeout: Duration,
    pub(crate) trial: Option<&'t Trial>,
}

impl Limit<'_> {
    /// Makes the request so long that it fills a packet, if it has to. (Over TLS it is a little longer than that.)
    pub(super) fn fill(&self, request: &mut Probe) {
        if let Some(trial) = self.trial {
            let length = length(request);
            pad(request.headers_mut(), trial, length);
        }
    }
}

/// How many bytes a request has as HTTP/1.1 (RFC 9112 section 2).
fn length(request: &Probe) -> usize {
    let path = request
        .uri()
        .path_and_query()
        .map_or(0, |p| p.as_str().len());
    let line = "  HTTP/1.1\r\n".len();
    let fields = request.headers().iter().map(|(name, value)| {
        let around = ": \r\n".len();
        around
            .saturating_add(name.as_str().len())
            .saturating_add(value.len())
    });
    let first = request.method().as_str().len().saturating_add(path);
    let rest = fields.fold(line, usize::saturating_add);
    first.saturating_add(rest).saturating_add("\r\n".len())
}

/// Fills a packet with a request that has so many bytes.
pub(super) fn pad(headers: &mut HeaderMap, trial: &Trial, length: usize) {
    for value in trial.padding(length) {
        // It is of letters.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(full_size::FIELD, value);
        }
    }
}

/// The request, unless it cannot be one.
pub(super) fn request(target: SocketAddr, check: &HttpCheck) -> Result<Probe, ProbeVerdict> {
    with_body(head(target, check), Empty::new())
}

/// A request with JSON in it, unless it cannot be one.
pub(crate) fn post(
    target: SocketAddr,
    check: &HttpCheck,
    json: Bytes,
) -> Result<Post, ProbeVerdict> {
    let head = head(target, check).header(CONTENT_TYPE, "application/json");
    with_body(head, Full::new(json))
}

fn head(target: SocketAddr, check: &HttpCheck) -> request::Builder {
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, concat!("fairlead/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
}

fn with_body<B>(head: request::Builder, body: B) -> Result<Request<B>, ProbeVerdict> {
    head.body(body)
        .map_err(|error| void(&format!("request: {error} (correct the service's check)")))
}

/// Sends the request and judges what comes back.
async fn exchange<B: Content>(
    mut sender: SendRequest<B>,
    request: Request<B>,
    check: &HttpCheck,
    limit: Limit<'_>,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let trial = limit.trial;
    trial.inspect(|trial| trial.asks());
    let response = match timeout_at(limit.deadline, sender.send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            trial.inspect(|trial| trial.broke(io_cause(&error)));
            return not_answered("headers", &error);
        }
        Err(_) => return timed_out("headers", limit.timeout),
    };
    let status = response.status();
    let is_expected = expected(status.as_u16(), &check.expect_status);
    trial.inspect(|trial| trial.answered());
    if !is_expected {
        return bad(&unexpected(status, &check.expect_status));
    }
    if let Some(said) = response.headers().get(FIELD) {
        hearing.hear(AgentSource::Header, said.as_bytes());
    }
    match &check.expect_body {
        None if !hearing.wants(AgentSource::Body) => ProbeVerdict::Good,
        text => search(response.into_body(), text.as_deref(), limit, hearing).await,
    }
}

/// Is it among the statuses that are good?
pub(super) fn expected(status: u16, ranges: &[(u16, u16)]) -> bool {
    ranges
        .iter()
        .any(|&(low, high)| (low..=high).contains(&status))
}

/// What is wrong with a status that is not.
pub(super) fn unexpected(status: StatusCode, ranges: &[(u16, u16)]) -> String {
    let ranges: Vec<String> = ranges
        .iter()
        .map(|&(low, high)| match low == high {
            true => low.to_string(),
            false => format!("{low}-{high}"),
        })
        .collect();
    let hint = match status.is_redirection() {
        true => " (redirects are not followed)",
        false => "",
    };
    format!(
        "status {}, expected {}{hint}",
        status.as_u16(),
        ranges.join(", ")
    )
}

/// Reads the body until it holds `text`, if it has to, and the agent's line is complete, if one is wanted; or until it
/// ends, or is too long.
async fn search(
    mut body: Incoming,
    text: Option<&str>,
    limit: Limit<'_>,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let mut needle = text.map(|text| Needle::new(text.as_bytes()));
    let lacks = |within: &str| {
        bad(&format!(
            "body lacks '{}'{within}",
            text.unwrap_or_default()
        ))
    };
    let mut left = BODY_BYTES;
    loop {
        let data = match timeout_at(limit.deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            // What is missing is only what an agent might say.
            Ok(None) if needle.is_none() => return ProbeVerdict::Good,
            Ok(Some(Err(_))) | Err(_) if needle.is_none() => {
                hearing.cut();
                return ProbeVerdict::Good;
            }
            Ok(Some(Err(error))) => return not_answered("body", &error),
            Ok(None) => return lacks(""),
            Err(_) => return timed_out("body", limit.timeout),
        };
        let piece = data.get(..left).unwrap_or(&data);
        hearing.hear(AgentSource::Body, piece);
        // What was found needs no more search.
        if needle.as_mut().is_some_and(|needle| needle.found_in(piece)) {
            needle = None;
        }
        if needle.is_none() && !hearing.wants(AgentSource::Body) {
            return ProbeVerdict::Good;
        }
        left = left.saturating_sub(data.len());
        if left == 0 {
            return match needle {
                None => ProbeVerdict::Good,
                Some(_) => lacks(" in its first 64 KiB"),
            };
        }
    }
}

/// Searches a stream; keeps no more of it than a match may need.
pub(super) struct Needle<'a> {
    text: &'a [u8],
    tail: Vec<u8>,
}

impl<'a> Needle<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            tail: Vec::new(),
        }
    }

    /// True when the text ends within `data`, the next piece of the stream.
    pub(super) fn found_in(&mut self, data: &[u8]) -> bool {
        if self.text.is_empty() {
            return true;
        }
        self.tail.extend_from_slice(data);
        if self.tail.windows(self.text.len()).any(|w| w == self.text) {
            return true;
        }
        let keep = self.text.len().saturating_sub(1);
        let cut = self.tail.len().saturating_sub(keep);
        self.tail.drain(..cut);
        false
    }
}

/// The verdict when the target broke off, or spoke something else.
fn not_answered(phase: &str, error: &hyper::Error) -> ProbeVerdict {
    match io_cause(error) {
        Some(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => closed(phase),
        Some(cause) => failed(phase, cause),
        None if error.is_parse_too_large() => bad(&format!("{phase}: longer than 16 KiB")),
        None if error.is_parse() => bad(&format!("{phase}: not HTTP/1: {error}")),
        None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            closed(phase)
        }
        None => bad(&format!("{phase}: {error}")),
    }
}

fn closed(phase: &str) -> ProbeVerdict {
    bad(&format!("{phase}: closed by the target before the end"))
}

/// The I/O error below a hyper error, if one is.
fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
