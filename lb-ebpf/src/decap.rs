//! The backend's half of `ipip`: takes packets out of the tunnels of balancers that are known (RFC 2003, RFC 2473).
//!
//! An open decapsulator lets anybody send packets with any source past the filters of a network (CVE-2020-10136,
//! CVE-2024-7595), so everything that a balancer would not send is dropped: the outer source must be a
//! balancer's, the inner destination a VIP of this machine, the inner source nobody's of ours, and there is no
//! tunnel within the tunnel. What is no tunnel of ours passes untouched. A program of its own, which shares
//! no map with the balancer's: [`process`] over [`Frame`] and [`Rules`].

use lb_common::{
    Address, DropReason,
    decap::{Fate, Standing},
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    admission,
    checksum::Delta,
    frame::Frame,
    parse::{self, Packet},
    wire::{Check, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, L3, L4_V4, L4_V6, protocol},
};

#[cfg(feature = "mem")]
pub mod fixture;

/// What the operator of a backend allows, and the counters.
pub trait Rules {
    /// A balancer's tunnels may come from this address.
    fn trusts(&self, source: Address) -> bool;
    /// What an address is to this machine.
    fn standing(&self, address: Address) -> Standing;
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
    let judged = match ethernet.ether_type {
        _ if first & 1 != 0 => return Fate::Passed,
        ETHERTYPE_IPV4 => take_out::<F, R, true>(frame, rules),
        ETHERTYPE_IPV6 => take_out::<F, R, false>(frame, rules),
        _ => return Fate::Passed,
    };
    match judged {
        Ok(()) => Fate::Delivered,
        Err(fate) => fate,
    }
}

/// Where the packet inside begins.
#[inline(always)]
const fn inside<const V4: bool>() -> usize {
    match V4 {
        true => L4_V4,
        false => L4_V6,
    }
}

#[inline(always)]
fn take_out<F: Frame, R: Rules, const V4: bool>(frame: &mut F, rules: &R) -> Result<(), Fate> {
    let outer = parse::ip::<F, V4>(frame).ok_or(Fate::Passed)?;
    if !is_tunnel::<F, V4>(frame, &outer) || rules.standing(outer.destination) == Standing::Foreign
    {
        return Err(Fate::Passed);
    }
    check(&outer)?;
    outer.check_ip(frame).map_err(fate_of)?;
    if !rules.trusts(outer.source) {
        return Err(Fate::UnknownSource);
    }
    let header = inside::<V4>().wrapping_sub(L3);
    if !outer.holds(inside::<V4>(), header) {
        return Err(Fate::Truncated);
    }
    // In one piece for each family: an `Option` of a packet would stand on the stack at an odd place ("misaligned
    // stack access", Linux 6.18).
    let inner_class = if V4 {
        let ip = frame.header::<Ipv4Hdr>(L4_V4).ok_or(Fate::Truncated)?;
        judge_inner(rules, &outer, &parse::of_ipv4(ip))?;
        ip.tos
    } else {
        let ip = frame.header::<Ipv6Hdr>(L4_V6).ok_or(Fate::Truncated)?;
        // `None`: a destination that no VIP has.
        let Some(inner) = parse::of_ipv6(ip) else {
            return Err(Fate::UnknownDestination);
        };
        judge_inner(rules, &outer, &inner)?;
        inner.class
    };
    note_congestion::<F, V4>(frame, outer.class, inner_class)?;
    let ethernet = *frame.header::<Ethernet>(0).ok_or(Fate::Truncated)?;
    if !frame.shrink_head(header as u16) {
        return Err(Fate::Truncated);
    }
    *frame.header_mut::<Ethernet>(0).ok_or(Fate::Truncated)? = ethernet;
    Ok(())
}

/// A packet in a packet of its own family, or behind one extension header: a fragment of one, or what Linux's
/// ip6tnl sends, with a destination option (RFC 2473 section 4.1.1). No balancer of ours sends them, but a kernel
/// with a tunnel device would take them out. Behind several it is not looked for.
#[inline(always)]
fn is_tunnel<F: Frame, const V4: bool>(frame: &F, outer: &Packet) -> bool {
    match (V4, outer.protocol) {
        (true, number) => number == protocol::IPIP,
        (
            false,
            protocol::FRAGMENT
            | protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS,
        ) => match frame.header::<Check>(L4_V6) {
            Some(Check([next, _])) => *next == protocol::IPV6,
            None => false,
        },
        (false, number) => number == protocol::IPV6,
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
fn judge_inner<R: Rules>(rules: &R, outer: &Packet, inner: &Packet) -> Result<(), Fate> {
    check(inner)?;
    // Its `end` is counted from where an outer header would begin.
    if !outer.holds(outer.l4(), inner.end.wrapping_sub(L3)) {
        return Err(Fate::Truncated);
    }
    if rules.standing(inner.destination) != Standing::Vip {
        return Err(Fate::UnknownDestination);
    }
    let served = matches!(inner.protocol, protocol::TCP | protocol::UDP) || inner.is_icmp();
    if !served {
        let tunnel = matches!(inner.protocol, protocol::IPIP | protocol::IPV6);
        return Err(match tunnel {
            true => Fate::Nested,
            false => Fate::OtherProtocol,
        });
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

/// "Congestion experienced" on the outer header goes to the inner one (RFC 6040 section 4.2). The other codes
/// are equal, since the balancer copies them.
#[inline(always)]
fn note_congestion<F: Frame, const V4: bool>(
    frame: &mut F,
    outer: u8,
    inner: u8,
) -> Result<(), Fate> {
    const EXPERIENCED: u8 = 3;
    if outer & EXPERIENCED != EXPERIENCED || inner & EXPERIENCED == EXPERIENCED {
        return Ok(());
    }
    if inner & EXPERIENCED == 0 {
        return Err(Fate::Congestion);
    }
    if V4 {
        let ip = frame.header_mut::<Ipv4Hdr>(L4_V4).ok_or(Fate::Truncated)?;
        let marked = inner | EXPERIENCED;
        ip.check = Delta::NONE
            .swap2([ip.vihl, inner], [ip.vihl, marked])
            .apply(ip.check);
        ip.tos = marked;
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(L4_V6).ok_or(Fate::Truncated)?;
        let [first, second, third, fourth] = ip.vcf;
        // The class lies across both bytes.
        ip.vcf = [first, second | EXPERIENCED << 4, third, fourth];
    }
    Ok(())
}
