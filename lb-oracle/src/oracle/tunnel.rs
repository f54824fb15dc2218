//! A packet in a packet: RFC 2003, RFC 2473, RFC 4213, and with UDP in between draft-ietf-intarea-gue-09. The outer source
//! comes from the flow's hash.

use lb_common::{DropReason, Family, FlowHash, Forwarding, GueVariant, Nanos};
use lb_ebpf::fixture::world::tunnel_source;

use super::{
    Arrived, Oracle,
    checksum::{sum, udp_field},
    known::{Backend, Maps},
    packet::{ETHERNET, Ip, aged, octets, pseudo_of, read, seal},
};

impl Oracle {
    /// The frame grows in front.
    pub(super) fn grow(&mut self, arrived: &Arrived<'_>, bytes: usize) -> Result<(), DropReason> {
        if bytes > arrived.room {
            return Err(DropReason::NoHeadroom);
        }
        self.met.grown = bytes;
        Ok(())
    }

    /// The frame in a tunnel to a backend.
    pub(super) fn encapsulated(
        &mut self,
        arrived: &Arrived<'_>,
        backend: &Backend,
        hash: FlowHash,
    ) -> Result<Vec<u8>, DropReason> {
        self.grow(arrived, growth(backend))?;
        Ok(into(&self.maps, arrived, backend, hash))
    }
}

/// Bytes that a packet to a backend grows by.
pub(super) fn growth(backend: &Backend) -> usize {
    let header = if backend.address.is_ipv4() { 20 } else { 40 };
    header + between(backend).len()
}

/// Bytes of a packet that fit on the way to a backend with this MTU, and on the path behind as far as that is known.
pub(super) fn room(backend: &Backend, mtu: u32, at: Nanos) -> u32 {
    match backend.forwarding {
        Some(Forwarding::Ipip | Forwarding::Gue) => {
            let path = backend.path.and_then(|path| path.fits(at));
            let fits = mtu.min(path.unwrap_or(mtu));
            fits.saturating_sub(growth(backend) as u32)
        }
        Some(Forwarding::L2dsr | Forwarding::Dnat | Forwarding::Fullnat) => mtu,
        None => u32::MAX,
    }
}

/// UDP and GUE, all zero: only how long they are.
fn between(backend: &Backend) -> Vec<u8> {
    let tunnel = backend.tunnel;
    match (tunnel.gue_port(), tunnel.variant()) {
        (0, _) => Vec::new(),
        (_, GueVariant::Direct) => vec![0; 8],
        (_, GueVariant::Header) => vec![0; 12],
    }
}

/// The frame with one hop less to live, in a tunnel to a backend. Its Ethernet addresses are the caller's.
pub(super) fn into(
    maps: &Maps,
    arrived: &Arrived<'_>,
    backend: &Backend,
    hash: FlowHash,
) -> Vec<u8> {
    let ip = &arrived.ip;
    let inner = aged(arrived.frame, ip);
    let shown = maps.shown(hash);
    let protocol = if ip.is_v4() { 4 } else { 41 };
    let mut between = between(backend);
    let payload = (ip.size() as usize + between.len()) as u16;
    let ttl = backend.tunnel.ttl(ip.ttl - 1);
    let carried = if between.is_empty() { protocol } else { 17 };
    let mut outer = inner[..12].to_vec();
    if backend.address.is_ipv4() {
        outer.extend([8, 0, 0x45, ip.class]);
        outer.extend((payload + 20).to_be_bytes());
        // No fragments.
        outer.extend([0, 0, 0x40, 0, ttl, carried, 0, 0]);
        outer.extend(octets(tunnel_source(Family::V4, shown).ip()));
    } else {
        // The flow label is the hash's highest twenty bits (RFC 6438).
        let first = 6 << 28 | u32::from(ip.class) << 20 | (shown >> 44) as u32;
        outer.extend([0x86, 0xdd]);
        outer.extend(first.to_be_bytes());
        outer.extend(payload.to_be_bytes());
        outer.extend([carried, ttl]);
        outer.extend(octets(tunnel_source(Family::V6, shown).ip()));
    }
    outer.extend(octets(backend.address.ip()));
    let header = read(&outer).expect("a whole header");
    seal(&mut outer, &header);
    if !between.is_empty() {
        // A dynamic port (RFC 6335) with fourteen bits of the hash.
        let source = 0xc000 | (shown >> 50) as u16;
        between[..2].copy_from_slice(&source.to_be_bytes());
        between[2..4].copy_from_slice(&backend.tunnel.gue_port().to_be_bytes());
        between[4..6].copy_from_slice(&payload.to_be_bytes());
        if let Some(byte) = between.get_mut(9) {
            *byte = protocol;
        }
        if let (false, Some(off)) = (header.is_v4(), off(&inner, ip)) {
            // As wrong as the packet inside, if that is wrong: it is known without a look at the data.
            let covered = sum(&inner[ETHERNET..ip.end]) + sum(&between);
            let rest = pseudo_of(&header, 17, payload.into()) + covered;
            between[6..8].copy_from_slice(&udp_field(off, rest));
        }
    }
    [&outer[..], &between, &inner[ETHERNET..]].concat()
}

/// What everything that the transport checksum of a packet covers sums up to: 0 if that is right. `None`: it does not
/// cover the whole packet and nothing else, or is absent.
fn off(frame: &[u8], ip: &Ip) -> Option<u64> {
    let at = ip.transport();
    if ip.odd.is_some() || !(ip.is_balanced() || ip.is_icmp()) {
        return None;
    }
    let length = ip.end - at;
    if ip.protocol == 17 {
        let said = usize::from(u16::from_be_bytes([frame[at + 4], frame[at + 5]]));
        if frame[at + 6..at + 8] == [0, 0] || said != length {
            return None;
        }
    }
    let pseudo = match ip.is_v4() && ip.is_icmp() {
        true => 0,
        false => pseudo_of(ip, ip.protocol, length),
    };
    Some(pseudo + sum(&frame[at..ip.end]))
}
