//! The UDP probe: one datagram from a port of its own; good when the first answer begins as expected. The socket is
//! connected, so that only the target can answer, and so that an ICMP "port unreachable" is told (udp(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout_at;

use super::peer::Peer;
use super::tcp::deadline;
use super::verdict::{bad, failed, timed_out};
use crate::model::{ProbeVerdict, UdpCheck};

/// The most bytes of an answer that are looked at; as many as are compared.
const BYTES: usize = 1024;

/// The most bytes of an answer that a reason shows.
const SHOWN: usize = 32;

/// Probes `target`.
pub async fn probe(target: impl Into<Peer>, check: &UdpCheck, timeout: Duration) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let socket = match connected(target).await {
        Ok(socket) => socket,
        Err(error) => return failed("socket", &error),
    };
    if let Err(error) = socket.send(&check.send).await {
        return refused("send", &error);
    }
    let mut answer = [0; BYTES];
    let read = match timeout_at(deadline, socket.recv(&mut answer)).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return refused("answer", &error),
        Err(_) => return timed_out("answer", timeout),
    };
    let answer = answer.get(..read).unwrap_or_default();
    match answer.starts_with(&check.expect) {
        true => ProbeVerdict::Good,
        false => bad(&format!(
            "answer is '{}', expected it to begin with '{}'",
            shown(answer),
            shown(&check.expect)
        )),
    }
}

/// A socket that talks to the target alone.
pub(super) async fn connected(target: impl Into<Peer>) -> io::Result<UdpSocket> {
    let target = target.into();
    let any: IpAddr = match target.address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    target.prepare(&socket)?;
    socket.connect(target.address).await?;
    Ok(socket)
}

/// The verdict when a connected socket failed.
pub(super) fn refused(phase: &str, error: &io::Error) -> ProbeVerdict {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => bad(&format!("{phase}: port unreachable (ICMP)")),
        _ => failed(phase, error),
    }
}

/// The beginning of some bytes, for people.
fn shown(bytes: &[u8]) -> String {
    let begin = bytes.get(..SHOWN.min(bytes.len())).unwrap_or_default();
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    format!("{}{more}", begin.escape_ascii())
}

#[cfg(test)]
mod tests;
