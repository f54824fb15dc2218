//! Whether a packet is as it must be.

use lb_common::DropReason;

use super::packet::{self, Ip, Meaning};

/// The frame holds the whole packet, and an IPv4 header's checksum is right.
pub(super) fn whole(frame: &[u8], ip: &Ip) -> Result<(), DropReason> {
    if ip.end > frame.len() {
        return Err(DropReason::Truncated);
    }
    match packet::header_is_right(frame, ip) {
        true => Ok(()),
        false => Err(DropReason::BadIpChecksum),
    }
}

/// What a client's packet must be; the order of the checks is that of the reasons.
pub(super) fn check(frame: &[u8], ip: &Ip) -> Result<Meaning, DropReason> {
    whole(frame, ip)?;
    if ip.is_martian() {
        return Err(DropReason::MartianSource);
    }
    let meaning = packet::meaning(frame, ip)?;
    match ip.ttl {
        0 | 1 => Err(DropReason::TtlExpired),
        _ => Ok(meaning),
    }
}
