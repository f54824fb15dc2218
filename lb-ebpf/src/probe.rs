//! Health checks through the real path, for the modes in which clients' packets reach a backend addressed to the VIP.
//!
//! The socket of a check is connected to the backend's own address, so that the kernel routes it, resolves it and
//! answers for it as ever; its mark says as whom it is to go. [`out`] changes the destination to the VIP where packets leave,
//! and puts them into the tunnel that a client's would be in; [`back`] gives answers of the VIP to a check the
//! address that its socket knows. So neither routes nor addresses of this host matter: it may have the VIP itself, which a
//! socket connected to the VIP could never leave. The difference to a client's packet is the source address alone.
//!
//! A program of its own, on the two ends of the stack that the XDP program does not see, which shares no map with it.

use lb_common::{
    Address, Family, Tunnel,
    probe::{ProbePath, Session},
};

use crate::{
    forward,
    frame::Frame,
    parse::{self, Packet},
    tunnel::{self, Head},
    wire::{Check, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, L3, MacWords, Ports, protocol},
};

/// A packet in the kernel's stack, whose checksum may be still to be made (CHECKSUM_PARTIAL).
pub trait StackFrame: Frame {
    /// Makes the first bytes readable in place; false: the packet is shorter.
    fn pull(&mut self, bytes: usize) -> bool;

    /// Changes an address of the family at an offset, and the checksums over it: the one of the IP header, and the transport's at
    /// another offset.
    fn readdress<const V4: bool>(&mut self, change: &Change) -> bool;

    /// It will be cut into several packets on its way out.
    fn will_be_cut(&self) -> bool;

    /// What [`Frame::grow_head`] makes room for.
    fn will_hold(&mut self, outer: Family, udp: bool);
}

/// An address that takes another's place.
#[derive(Clone, Copy)]
pub struct Change {
    /// Where it stands in the frame.
    pub at: usize,
    /// The old one.
    pub old: Address,
    /// The new one.
    pub new: Address,
    /// Where the transport checksum stands.
    pub check: usize,
    /// That of a datagram, of which zero says that it is absent.
    pub udp: bool,
}

/// The checks that are under way.
pub trait Sessions {
    /// What the socket of a check is connected to.
    fn remember(&self, session: &Session, target: Address) -> bool;
    /// The same, when an answer comes.
    fn recall(&self, session: &Session) -> Option<Address>;
}

/// Where an IP header has its addresses.
#[inline(always)]
const fn address_at<const V4: bool>(destination: bool) -> usize {
    let (first, size) = if V4 { (12, 4) } else { (8, 16) };
    let at: usize = L3.wrapping_add(first);
    at.wrapping_add(if destination { size } else { 0 })
}

/// Reads a TCP segment or UDP datagram, whole; `None`: it is something else.
#[inline(always)]
fn read<F: StackFrame, const V4: bool>(frame: &mut F) -> Option<(Packet, Ports)> {
    let l4 = if V4 {
        crate::wire::L4_V4
    } else {
        crate::wire::L4_V6
    };
    // The shortest transport header, UDP's.
    if !frame.pull(l4.wrapping_add(8)) {
        return None;
    }
    let packet = parse::ip::<F, V4>(frame)?;
    let known = matches!(packet.protocol, protocol::TCP | protocol::UDP);
    if packet.oddity.is_some() || !known {
        return None;
    }
    Some((packet, *frame.header::<Ports>(l4)?))
}

/// The offset of a segment's or datagram's checksum (RFC 9293 section 3.1, RFC 768).
#[inline(always)]
const fn check_at<const V4: bool>(protocol: u8) -> usize {
    let l4 = if V4 {
        crate::wire::L4_V4
    } else {
        crate::wire::L4_V6
    };
    l4.wrapping_add(if protocol == protocol::UDP { 6 } else { 16 })
}

