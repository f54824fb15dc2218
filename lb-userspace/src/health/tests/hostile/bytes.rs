//! What hostile targets send, as bytes.

/// HTTP/1.1, then a line of the head, the rest of it, and what follows.
pub(super) fn http(rest: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes()
}

/// The same with a body in chunks (RFC 9112 section 7.1).
pub(super) fn chunked(rest: &str) -> Vec<u8> {
    http(&format!("Transfer-Encoding: chunked\r\n\r\n{rest}"))
}

/// So many bytes of a gzip stream (RFC 1952) that stands for 158 times as many: one block with fixed codes (RFC 1951
/// section 3.2.6), a zero, and copies of 258 bytes from one byte back, without end.
pub(super) fn gzip(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut word, mut bits) = (0_u64, 0);
    let mut push = |bytes: &mut Vec<u8>, code: u64, length: u32| {
        word |= code << bits;
        bits += length;
        while bits >= 8 {
            bytes.push((word & 0xff) as u8);
            word >>= 8;
            bits -= 8;
        }
    };
    // The last block, fixed codes; codes have their first bit lowest.
    push(&mut bytes, 0b011, 3);
    push(&mut bytes, 0b0000_1100, 8);
    while bytes.len() < length {
        push(&mut bytes, 0b1010_0011, 8);
        push(&mut bytes, 0, 5);
    }
    bytes
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_HEADERS: u8 = 4;
pub(super) const END_STREAM: u8 = 1;

/// `:status: 200` in HPACK (RFC 7541 appendix A).
pub(super) const OK: &[u8] = &[0x88];

/// A server's first frame, and these.
pub(super) fn http2(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = frame(SETTINGS, 0, 0, &[]);
    bytes.extend(frames.concat());
    bytes
}

/// A field that HPACK does not index (section 6.2.2), of less than 127 bytes each.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A head that stands for two thousand times as much: one field of 3,900 bytes that is put into the table, and named
/// again and again by a byte (sections 6.2.1 and 6.1).
pub(super) fn bomb() -> Vec<u8> {
    let mut block = OK.to_vec();
    // A new name of one byte; 3,900 is 127 and 3,773 more, in groups of seven bits.
    block.extend([0x40, 1, b'x', 0x7f, 0xbd, 0x1d]);
    block.extend([b'y'; 3900]);
    block.extend([0xbe; 8000]);
    block
}

/// A TLS record (RFC 8446 section 5.1).
pub(super) fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A DNS answer to this query (RFC 1035 section 4.1), with so many answers by its head, and these bytes in their place.
pub(super) fn dns(query: &[u8], answers: u16, records: &[u8]) -> Vec<u8> {
    let mut bytes = query[..2].to_vec();
    bytes.extend([0x85, 0x80, 0, 1]);
    bytes.extend(answers.to_be_bytes());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(&query[12..]);
    bytes.extend(records);
    bytes
}

/// The rest of an A record after its name.
pub(super) const A: &[u8] = &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7];
