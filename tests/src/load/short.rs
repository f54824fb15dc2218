//! One short connection: connect, one request, the answer compared, close.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Failure, Request, Sample, backend_number};
use crate::server::{MESSAGE_BYTES, NAME_BYTES, signature};

pub(super) fn connect(
    target: SocketAddr,
    request: &Request,
    number: u64,
    patience: Duration,
) -> Result<Sample, Failure> {
    let started = Instant::now();
    let mut local = None;
    let result = TcpStream::connect_timeout(&target, patience)
        .map_err(|e| format!("connect: {e}"))
        .and_then(|mut stream| {
            local = stream.local_addr().ok();
            match request {
                Request::Echo => echo(&mut stream, started + patience, number),
                Request::Http(path) => http(&mut stream, started + patience, path),
            }
        });
    finish(started, local, patience, result)
}

/// Turns a result into a sample or a failure; late is a failure.
pub(super) fn finish(
    started: Instant,
    local: Option<SocketAddr>,
    patience: Duration,
    result: Result<u8, String>,
) -> Result<Sample, Failure> {
    let took = started.elapsed();
    match result {
        Ok(backend) if took <= patience => Ok(Sample {
            started,
            took,
            backend,
        }),
        Ok(_) => Err(Failure {
            started,
            took,
            reason: "answered too late".to_owned(),
            local,
        }),
        Err(reason) => Err(Failure {
            started,
            took,
            reason,
            local,
        }),
    }
}

/// A message that no other connection sends.
pub(super) fn message(number: u64) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for place in message.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
        word = word.rotate_left(7).wrapping_add(number);
    }
    message
}

/// Sends a message and compares the answer; the number of the backend.
pub(super) fn echo(stream: &mut TcpStream, until: Instant, number: u64) -> Result<u8, String> {
    let sent = message(number);
    stream.write_all(&sent).map_err(|e| format!("send: {e}"))?;
    let mut answer = [0; MESSAGE_BYTES];
    let mut have = 0;
    while have < answer.len() {
        have += read(stream, until, &mut answer[have..])?;
    }
    if answer[NAME_BYTES..] != sent[NAME_BYTES..] {
        return Err("the answer differs from the message".to_owned());
    }
    Ok(backend_number(signature(&answer)))
}

fn http(stream: &mut TcpStream, until: Instant, path: &str) -> Result<u8, String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|e| format!("send: {e}"))?;
    let mut answer = [0; 4096];
    let mut have = 0;
    loop {
        if let Some((head, body)) = split(&answer[..have]) {
            let length = content_length(head)?;
            if body.len() >= length {
                let body = std::str::from_utf8(&body[..length]).unwrap_or_default();
                return status_and_name(head, body);
            }
        }
        if have == answer.len() {
            return Err("the answer is longer than 4096 bytes".to_owned());
        }
        have += read(stream, until, &mut answer[have..])?;
    }
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((
        std::str::from_utf8(&answer[..end]).ok()?,
        &answer[end + 4..],
    ))
}

fn content_length(head: &str) -> Result<usize, String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths
        .next()
        .and_then(|(_, value)| value.trim().parse().ok());
    length.ok_or_else(|| format!("no content-length in {head:?}"))
}

fn status_and_name(head: &str, body: &str) -> Result<u8, String> {
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!(
            "status: {}",
            head.lines().next().unwrap_or_default()
        ));
    }
    match backend_number(body) {
        0 => Err(format!("the body is no backend's name: {body:?}")),
        number => Ok(number),
    }
}

/// At least one byte, within the time that is left.
fn read(stream: &mut TcpStream, until: Instant, to: &mut [u8]) -> Result<usize, String> {
    let left = until
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream
        .set_read_timeout(Some(left))
        .map_err(|e| format!("set a timeout: {e}"))?;
    match stream.read(to) {
        Ok(0) => Err("closed before the answer was complete".to_owned()),
        Ok(length) => Ok(length),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Err("no answer in time".to_owned()),
        Err(e) => Err(format!("receive: {e}")),
    }
}
