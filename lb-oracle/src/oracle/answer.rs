//! Packets that are made and not forwarded: resets, and "packet too big".

use lb_common::{DropReason, MidStream, counter::More};

use super::{
    Answer, Arrived, Fate, Opinion, Oracle, Refusal, Sent,
    checksum::{field, sum},
    known::Limit,
    packet::{ETHERNET, Ip, octets, pseudo_of, read, seal},
};

/// TTL and hop limit of an answer.
const TTL: u8 = 64;

/// Ethernet and IP header of an answer with this payload, which goes back where the frame came from.
fn back(frame: &[u8], ip: &Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    let length = payload.len() as u16;
    if ip.is_v4() {
        out.extend([0x45, 0]);
        out.extend((length + 20).to_be_bytes());
        // No fragments.
        out.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    } else {
        out.extend([0x60, 0, 0, 0]);
        out.extend(length.to_be_bytes());
        out.extend([protocol, TTL]);
    }
    out.extend(octets(ip.destination));
    out.extend(octets(ip.source));
    let header = read(&out).expect("a whole header");
    seal(&mut out, &header);
    out.extend(payload);
    out
}

/// The reset that a segment asks for (RFC 9293 section 3.10.7.1); `None`: it is one itself.
pub(super) fn reset(frame: &[u8], ip: &Ip) -> Option<Vec<u8>> {
    let at = ip.transport();
    let segment = &frame[at..ip.end];
    let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|flag| segment[13] & flag != 0);
    if rst {
        return None;
    }
    let data = segment.len() - usize::from(segment[12] >> 4) * 4;
    let mut tcp = [&segment[2..4], &segment[..2]].concat();
    if ack {
        tcp.extend(&segment[8..12]);
        tcp.extend([0; 4]);
        tcp.extend([0x50, 4]);
    } else {
        let sequence = u32::from_be_bytes(segment[4..8].try_into().expect("four bytes"));
        let taken = data as u32 + u32::from(syn) + u32::from(fin);
        tcp.extend([0; 4]);
        tcp.extend(sequence.wrapping_add(taken).to_be_bytes());
        tcp.extend([0x50, 20]);
    }
    tcp.extend([0; 6]);
    let check = field(0, pseudo_of(ip, 6, tcp.len()) + sum(&tcp));
    tcp[16..18].copy_from_slice(&check);
    Some(back(frame, ip, 6, &tcp))
}

/// "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443); `None`: there is too little to quote.
pub(super) fn too_big(frame: &[u8], ip: &Ip, fits: u32) -> Option<Vec<u8>> {
    let (kind, protocol, quoted) = match ip.is_v4() {
        true => ([3, 4], 1, 64),
        false => ([2, 0], 58, 96),
    };
    let quote = frame.get(ETHERNET..ETHERNET + quoted)?;
    let mut message = [&kind[..], &[0, 0]].concat();
    // ICMP's field has sixteen bits and two unused bytes before it.
    message.extend(match ip.is_v4() {
        true => u32::from(fits as u16).to_be_bytes(),
        false => fits.to_be_bytes(),
    });
    message.extend(quote);
    let covered = match ip.is_v4() {
        true => 0,
        false => pseudo_of(ip, protocol, message.len()),
    };
    let check = field(0, covered + sum(&message));
    message[2..4].copy_from_slice(&check);
    Some(back(frame, ip, protocol, &message))
}

impl Oracle {
    /// A packet that does not fit through its tunnel; `fits`: bytes that would.
    pub(super) fn too_big(&mut self, arrived: &Arrived<'_>, service: usize, fits: u32) -> Answer {
        let refused = Refusal::DropOf(service, DropReason::PacketTooBig);
        let admitted = match self.maps.is_vip(arrived.ip.destination) {
            true => {
                let group = self.maps.group_of(Limit::TooBig, arrived.ip.source);
                self.limits.admit_from(Limit::TooBig, group, arrived.at)
            }
            false => self.limits.admit(Limit::TooBig, arrived.at),
        };
        if !admitted {
            return Err(refused);
        }
        let told = too_big(arrived.frame, &arrived.ip, fits).ok_or(refused)?;
        // An IP and an ICMP header before what is quoted.
        self.grow(arrived, arrived.ip.header() + 8)
            .map_err(|reason| Refusal::DropOf(service, reason))?;
        self.ledger.more(More::TooBigSent);
        Ok(Opinion::sent(Fate::Tx, told, Sent::Answered))
    }

    /// A segment in the middle of nothing, or of a flow whose backend has left.
    pub(super) fn mid_stream(
        &mut self,
        arrived: &Arrived<'_>,
        service: usize,
        why: DropReason,
    ) -> Answer {
        let refused = Refusal::DropOf(service, why);
        let policy = self.maps.services[service].mid_stream;
        if why == DropReason::MidStream && policy != MidStream::Reset {
            return Err(refused);
        }
        let Some(reset) = reset(arrived.frame, &arrived.ip) else {
            return Err(refused);
        };
        if !self.limits.admit(Limit::Reset, arrived.at) {
            return Err(refused);
        }
        self.ledger.more(More::ResetSent);
        Ok(Opinion::sent(Fate::Tx, reset, Sent::Answered))
    }
}
