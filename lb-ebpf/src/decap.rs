//! The backend's half of `ipip` and `gue`: takes packets out of the tunnels of balancers that are known, whichever families
//! are inside and out (RFC 2003, RFC 2473, RFC 4213, draft-ietf-intarea-gue-09).
//!
//! An open decapsulator lets anybody send packets with any source past the filters of a network (CVE-2020-10136,
//! CVE-2024-7595), so everything that a balancer would not send is dropped: the outer source must be a
//! balancer's, the inner destination a VIP of this machine, the inner source nobody's of ours, and there is no
//! tunnel within the tunnel. What is no tunnel of ours passes untouched. The same holds behind one VLAN tag or two, which
//! stay on the frame, so that the VLAN's own interface gets what was inside. A program of its own, which shares
//! no map with the balancer's: [`process`] over [`Frame`] and [`Rules`].

use lb_common::{
    Address, DropReason, Family, Tags,
    decap::{Fate, Standing},
};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    admission,
    checksum::Delta,
    frame::Frame,
    parse::{self, Packet},
    vlan,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Gue, L3, L4_V4, L4_V6, Ports, protocol},
};

#[cfg(feature = "mem")]
pub mod fixture;

/// What the operator of a backend allows, and the counters.
pub trait Rules {
    /// A balancer's tunnels may come from this address.
    fn trusts(&self, source: Address) -> bool;
    /// What an address is to this machine.
    fn standing(&self, address: Address) -> Standing;
    /// The UDP port of `gue`, network order; 0: it is not taken out.
    fn gue_port(&self) -> [u8; 2];
    /// One more packet ended so.
    fn count(&self, fate: Fate);
}

/// Handles one packet: takes it out of its tunnel, leaves it alone or says why it must be dropped; counts it once.
#[inline(always)]
pub fn process<F: Frame, R: Rules>(frame: &mut F, rules: &R) -> Fate {
    let fate = judge(frame, rules);
    rules.count(fate);
    fate
}

#[inline(always)]
fn judge<F: Frame, R: Rules>(frame: &mut F, rules: &R) -> Fate {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return Fate::Passed;
    };
    let [first, ..] = ethernet.destination;
    if first & 1 != 0 {
        return Fate::Passed;
    }
    if !vlan::is_tag(ethernet.ether_type) {
        return judge_untagged(frame, rules);
    }
    let Some(tags) = vlan::read(frame) else {
        return match vlan::hides(frame) {
            true => Fate::Malformed,
            false => Fate::Passed,
        };
    };
    judge_tagged(frame, rules, tags)
}

/// The tags come off and go on again, since all offsets are counted without them. Dropped frames stay without.
#[inline(always)]
fn judge_tagged<F: Frame, R: Rules>(frame: &mut F, rules: &R, tags: Tags) -> Fate {
    if vlan::take_off(frame, tags).is_none() {
        return Fate::Passed;
    }
    let fate = judge_untagged(frame, rules);
    // There is room where they stood before.
    match !fate.is_passed_on() || vlan::put_all(frame, tags) {
        true => fate,
        false => Fate::Truncated,
    }
}

#[inline(always)]
fn judge_untagged<F: Frame, R: Rules>(frame: &mut F, rules: &R) -> Fate {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return Fate::Passed;
    };
    let judged = match ethernet.ether_type {
        ETHERTYPE_IPV4 => take_out::<F, R, true>(frame, rules),
        ETHERTYPE_IPV6 => take_out::<F, R, false>(frame, rules),
        _ => return Fate::Passed,
    };
    match judged {
        Ok(()) => Fate::Delivered,
        Err(fate) => fate,
    }
}

/// Where the headers of one family end.
#[inline(always)]
const fn behind_ip<const V4: bool>() -> usize {
    match V4 {
        true => L4_V4,
        false => L4_V6,
    }
}

