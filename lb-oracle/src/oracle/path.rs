//! What routers say of packets in tunnels: RFC 1191, RFC 8201, docs/tunnels.md.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Forwarding, GueVariant, Nanos, Protocol,
    counter::{Handshake, PathError},
};
use lb_ebpf::fixture::world::tunnel_prefixes;

use super::{
    Arrived, Oracle,
    known::Limit,
    packet::{Ip, ip_address, octets},
    sound::whole,
    tunnel,
    whose::Target,
};

/// What was said of a path, and in which unit of 2^36 ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    fits: u32,
    unit: u64,
}

impl Path {
    /// While it holds: for ten units.
    pub(super) fn fits(self, at: Nanos) -> Option<u32> {
        ((at >> 36) - self.unit < 10).then_some(self.fits)
    }
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Fits(u32),
    Unreachable,
    Other,
}

/// What a complaint quotes, as far as it does.
struct Quoted {
    backend: IpAddr,
    /// Of `gue`; 0 without.
    port: u16,
    v4: Option<bool>,
    variant: Option<GueVariant>,
    /// Where the packet inside went to.
    to: Option<(SocketAddr, u8, bool)>,
}

impl Oracle {
    /// An error to a source of tunnels: true if it is about a tunnel, and goes on to the kernel.
    pub(super) fn complaint(&mut self, arrived: &Arrived<'_>) -> bool {
        if !is_source(arrived.ip.destination) {
            return false;
        }
        let came = match self.limits.admit(Limit::Path, arrived.at) {
            true => self.heed(arrived).unwrap_or(PathError::Ignored),
            false => PathError::Limited,
        };
        self.ledger.path(came);
        !matches!(came, PathError::Ignored | PathError::Limited)
    }

    fn heed(&mut self, arrived: &Arrived<'_>) -> Option<PathError> {
        let Arrived { frame, ip, at, .. } = *arrived;
        whole(frame, &ip).ok()?;
        let what = what(frame, &ip)?;
        let quoted = quoted(frame, &ip)?;
        let mut service = None;
        if let Some((to, protocol, has_ports)) = quoted.to {
            if !self.maps.is_vip(to.ip()) {
                return None;
            }
            if has_ports && !matches!(what, What::Fits(_)) {
                service = self.maps.service_at(&Target::new(to, protocol));
            }
        }
        let meant: Vec<usize> = (0..self.maps.backends.len())
            .filter(|id| self.is_meant(*id, &quoted, service))
            .collect();
        if meant.is_empty() {
            return None;
        }
        match what {
            What::Other => Some(PathError::Other),
            What::Unreachable => {
                if let [id] = meant[..] {
                    self.ledger.handshake(id, Handshake::Unreachable);
                }
                Some(PathError::Unreachable)
            }
            What::Fits(mtu) => {
                let told = meant.into_iter().filter(|id| self.tell(*id, mtu, at));
                let told = told.count();
                self.met.learned = told > 0;
                (told > 0).then_some(PathError::Learned)
            }
        }
    }

    fn is_meant(&self, id: usize, quoted: &Quoted, service: Option<usize>) -> bool {
        let backend = &self.maps.backends[id];
        let tunnelled = matches!(backend.forwarding, Some(Forwarding::Ipip | Forwarding::Gue));
        let v4 = self.maps.services[backend.service].vip.is_ipv4();
        backend.used
            && backend.tunnelled
            && tunnelled
            && backend.address.ip() == quoted.backend
            && backend.tunnel.gue_port() == quoted.port
            && quoted.variant.is_none_or(|v| v == backend.tunnel.variant())
            && quoted.v4.is_none_or(|quoted| quoted == v4)
            && service.is_none_or(|service| service == backend.service)
    }

    /// True if the backend learns something.
    fn tell(&mut self, id: usize, mtu: u32, at: Nanos) -> bool {
        let backend = &self.maps.backends[id];
        let inside = match self.maps.services[backend.service].vip.is_ipv4() {
            true => 1228,
            false => 1280,
        };
        let fits = mtu.max(inside + tunnel::growth(backend) as u32);
        let fits = match backend.address.is_ipv4() {
            true => fits,
            false => fits.max(1280),
        };
        let known = backend.path.and_then(|path| path.fits(at));
        if fits >= self.maps.mtu(backend.next_hop) || known.is_some_and(|known| fits > known) {
            return false;
        }
        let unit = at >> 36;
        self.maps.backends[id].path = Some(Path { fits, unit });
        true
    }
}

