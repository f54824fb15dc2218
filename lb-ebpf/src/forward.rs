//! Sending a packet on: new addresses, one hop less to live, and the frame's new ends.

mod exit;
mod return_hop;

use core::mem::offset_of;

use lb_common::{Address, Device, DropReason, Family, NextHop, ReturnHop, backend::device_slot};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    checksum::{self, Delta},
    frame::Frame,
    parse::Packet,
    service::Backend,
    tables::{Tables, load},
    verdict::Verdict,
    wire::{FrontV4, FrontV6, L3, L4_V4, L4_V6, Mac, MacWords, Ports, Tcp, protocol},
};

pub use exit::Exit;
pub(crate) use return_hop::is_ours;
pub use return_hop::{learn_hop, learn_return_hop};

const _: () = assert!(offset_of!(NextHop, destination) == 0 && offset_of!(NextHop, resolved) == 6);
const _: () = assert!(offset_of!(NextHop, source) == 8 && offset_of!(Device, mac) == 8);
const _: () = assert!(offset_of!(ReturnHop, mac) == 0 && offset_of!(ReturnHop, device) == 6);

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// The four bytes of an IPv4 address.
#[inline(always)]
pub fn octets(address: Address) -> [u8; 4] {
    let [_, low] = address.words();
    ((u64::from_le(low) >> 32) as u32).to_le_bytes()
}

/// The difference that a changed address makes to a checksum over it.
#[inline(always)]
pub fn address_delta(family: Family, old: Address, new: Address) -> Delta {
    match family {
        Family::V4 => Delta::NONE.swap4(octets(old), octets(new)),
        Family::V6 => Delta::NONE.swap16(old.words(), new.words()),
    }
}

/// That the way to a backend is known, before anything is done for a new flow of it.
#[inline(always)]
pub fn check_resolved<T: Tables>(tables: &T, backend: Backend<'_>) -> Result<(), DropReason> {
    match tables.next_hop(backend.state.next_hop()) {
        Some(hop) if hop.used == 1 && hop.resolved == 1 => Ok(()),
        Some(hop) if hop.used == 1 => Err(DropReason::NextHopUnresolved),
        _ => Err(DropReason::MapInconsistent),
    }
}

/// That a packet does not come from the backend whose address it is about to get (`dnat`): its kernel would drop what
/// seems to come from itself, and say nothing.
#[inline(always)]
pub(crate) fn not_to_itself(packet: &Packet, backend: Backend<'_>) -> Result<(), DropReason> {
    let [high, low] = Address(backend.entry.address).words();
    let [from_high, from_low] = packet.source.words();
    // Of IPv4 addresses the first eight bytes are the same.
    let same = low == from_low && (matches!(packet.family, Family::V4) || high == from_high);
    match same {
        true => Err(DropReason::MartianSource),
        false => Ok(()),
    }
}

/// The way to a backend.
#[inline(always)]
pub fn to_backend<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    backend: Backend<'_>,
) -> Result<Exit, DropReason> {
    let hop = tables
        .next_hop(backend.state.next_hop())
        .ok_or(DropReason::MapInconsistent)?;
    // Each address is one word with what goes with it: the old one or the new one, no mixture.
    let [destination, source, ..]: &[u64; 4] = bytemuck::cast_ref(hop);
    let destination = u64::from_le(load(destination));
    if destination >> 48 != 1 {
        // An entry that is not in use is not resolved.
        return Err(match hop.used {
            1 => DropReason::NextHopUnresolved,
            _ => DropReason::MapInconsistent,
        });
    }
    let (destination, source) = (Mac::low(destination), Mac::low(u64::from_le(load(source))));
    let verdict = if hop.ifindex == frame.ingress_ifindex() {
        Verdict::TX
    } else {
        let slot = device_slot(hop.ifindex);
        match tables.device(slot) {
            Some(device) if device.ifindex == hop.ifindex => Verdict::out(slot, device),
            _ => return Err(DropReason::MapInconsistent),
        }
    };
    Ok(Exit {
        destination,
        source,
        verdict,
        mtu: hop.mtu,
    })
}

/// The same for a packet whose way is known to be open, without a verdict.
#[inline(always)]
pub fn line_to_backend<T: Tables>(tables: &T, backend: Backend<'_>) -> Result<Exit, DropReason> {
    let hop = tables
        .next_hop(backend.state.next_hop())
        .ok_or(DropReason::MapInconsistent)?;
    let [destination, source, ..]: &[u64; 4] = bytemuck::cast_ref(hop);
    Ok(Exit {
        destination: Mac::low(u64::from_le(load(destination))),
        source: Mac::low(u64::from_le(load(source))),
        verdict: Verdict::TX,
        mtu: hop.mtu,
    })
}

