//! The MSS of SYNs (RFC 9293 section 3.7.1), lowered for services that want it.

use super::{
    Arrived, Oracle,
    checksum::{field, sum},
    packet::{self, Ip},
    tunnel,
};

impl Oracle {
    /// The frame of a packet of a backend's flow with an MSS that its service and both ways bear; `mtu`: where it leaves.
    pub(super) fn clamped(&self, arrived: &Arrived<'_>, id: usize, mtu: u32) -> Vec<u8> {
        let frame = arrived.frame.to_vec();
        let backend = &self.maps.backends[id];
        let wanted = self.maps.services[backend.service].mss;
        if wanted == 0 {
            return frame;
        }
        let near = match self.maps.links.has(arrived.ingress) {
            true => self.maps.links.mtu(arrived.ingress),
            false => u32::MAX,
        };
        let far = tunnel::room(backend, self.maps.mtu(backend.next_hop), arrived.at);
        let headers = if arrived.ip.is_v4() { 40 } else { 60 };
        let fits = near.min(far).min(mtu).saturating_sub(headers);
        let most = fits.max(536).min(wanted.into());
        lowered(frame, &arrived.ip, most)
    }
}

fn lowered(frame: Vec<u8>, ip: &Ip, most: u32) -> Vec<u8> {
    let at = ip.transport();
    if !packet::is_syn(&frame, ip) {
        return frame;
    }
    let end = at + 4 * usize::from(frame[at + 12] >> 4);
    let mut out = frame.clone();
    let mut place = at + 20;
    while place < end && frame[place] != 0 {
        if frame[place] == 1 {
            place += 1;
            continue;
        }
        let length = match frame[place + 1..end] {
            [length, ..] if length >= 2 => usize::from(length),
            _ => break,
        };
        if frame[place] == 2 && length == 4 && place + 4 <= end {
            let says = u16::from_be_bytes([frame[place + 2], frame[place + 3]]);
            let says = u32::from(says).min(most) as u16;
            out[place + 2..place + 4].copy_from_slice(&says.to_be_bytes());
        }
        place += length;
    }
    if out == frame {
        return frame;
    }
    // As wrong as it was.
    let covered =
        |frame: &[u8]| packet::pseudo_of(ip, ip.protocol, ip.end - at) + sum(&frame[at..ip.end]);
    let off = covered(&frame);
    out[at + 16..at + 18].fill(0);
    let check = field(off, covered(&out));
    out[at + 16..at + 18].copy_from_slice(&check);
    out
}
