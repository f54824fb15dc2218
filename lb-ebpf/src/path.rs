//! What routers on the way to a backend say of packets in tunnels (RFC 1191, RFC 8201): the largest packet that the path takes, kept in
//! the word of the backend that says how packets are put into others. From then on packets to it go the way of the other tunnels, where
//! that word is read; nobody else's packets are asked about it.
//!
//! Such a message can be forged by who knows a backend's address, so it lowers an MTU only so far that a client's packet of 1228 bytes
//! (IPv6: 1280) still fits, raises none, and is forgotten after ten minutes. The message goes on to the kernel, which sends packets of
//! its own into tunnels.

use lb_common::{
    Address, EndpointKey, EndpointKind, Family, Forwarding, GueVariant, Nanos, Protocol, Tunnel,
    counter::{self, Handshake, PathError},
    endpoint::{MAX_TUNNELS, tunnel_key},
};
use network_types::udp::UdpHdr;

use crate::{
    admission::{self, Limited},
    forward,
    frame::Frame,
    icmp::{self, Quote},
    parse::{self, Packet},
    pipeline::{Context, opaque},
    service::{self, Live, NOWHERE},
    tables::{PackedKey, Tables},
    wire::{Gue, Ports, protocol, v4},
};

mod said;
mod told;

pub use said::Said;
use told::Told;

/// What fits is never said to be less, in bytes: a datagram of 1200 bytes, which every path of QUIC takes (RFC 9000 section 14), with its
/// headers; and what every path of IPv6 takes (RFC 8200 section 5).
const LEAST_V4: u32 = 1228;
const LEAST_V6: u32 = 1280;

/// The largest packet that goes to a backend with its tunnel's headers, where `mtu` bytes leave the machine.
#[inline(always)]
pub(crate) const fn mtu(tunnel: Tunnel, mtu: u32, now: Nanos) -> u32 {
    match tunnel.path(now) {
        0 => mtu,
        path if path < mtu => path,
        _ => mtu,
    }
}

/// What is over is taken out of the word, so that packets go the shorter way again.
#[inline(always)]
pub(crate) fn forget_if_old<T: Tables>(tables: &T, backend: u32, tunnel: Tunnel, now: Nanos) {
    if tunnel.learned().0 != 0 && tunnel.path(now) == 0 {
        // Whoever was faster has learned something newer, or has forgotten it too.
        let _ = tables.exchange_tunnel(backend, tunnel, tunnel.configured());
    }
}

/// Hears an ICMP error to somebody who is no VIP: true if it is about a packet in a tunnel of ours.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn hear<F: Frame, T: Tables, const V4: bool>(
    frame: &mut F,
    cx: &Context<'_, T>,
) -> bool {
    let frame = opaque(frame);
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return false;
    };
    if !is_source::<T, V4>(cx, packet.destination) {
        return false;
    }
    let came = match admission::admits(
        cx.tables,
        cx.control,
        Limited::Path,
        admission::second(cx.now),
    ) {
        true => learn::<F, T, V4>(frame, cx, &packet).unwrap_or(PathError::Ignored),
        false => PathError::Limited,
    };
    if let Some(line) = cx
        .tables
        .counters(cx.control.lines_per_cpu, counter::PATH_LINE)
    {
        // The compiler knows that it is small, and the verifier does not: "invalid access to map value, value_size=64 off=128" (Linux 6.1).
        let which = core::hint::black_box(came as u32);
        cx.tables.add(line, which, 1);
    }
    // The address may stand for clients, too, or be one.
    !matches!(came, PathError::Ignored | PathError::Limited)
}

/// True for an address that outer headers may have as their source.
#[inline(always)]
fn is_source<T: Tables, const V4: bool>(cx: &Context<'_, T>, address: Address) -> bool {
    let control = cx.control;
    let [high, low] = address.words();
    match V4 {
        true => {
            let source = u32::from_be_bytes(control.tunnel_v4);
            let apart = u32::from_be_bytes(forward::octets(address)) ^ source;
            source != 0 && apart & !control.tunnel_v4_spread == 0
        }
        false => {
            let [source_high, source_low] = Address(control.tunnel_v6).words();
            let apart = u64::from_be(low ^ source_low) & !u64::from(control.tunnel_v6_spread);
            source_high | source_low != 0 && high == source_high && apart == 0
        }
    }
}

