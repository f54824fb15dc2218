//! A second opinion on the decapsulator, from `docs/tunnels.md` and the RFCs: which frames are taken out of a tunnel, how they
//! look then, and why the others are not. It knows the numbers of [`Fate`] and nothing else of the program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::decap::Fate;

pub mod frames;
mod world;

#[cfg(test)]
mod tests;

pub use world::World;

/// Bytes of both addresses of a frame.
const MACS: usize = 12;

/// An IP header of a frame. Offsets are the frame's.
struct Ip {
    four: bool,
    at: usize,
    source: IpAddr,
    destination: IpAddr,
    next: u8,
    ttl: u8,
    class: u8,
    /// Where the packet ends, as it says.
    end: usize,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Bytes of a header without options.
fn header(four: bool) -> usize {
    if four { 20 } else { 40 }
}

/// The IP header at an offset, if the frame has one there.
fn ip_at(frame: &[u8], at: usize, four: bool) -> Option<Ip> {
    let ip = frame.get(at..at + header(four))?;
    Some(match four {
        true => {
            let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            Ip {
                four,
                at,
                source: address(12).into(),
                destination: address(16).into(),
                next: ip[9],
                ttl: ip[8],
                class: ip[1],
                end: at + usize::from(word(ip, 2)),
            }
        }
        false => {
            let address = |at: usize| {
                let octets: [u8; 16] = ip[at..at + 16].try_into().expect("sixteen bytes");
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            Ip {
                four,
                at,
                source: address(8),
                destination: address(24),
                next: ip[6],
                ttl: ip[7],
                class: (word(ip, 0) >> 4) as u8,
                end: at + 40 + usize::from(word(ip, 4)),
            }
        }
    })
}

/// True for an address of IPv6 that stands for one of IPv4 (RFC 4291 section 2.5.5.2), which is on no wire.
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some())
}

impl Ip {
    /// Where what follows the header stands, if that has no options.
    fn behind(&self) -> usize {
        self.at + header(self.four)
    }

    /// IPv4: its place in the datagram, and whether more follows.
    fn place(&self, frame: &[u8]) -> (u16, bool) {
        let fields = word(frame, self.at + 6);
        (fields & 0x1fff, fields & 0x2000 != 0)
    }

    /// What is wrong with the header itself.
    fn fault(&self, frame: &[u8]) -> Option<Fate> {
        let first = frame[self.at];
        if self.four {
            if first >> 4 != 4 || first & 15 < 5 {
                return Some(Fate::Malformed);
            }
            if first & 15 > 5 {
                return Some(Fate::IpOptions);
            }
            if self.end < self.behind() {
                return Some(Fate::Malformed);
            }
            return (self.place(frame) != (0, false)).then_some(Fate::Fragment);
        }
        if first >> 4 != 6 {
            return Some(Fate::Malformed);
        }
        match self.next {
            44 => Some(Fate::Fragment),
            0 | 43 | 51 | 60 | 135 => Some(Fate::OtherProtocol),
            _ => None,
        }
    }
}

/// What a tunnel carries, as its headers say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carried {
    Four,
    Six,
    Datagram,
}

fn carried(number: u8) -> Option<Carried> {
    match number {
        4 => Some(Carried::Four),
        41 => Some(Carried::Six),
        _ => None,
    }
}

/// A datagram at an offset that goes to the port of `gue`, as far as the frame shows its ports.
fn datagram(world: &World, frame: &[u8], at: usize) -> Option<Carried> {
    let ports = frame.get(at..at + 4)?;
    (world.gue_port == Some(word(ports, 2))).then_some(Carried::Datagram)
}

/// What the outer packet carries, if it is a tunnel: also behind one extension header, and in pieces.
fn tunnel(world: &World, frame: &[u8], outer: &Ip) -> Option<Carried> {
    let behind = outer.behind();
    match (outer.four, outer.next) {
        (_, 4 | 41) => carried(outer.next),
        (true, 17) => {
            let words = usize::from(frame[outer.at] & 15);
            match (outer.place(frame), words) {
                ((0, _), 5..) => datagram(world, frame, outer.at + words * 4),
                _ => None,
            }
        }
        (false, 17) => datagram(world, frame, behind),
        (false, extension @ (0 | 43 | 44 | 60)) => {
            let fields = frame.get(behind..behind + 8)?;
            match (fields[0], extension) {
                (17, 44) if word(fields, 2) >> 3 == 0 => datagram(world, frame, behind + 8),
                (17, 44) => None,
                (17, _) => datagram(world, frame, behind + 8 * (usize::from(fields[1]) + 1)),
                (number, _) => carried(number),
            }
        }
        _ => None,
    }
}

