//! The gRPC probe: `grpc.health.v1.Health/Check` of the gRPC health checking protocol over [`super::http2`]; good when
//! the service is `SERVING`. Its two messages have one field each, so they are written and read here by hand.

use std::net::SocketAddr;
use std::time::Duration;

use h2::RecvStream;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Response, StatusCode};

use super::http2::{self, Call, Limit};
use super::peer::Peer;
use super::tcp::deadline;
use super::tls::Clients;
use super::verdict::{bad, void};
use crate::model::{GrpcCheck, ProbeVerdict, TlsCheck};

/// The most bytes of an answer: a flag, a length and a number, with room for fields of later versions.
const BYTES: usize = 4096;

/// Probes `target`.
pub async fn probe(
    target: impl Into<Peer>,
    check: &GrpcCheck,
    with: Option<&TlsCheck>,
    clients: &Clients,
    timeout: Duration,
) -> ProbeVerdict {
    let target = target.into();
    match call(target.address, check, with, timeout) {
        Ok(call) => http2::over(target, with, clients, call, judge).await,
        Err(verdict) => verdict,
    }
}

/// What is asked, unless it cannot be.
pub(super) fn call(
    target: SocketAddr,
    check: &GrpcCheck,
    with: Option<&TlsCheck>,
    timeout: Duration,
) -> Result<Call, ProbeVerdict> {
    const PATH: &str = "/grpc.health.v1.Health/Check";
    let name = with.and_then(|with| with.server_name.as_deref());
    let host = check.host.as_deref().or(name);
    let request = http2::uri(target, PATH, host, with.is_some()).and_then(|uri| {
        Request::post(uri)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, concat!("fairlead/", env!("CARGO_PKG_VERSION")))
            .body(())
    });
    let request = request
        .map_err(|error| void(&format!("request: {error} (correct the service's check)")))?;
    let message = question(&check.service)
        .ok_or_else(|| void("request: the name of the service is too long"))?;
    Ok(Call {
        request,
        message: Some(message),
        deadline: deadline(timeout),
        timeout,
    })
}

/// `HealthCheckRequest { service }` in a length-prefixed message.
fn question(service: &str) -> Option<Bytes> {
    // Field 1, of bytes; its length; none at all for the default. Names have at most 255 bytes: a varint of two.
    let length = u8::try_from(service.len()).ok()?;
    let mut field = Vec::new();
    if length > 0 {
        field.push(0x0a);
        match length < 0x80 {
            true => field.push(length),
            false => field.extend([length, 1]),
        }
        field.extend(service.as_bytes());
    }
    let mut message = vec![0];
    message.extend(u32::try_from(field.len()).ok()?.to_be_bytes());
    message.extend(field);
    Some(message.into())
}

/// What an answer is worth.
pub(super) async fn judge(response: Response<RecvStream>, limit: Limit<'_>) -> ProbeVerdict {
    let (head, mut body) = response.into_parts();
    limit.trial.inspect(|trial| trial.answered());
    if head.status != StatusCode::OK {
        return bad(&format!("status {}, expected 200", head.status.as_u16()));
    }
    // An answer without a message has its status in the head.
    if head.headers.contains_key("grpc-status") {
        return status(&head.headers).unwrap_or_else(|| bad("answer has no message"));
    }
    match read(&mut body, limit).await {
        Ok((message, trailers)) => status(&trailers).unwrap_or_else(|| serving(&message)),
        Err(verdict) => verdict,
    }
}

/// The message and the trailers.
async fn read(
    body: &mut RecvStream,
    limit: Limit<'_>,
) -> Result<(Vec<u8>, HeaderMap), ProbeVerdict> {
    let mut message = Vec::new();
    while let Some(data) = http2::piece(body, limit).await? {
        if message.len().saturating_add(data.len()) > BYTES {
            return Err(bad("body: longer than 4 KiB"));
        }
        message.extend(data);
    }
    let trailers = limit.wait("trailers", body.trailers()).await?;
    let trailers = trailers.ok_or_else(|| bad("trailers: there are none"))?;
    Ok((message, trailers))
}

/// The verdict, unless the call succeeded.
fn status(trailers: &HeaderMap) -> Option<ProbeVerdict> {
    let text = |name: &str| {
        trailers
            .get(name)
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
    };
    let Some(code) = text("grpc-status") else {
        return Some(bad("trailers: no grpc-status"));
    };
    if code == "0" {
        return None;
    }
    let word = code.parse().ok().and_then(|n: usize| CODES.get(n)).copied();
    let words = plain(&text("grpc-message").unwrap_or_default());
    // The protocol has this code for it, and no message.
    let hint = match word {
        Some("NOT_FOUND") => "SERVICE_UNKNOWN ",
        _ => "",
    };
    Some(bad(&format!(
        "{hint}grpc-status {code} {}: {words}",
        word.unwrap_or("(unknown)")
    )))
}

/// A message with its percent-encoding taken off; what is no such code stays as it is.
fn plain(message: &str) -> String {
    let mut parts = message.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).and_then(|d| u8::from_str_radix(d, 16).ok());
        match (code, part.get(2..)) {
            (Some(byte), Some(rest)) => {
                bytes.push(byte);
                bytes.extend(rest.as_bytes());
            }
            _ => {
                bytes.push(b'%');
                bytes.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Status codes of gRPC, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What `HealthCheckResponse { status }` says.
fn serving(message: &[u8]) -> ProbeVerdict {
    match decoded(message) {
        Some(1) => ProbeVerdict::Good,
        Some(0) => bad("the service is UNKNOWN"),
        Some(2) => bad("the service is NOT_SERVING"),
        Some(3) => bad("the service is SERVICE_UNKNOWN"),
        Some(other) => bad(&format!("the service's status is {other}")),
        None => bad("answer: not a HealthCheckResponse"),
    }
}

/// The number of field 1, 0 without it; `None`: this is something else.
fn decoded(message: &[u8]) -> Option<u64> {
    let (head, fields) = message.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = head;
    let fits = usize::try_from(u32::from_be_bytes(*length)) == Ok(fields.len());
    if *compressed != 0 || !fits {
        return None;
    }
    let mut rest = fields;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            // Fields of later versions: eight bytes, so many bytes, four bytes.
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number of up to ten bytes, the low seven bits first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
