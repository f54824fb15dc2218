//! Frames of HTTP/2 (RFC 9113 section 4.1) and fields without compression (RFC 7541 section 6.2.2).

/// Type of a frame.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

/// Flags of a frame.
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `:status: 200`, the entry 8 of the static table.
const OK: u8 = 0x88;

/// A frame of the first stream.
pub(super) fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    let stream = [0, 0, 0, u8::from(kind != SETTINGS)];
    [&length[..], &[kind, flags], &stream, payload].concat()
}

/// A field; name and value have at most 126 bytes.
pub(super) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let value = value.get(..126).unwrap_or(value);
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

/// The beginning of an answer that is as it should be so far.
pub(super) fn begin() -> Vec<u8> {
    let headers = frame(HEADERS, END_HEADERS, &[OK]);
    [frame(SETTINGS, 0, &[]), headers].concat()
}
