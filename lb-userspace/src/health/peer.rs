//! Whom a probe talks to, and by which way.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// The other end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What the socket is connected to.
    pub address: SocketAddr,
    /// The mark of its packets (SO_MARK, socket(7)): as whom they go.
    pub mark: Option<u32>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let mark = None;
        Self { address, mark }
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
}