#[inline(always)]
fn take_out<F: Frame, R: Rules, const V4: bool>(frame: &mut F, rules: &R) -> Result<(), Fate> {
    let outer = parse::ip::<F, V4>(frame).ok_or(Fate::Passed)?;
    let kind = tunnel::<F, R, V4>(frame, rules, &outer);
    if kind == protocol::NONE || rules.standing(outer.destination) == Standing::Foreign {
        return Err(Fate::Passed);
    }
    check(&outer)?;
    outer.check_ip(frame).map_err(fate_of)?;
    // An IPv4 address within IPv6 (RFC 4291 section 2.5.5.2) is nobody's on the wire, but the rules hold IPv4 addresses so.
    if !V4 && outer.source.is_v4() || !rules.trusts(outer.source) {
        return Err(Fate::UnknownSource);
    }
    let l4 = behind_ip::<V4>();
    match kind {
        protocol::UDP => {
            let (at, end, inner) = gue(frame, &outer, l4)?;
            match inner {
                protocol::IPIP => take_out_at::<F, R, true>(frame, rules, at, end, outer.class),
                _ => take_out_at::<F, R, false>(frame, rules, at, end, outer.class),
            }
        }
        protocol::IPIP => take_out_at::<F, R, true>(frame, rules, l4, outer.end, outer.class),
        _ => take_out_at::<F, R, false>(frame, rules, l4, outer.end, outer.class),
    }
}

/// Takes out the packet at an offset, which is of IPv4 or not; what is around it ends at `end` and has a traffic class.
#[inline(always)]
fn take_out_at<F: Frame, R: Rules, const INNER_V4: bool>(
    frame: &mut F,
    rules: &R,
    at: usize,
    end: usize,
    class: u8,
) -> Result<(), Fate> {
    let header = behind_ip::<INNER_V4>().wrapping_sub(L3);
    if at.wrapping_add(header) > end {
        return Err(Fate::Truncated);
    }
    // In one piece for each family: an `Option` of a packet would stand on the stack at an odd place ("misaligned
    // stack access", Linux 6.18).
    let inner_class = if INNER_V4 {
        let ip = frame.header::<Ipv4Hdr>(at).ok_or(Fate::Truncated)?;
        judge_inner(frame, rules, at, end, &parse::of_ipv4(ip))?;
        ip.tos
    } else {
        let ip = frame.header::<Ipv6Hdr>(at).ok_or(Fate::Truncated)?;
        // `None`: a destination that no VIP has.
        let Some(inner) = parse::of_ipv6(ip) else {
            return Err(Fate::UnknownDestination);
        };
        judge_inner(frame, rules, at, end, &inner)?;
        inner.class
    };
    note_congestion::<F, INNER_V4>(frame, at, class, inner_class)?;
    let mut ethernet = *frame.header::<Ethernet>(0).ok_or(Fate::Truncated)?;
    ethernet.ether_type = match INNER_V4 {
        true => ETHERTYPE_IPV4,
        false => ETHERTYPE_IPV6,
    };
    if !frame.shrink_head(at.wrapping_sub(L3) as u16) {
        return Err(Fate::Truncated);
    }
    *frame.header_mut::<Ethernet>(0).ok_or(Fate::Truncated)? = ethernet;
    Ok(())
}

/// What the packet brings: [`protocol::IPIP`], [`protocol::IPV6`], [`protocol::UDP`] for `gue`, or [`protocol::NONE`].
///
/// Behind one extension header they count too: a fragment of one, or what Linux's
/// ip6tnl sends, with a destination option (RFC 2473 section 4.1.1). No balancer of ours sends them, but a kernel
/// with a tunnel device would take them out. Behind several it is not looked for.
#[inline(always)]
fn tunnel<F: Frame, R: Rules, const V4: bool>(frame: &F, rules: &R, outer: &Packet) -> u8 {
    match (V4, outer.protocol) {
        (_, number @ (protocol::IPIP | protocol::IPV6)) => number,
        (true, protocol::UDP) => {
            let Some(ip) = frame.header::<Ipv4Hdr>(L3) else {
                return protocol::NONE;
            };
            // A later fragment has no ports.
            if u16::from_be_bytes(ip.frags) & 0x1fff != 0 {
                return protocol::NONE;
            }
            let words = usize::from(ip.vihl & 15);
            if words < 5 {
                return protocol::NONE;
            }
            let options = words.wrapping_sub(5);
            is_gue(frame, rules, L4_V4.wrapping_add(options.wrapping_mul(4)))
        }
        (false, protocol::UDP) => is_gue(frame, rules, L4_V6),
        (
            false,
            protocol::FRAGMENT
            | protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS,
        ) => {
            let Some([[next, length, offset, more], _]) = frame.header::<[[u8; 4]; 2]>(L4_V6)
            else {
                return protocol::NONE;
            };
            match (*next, outer.protocol) {
                (protocol::IPIP | protocol::IPV6, _) => *next,
                (protocol::UDP, protocol::FRAGMENT) => match (offset, more & 0xf8) {
                    (0, 0) => is_gue(frame, rules, L4_V6.wrapping_add(8)),
                    _ => protocol::NONE,
                },
                (protocol::UDP, _) => {
                    let length = usize::from(*length).wrapping_add(1).wrapping_mul(8);
                    is_gue(frame, rules, L4_V6.wrapping_add(length))
                }
                _ => protocol::NONE,
            }
        }
        _ => protocol::NONE,
    }
}

