//! What a piece of a datagram must stay. Pure, part of `mutants`.

use crate::fixture::packet::with_ip_sum;

/// Of a piece of a datagram: where what must not change begins. Before that stand headers, and, in a first one, ports.
pub(super) fn piece(frame: &[u8]) -> Option<usize> {
    let four = frame[12..14] == [8, 0];
    let (l4, first) = match four {
        true if frame[20] & 0x3f == 0 && frame[21] == 0 => return None,
        true => (34, frame[20] & 0x1f == 0 && frame[21] == 0),
        false if frame[20] != 44 => return None,
        false => (62, frame[56] == 0 && frame[57] & 0xf8 == 0),
    };
    Some(if first { l4 + 4 } else { l4 })
}

/// A piece stays the piece that it is: nothing changes but addresses, ports, their checksums and TTL.
pub(super) fn piece_holds(before: &[u8], after: &[u8], rest: usize) -> Result<(), String> {
    let four = before[12..14] == [8, 0];
    let (ttl, fixed, l4) = if four {
        (22, 14..22, 34)
    } else {
        (21, 14..21, 62)
    };
    let protocol = before[if four { 23 } else { 54 }];
    let check = l4 + if protocol == 6 { 16 } else { 6 };
    let has_check = rest > l4;
    let same = |at: usize| {
        before.get(at) == after.get(at) || has_check && (check..check + 2).contains(&at)
    };
    if before[fixed.clone()] != after[fixed] || !(rest..before.len()).all(same) {
        return Err("what makes a piece the piece that it is changed".into());
    }
    if !four && before[54..62] != after[54..62] {
        return Err("the fragment header changed".into());
    }
    if four && with_ip_sum(after.to_vec()) != after {
        return Err("the IP checksum of a piece is wrong".into());
    }
    match after[ttl] == before[ttl] - 1 {
        true => Ok(()),
        false => Err("the TTL of a piece".into()),
    }
}
