//! What a tunnel put around a packet. Pure, part of `mutants`.

use super::{Sum, piece::piece, read};
use crate::fixture::{Fixture, cast::GUE_PORT, packet::with_ip_sum, world::address};

/// The frame without its tunnel's headers, which are checked.
pub(super) fn unwrapped(fixture: &Fixture, frame: &[u8]) -> Result<Vec<u8>, String> {
    let four = frame.get(12..14) == Some(&[8, 0]);
    let (header, mut protocol, destination) = match four {
        true => (20, frame[23], &frame[30..34]),
        false => (40, frame[20], &frame[38..54]),
    };
    if four && with_ip_sum(frame.to_vec()) != frame {
        return Err("the outer header's checksum is wrong".into());
    }
    let mut inside = 14 + header;
    if protocol == 17 {
        let outer = read(frame).map_err(|error| format!("outside: {error}"))?;
        inside += 8;
        if frame[inside] == 0 {
            protocol = frame[inside + 1];
            if frame[inside + 2..inside + 4] != [0, 0] {
                return Err("flags in the GUE header".into());
            }
            inside += 4;
        } else {
            protocol = [41, 4][usize::from(frame[inside] >> 4 == 4)];
        }
        let inner = [&frame[..12], &ether_type(frame[inside]), &frame[inside..]].concat();
        // The checksum of a piece is that of its datagram.
        let inner = match piece(&inner) {
            Some(_) => Some(Sum::Absent),
            None => {
                read(&inner)
                    .map_err(|error| format!("inside: {error}"))?
                    .sum
            }
        };
        match (four, outer.sum, inner) {
            (true, Some(Sum::Absent), _) | (false, Some(Sum::Absent), _) => {}
            (false, outer, inner) if outer == inner => {}
            other => return Err(format!("checksums of {other:?}")),
        }
        let [source, port] = outer.ports.ok_or("no ports")?;
        if source < 0xc000 || port != GUE_PORT {
            return Err(format!("from port {source} to port {port}"));
        }
    }
    if frame[inside] >> 4 != if protocol == 4 { 4 } else { 6 } || ![4, 41].contains(&protocol) {
        return Err("the outer header is not a tunnel's".into());
    }
    let backends = fixture.world.backends.iter();
    let known = backends
        .map(|backend| address(backend.address))
        .any(|backend| backend.0.ends_with(destination));
    match known {
        true => Ok([&frame[..12], &ether_type(frame[inside]), &frame[inside..]].concat()),
        false => Err("sent to nobody's backend".into()),
    }
}

/// By the first byte of an IP header.
fn ether_type(first: u8) -> [u8; 2] {
    if first >> 4 == 4 {
        [8, 0]
    } else {
        [0x86, 0xdd]
    }
}