/// The prefixes of outer sources.
fn is_source(address: IpAddr) -> bool {
    tunnel_prefixes().iter().any(|(first, bits)| {
        let bytes: Vec<u8> = match octets(address) {
            v4 if v4.len() == 4 => [&[0; 10][..], &[0xff; 2], &v4].concat(),
            v6 => v6,
        };
        let whole = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().expect("sixteen bytes"));
        let shift = 128 - bits;
        whole(&bytes) >> shift == whole(&first.0) >> shift
    })
}

/// What the message says; `None`: what cannot be.
fn what(frame: &[u8], ip: &Ip) -> Option<What> {
    let at = ip.transport();
    let header = ip.bytes(frame, at, 8)?;
    let quote = ip.bytes(frame, at + 8, 8)?;
    let two = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let (fits, size) = match (ip.is_v4(), header[0], header[1]) {
        (true, 3, 4) => {
            let size = two(&quote[2..]);
            let fits = match (two(&header[6..]), size) {
                (0, 1493..) => 1492,
                (0, _) => 1,
                (fits, _) => fits,
            };
            (fits, size)
        }
        (false, 2, _) => {
            let fits = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            if fits < 1280 {
                return None;
            }
            (fits, two(&quote[4..]) + 40)
        }
        (true, 3, _) | (false, 1, _) | (false, 4, 1) => return Some(What::Unreachable),
        _ => return Some(What::Other),
    };
    (fits < size && fits <= 65_535).then_some(What::Fits(fits))
}

/// What the message quotes; `None`: nothing that goes into a tunnel.
fn quoted(frame: &[u8], ip: &Ip) -> Option<Quoted> {
    let at = ip.transport() + 8;
    let header = ip.bytes(frame, at, ip.header() + 4)?;
    let (addresses, protocol) = match ip.is_v4() {
        true if header[0] == 0x45 && two_bytes(header, 6) & 0x1fff == 0 => {
            (&header[12..20], header[9])
        }
        false if header[0] >> 4 == 6 => (&header[8..40], header[6]),
        _ => return None,
    };
    let (source, backend) = addresses.split_at(addresses.len() / 2);
    if ip_address(source) != ip.destination {
        return None;
    }
    let mut quoted = Quoted {
        backend: ip_address(backend),
        port: 0,
        v4: None,
        variant: None,
        to: None,
    };
    let inside = at + ip.header();
    let payload = ip.bytes(frame, inside, ip.end - inside)?;
    match protocol {
        4 | 41 => {
            let v4 = protocol == 4;
            if payload[0] >> 4 != if v4 { 4 } else { 6 } {
                return None;
            }
            quoted.v4 = Some(v4);
            quoted.to = went_to(payload, v4);
        }
        17 => {
            if payload[0] < 0xc0 {
                return None;
            }
            quoted.port = two_bytes(payload, 2);
            if let Some([first, next, ..]) = payload.get(8..12) {
                let (variant, v4, behind) = match (first, next) {
                    (0, 4) => (GueVariant::Header, true, 12),
                    (0, 41) => (GueVariant::Header, false, 12),
                    (0x40..=0x4f, _) => (GueVariant::Direct, true, 8),
                    (0x60..=0x6f, _) => (GueVariant::Direct, false, 8),
                    _ => return None,
                };
                (quoted.variant, quoted.v4) = (Some(variant), Some(v4));
                quoted.to = went_to(&payload[behind..], v4);
            }
        }
        _ => return None,
    }
    Some(quoted)
}

/// Where a packet went that is quoted: address and port, protocol, and whether there is a port.
fn went_to(packet: &[u8], v4: bool) -> Option<(SocketAddr, u8, bool)> {
    let (length, protocol, to) = match v4 {
        true => (20, *packet.get(9)?, packet.get(16..20)?),
        false => (40, *packet.get(6)?, packet.get(24..40)?),
    };
    let to = match ip_address(to) {
        // As the maps have it.
        IpAddr::V6(to) => to.to_ipv4_mapped().map_or(IpAddr::V6(to), IpAddr::V4),
        v4 => v4,
    };
    let piece = v4 && (packet[0] != 0x45 || two_bytes(packet, 6) & 0x3fff != 0);
    let port = packet.get(length + 2..length + 4);
    let has_ports = Protocol::has_ports(protocol) && !piece && port.is_some();
    let port = port.map_or(0, |port| two_bytes(port, 0));
    Some((SocketAddr::new(to, port), protocol, has_ports))
}

fn two_bytes(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