/// A packet in a tunnel: its family, where it begins and where what is around it ends.
struct Inside {
    four: bool,
    at: usize,
    end: usize,
}

/// What stands in a datagram to the port of `gue` (draft-ietf-intarea-gue-09 sections 3.1 and 3.2).
fn in_datagram(frame: &[u8], outer: &Ip) -> Result<Inside, Fate> {
    let at = outer.behind();
    let udp = frame.get(at..at + 8).ok_or(Fate::Truncated)?;
    let length = usize::from(word(udp, 4));
    if length < 8 {
        return Err(Fate::Malformed);
    }
    let end = at + length;
    if length < 12 || end > outer.end {
        return Err(Fate::Truncated);
    }
    let gue = &frame[at + 8..at + 12];
    let four = match gue[0] >> 6 {
        0 => {
            if gue[0] & 0x20 != 0 {
                return Err(Fate::GueControl);
            }
            if gue[0] != 0 || word(gue, 2) != 0 {
                return Err(Fate::GueOptions);
            }
            let four = match carried(gue[1]) {
                Some(carried) => carried == Carried::Four,
                None => return Err(Fate::OtherProtocol),
            };
            let at = at + 12;
            return Ok(Inside { four, at, end });
        }
        // The first bits are those of an IP header.
        1 if gue[0] >> 4 == 4 => true,
        1 if gue[0] >> 4 == 6 => false,
        1 => return Err(Fate::OtherProtocol),
        _ => return Err(Fate::GueVariant),
    };
    let at = at + 8;
    Ok(Inside { four, at, end })
}

/// A source that no client has.
fn is_martian(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_multicast() || a.is_unspecified() || a.is_broadcast()
        }
        IpAddr::V6(a) => {
            a.is_loopback() || a.is_multicast() || a.is_unspecified() || is_mapped(source)
        }
    }
}

/// The packet inside, if a balancer may have sent it.
fn inner(world: &World, frame: &[u8], inside: &Inside) -> Result<Ip, Fate> {
    let &Inside { four, at, end } = inside;
    if at + header(four) > end {
        return Err(Fate::Truncated);
    }
    let ip = ip_at(frame, at, four).ok_or(Fate::Truncated)?;
    if is_mapped(ip.destination) {
        return Err(Fate::UnknownDestination);
    }
    match ip.fault(frame) {
        None | Some(Fate::Fragment) => {}
        Some(fate) => return Err(fate),
    }
    if ip.end > end {
        return Err(Fate::Truncated);
    }
    if !world.is_vip(ip.destination) {
        return Err(Fate::UnknownDestination);
    }
    match ip.next {
        4 | 41 => return Err(Fate::Nested),
        47 => return Err(Fate::OtherProtocol),
        44 if !four => {
            let fields = frame.get(ip.behind()..ip.behind() + 8);
            let served = fields
                .is_some_and(|fields| ![0, 4, 41, 43, 44, 47, 51, 60, 135].contains(&fields[0]));
            if !served || ip.behind() + 8 > ip.end {
                return Err(Fate::OtherProtocol);
            }
        }
        17 => {
            let begins = !four || ip.place(frame).0 == 0;
            if begins && datagram(world, frame, ip.behind()).is_some() {
                return Err(Fate::Nested);
            }
        }
        _ => {}
    }
    if ip.source == ip.destination || is_martian(ip.source) {
        return Err(Fate::MartianSource);
    }
    if world.is_ours(ip.source) || world.is_balancer(ip.source) {
        return Err(Fate::OwnSource);
    }
    if ip.ttl < 2 {
        return Err(Fate::TtlExpired);
    }
    Ok(ip)
}