/// [`protocol::UDP`] if the datagram at an offset goes to the port of `gue`.
#[inline(always)]
fn is_gue<F: Frame, R: Rules>(frame: &F, rules: &R, at: usize) -> u8 {
    let port = rules.gue_port();
    match frame.header::<Ports>(at) {
        Some(ports) if port != [0, 0] && ports.destination == port => protocol::UDP,
        _ => protocol::NONE,
    }
}

/// Where the packet in a datagram to the port of `gue` begins, where the datagram ends, and the packet's protocol number.
///
/// The checksum of the datagram is not looked at: it covers what the checksums inside cover, which the kernel
/// looks at, and that over all the data costs more than all else here. It may be absent (RFC 6935, RFC 6936).
#[inline(always)]
fn gue<F: Frame>(frame: &F, outer: &Packet, l4: usize) -> Result<(usize, usize, u8), Fate> {
    const HEADER: usize = UdpHdr::LEN + size_of::<Gue>();
    let udp = frame.header::<UdpHdr>(l4).ok_or(Fate::Truncated)?;
    let length = usize::from(u16::from_be_bytes(udp.len));
    let end = l4.wrapping_add(length);
    if length < UdpHdr::LEN {
        return Err(Fate::Malformed);
    }
    if length < HEADER || end > outer.end {
        return Err(Fate::Truncated);
    }
    let inside = l4.wrapping_add(UdpHdr::LEN);
    let Gue([first, number, flags, more_flags]) =
        *frame.header::<Gue>(inside).ok_or(Fate::Truncated)?;
    match first >> 6 {
        0 => {
            if first & 0x20 != 0 {
                return Err(Fate::GueControl);
            }
            if first & 0x1f != 0 || flags != 0 || more_flags != 0 {
                return Err(Fate::GueOptions);
            }
            match number {
                protocol::IPIP | protocol::IPV6 => Ok((l4.wrapping_add(HEADER), end, number)),
                _ => Err(Fate::OtherProtocol),
            }
        }
        1 => match first >> 4 {
            4 => Ok((inside, end, protocol::IPIP)),
            6 => Ok((inside, end, protocol::IPV6)),
            _ => Err(Fate::OtherProtocol),
        },
        _ => Err(Fate::GueVariant),
    }
}

#[inline(always)]
fn fate_of(reason: DropReason) -> Fate {
    match reason {
        DropReason::Truncated => Fate::Truncated,
        DropReason::BadIpChecksum => Fate::BadIpChecksum,
        DropReason::IpOptions => Fate::IpOptions,
        DropReason::Fragment => Fate::Fragment,
        DropReason::ExtensionHeader => Fate::OtherProtocol,
        _ => Fate::Malformed,
    }
}

/// Nothing about its header is odd.
#[inline(always)]
fn check(packet: &Packet) -> Result<(), Fate> {
    match packet.oddity {
        Some(reason) => Err(fate_of(reason)),
        None => Ok(()),
    }
}

