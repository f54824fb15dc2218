//! Answers of targets that are known beforehand, read and judged as those that come over a network: what the fuzzers run, and a test of what they have found.

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod corpus;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hearing::Hearing;
use super::tcp::deadline;
use super::{dns, grpc, http, http2};
use crate::model::{AgentSource, DnsCheck, GrpcCheck, HttpCheck, ProbeVerdict};

/// Far beyond what reading from memory takes.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// What requests say about whom they are sent to.
const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

/// The number of each query, which is random elsewhere.
pub const DNS_ID: u16 = 0x1234;

/// A target that says these bytes once it was asked, so many at a time, takes whatever it is told, and closes.
#[derive(Debug)]
pub struct Recorded<'b> {
    left: &'b [u8],
    piece: usize,
    told: Vec<u8>,
    /// What it was told has a question.
    asks: fn(&[u8]) -> bool,
    waits: Option<Waker>,
}

impl<'b> Recorded<'b> {
    /// It says `answer`, at most `piece` bytes at a time and at least one.
    pub fn new(answer: &'b [u8], piece: usize) -> Self {
        Self {
            left: answer,
            piece: piece.max(1),
            told: Vec::new(),
            asks: |told| !told.is_empty(),
            waits: None,
        }
    }
}

impl AsyncRead for Recorded<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !(self.asks)(&self.told) {
            self.waits = Some(context.waker().clone());
            return Poll::Pending;
        }
        let most = self.piece.min(buffer.remaining());
        let (said, left) = self.left.split_at_checked(most).unwrap_or((self.left, &[]));
        buffer.put_slice(said);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        told: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.told.extend(told);
        if let Some(reader) = self.waits.take() {
            reader.wake();
        }
        Poll::Ready(Ok(told.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The verdict on an answer to an HTTP/1.1 check, and what the agent said in it, as [`Hearing::said`].
pub async fn http(
    target: Recorded<'_>,
    check: &HttpCheck,
    agent: Option<AgentSource>,
) -> (ProbeVerdict, Option<Option<String>>) {
    let mut hearing = Hearing::to(agent);
    let limit = http::Limit {
        deadline: deadline(TIMEOUT),
        timeout: TIMEOUT,
        trial: None,
    };
    let verdict = match http::request(TARGET, check) {
        Ok(request) => http::converse(target, request, check, limit, &mut hearing).await,
        Err(verdict) => verdict,
    };
    (verdict, hearing.said())
}

/// A client of HTTP/2 has sent the headers of its request (RFC 9113 sections 3.4 and 4.1).
fn has_headers(told: &[u8]) -> bool {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    let mut rest = told.get(PREFACE..).unwrap_or_default();
    while let Some((&[high, middle, low, kind, ..], after)) = rest.split_first_chunk::<9>() {
        if kind == HEADERS {
            return true;
        }
        let length = u32::from_be_bytes([0, high, middle, low]);
        rest = after.get(length as usize..).unwrap_or_default();
    }
    false
}

/// The verdict on an answer to an HTTP/2 check without TLS.
pub async fn http2(target: Recorded<'_>, check: &HttpCheck) -> ProbeVerdict {
    let call = match http2::call(TARGET, check, false, TIMEOUT) {
        Ok(call) => call,
        Err(verdict) => return verdict,
    };
    let target = Recorded {
        asks: has_headers,
        ..target
    };
    http2::converse(target, call, None, async |response, limit| {
        http2::judge(response, check, limit).await
    })
    .await
}

/// The verdict on an answer to a gRPC check without TLS.
pub async fn grpc(target: Recorded<'_>, check: &GrpcCheck) -> ProbeVerdict {
    let target = Recorded {
        asks: has_headers,
        ..target
    };
    match grpc::call(TARGET, check, None, TIMEOUT) {
        Ok(call) => http2::converse(target, call, None, grpc::judge).await,
        Err(verdict) => verdict,
    }
}

/// The verdict on a message that answers a DNS check with the number [`DNS_ID`].
pub fn dns(answer: &[u8], check: &DnsCheck) -> ProbeVerdict {
    let query = match dns::query(check) {
        Ok((mut query, _)) => {
            query.metadata.id = DNS_ID;
            query
        }
        Err(verdict) => return verdict,
    };
    match dns::understood(&query, answer) {
        Ok(answer) => dns::judge(&answer, check),
        Err(verdict) => verdict,
    }
}
