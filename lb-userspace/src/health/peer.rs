//! Whom a probe talks to, and by which way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

use super::full_size::Trial;
use crate::model::family;

/// The local ports of connections with a mark, in turn: those that Linux takes by default (ip(7),
/// `ip_local_port_range`).
const PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Ports that are tried: others may be somebody else's.
const TRIES: usize = 64;
/// The largest segment of a connection whose packets are to be small: so is the tunnel's around them.
const SEGMENT: u32 = 1200;

/// The port that is given next.
static NEXT: AtomicU16 = AtomicU16::new(*PORTS.start());

/// The other end of a probe.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the socket is connected to.
    pub address: SocketAddr,
    /// The mark of its packets (SO_MARK, socket(7)): as whom they go.
    pub mark: Option<u32>,
    /// They are to be small, both ways, however much there is to say.
    pub small: bool,
    /// Packets of full size are to reach it.
    pub trial: Option<Arc<Trial>>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            mark: None,
            small: false,
            trial: None,
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        SocketAddr::new(address, 0).into()
    }
}

impl Peer {
    /// Before the socket is connected.
    pub(super) fn prepare(&self, socket: &impl AsFd) -> io::Result<()> {
        match &self.mark {
            Some(mark) => setsockopt(socket, sockopt::Mark, mark).map_err(io::Error::from),
            None => Ok(()),
        }
    }

    /// The same for a connection. Those to the backends of one VIP are told apart by their local ports alone, on the way
    /// back, and the kernel gives one port to several connections that differ in their other ends: so each has
    /// its own, and gets it again only after all others.
    pub(super) fn prepare_connection(&self, socket: &TcpSocket) -> io::Result<()> {
        self.prepare(socket)?;
        if let Some(trial) = &self.trial {
            let most = trial.segment(family(self.address.ip()));
            // This limits the segments of both ends, and no system call tells them apart.
            setsockopt(socket, sockopt::TcpMaxSeg, &most)?;
        } else if self.small {
            setsockopt(socket, sockopt::TcpMaxSeg, &SEGMENT)?;
        }
        if self.mark.is_none() {
            return Ok(());
        }
        // Also one in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        let any = match self.address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        bind_alone(socket, any)
    }
}

/// Binds to a port that no other check has got for as long as there are ports.
fn bind_alone(socket: &TcpSocket, any: IpAddr) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        // It always gives a value, so there is no error.
        let (Ok(port) | Err(port)) = NEXT.fetch_update(Relaxed, Relaxed, |port| Some(after(port)));
        match socket.bind(SocketAddr::new(any, port)) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The port that is next in turn.
fn after(port: u16) -> u16 {
    match port < *PORTS.end() {
        true => port.saturating_add(1),
        false => *PORTS.start(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn connections_have_ports_of_their_own() {
        let bound = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            bind_alone(&socket, Ipv4Addr::UNSPECIFIED.into()).unwrap();
            socket
        };
        let sockets: Vec<TcpSocket> = (0..100).map(|_| bound()).collect();
        let port = |socket: &TcpSocket| socket.local_addr().unwrap().port();
        let ports: BTreeSet<u16> = sockets.iter().map(port).collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn after_the_last_port_comes_the_first() {
        assert_eq!(after(*PORTS.start()), *PORTS.start() + 1);
        assert_eq!(after(*PORTS.end()), *PORTS.start());
    }
}
