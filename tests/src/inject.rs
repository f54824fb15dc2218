//! Frames that a host sends as they are, byte by byte (packet(7)).

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::capture::bind;
use crate::topology::Namespace;

/// Sends out of one interface, past the host's own stack.
pub struct Injector {
    socket: Socket,
}

impl Injector {
    /// For an interface of a namespace.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        namespace
            .run(|| {
                // Protocol 0: it receives nothing.
                let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
                bind(&socket, 0, nix::net::if_::if_nametoindex(device)?)?;
                anyhow::Ok(Self { socket })
            })
            .with_context(|| format!("send frames out of {device} of {}", namespace.name()))
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send(frame);
        let sent = sent.with_context(|| format!("send a frame of {} bytes", frame.len()))?;
        ensure!(sent == frame.len(), "{sent} of {} bytes", frame.len());
        Ok(())
    }
}
