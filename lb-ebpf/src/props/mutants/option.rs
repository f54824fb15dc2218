//! A SYN that says who its client is.

use lb_common::Forwarding;

use super::{Fixture, with_ip_sum};

/// Packets of the fixture may go to backends from an address of ours.
pub(super) fn may_stand(fixture: &Fixture) -> bool {
    let mut services = fixture.world.services.iter();
    services.any(|service| service.forwarding == Forwarding::Fullnat)
}

/// The frame without the option, if that is right; its checksum as right as it was.
pub(super) fn taken_out(before: &[u8], after: &[u8]) -> Result<Vec<u8>, String> {
    let v4 = after[12..14] == [8, 0];
    let (at, client, length) = match v4 {
        true => (34, 26..30, 16..18),
        false => (54, 22..38, 18..20),
    };
    let size = 4 + client.len();
    let option = [
        &[254, size as u8],
        &before[at..at + 2],
        &before[client.clone()],
    ]
    .concat();
    let place = at + 20..at + 20 + size;
    if after.get(place.clone()) != Some(&option[..]) || after.len() != before.len() + size {
        return Err(format!("longer, but not by {option:02x?}: {after:02x?}"));
    }
    let covered = |frame: &[u8]| {
        let ends = if v4 { 26..34 } else { 22..54 };
        let said = u16::from_be_bytes([frame[length.start], frame[length.start + 1]]);
        let segment = &frame[at..usize::from(said) + if v4 { 14 } else { 54 }];
        let words = frame[ends].chunks(2).chain(segment.chunks(2));
        let word = |bytes: &[u8]| u64::from(bytes[0]) << 8 | u64::from(*bytes.get(1).unwrap_or(&0));
        (words.map(word).sum::<u64>() + segment.len() as u64) % 65_535
    };
    let off = covered(after);
    let mut out = after.to_vec();
    out.drain(place);
    out[at + 12] -= (size as u8 / 4) << 4;
    let said = u16::from_be_bytes([out[length.start], out[length.start + 1]]) - size as u16;
    out[length.clone()].copy_from_slice(&said.to_be_bytes());
    out[at + 16..at + 18].fill(0);
    let check = ((off + 65_535 - covered(&out)) % 65_535) as u16;
    out[at + 16..at + 18].copy_from_slice(&check.to_be_bytes());
    Ok(if v4 { with_ip_sum(out) } else { out })
}
