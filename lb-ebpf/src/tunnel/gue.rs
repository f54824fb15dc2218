//! Generic UDP encapsulation (draft-ietf-intarea-gue-09): a UDP header between the outer IP header and the packet
//! inside, so that receivers and routers that know only UDP spread flows by its ports. Pure, part of `tunnel`.
//!
//! Over IPv4 the UDP checksum is absent (RFC 768), as in a tunnel without UDP: the packet inside has its own. Over IPv6
//! an absent one must be allowed by the receiver (RFC 6935, RFC 6936), so it is made wherever that costs no look
//! at the data: the transport checksum of the packet inside says what its bytes sum up to. If that
//! one is wrong, so is the outer one, by as much. It is absent over a UDP datagram that has none, or that ends
//! before its packet does, over a piece of a datagram, and over other protocols.

use lb_common::{DropReason, Family, GueVariant, Tunnel};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{Head, protocol_of};
use crate::{
    checksum::Sum,
    frame::Frame,
    parse::Packet,
    wire::{Gue, L3, L4_V4, L4_V6, protocol},
};

/// Of RFC 6335's dynamic ports: both high bits are set, fourteen are the flow's.
const DYNAMIC_PORTS: u16 = 0xc000;

/// What a header says, as words: UDP with these checksum bytes, and GUE.
#[inline(always)]
fn headers(head: &Head, tunnel: Tunnel, inner: Family, [e, f]: [u8; 2]) -> ([[u8; 4]; 2], Gue) {
    let source = DYNAMIC_PORTS | (head.shown >> 50) as u16;
    let ([a, b], [c, d]) = (source.to_be_bytes(), tunnel.gue_port().to_be_bytes());
    let [high, low] = (head.payload as u16).to_be_bytes();
    // Variant 0, not a control message, no words of options; the protocol; no flags.
    let gue = Gue([0, protocol_of(inner), 0, 0]);
    ([[a, b, c, d], [high, low, e, f]], gue)
}

#[inline(always)]
fn put<F: Frame>(
    frame: &mut F,
    at: usize,
    tunnel: Tunnel,
    (udp, gue): ([[u8; 4]; 2], Gue),
) -> Result<(), DropReason> {
    *frame
        .header_mut::<[[u8; 4]; 2]>(at)
        .ok_or(DropReason::Truncated)? = udp;
    if tunnel.variant() == GueVariant::Header {
        *frame
            .header_mut::<Gue>(at.wrapping_add(UdpHdr::LEN))
            .ok_or(DropReason::Truncated)? = gue;
    }
    Ok(())
}

/// Writes what stands behind an outer IPv4 header.
#[inline(always)]
pub(super) fn over_ipv4<F: Frame>(
    frame: &mut F,
    head: &Head,
    tunnel: Tunnel,
    inner: Family,
) -> Result<(), DropReason> {
    let headers = headers(head, tunnel, inner, [0, 0]);
    put(frame, L4_V4, tunnel, headers)
}

/// The same behind an outer IPv6 header. `inside`: [`inner_sum`].
#[inline(always)]
pub(super) fn over_ipv6<F: Frame>(
    frame: &mut F,
    head: &Head,
    tunnel: Tunnel,
    inner: Family,
    addresses: [[u8; 8]; 4],
    inside: u64,
) -> Result<(), DropReason> {
    let (udp, gue) = headers(head, tunnel, inner, [0, 0]);
    let [ports, length] = udp;
    let check = match inside {
        0 => [0, 0],
        _ => {
            let Gue(word) = match tunnel.variant() {
                GueVariant::Header => gue,
                GueVariant::Direct => Gue([0; 4]),
            };
            let addresses: [[u8; 4]; 8] = bytemuck::cast(addresses);
            // The pseudo-header (RFC 8200 section 8.1) has the length once more.
            let sum = Sum::of(inside).words(&addresses).words(&[
                [0, 0, 0, protocol::UDP],
                length,
                length,
                ports,
                word,
            ]);
            match sum.check() {
                [0, 0] => [0xff, 0xff],
                check => check,
            }
        }
    };
    let [high, low, ..] = length;
    let [e, f] = check;
    put(frame, L4_V6, tunnel, ([ports, [high, low, e, f]], gue))
}

/// What the bytes of a packet sum up to if its transport checksum is right, as a sum of 32-bit words; 0: it has none that
/// tells. To be asked when the packet has aged.
#[inline(always)]
pub(super) fn inner_sum<F: Frame, const V4: bool>(frame: &F, packet: &Packet) -> u64 {
    let l4 = if V4 { L4_V4 } else { L4_V6 };
    // Of a piece of a datagram the checksum is not its own, and other protocols have none, or another.
    let known = match V4 {
        true => matches!(
            packet.protocol,
            protocol::TCP | protocol::UDP | protocol::ICMP
        ),
        false => matches!(
            packet.protocol,
            protocol::TCP | protocol::UDP | protocol::ICMPV6
        ),
    };
    if packet.oddity.is_some() || !known {
        return 0;
    }
    let length = packet.end.wrapping_sub(l4) as u32;
    if packet.protocol == protocol::UDP {
        match frame.header::<UdpHdr>(l4) {
            Some(udp)
                if udp.check != [0, 0] && u32::from(u16::from_be_bytes(udp.len)) == length => {}
            _ => return 0,
        }
    }
    let (length, number) = (length.to_be_bytes(), [0, 0, 0, packet.protocol]);
    // What the transport checksum covers sums up to zero together with the pseudo-header, so alone to what that lacks.
    if V4 {
        // The IP header's own checksum makes it sum up to zero.
        let Some([_, _, _, source, destination]) = frame.header::<[[u8; 4]; Ipv4Hdr::LEN / 4]>(L3)
        else {
            return 0;
        };
        match packet.protocol {
            // Has no pseudo-header (RFC 792).
            protocol::ICMP => Sum::ZERO,
            _ => Sum::NONE.without(&[*source, *destination, length, number]),
        }
    } else {
        // Addresses stand in both and cancel out.
        let Some([first, second]) = frame.header::<[[u8; 4]; 2]>(L3) else {
            return 0;
        };
        Sum::NONE
            .words(&[*first, *second])
            .without(&[length, number])
    }
    .raw()
}

const _: () = assert!(Ipv6Hdr::LEN == 40 && UdpHdr::LEN == 8);