/// Adds up the words of a header, modulo 65,535.
fn sum(bytes: &[u8]) -> u32 {
    let words = (0..bytes.len() / 2).map(|n| u32::from(word(bytes, n * 2)));
    words.sum::<u32>() % 65_535
}

/// The packet inside with what routers said of congestion outside (RFC 6040 section 4.2).
fn marked(frame: &[u8], outer: &Ip, ip: &Ip) -> Result<Vec<u8>, Fate> {
    let mut packet = frame[ip.at..].to_vec();
    // From one bit to both, or from ECT(0) to ECT(1).
    let (clear, set) = match (outer.class & 3, ip.class & 3) {
        (3, 0) => return Err(Fate::Congestion),
        (3, 1 | 2) => (0, 3),
        (1, 2) => (2, 1),
        _ => (0, 0),
    };
    match ip.four {
        _ if set == 0 => {}
        true => {
            let before = sum(&packet[..20]);
            packet[1] = packet[1] & !clear | set;
            packet[10..12].fill(0);
            // It is as wrong as it was.
            let field = (before + 65_535 - sum(&packet[..20])) % 65_535;
            packet[10..12].copy_from_slice(&(field as u16).to_be_bytes());
        }
        false => packet[1] = packet[1] & !(clear << 4) | set << 4,
    }
    Ok(packet)
}

/// The IP packet at an offset, out of its tunnel; true: it is of IPv4.
fn taken_out(world: &World, frame: &[u8], at: usize, four: bool) -> Result<(Vec<u8>, bool), Fate> {
    let outer = ip_at(frame, at, four).ok_or(Fate::Passed)?;
    if is_mapped(outer.destination) {
        return Err(Fate::Passed);
    }
    let carried = tunnel(world, frame, &outer).ok_or(Fate::Passed)?;
    if !world.is_ours(outer.destination) {
        return Err(Fate::Passed);
    }
    if let Some(fate) = outer.fault(frame) {
        return Err(fate);
    }
    if outer.end > frame.len() {
        return Err(Fate::Truncated);
    }
    if four && sum(&frame[at..at + 20]) != 0 {
        return Err(Fate::BadIpChecksum);
    }
    if !world.is_balancer(outer.source) {
        return Err(Fate::UnknownSource);
    }
    let plainly = |four| Inside {
        four,
        at: outer.behind(),
        end: outer.end,
    };
    let inside = match carried {
        Carried::Four => plainly(true),
        Carried::Six => plainly(false),
        Carried::Datagram => in_datagram(frame, &outer)?,
    };
    let ip = inner(world, frame, &inside)?;
    Ok((marked(frame, &outer, &ip)?, ip.four))
}

/// What must become of a frame, and how it looks then; of a dropped one nobody sees how.
pub fn opinion(world: &World, frame: &[u8]) -> (Fate, Vec<u8>) {
    let passed = || (Fate::Passed, frame.to_vec());
    // Frames to a group.
    if frame.len() < MACS + 2 || frame[0] & 1 == 1 {
        return passed();
    }
    let mut at = MACS;
    for _ in 0..2 {
        if matches!(frame[at..at + 2], [0x81, 0] | [0x88, 0xa8]) && frame.len() >= at + 6 {
            at += 4;
        }
    }
    let four = match frame[at..at + 2] {
        [8, 0] => true,
        [0x86, 0xdd] => false,
        // A third tag, and one that names no VLAN: Linux looks behind it.
        [0x81, 0] | [0x88, 0xa8] if at == MACS + 8 && frame.len() >= at + 6 => {
            let nameless = |place: usize| word(frame, place + 2) & 0x0fff == 0;
            return match [MACS, MACS + 4, at].into_iter().any(nameless) {
                true => (Fate::Malformed, frame.to_vec()),
                false => passed(),
            };
        }
        _ => return passed(),
    };
    match taken_out(world, frame, at + 2, four) {
        Ok((packet, four)) => {
            let ether_type: [u8; 2] = if four { [8, 0] } else { [0x86, 0xdd] };
            let frame = [&frame[..at], &ether_type, &packet].concat();
            (Fate::Delivered, frame)
        }
        Err(fate) => (fate, frame.to_vec()),
    }
}
