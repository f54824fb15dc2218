//! The TCP probe: good when the target accepts a connection in time.
//!
//! The connection is closed with a reset (SO_LINGER 0, socket(7)), as usual for such checks: an
//! orderly close would leave a TIME_WAIT entry here for a minute, 600,000 of them with 10,000
//! targets a second. The target's application sees a connection that was reset before a byte; the
//! HTTP probe, which talks to the application, closes in order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::full_size::Way;
use super::hearing::Hearing;
use super::peer::Peer;
use super::segments::Segments;
use super::verdict::{failed, timed_out};
use crate::model::{AgentSource, ProbeVerdict, family};

/// Which way a connection ends when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// With a reset.
    Reset,
    /// With a FIN (a reset, if the target had more to say).
    Orderly,
}

/// Probes `target`, and hears what its agent says, if anybody listens: then until a line is complete, the target closes, or
/// time is up. All of these are good: a connection was accepted.
pub async fn probe(
    target: impl Into<Peer>,
    timeout: Duration,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let mut stream = match connect(target, Closing::Reset, deadline, timeout).await {
        Ok(stream) => stream,
        Err(verdict) => return verdict,
    };
    let mut piece = [0; 64];
    while hearing.wants(AgentSource::Line) {
        match timeout_at(deadline, stream.read(&mut piece)).await {
            Ok(Ok(read @ 1..)) => {
                hearing.hear(AgentSource::Line, piece.get(..read).unwrap_or_default());
            }
            Ok(Ok(0)) => break,
            Ok(Err(_)) | Err(_) => {
                hearing.cut();
                break;
            }
        }
    }
    ProbeVerdict::Good
}

/// When a probe that starts now must have ended.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    // No clock ends so soon that a configured timeout would not fit; if one did, the probe fails.
    now.checked_add(timeout).unwrap_or(now)
}

/// Connects, or says why not. The socket is non-blocking, closed on exec and without Nagle's delay. Where the target's way is on
/// trial, it is decided how much data makes a packet full.
pub(crate) async fn connect(
    target: impl Into<Peer>,
    closing: Closing,
    deadline: Instant,
    timeout: Duration,
) -> Result<Segments, ProbeVerdict> {
    let target = target.into();
    let socket = open(&target, closing).map_err(|e| failed("socket", &e))?;
    match timeout_at(deadline, socket.connect(target.address)).await {
        Ok(Ok(stream)) => cut(stream, &target).map_err(|e| failed("socket", &e)),
        Ok(Err(error)) => Err(failed("connect", &error)),
        Err(_) => Err(timed_out("connect", timeout)),
    }
}

/// A connection whose segments are as large as its trial wants.
fn cut(stream: TcpStream, target: &Peer) -> std::io::Result<Segments> {
    let Some(trial) = &target.trial else {
        return Ok(Segments::new(stream, None));
    };
    // Of IPv6 too: the kernel answers for the route, whatever its family.
    let mtu = getsockopt(&stream, sockopt::IpMtu)?;
    trial.fill_segment(Way {
        family: family(target.address.ip()),
        mtu: u32::try_from(mtu).unwrap_or(0),
        mss: getsockopt(&stream, sockopt::TcpMaxSeg)?,
    });
    Ok(Segments::new(stream, Some(Arc::clone(trial))))
}

fn open(target: &Peer, closing: Closing) -> std::io::Result<TcpSocket> {
    let socket = match target.address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    target.prepare_connection(&socket)?;
    socket.set_nodelay(true)?;
    if closing == Closing::Reset {
        socket.set_zero_linger()?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