/// The way back to a client, as its own packets showed it.
#[inline(always)]
pub fn to_client<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    set: u32,
    way: u32,
) -> Result<Exit, DropReason> {
    let line = tables.return_hops(set).ok_or(DropReason::MapInconsistent)?;
    to_hop(frame, tables, bytemuck::cast(line.word(way)))
}

/// The way to whom an entry says.
#[inline(always)]
pub fn to_hop<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    hop: ReturnHop,
) -> Result<Exit, DropReason> {
    let hop = u64::from_le(bytemuck::cast(hop));
    let (destination, slot) = (Mac::low(hop), (hop >> 48) as u32);
    let device = tables.device(slot).ok_or(DropReason::NoReturnHop)?;
    if device.ifindex == 0 || destination.0 == 0 {
        return Err(DropReason::NoReturnHop);
    }
    let verdict = match device.ifindex == frame.ingress_ifindex() {
        true => Verdict::TX,
        false => Verdict::out(slot, device),
    };
    let [_, source, ..]: &[u64; 4] = bytemuck::cast_ref(device);
    Ok(Exit {
        destination,
        source: Mac::low(u64::from_le(load(source))),
        verdict,
        mtu: device.mtu,
    })
}

/// One hop less to live; the caller has seen that there is more than one. `None` for the Ethernet addresses leaves
/// them.
#[inline(always)]
pub(crate) fn age<F: Frame, const V4: bool>(
    frame: &mut F,
    macs: Option<MacWords>,
) -> Result<(), DropReason> {
    let front_macs = if V4 {
        let front = frame
            .header_mut::<FrontV4>(0)
            .ok_or(DropReason::Truncated)?;
        front.ip.ttl = front.ip.ttl.wrapping_sub(1);
        front.ip.check = checksum::after_one_hop(front.ip.check);
        &mut front.macs
    } else {
        let front = frame
            .header_mut::<FrontV6>(0)
            .ok_or(DropReason::Truncated)?;
        front.ip.hop_limit = front.ip.hop_limit.wrapping_sub(1);
        &mut front.macs
    };
    if let Some(macs) = macs {
        *front_macs = macs;
    }
    Ok(())
}

/// Gives a client's packet its backend's address and port (a backend without one keeps the packet's), one hop less to live, and new Ethernet addresses.
#[inline(always)]
pub(crate) fn to_address<F: Frame, const V4: bool>(
    frame: &mut F,
    packet: &Packet,
    backend: Backend<'_>,
    macs: MacWords,
) -> Result<(), DropReason> {
    let address = Address(backend.entry.address);
    let delta = if V4 {
        let front = frame
            .header_mut::<FrontV4>(0)
            .ok_or(DropReason::Truncated)?;
        let addresses = Delta::NONE.swap4(front.ip.dst_addr, octets(address));
        front.macs = macs;
        front.ip.ttl = front.ip.ttl.wrapping_sub(1);
        front.ip.check = addresses.apply(checksum::after_one_hop(front.ip.check));
        front.ip.dst_addr = octets(address);
        let port = port_or(backend.entry.port, front.ports.destination);
        let delta = addresses.swap2(front.ports.destination, port);
        front.ports.destination = port;
        if packet.protocol != protocol::TCP {
            let [_, check] = &mut front.udp;
            *check = delta.apply_udp(*check);
        }
        delta
    } else {
        let front = frame
            .header_mut::<FrontV6>(0)
            .ok_or(DropReason::Truncated)?;
        let old: [u64; 2] = bytemuck::cast(front.ip.dst_addr);
        front.macs = macs;
        front.ip.hop_limit = front.ip.hop_limit.wrapping_sub(1);
        front.ip.dst_addr = address.0;
        let port = port_or(backend.entry.port, front.ports.destination);
        let delta = Delta::NONE
            .swap16(old, address.words())
            .swap2(front.ports.destination, port);
        front.ports.destination = port;
        if packet.protocol != protocol::TCP {
            let [_, check] = &mut front.udp;
            *check = delta.apply_udp(*check);
        }
        delta
    };
    if packet.protocol == protocol::TCP {
        let l4 = if V4 { L4_V4 } else { L4_V6 };
        let tcp = frame.header_mut::<Tcp>(l4).ok_or(DropReason::Truncated)?;
        tcp.check = delta.apply(tcp.check);
    }
    Ok(())
}

/// A port, or where there is none the one that stands there.
#[inline(always)]
const fn port_or(port: [u8; 2], there: [u8; 2]) -> [u8; 2] {
    match port {
        [0, 0] => there,
        port => port,
    }
}

/// Puts the new Ethernet addresses on the frame and gives its verdict.
#[inline(always)]
pub fn send<F: Frame>(frame: &mut F, exit: Exit) -> Result<Verdict, DropReason> {
    let words = frame
        .header_mut::<MacWords>(0)
        .ok_or(DropReason::Truncated)?;
    *words = Mac::words(exit.destination, exit.source);
    Ok(exit.verdict)
}

