//! What must be true of every sent frame, whoever made it, as another parser reads it: it is well formed from its tags to
//! its last byte, its checksums are right (one that was wrong is as wrong as it was), its flow's client is who it was, and
//! what it carries is what came.

mod read;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use lb_ebpf::fixture::world::is_nat;

use crate::oracle::{Opinion, Sent};

use read::{Ends, Framed};

/// Most tags that a frame leaves with.
const MOST_TAGS: usize = 2;

/// Checks a packet that was sent on.
pub fn check(before: &[u8], opinion: &Opinion) -> Result<(), String> {
    let after = opinion.output.as_deref().unwrap_or(before);
    if opinion.sent == Sent::No {
        return match opinion.output {
            None => Ok(()),
            Some(_) => Err("not sent, but changed".into()),
        };
    }
    let explain = |error| format!("{error}\n    before {before:02x?}\n    after  {after:02x?}");
    sent(before, after, opinion).map_err(explain)
}

fn sent(before: &[u8], after: &[u8], opinion: &Opinion) -> Result<(), String> {
    let outer = Framed::of(after).map_err(|error| format!("the sent frame: {error}"))?;
    if outer.tags > MOST_TAGS {
        return Err(format!("{} tags", outer.tags));
    }
    if opinion.sent == Sent::Answered {
        return answered(&outer);
    }
    let new = match opinion.tunnel {
        0 => outer,
        tunnel => inside(&outer, tunnel)?,
    };
    let old = Framed::of(before).map_err(|error| format!("the frame that came: {error}"))?;
    if old.rest != new.rest {
        return Err("other bytes behind the packet".into());
    }
    let hops = if opinion.sent == Sent::Echoed { 0 } else { 1 };
    if hops == 1 && (old.ttl - 1 != new.ttl || old.class != new.class) {
        return Err("another TTL than one less, or another class".into());
    }
    // In a tunnel and without ports nobody's address changes.
    let has_ports = matches!(old.carried, 6 | 17 | 132);
    let is_message = matches!((old.carried, old.is_v4), (1, true) | (58, false));
    let untouched = opinion.tunnel > 0 || !has_ports && !is_message;
    if untouched && old.addresses() != new.addresses() {
        return Err("other addresses".into());
    }
    if opinion.sent == Sent::Piece {
        return piece(&old, &new);
    }
    let (old, new) = (old.ends()?, new.ends()?);
    if old.off != new.off {
        return Err(format!("the checksum is off otherwise: {old:?}, {new:?}"));
    }
    let same_data = match opinion.sent {
        // Both of them are told apart by what they quote, which the oracle says byte by byte.
        Sent::Relayed => old.data.len() == new.data.len(),
        _ => old.data == new.data,
    };
    match same_data && kept(&old, &new, opinion.sent) && old.protocol == new.protocol {
        true => Ok(()),
        false => Err(format!("another flow's packet: {old:?}, {new:?}")),
    }
}

/// The flow is the same to its client.
fn kept(old: &Ends<'_>, new: &Ends<'_>, sent: Sent) -> bool {
    match sent {
        Sent::Forwarded => old.source == new.source,
        Sent::Returned => old.destination == new.destination,
        Sent::Exchanged => is_nat(&octets(new.source.0)) || is_nat(&octets(old.destination.0)),
        Sent::Echoed => (old.source, old.destination) == (new.destination, new.source),
        Sent::No | Sent::Relayed | Sent::Piece | Sent::Answered => true,
    }
}

/// What was made anew has nothing behind it.
fn answered(answer: &Framed<'_>) -> Result<(), String> {
    let ends = answer.ends()?;
    match ends.off == Some(0) && answer.rest.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "an answer with a wrong checksum, or more: {ends:?}"
        )),
    }
}

/// The packet in a tunnel of so many bytes; outer lengths must end with it, and an outer checksum be as right as its own.
fn inside<'a>(outer: &Framed<'a>, tunnel: usize) -> Result<Framed<'a>, String> {
    let inner = outer.packet.get(tunnel..).unwrap_or_default();
    let inner = Framed::of_packet(inner).map_err(|error| format!("in the tunnel: {error}"))?;
    if !inner.rest.is_empty() {
        return Err("the tunnel is longer than what is in it".into());
    }
    if outer.ttl == 0 || outer.class != inner.class {
        return Err("a tunnel without TTL, or of another class".into());
    }
    let outer_off = match outer.protocol {
        4 | 41 => None,
        17 => {
            let udp = outer.ends()?;
            let length = u16::from_be_bytes([udp.segment[4], udp.segment[5]]);
            if usize::from(length) != udp.segment.len() {
                return Err("the tunnel's UDP has another length than its packet".into());
            }
            udp.off
        }
        other => return Err(format!("a tunnel of protocol {other}")),
    };
    let inner_off = match inner.is_piece {
        true => None,
        false => inner.ends()?.off,
    };
    if outer_off.is_some() && (outer_off != inner_off || outer.is_v4) {
        return Err(format!(
            "the tunnel's checksum: {outer_off:?}, inside {inner_off:?}"
        ));
    }
    Ok(Framed {
        rest: outer.rest,
        ..inner
    })
}

/// A piece of a datagram: its checksum covers what is elsewhere. Nothing changes but an address, and with it ports and
/// checksum of the first, which sum up to what they did; of another protocol than TCP and UDP nothing else.
fn piece(old: &Framed<'_>, new: &Framed<'_>) -> Result<(), String> {
    if !new.is_piece || old.fragment() != new.fragment() {
        return Err("another piece".into());
    }
    let at = if old.is_v4 { 0 } else { 8 };
    let check = at + if old.carried == 6 { 16 } else { 6 };
    let moved = old.addresses() != new.addresses();
    let translated = moved && old.is_first() && [6, 17].contains(&old.carried);
    let may_change = |byte: usize| {
        translated && ((at..at + 4).contains(&byte) || (check..check + 2).contains(&byte))
    };
    let (before, after) = (old.payload(), new.payload());
    let mut bytes = before.iter().zip(after).enumerate();
    let same = bytes.all(|(at, (old, new))| old == new || may_change(at));
    let absent = |payload: &[u8]| old.carried == 17 && payload[check..check + 2] == [0, 0];
    let sums = match translated {
        true if absent(before) => absent(after),
        true => old.covered() == new.covered(),
        false => true,
    };
    match same && sums && before.len() == after.len() {
        true => Ok(()),
        false => Err("a piece with other bytes".into()),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
