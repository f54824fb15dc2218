//! The client's address as an option of the SYN.

use super::super::{
    checksum::{field, sum},
    packet::{self, octets},
};

/// A SYN with an option of this kind, which says who its client is, as the first one; `None` where it has no room or is not
/// wanted. As wrong as it was.
pub(super) fn told(frame: &[u8], ip: &packet::Ip, kind: u8, mtu: u32) -> Option<Vec<u8>> {
    let address = octets(ip.source);
    let length = 4 + address.len();
    let at = ip.transport();
    let words = usize::from(frame[at + 12] >> 4) + length / 4;
    if kind == 0 || words > 15 || ip.size() + length as u32 > mtu {
        return None;
    }
    let covered = |frame: &[u8], ip: &packet::Ip| {
        packet::pseudo_of(ip, ip.protocol, ip.end - at) + sum(&frame[at..ip.end])
    };
    let off = covered(frame, ip);
    let option = [&[kind, length as u8], &frame[at..at + 2], &address].concat();
    let mut out = frame.to_vec();
    out.splice(at + 20..at + 20, option);
    let place = if ip.is_v4() { 16 } else { 18 };
    let total = u16::from_be_bytes([out[place], out[place + 1]]) + length as u16;
    out[place..place + 2].copy_from_slice(&total.to_be_bytes());
    out[at + 12] = (words as u8) << 4 | out[at + 12] & 15;
    let longer = packet::read(&out)?;
    packet::seal(&mut out, &longer);
    out[at + 16..at + 18].fill(0);
    let check = field(off, covered(&out, &longer));
    out[at + 16..at + 18].copy_from_slice(&check);
    Some(out)
}

/// A SYN has an option of this kind, or options that cannot be read.
pub(super) fn claims(frame: &[u8], ip: &packet::Ip, kind: u8) -> bool {
    let at = ip.transport();
    let mut options = &frame[at + 20..at + 4 * usize::from(frame[at + 12] >> 4)];
    loop {
        options = match options {
            [] | [0, ..] => return false,
            [found, ..] if *found == kind => return true,
            [1, rest @ ..] => rest,
            [_, length, ..] if (2..=options.len()).contains(&usize::from(*length)) => {
                &options[usize::from(*length)..]
            }
            _ => return true,
        }
    }
}