/// What came of the message; `None`: it quotes nothing that was sent into a tunnel.
#[inline(always)]
fn learn<F: Frame, T: Tables, const V4: bool>(
    frame: &F,
    cx: &Context<'_, T>,
    packet: &Packet,
) -> Option<PathError> {
    packet.check_ip(frame).ok()?;
    let quote = icmp::quote(frame, packet)?;
    // Only routers of IPv4 make pieces of what we send into tunnels, and of those the first says what is inside.
    let odd = quote.later || quote.l4 != icmp::quoted_l4(packet);
    if odd || quote.source.words() != packet.destination.words() {
        return None;
    }
    let said = said::read::<F, V4>(frame, packet)?;
    let inside = inside::<F, V4>(frame, packet, &quote)?;
    let mut service = NOWHERE;
    if inside.at != 0 {
        let inner = inner(frame, packet, &inside);
        if let Some((key, has_ports)) = inner {
            if !service::is_vip(cx.tables, key.address) {
                return None;
            }
            if has_ports && !said.is_too_big() {
                service = service::find(cx.tables, cx.control, &key);
            }
        }
    }
    let port = match quote.protocol {
        protocol::UDP => quote.ports.destination,
        _ => [0, 0],
    };
    let said = said
        .about(u16::from_be_bytes(port), inside.family, inside.variant)
        .of(service);
    let backend = quote.destination.words();
    match cx.tables.note_path(backend, said.0, cx.now) {
        0 => None,
        _ if said.is_unreachable() => Some(PathError::Unreachable),
        _ if !said.is_too_big() => Some(PathError::Other),
        NOTHING_NEW => None,
        _ => Some(PathError::Learned),
    }
}

/// What a quoted packet has inside, as far as the quote goes.
#[derive(Clone, Copy)]
struct Inside {
    /// Where the packet inside begins; 0: it is not quoted.
    at: usize,
    /// Its family: 4, 6, or 0 where that is not quoted.
    family: u8,
    /// How `gue` stands before it; 0 where that is not quoted.
    variant: u8,
}

/// In [`Inside::variant`].
const HEADER: u8 = 1;
const DIRECT: u8 = 2;

