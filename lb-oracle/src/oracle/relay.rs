//! An ICMP error with the packet that it quotes translated (RFC 5508 section 4.2).

use std::net::{IpAddr, SocketAddr};

use super::{
    checksum::{field, sum, udp_field},
    icmp::{Quote, address_at},
    packet::{ETHERNET, End, Ip, aged, balanced, octets, put_address, seal},
};

/// What an error says afterwards.
pub(super) struct Relayed<'a> {
    /// Ends of the packet that it quotes.
    pub(super) quoted: &'a [(End, SocketAddr)],
    /// Ends of its own.
    pub(super) outer: &'a [(End, IpAddr)],
}

/// The frame with one hop less to live and these ends changed. Every checksum in it is as right or as wrong as it was.
pub(super) fn translated(frame: &[u8], ip: &Ip, about: &Quote, to: &Relayed<'_>) -> Vec<u8> {
    let mut out = aged(frame, ip);
    let message = ip.transport();
    for (end, address) in to.quoted {
        requote(&mut out, ip, about, *end, *address);
    }

    // The message, and for ICMPv6 its pseudo-header.
    for (end, address) in to.outer {
        put_address(&mut out, ip, *end, *address);
    }
    seal(&mut out, ip);
    let total = |frame: &[u8]| {
        let pseudo = match ip.is_v4() {
            true => 0,
            false => sum(&frame[ETHERNET + 8..ETHERNET + 40]),
        };
        pseudo + sum(&frame[message..ip.end])
    };
    let before = total(frame);
    out[message + 2..message + 4].fill(0);
    let check = field(before, total(&out));
    out[message + 2..message + 4].copy_from_slice(&check);
    out
}

/// Changes one end of the quoted packet.
fn requote(out: &mut [u8], ip: &Ip, about: &Quote, end: End, address: SocketAddr) {
    let header = ip.transport() + 8;
    let segment = about.carried_at;

    // The quoted IP header.
    let at = address_at(ip, header, end);
    let new = octets(address.ip());
    let old = out[at..at + new.len()].to_vec();
    if ip.is_v4() {
        let total = sum(&out[header..header + 20]);
        out[at..at + 4].copy_from_slice(&new);
        out[header + 10..header + 12].fill(0);
        let check = field(total, sum(&out[header..header + 20]));
        out[header + 10..header + 12].copy_from_slice(&check);
    } else {
        out[at..at + 16].copy_from_slice(&new);
    }

    // The quoted ports, and the checksum if it is quoted. The rest of what it covers is not, but has not changed.
    let port = segment + if end == End::To { 2 } else { 0 };
    let before = sum(&old) + sum(&out[port..port + 2]);
    // 0: it stays.
    if address.port() != 0 {
        out[port..port + 2].copy_from_slice(&address.port().to_be_bytes());
    }
    // SCTP's CRC32c covers no address.
    if !balanced(about.protocol) {
        return;
    }
    let after = sum(&new) + sum(&out[port..port + 2]);
    let tcp = about.protocol == 6;
    let check = segment + if tcp { 16 } else { 6 };
    if let Some(field_now) = ip.bytes(out, check, 2) {
        let total = before + sum(field_now);
        let absent = !tcp && field_now == [0, 0];
        let mended = match tcp {
            true => field(total, after),
            false => udp_field(total, after),
        };
        if !absent {
            out[check..check + 2].copy_from_slice(&mended);
        }
    }
}
