//! What replies say of handshakes.

use lb_common::{Protocol, counter::Handshake};

use super::{Arrived, Oracle};

impl Oracle {
    /// What a whole segment of a backend says to a client that opens a connection (RFC 9293 section 3.10.7.1).
    pub(super) fn answered(&mut self, arrived: &Arrived<'_>, id: usize) {
        let Arrived { frame, ip, .. } = arrived;
        let header = ip.bytes(frame, ip.transport(), 14);
        let Some(header) = header.filter(|_| ip.protocol == Protocol::Tcp as u8) else {
            return;
        };
        match (header[13] & 0x17, &header[4..8]) {
            (0x12, _) => self.ledger.handshake(id, Handshake::Answered),
            (0x14, [0, 0, 0, 0]) => self.ledger.handshake(id, Handshake::Refused),
            _ => {}
        }
    }
}