/// Reads what a quoted packet has inside; `None`: no tunnel of ours.
#[inline(always)]
fn inside<F: Frame, const V4: bool>(frame: &F, packet: &Packet, quote: &Quote) -> Option<Inside> {
    let l4 = icmp::quoted_l4(packet);
    let version = |at: usize| frame.header::<[u8; 1]>(at).map(|[byte]| byte >> 4);
    match quote.protocol {
        protocol::IPIP | protocol::IPV6 => {
            let family = match quote.protocol {
                protocol::IPIP => 4,
                _ => 6,
            };
            let at = l4;
            (version(at)? == family).then_some(Inside {
                at,
                family,
                variant: 0,
            })
        }
        protocol::UDP => {
            let [high, _] = quote.ports.source;
            if high < 0xc0 {
                return None;
            }
            let behind = l4.wrapping_add(UdpHdr::LEN);
            if !packet.holds(behind, size_of::<Gue>()) {
                return Some(Inside {
                    at: 0,
                    family: 0,
                    variant: 0,
                });
            }
            let Gue([first, next, ..]) = *frame.header::<Gue>(behind)?;
            match (first >> 4, first, next) {
                (family @ (4 | 6), ..) => Some(Inside {
                    at: behind,
                    family,
                    variant: DIRECT,
                }),
                (_, 0, next @ (protocol::IPIP | protocol::IPV6)) => Some(Inside {
                    at: behind.wrapping_add(size_of::<Gue>()),
                    family: match next {
                        protocol::IPIP => 4,
                        _ => 6,
                    },
                    variant: HEADER,
                }),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Where the packet inside went, as far as that is quoted, and whether it has ports.
#[inline(always)]
fn inner<F: Frame>(frame: &F, packet: &Packet, inside: &Inside) -> Option<(EndpointKey, bool)> {
    use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
    let (address, number, length, piece) = match inside.family {
        4 if packet.holds(inside.at, Ipv4Hdr::LEN) => {
            let ip = frame.header::<Ipv4Hdr>(inside.at)?;
            let piece = ip.vihl != 0x45 || u16::from_be_bytes(ip.frags) & 0x3fff != 0;
            (v4(ip.dst_addr), ip.proto, Ipv4Hdr::LEN, piece)
        }
        6 if packet.holds(inside.at, Ipv6Hdr::LEN) => {
            let ip = frame.header::<Ipv6Hdr>(inside.at)?;
            (Address::v6(ip.dst_addr), ip.next_hdr, Ipv6Hdr::LEN, false)
        }
        _ => return None,
    };
    let at = inside.at.wrapping_add(length);
    let has_ports = Protocol::has_ports(number) && !piece && packet.holds(at, size_of::<Ports>());
    let port = match has_ports {
        true => frame.header::<Ports>(at)?.destination,
        false => [0, 0],
    };
    let key = EndpointKey {
        address,
        port,
        protocol: number,
    };
    Some((key, has_ports))
}

/// Nobody is meant: what [`note`] gives then.
const NOBODY: u32 = 0;
/// It is about a backend, and changes nothing.
const NOTHING_NEW: u32 = 1;
/// Something was learned.
const LEARNED: u32 = 2;

/// Tells all backends at an address what was said of the path to it: [`LEARNED`] if one of them did not know. That it is unreachable is
/// counted where it is about one backend.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, address: [u64; 2], said: u64, now: Nanos) -> u32 {
    let mut told = Told(0);
    let mut turn = 0;
    while turn < MAX_TUNNELS && !told.all() {
        told = Told(tables.note_path_next(address, said, now, told.0));
        turn = turn.wrapping_add(1);
    }
    if told.count() == 1 && Said(said).is_unreachable() {
        tables.count_handshake(told.last(), Handshake::Unreachable as u32);
    }
    told.most()
}

/// Tells the backend at the next place. A call in BPF, so that the verifier knows nothing of what it gives: it would follow each turn for each
/// number of backends told ("BPF program is too large", Linux 6.18).
#[inline(always)]
pub fn note_next<T: Tables>(
    tables: &T,
    address: [u64; 2],
    said: u64,
    now: Nanos,
    told: u64,
) -> u64 {
    let told = Told(told);
    let Some(control) = tables.control() else {
        return told.ended().0;
    };
    let key = tunnel_key(Address::from_words(address), told.place());
    let key = PackedKey::new(&key, [0, 0]);
    let live = Live::of(control).0;
    match tables.find_endpoint(key, EndpointKind::Tunnel as u32, live) {
        NOWHERE => told.ended().0,
        id => told.with(id, note_backend(tables, id, Said(said), now)).0,
    }
}

#[inline(always)]
fn note_backend<T: Tables>(tables: &T, id: u32, said: Said, now: Nanos) -> u32 {
    let Some(backend) = service::backend(tables, id) else {
        return NOBODY;
    };
    let entry = backend.entry;
    let Ok(owner) = service::by_index(tables, entry.service) else {
        return NOBODY;
    };
    let tunnel = tables.tunnel(backend);
    let variant = match tunnel.variant() {
        GueVariant::Header => HEADER,
        GueVariant::Direct => DIRECT,
    };
    let inner = match owner.entry.family == Family::V6 as u8 {
        true => 6,
        false => 4,
    };
    let is_tunnel = Forwarding::from_u8(entry.forwarding).is_some_and(Forwarding::is_tunnel);
    if !is_tunnel
        || tunnel.gue_port() != said.port()
        || said.variant() != 0 && said.variant() != variant
        || said.family() != 0 && said.family() != inner
        || said.service() != NOWHERE && said.service() != entry.service
    {
        return NOBODY;
    }
    if !said.is_too_big() {
        return NOTHING_NEW;
    }
    let outer = Address(entry.address).family();
    let inside = match inner {
        4 => LEAST_V4,
        _ => LEAST_V6,
    };
    let least = inside.wrapping_add(tunnel.growth(outer));
    let fits = said.mtu().max(match outer {
        Family::V4 => least,
        Family::V6 => least.max(LEAST_V6),
    });
    let Ok(exit) = forward::line_to_backend(tables, backend) else {
        return NOBODY;
    };
    let known = tunnel.path(now);
    if fits >= exit.mtu || known != 0 && fits > known {
        return NOTHING_NEW;
    }
    let learned = tunnel.with_path(fits, now);
    // The line is every packet's: what stands there is not written again.
    match learned == tunnel || tables.exchange_tunnel(id, tunnel, learned) {
        true => LEARNED,
        // Another CPU was: it was told the same.
        false => NOTHING_NEW,
    }
}