/// One hop less to live, and the difference `also` to the IPv4 header checksum. The caller has
/// seen that `ttl` is above 1.
#[inline(always)]
pub fn age_and_patch<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    also: Delta,
) -> Result<(), DropReason> {
    let ttl = packet.ttl.wrapping_sub(1);
    match packet.family {
        Family::V4 => {
            let ip = frame
                .header_mut::<Ipv4Hdr>(L3)
                .ok_or(DropReason::Truncated)?;
            ip.check = also
                .swap2([packet.ttl, ip.proto], [ttl, ip.proto])
                .apply(ip.check);
            ip.ttl = ttl;
        }
        Family::V6 => {
            frame
                .header_mut::<Ipv6Hdr>(L3)
                .ok_or(DropReason::Truncated)?
                .hop_limit = ttl;
        }
    }
    Ok(())
}

/// The difference to the IPv4 header checksum alone.
#[inline(always)]
pub fn patch<F: Frame>(frame: &mut F, packet: &Packet, delta: Delta) -> Result<(), DropReason> {
    if matches!(packet.family, Family::V4) {
        let ip = frame
            .header_mut::<Ipv4Hdr>(L3)
            .ok_or(DropReason::Truncated)?;
        ip.check = delta.apply(ip.check);
    }
    Ok(())
}

/// Writes an address into the IP header; checksums are the caller's.
#[inline(always)]
pub fn put_address<F: Frame>(
    frame: &mut F,
    offset: usize,
    family: Family,
    end: End,
    address: Address,
) -> Result<(), DropReason> {
    match family {
        Family::V4 => {
            let ip = frame
                .header_mut::<Ipv4Hdr>(offset)
                .ok_or(DropReason::Truncated)?;
            match end {
                End::Source => ip.src_addr = octets(address),
                End::Destination => ip.dst_addr = octets(address),
            }
        }
        Family::V6 => {
            let ip = frame
                .header_mut::<Ipv6Hdr>(offset)
                .ok_or(DropReason::Truncated)?;
            match end {
                End::Source => ip.src_addr = address.0,
                End::Destination => ip.dst_addr = address.0,
            }
        }
    }
    Ok(())
}

/// Writes a port into a transport header and gives the difference it makes; port 0 leaves it as it is.
#[inline(always)]
pub fn put_port<F: Frame>(
    frame: &mut F,
    offset: usize,
    end: End,
    port: [u8; 2],
) -> Result<Delta, DropReason> {
    change_port(frame, offset, end, |old| port_or(port, old))
}

/// Gives a port in a transport header another value, and the difference it makes.
#[inline(always)]
pub fn change_port<F: Frame>(
    frame: &mut F,
    offset: usize,
    end: End,
    change: impl FnOnce([u8; 2]) -> [u8; 2],
) -> Result<Delta, DropReason> {
    let ports = frame
        .header_mut::<Ports>(offset)
        .ok_or(DropReason::Truncated)?;
    let field = match end {
        End::Source => &mut ports.source,
        End::Destination => &mut ports.destination,
    };
    let port = change(*field);
    let delta = Delta::NONE.swap2(*field, port);
    *field = port;
    Ok(delta)
}

/// Gives one end of a packet a new address, a port if it has one (0: it keeps its own, as SCTP's always does), and the
/// packet one hop less. `transport`: where its TCP, UDP or SCTP header stands, and which of them it is; `None` for a
/// later piece of a datagram, whose checksum covers the whole and stands in the first piece, and for protocols without
/// ports.
#[inline(always)]
pub fn translate<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    transport: Option<(usize, u8)>,
    end: End,
    address: Address,
    port: [u8; 2],
) -> Result<(), DropReason> {
    let old = match end {
        End::Source => packet.source,
        End::Destination => packet.destination,
    };
    let addresses = address_delta(packet.family, old, address);
    age_and_patch(frame, packet, addresses)?;
    put_address(frame, L3, packet.family, end, address)?;
    let Some((l4, protocol)) = transport else {
        return Ok(());
    };
    let delta = addresses.plus(put_port(frame, l4, end, port)?);
    patch_transport(frame, l4, protocol, delta)
}

/// The difference to a transport's checksum.
#[inline(always)]
pub(crate) fn patch_transport<F: Frame>(
    frame: &mut F,
    l4: usize,
    protocol: u8,
    delta: Delta,
) -> Result<(), DropReason> {
    if protocol == protocol::TCP {
        let tcp = frame.header_mut::<Tcp>(l4).ok_or(DropReason::Truncated)?;
        tcp.check = delta.apply(tcp.check);
    } else if protocol != protocol::SCTP {
        let udp = frame
            .header_mut::<UdpHdr>(l4)
            .ok_or(DropReason::Truncated)?;
        udp.check = delta.apply_udp(udp.check);
    }
    Ok(())
}
