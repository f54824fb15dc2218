//! The Internet checksum (RFC 1071) as arithmetic modulo 65,535, summed over the whole of what it covers.

/// The sum of big-endian words, an odd last byte padded with zero, modulo 65,535.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = match words.remainder() {
        [last] => u64::from(*last) << 8,
        _ => 0,
    };
    let words = words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
    (words.sum::<u64>() + odd) % 65_535
}

/// The field that makes the sum of everything `total`, where everything else sums up to `rest`. As every sum of a
/// header that is not all zero, it is never "minus zero" (RFC 1624 section 3).
pub(super) fn field(total: u64, rest: u64) -> [u8; 2] {
    let field = (total + 65_535 - rest % 65_535) % 65_535;
    (field as u16).to_be_bytes()
}

/// The same for UDP, whose zero means "none" and is sent as all ones (RFC 768).
pub(super) fn udp_field(total: u64, rest: u64) -> [u8; 2] {
    match field(total, rest) {
        [0, 0] => [0xff; 2],
        other => other,
    }
}
