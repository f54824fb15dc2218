//! What must be true of every sent frame, whoever made it, as another parser reads it: it is well formed, its
//! checksums are right (one that was wrong is as wrong as it was), and its flow's client is who it was.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, SlicedPacket, TransportSlice};

use lb_ebpf::fixture::world::is_nat;

use crate::oracle::{Opinion, Sent};

/// A packet, as etherparse reads it.
#[derive(Debug)]
struct Seen {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
    /// The sum over what the transport checksum covers, modulo 65,535: 0 where it is right. `None`: there is none.
    off: Option<u64>,
}

/// Checks a packet that was sent on.
pub fn check(before: &[u8], opinion: &Opinion) -> Result<(), String> {
    let after = opinion.output.as_deref().unwrap_or(before);
    if opinion.sent == Sent::No {
        return match opinion.output {
            None => Ok(()),
            Some(_) => Err("not sent, but changed".into()),
        };
    }
    if opinion.sent == Sent::Piece {
        return piece(before, after);
    }
    let new = read(after, opinion.tunnel)
        .map_err(|error| format!("the sent frame: {error}: {after:02x?}"))?;
    if opinion.sent == Sent::Answered {
        return match new.off {
            Some(0) => Ok(()),
            _ => Err(format!("an answer with a wrong checksum: {new:?}")),
        };
    }
    let old = read(before, 0).map_err(|error| format!("the frame that came: {error}"))?;
    if old.off != new.off {
        return Err(format!("the checksum is off otherwise: {old:?}, {new:?}"));
    }
    let kept = match opinion.sent {
        Sent::Forwarded => old.source == new.source,
        Sent::Returned => old.destination == new.destination,
        Sent::Exchanged => is_nat(&octets(new.source.0)) || is_nat(&octets(old.destination.0)),
        Sent::Echoed => (old.source, old.destination) == (new.destination, new.source),
        Sent::No | Sent::Relayed | Sent::Piece | Sent::Answered => true,
    };
    match kept && old.protocol == new.protocol {
        true => Ok(()),
        false => Err(format!("another flow's packet: {old:?}, {new:?}")),
    }
}

/// A piece of a datagram: its checksum covers what is elsewhere.
fn piece(before: &[u8], after: &[u8]) -> Result<(), String> {
    let header = match after[12..14] {
        [8, 0] => Ipv4HeaderSlice::from_slice(&after[14..]).map(|header| header.slice()),
        _ => {
            return Ipv6HeaderSlice::from_slice(&after[14..])
                .map(|_| ())
                .map_err(|error| format!("{error}: {after:02x?}, before {before:02x?}"));
        }
    };
    match header {
        Ok(header) if total(&[], header) == 0 => Ok(()),
        other => Err(format!("a piece with a wrong header: {other:?}")),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn total(pseudo: &[u8], covered: &[u8]) -> u64 {
    let sum = |bytes: &[u8]| -> u64 {
        let words = bytes.chunks(2);
        words
            .map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)))
            .sum()
    };
    (sum(pseudo) + sum(covered)) % 65_535
}

/// Reads a frame, and what is in a tunnel of so many bytes in place of the tunnel.
fn read(frame: &[u8], tunnel: usize) -> Result<Seen, String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    check_header(&packet)?;
    if tunnel == 0 {
        return seen(&packet);
    }
    let inner = SlicedPacket::from_ip(&frame[14 + tunnel..]).map_err(|error| error.to_string())?;
    check_header(&inner)?;
    seen(&inner)
}

/// An IPv4 header's checksum is right. Of the slice: as a value the header has no room for the reserved flag.
fn check_header(packet: &SlicedPacket<'_>) -> Result<(), String> {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) if total(&[], ip.header().slice()) != 0 => {
            Err("a wrong IPv4 header checksum".into())
        }
        _ => Ok(()),
    }
}

fn seen(packet: &SlicedPacket<'_>) -> Result<Seen, String> {
    let (source, destination, payload): (IpAddr, IpAddr, _) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                ip.payload(),
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                ip.payload(),
            )
        }
        _ => return Err("no IP".into()),
    };
    let protocol = payload.ip_number.0;
    let bytes = payload.payload;
    let pseudo = |length: usize| {
        let length = (length as u32).to_be_bytes();
        [
            &octets(source)[..],
            &octets(destination),
            &length,
            &[0, protocol],
        ]
        .concat()
    };
    let (ports, off) = match packet.transport.as_ref().ok_or("no transport header")? {
        TransportSlice::Tcp(tcp) => (
            [tcp.source_port(), tcp.destination_port()],
            Some(total(&pseudo(bytes.len()), bytes)),
        ),
        TransportSlice::Udp(udp) => {
            let length = usize::from(udp.length());
            let off = match udp.checksum() {
                0 => None,
                _ => Some(total(&pseudo(length), &bytes[..length])),
            };
            ([udp.source_port(), udp.destination_port()], off)
        }
        TransportSlice::Icmpv4(_) => ([0, 0], Some(total(&[], bytes))),
        TransportSlice::Icmpv6(_) => ([0, 0], Some(total(&pseudo(bytes.len()), bytes))),
        TransportSlice::Igmp(_) => return Err("a transport that is not balanced".into()),
    };
    Ok(Seen {
        source: (source, ports[0]),
        destination: (destination, ports[1]),
        protocol,
        off,
    })
}
