//! A RST for a segment that belongs to no connection, as the host that has the VIP would send it (RFC 9293 section
//! 3.10.7.1). Its sender ends the connection at once in place of waiting for an answer.

use lb_common::DropReason;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    checksum::Sum,
    frame::Frame,
    parse::Packet,
    verdict::Verdict,
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, Mac, MacWords, OuterV4, OuterV6, Tcp, flag, protocol,
    },
};

/// TTL and hop limit.
const TTL: u8 = 64;
/// Bytes of a TCP header without options, which is all that a reset has.
const TCP: usize = size_of::<Tcp>();

/// What the reset says.
pub struct Reset {
    ports: [u8; 4],
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    flags: u8,
}

/// The reset that a segment asks for. `None`: it is a RST itself, which nobody answers, or not whole.
#[inline(always)]
pub fn to_segment<F: Frame>(frame: &F, packet: &Packet) -> Option<Reset> {
    let tcp = frame.header::<Tcp>(packet.l4())?;
    let flags = tcp.flags;
    if flags & flag::RST != 0 {
        return None;
    }
    let ([a, b], [c, d]) = (tcp.ports.source, tcp.ports.destination);
    let [s0, s1, s2, s3, a0, a1, a2, a3] = tcp.numbers;
    let ports = [c, d, a, b];
    if flags & flag::ACK != 0 {
        return Some(Reset {
            ports,
            sequence: [a0, a1, a2, a3],
            acknowledgement: [0; 4],
            flags: flag::RST,
        });
    }
    // What the segment takes of the sequence space: its data, SYN and FIN.
    let header = u32::from(tcp.offset >> 4).wrapping_mul(4);
    let data = (packet.end.wrapping_sub(packet.l4()) as u32).wrapping_sub(header);
    let length = data
        .wrapping_add(u32::from(flags & flag::SYN != 0))
        .wrapping_add(u32::from(flags & flag::FIN != 0));
    let end = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(length);
    Some(Reset {
        ports,
        sequence: [0; 4],
        acknowledgement: end.to_be_bytes(),
        flags: flag::RST | flag::ACK,
    })
}

impl Reset {
    /// The header as words, without its checksum.
    #[inline(always)]
    const fn words(&self) -> [[u8; 4]; 5] {
        let offset = (TCP as u8 / 4) << 4;
        [
            self.ports,
            self.sequence,
            self.acknowledgement,
            [offset, self.flags, 0, 0],
            [0; 4],
        ]
    }
}

/// Turns a TCP segment to a VIP into the reset that it asks for, out of the interface it came from. It is never longer
/// than the segment, which was checked as [`crate::parse::Packet::check_transport`] does.
#[inline(always)]
pub fn answer<F: Frame, const V4: bool>(
    frame: &mut F,
    reset: &Reset,
) -> Result<Verdict, DropReason> {
    match V4 {
        true => answer_v4(frame, reset),
        false => answer_v6(frame, reset),
    }
}

/// The TCP header with its checksum.
#[inline(always)]
fn write<F: Frame>(frame: &mut F, l4: usize, reset: &Reset, pseudo: Sum) -> Result<(), DropReason> {
    let mut words = reset.words();
    let check = pseudo.words(&words).check();
    let [.., last] = &mut words;
    let ([a, b], [_, _, c, d]) = (check, *last);
    *last = [a, b, c, d];
    *frame
        .header_mut::<[[u8; 4]; 5]>(l4)
        .ok_or(DropReason::Truncated)? = words;
    Ok(())
}

#[inline(always)]
fn answer_v4<F: Frame>(frame: &mut F, reset: &Reset) -> Result<Verdict, DropReason> {
    const SIZE: usize = Ipv4Hdr::LEN + TCP;
    if !frame.truncate((L3 + SIZE) as u16) {
        return Err(DropReason::Truncated);
    }
    let outer = frame
        .header_mut::<OuterV4>(0)
        .ok_or(DropReason::Truncated)?;
    let [_, _, _, client, vip] = outer.ip;
    let words: MacWords = outer.macs;
    let [high, low] = (SIZE as u16).to_be_bytes();
    let mut ip = [
        [0x45, 0, high, low],
        [0, 0, 0x40, 0],
        [TTL, protocol::TCP, 0, 0],
        vip,
        client,
    ];
    let [a, b] = Sum::NONE.words(&ip).check();
    let [_, _, third, ..] = &mut ip;
    *third = [TTL, protocol::TCP, a, b];
    outer.macs = Mac::words(Mac::source(&words), Mac::destination(&words));
    outer.ether_type = ETHERTYPE_IPV4;
    outer.ip = ip;
    // The pseudo-header (RFC 9293 section 3.1).
    let pseudo = Sum::NONE.words(&[vip, client, [0, protocol::TCP, 0, TCP as u8]]);
    write(frame, L3 + Ipv4Hdr::LEN, reset, pseudo)?;
    Ok(Verdict::TX)
}

#[inline(always)]
fn answer_v6<F: Frame>(frame: &mut F, reset: &Reset) -> Result<Verdict, DropReason> {
    const SIZE: usize = Ipv6Hdr::LEN + TCP;
    if !frame.truncate((L3 + SIZE) as u16) {
        return Err(DropReason::Truncated);
    }
    let outer = frame
        .header_mut::<OuterV6>(0)
        .ok_or(DropReason::Truncated)?;
    let [c0, c1, v0, v1] = outer.addresses;
    let words: MacWords = outer.macs;
    outer.macs = Mac::words(Mac::source(&words), Mac::destination(&words));
    outer.ether_type = ETHERTYPE_IPV6;
    outer.first = [0x60, 0, 0, 0];
    outer.second = [0, TCP as u8, protocol::TCP, TTL];
    outer.addresses = [v0, v1, c0, c1];
    let addresses: [[u8; 4]; 8] = bytemuck::cast([v0, v1, c0, c1]);
    // The pseudo-header (RFC 8200 section 8.1).
    let pseudo = Sum::NONE
        .words(&addresses)
        .words(&[[0, 0, 0, TCP as u8], [0, 0, 0, protocol::TCP]]);
    write(frame, L3 + Ipv6Hdr::LEN, reset, pseudo)?;
    Ok(Verdict::TX)
}