/// The packet inside: lies it within the one around it, and would a balancer send it?
#[inline(always)]
fn judge_inner<F: Frame, R: Rules>(
    frame: &F,
    rules: &R,
    at: usize,
    end: usize,
    inner: &Packet,
) -> Result<(), Fate> {
    let piece = matches!(inner.oddity, Some(DropReason::Fragment));
    if !piece {
        check(inner)?;
    }
    // Its `end` is counted from where an outer header would begin.
    if at.wrapping_add(inner.end).wrapping_sub(L3) > end {
        return Err(Fate::Truncated);
    }
    if rules.standing(inner.destination) != Standing::Vip {
        return Err(Fate::UnknownDestination);
    }
    // A balancer forwards every other protocol for a service with `protocol = "any"`.
    match inner.protocol {
        protocol::IPIP | protocol::IPV6 => return Err(Fate::Nested),
        protocol::GRE => return Err(Fate::OtherProtocol),
        protocol::FRAGMENT if !is_served_piece(frame, at, inner) => {
            return Err(Fate::OtherProtocol);
        }
        _ => {}
    }
    let l4 = at.wrapping_add(inner.l4()).wrapping_sub(L3);
    if inner.protocol == protocol::UDP
        && !(piece && is_later_piece(frame, at))
        && is_gue(frame, rules, l4) == protocol::UDP
    {
        return Err(Fate::Nested);
    }
    if admission::is_martian(inner) {
        return Err(Fate::MartianSource);
    }
    if rules.standing(inner.source) != Standing::Foreign || rules.trusts(inner.source) {
        return Err(Fate::OwnSource);
    }
    match inner.ttl > 1 {
        true => Ok(()),
        false => Err(Fate::TtlExpired),
    }
}

/// The packet at an offset is no piece by the header behind its own (IPv6), or a piece of what is served. The host that puts
/// it together sees whether it is a tunnel of its own; it has no device for one.
#[inline(always)]
fn is_served_piece<F: Frame>(frame: &F, at: usize, inner: &Packet) -> bool {
    if inner.family == Family::V4 {
        return true;
    }
    match frame.header::<[[u8; 4]; 2]>(at.wrapping_add(Ipv6Hdr::LEN)) {
        Some([[next, ..], _]) if inner.holds(L4_V6, 8) => {
            !parse::is_extension(*next)
                && !matches!(
                    *next,
                    protocol::IPIP | protocol::IPV6 | protocol::GRE | protocol::FRAGMENT
                )
        }
        _ => false,
    }
}

/// The IPv4 packet at an offset is a piece without the datagram's ports.
#[inline(always)]
fn is_later_piece<F: Frame>(frame: &F, at: usize) -> bool {
    match frame.header::<Ipv4Hdr>(at) {
        Some(ip) => u16::from_be_bytes(ip.frags) & 0x1fff != 0,
        None => false,
    }
}

/// What routers said of congestion on the outer header goes to the inner one (RFC 6040 section 4.2, figure 4): that they met it, or that they
/// marked the packet as ECT(1), which was ECT(0). Of the other codes the inner one stays.
#[inline(always)]
fn note_congestion<F: Frame, const V4: bool>(
    frame: &mut F,
    at: usize,
    outer: u8,
    inner: u8,
) -> Result<(), Fate> {
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const EXPERIENCED: u8 = 3;
    let code = match (outer & EXPERIENCED, inner & EXPERIENCED) {
        (EXPERIENCED, 0) => return Err(Fate::Congestion),
        (EXPERIENCED, ECT_0 | ECT_1) => EXPERIENCED,
        (ECT_1, ECT_0) => ECT_1,
        _ => return Ok(()),
    };
    let marked = inner & !EXPERIENCED | code;
    if V4 {
        let ip = frame.header_mut::<Ipv4Hdr>(at).ok_or(Fate::Truncated)?;
        ip.check = Delta::NONE
            .swap2([ip.vihl, inner], [ip.vihl, marked])
            .apply(ip.check);
        ip.tos = marked;
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(at).ok_or(Fate::Truncated)?;
        let [first, second, third, fourth] = ip.vcf;
        // The class lies across both bytes.
        ip.vcf = [first, second ^ (inner ^ marked) << 4, third, fourth];
    }
    Ok(())
}