/// Makes a check's packet one of the service's. False: it must not leave, since it would go to where no client's goes.
#[inline(always)]
pub fn out<F: StackFrame, S: Sessions>(frame: &mut F, path: &ProbePath, sessions: &S) -> bool {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return false;
    };
    let v4 = Address::from_words(path.vip).is_v4();
    match ethernet.ether_type {
        ETHERTYPE_IPV4 if v4 => out_of::<F, S, true>(frame, path, sessions),
        ETHERTYPE_IPV6 if !v4 => out_of::<F, S, false>(frame, path, sessions),
        _ => false,
    }
}

#[inline(always)]
fn out_of<F: StackFrame, S: Sessions, const V4: bool>(
    frame: &mut F,
    path: &ProbePath,
    sessions: &S,
) -> bool {
    let Some((packet, ports)) = read::<F, V4>(frame) else {
        return false;
    };
    let vip = Address::from_words(path.vip);
    let ends = [ports.source, ports.destination];
    let session = Session::new(packet.source, vip, ends, packet.protocol);
    let change = Change {
        at: address_at::<V4>(true),
        old: packet.destination,
        new: vip,
        check: check_at::<V4>(packet.protocol),
        udp: packet.protocol == protocol::UDP,
    };
    if !sessions.remember(&session, packet.destination) || !frame.readdress::<V4>(&change) {
        return false;
    }
    !path.is_tunnel() || wrap::<F, V4>(frame, path, packet.destination, session.rest)
}

/// Puts the packet into one to the backend.
#[inline(always)]
fn wrap<F: StackFrame, const V4: bool>(
    frame: &mut F,
    path: &ProbePath,
    backend: Address,
    ports: u64,
) -> bool {
    let Some(packet) = parse::ip::<F, V4>(frame) else {
        return false;
    };
    let Some(macs) = frame.header::<MacWords>(0).copied() else {
        return false;
    };
    // Fibonacci hashing: so that checks show to receive queues and routers what many flows would.
    let shown = ports.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let source = path.source_of(shown >> 32);
    let tunnel = Tunnel(path.tunnel);
    let outer = packet.family;
    frame.will_hold(outer, tunnel.gue_port() != 0);
    let head = Head::of(&packet, outer, tunnel, packet.ttl, shown, macs);
    let put = if V4 {
        let addresses = [forward::octets(source), forward::octets(backend)];
        tunnel::put_v4(frame, &head, tunnel, packet.family, addresses)
    } else {
        let ([a, b], [c, d]) = (source.words(), backend.words());
        let addresses = [a, b, c, d].map(u64::to_ne_bytes);
        tunnel::put_v6::<F, V4>(frame, &head, tunnel, &packet, addresses)
    };
    if put.is_err() {
        return false;
    }
    if !V4 && tunnel.gue_port() != 0 && frame.will_be_cut() {
        // The sum of the whole is that of none of its parts: absent, as over IPv4 (RFC 6936).
        match frame.header_mut::<Check>(crate::wire::L4_V6.wrapping_add(6)) {
            Some(check) => check.0 = [0; 2],
            None => return false,
        }
    }
    true
}

/// Gives an answer to a check the address that the check's socket knows. Whatever else it is stays as it is.
#[inline(always)]
pub fn back<F: StackFrame, S: Sessions>(frame: &mut F, sessions: &S) {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return;
    };
    match ethernet.ether_type {
        ETHERTYPE_IPV4 => back_of::<F, S, true>(frame, sessions),
        ETHERTYPE_IPV6 => back_of::<F, S, false>(frame, sessions),
        _ => {}
    }
}

#[inline(always)]
fn back_of<F: StackFrame, S: Sessions, const V4: bool>(frame: &mut F, sessions: &S) {
    let Some((packet, ports)) = read::<F, V4>(frame) else {
        return;
    };
    let ends = [ports.destination, ports.source];
    let session = Session::new(packet.destination, packet.source, ends, packet.protocol);
    let Some(target) = sessions.recall(&session) else {
        return;
    };
    let change = Change {
        at: address_at::<V4>(false),
        old: packet.source,
        new: target,
        check: check_at::<V4>(packet.protocol),
        udp: packet.protocol == protocol::UDP,
    };
    // If it fails, the packet answers nobody.
    frame.readdress::<V4>(&change);
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
