//! SCTP (RFC 9260 section 3): what the first chunk of a packet means for its association.

use lb_common::DropReason;

use super::packet::{Ip, Meaning};

/// Bytes of the common header, and of the head of a chunk.
pub(super) const HEADS: usize = 12 + 4;

const INIT: u8 = 1;
const ABORT: u8 = 6;
const SHUTDOWN_ACK: u8 = 8;
const SHUTDOWN_COMPLETE: u8 = 14;

/// A packet has a chunk, and a chunk is as long as its head at least.
/// `at`: where it begins in the frame.
pub(super) fn meaning(frame: &[u8], ip: &Ip, at: usize) -> Result<Meaning, DropReason> {
    let heads = ip.bytes(frame, at, HEADS);
    let heads = heads.ok_or(DropReason::Truncated)?;
    if u16::from_be_bytes([heads[14], heads[15]]) < 4 {
        return Err(DropReason::Malformed);
    }
    Ok(match heads[12] {
        INIT => Meaning::Opens,
        // SHUTDOWN alone ends one direction.
        ABORT | SHUTDOWN_ACK | SHUTDOWN_COMPLETE => Meaning::Leaves,
        _ => Meaning::Datagram,
    })
}
