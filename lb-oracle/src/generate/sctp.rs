//! SCTP packets (RFC 9260 section 3), mostly with chunks that mean something and a right CRC32c.

use lb_ebpf::fixture::{packet::Body, sctp};

use super::Choices;

/// INIT, DATA, HEARTBEAT, ABORT, SHUTDOWN, SHUTDOWN ACK, COOKIE ECHO, SHUTDOWN COMPLETE.
const CHUNKS: [u8; 12] = [1, 1, 1, 0, 0, 0, 4, 6, 7, 8, 10, 14];

pub(super) fn sctp(choices: &mut Choices<'_>, from: u16, to: u16, data: &[u8]) -> Body {
    let chunk = match choices.one_in(24) {
        true => choices.byte(),
        false => *choices.of(&CHUNKS),
    };
    let mut body = sctp::sctp(from, to, chunk, data);
    let Body::Other { data: bytes, .. } = &mut body else {
        return body;
    };
    match choices.below(24) {
        // Another chunk behind it.
        20 => bytes.extend([*choices.of(&CHUNKS), 0, 0, 4]),
        21 => bytes[14..16].copy_from_slice(&[0, choices.byte() % 8]),
        22 => bytes[8] ^= 1 + choices.byte() % 255,
        23 => bytes.truncate(choices.below(20)),
        _ => return body,
    }
    body
}
