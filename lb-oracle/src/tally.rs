//! What has become of packets, and which shapes were among them: a generator that goes astray shows here.

use std::fmt;

use lb_common::DropReason;
use lb_ebpf::fixture::world::Side;

use crate::oracle::{Fate, Opinion, Sent};

/// What a packet is, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It passed with tags that name no interface, or around anything but IP, or with too many.
    StrangeTags,
    /// It came with one tag, to somebody here.
    OneTag,
    /// It came with two.
    TwoTags,
    /// It was sent with one tag.
    SentWithOne,
    /// It was sent with two.
    SentWithTwo,
    /// It came with tags, and left without.
    LostTags,
    /// It came without, and left with some.
    GotTags,
    /// It came with tags and was answered by the balancer, with an echo reply, an error or a reset.
    TaggedAnswer,
    /// Several services fit it.
    Contested,
    /// TCP to a service with a range, sent on.
    RangeTcp,
    /// UDP.
    RangeUdp,
    /// SCTP.
    RangeSctp,
    /// A protocol without ports.
    RangeOther,
    /// A reply of a service with a range.
    RangeReply,
    /// A piece to or from a service with a range.
    RangePiece,
    /// An ICMP error about a flow of a service with a range.
    RangeError,
    /// SCTP to the backend of a service with one port.
    Sctp,
    /// SCTP back to its client.
    SctpReply,
    /// An ICMP error about an SCTP association.
    SctpError,
    /// An ICMP error about a flow without ports.
    OtherError,
    /// SCTP that is too big for its way, and its sender is told.
    SctpTooBig,
    /// SCTP in a tunnel.
    SctpTunnel,
    /// A protocol without ports in a tunnel.
    OtherTunnel,
    /// A later piece of SCTP that came before its first one, or a piece of IPv6 with more headers.
    OddPiece,
    /// A piece of SCTP that was sent on.
    SctpPiece,
    /// A piece of a protocol without ports.
    OtherPiece,
    /// A backend's own packet that would have been translated back to it.
    ToItself,
    /// A router's word of what fits on the way to a backend in a tunnel, from which something was learned.
    LearnedPath,
    /// A client's piece that went to its backend from an address of ours.
    OwnPiece,
    /// A backend's piece to an address of ours that went to its client.
    OwnPieceBack,
    /// An ICMP error about a piece.
    PieceError,
    /// A packet of more than 1500 bytes that was sent on.
    Large,
    /// One whose sender was told what fits.
    LargeTold,
    /// A packet that was sent on by endpoints that were written anew.
    Republished,
    /// A packet that was to leave with tags for which there was no room.
    NoRoomForTags,
    /// A flow that was kept apart from another of its client's, behind another server.
    KeptApart,
    /// A flow that no server can tell from another of its client's.
    Clashed,
}

impl Shape {
    /// Each of them, by number.
    pub const ALL: [Self; 37] = [
        Self::StrangeTags,
        Self::OneTag,
        Self::TwoTags,
        Self::SentWithOne,
        Self::SentWithTwo,
        Self::LostTags,
        Self::GotTags,
        Self::TaggedAnswer,
        Self::Contested,
        Self::RangeTcp,
        Self::RangeUdp,
        Self::RangeSctp,
        Self::RangeOther,
        Self::RangeReply,
        Self::RangePiece,
        Self::RangeError,
        Self::Sctp,
        Self::SctpReply,
        Self::SctpError,
        Self::OtherError,
        Self::SctpTooBig,
        Self::SctpTunnel,
        Self::OtherTunnel,
        Self::OddPiece,
        Self::SctpPiece,
        Self::OtherPiece,
        Self::ToItself,
        Self::LearnedPath,
        Self::OwnPiece,
        Self::OwnPieceBack,
        Self::PieceError,
        Self::Large,
        Self::LargeTold,
        Self::Republished,
        Self::NoRoomForTags,
        Self::KeptApart,
        Self::Clashed,
    ];
}

/// Drops by reason.
pub type Drops = [u64; 32];

/// How packets ended: passed, sent, redirected, dropped; and of those sent on, into tunnels or made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// All packets.
    pub packets: u64,
    /// By fate: passed, transmitted, redirected, dropped.
    pub fates: [u64; 4],
    /// By reason.
    pub drops: Drops,
    /// Of those that came with tags.
    pub tagged_drops: Drops,
    /// Of those to services with ranges.
    pub range_drops: Drops,
    /// Of SCTP, and of protocols without ports.
    pub other_drops: Drops,
    /// By [`Shape`].
    pub shapes: [u64; Shape::ALL.len()],
    /// Frames longer or shorter than what came.
    pub resized: u64,
    /// ICMP errors relayed, "packet too big" and resets sent, echo requests answered.
    pub messages: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            packets: 0,
            fates: [0; 4],
            drops: [0; 32],
            tagged_drops: [0; 32],
            range_drops: [0; 32],
            other_drops: [0; 32],
            shapes: [0; Shape::ALL.len()],
            resized: 0,
            messages: 0,
        }
    }
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.resized += other.resized;
        self.messages += other.messages;
        sum(&mut self.fates, &other.fates);
        sum(&mut self.drops, &other.drops);
        sum(&mut self.tagged_drops, &other.tagged_drops);
        sum(&mut self.range_drops, &other.range_drops);
        sum(&mut self.other_drops, &other.other_drops);
        sum(&mut self.shapes, &other.shapes);
    }

    pub(crate) fn note(&mut self, opinion: &Opinion, frame: &[u8]) {
        self.packets += 1;
        let met = opinion.met;
        let fate = match opinion.fate {
            Fate::Pass => 0,
            Fate::Tx => 1,
            Fate::Redirect(_) => 2,
            Fate::Drop(reason) => {
                let of = reason as usize;
                self.drops[of] += 1;
                self.tagged_drops[of] += u64::from(met.tags > 0);
                self.range_drops[of] += u64::from(met.range);
                self.other_drops[of] += u64::from(kind(opinion) > 2);
                3
            }
        };
        self.fates[fate] += 1;
        let output = opinion.output.as_ref();
        self.resized += u64::from(output.is_some_and(|output| output.len() != frame.len()));
        let message = matches!(opinion.sent, Sent::Echoed | Sent::Relayed | Sent::Answered);
        self.messages += u64::from(message);
        let mut note = |shape: Shape, is: bool| self.shapes[shape as usize] += u64::from(is);
        tags(&mut note, opinion, frame);
        ranges(&mut note, opinion);
        others(&mut note, opinion);
        around(&mut note, opinion, frame);
    }
}

fn sum(all: &mut [u64], by: &[u64]) {
    let both = all.iter_mut().zip(by);
    both.for_each(|(sum, by)| *sum += by);
}

/// Of its protocol: none, TCP, UDP, SCTP, ICMP, another.
fn kind(opinion: &Opinion) -> u8 {
    match opinion.met.protocol {
        None => 0,
        Some(6) => 1,
        Some(17) => 2,
        Some(132) => 3,
        Some(1 | 58) => 0,
        Some(_) => 4,
    }
}

/// Tags that stand in a frame.
fn tag_count(frame: &[u8]) -> usize {
    let words = frame.get(12..).unwrap_or_default().chunks_exact(4);
    words
        .take_while(|word| matches!(word[..2], [0x81, 0] | [0x88, 0xa8]))
        .count()
}

fn tags(note: &mut impl FnMut(Shape, bool), opinion: &Opinion, frame: &[u8]) {
    let came = opinion.met.tags;
    let passed = opinion.fate == Fate::Pass;
    note(
        Shape::StrangeTags,
        passed && came == 0 && tag_count(frame) > 0 && frame[0] & 1 == 0,
    );
    note(Shape::OneTag, came == 1);
    note(Shape::TwoTags, came == 2);
    if opinion.sent == Sent::No {
        return;
    }
    let left = opinion.output.as_deref().map_or(0, tag_count);
    note(Shape::SentWithOne, left == 1);
    note(Shape::SentWithTwo, left == 2);
    note(Shape::LostTags, came > 0 && left == 0);
    note(Shape::GotTags, came == 0 && left > 0);
    let answer = matches!(opinion.sent, Sent::Echoed | Sent::Answered);
    note(Shape::TaggedAnswer, came > 0 && answer);
}

fn ranges(note: &mut impl FnMut(Shape, bool), opinion: &Opinion) {
    let (met, sent) = (opinion.met, opinion.sent);
    note(Shape::Contested, met.takers > 1 && sent != Sent::No);
    if !met.range {
        return;
    }
    let forwarded = sent == Sent::Forwarded;
    note(Shape::RangeTcp, forwarded && kind(opinion) == 1);
    note(Shape::RangeUdp, forwarded && kind(opinion) == 2);
    note(Shape::RangeSctp, forwarded && kind(opinion) == 3);
    note(Shape::RangeOther, forwarded && kind(opinion) == 4);
    note(Shape::RangeReply, sent == Sent::Returned);
    note(Shape::RangePiece, sent == Sent::Piece);
    note(Shape::RangeError, sent == Sent::Relayed);
}

fn others(note: &mut impl FnMut(Shape, bool), opinion: &Opinion) {
    let (met, sent, of) = (opinion.met, opinion.sent, kind(opinion));
    let tunnelled = sent == Sent::Forwarded && opinion.tunnel > 0;
    let piece = opinion.fate == Fate::Drop(DropReason::Fragment);
    note(Shape::OddPiece, piece && of > 2);
    note(Shape::SctpPiece, sent == Sent::Piece && of == 3);
    note(Shape::OtherPiece, sent == Sent::Piece && of == 4);
    note(Shape::ToItself, met.to_itself);
    note(Shape::LearnedPath, met.learned);
    note(Shape::OwnPiece, met.own_piece == Some(Side::Backend));
    note(Shape::OwnPieceBack, met.own_piece == Some(Side::Client));
    note(Shape::PieceError, sent == Sent::Relayed && met.quoted_piece);
    note(Shape::OtherTunnel, tunnelled && of == 4);
    note(Shape::OtherError, sent == Sent::Relayed && of == 4);
    if of == 3 {
        note(Shape::Sctp, sent == Sent::Forwarded && !met.range);
        note(Shape::SctpReply, sent == Sent::Returned);
        note(Shape::SctpError, sent == Sent::Relayed);
        note(Shape::SctpTooBig, sent == Sent::Answered);
        note(Shape::SctpTunnel, tunnelled);
    }
}

fn around(note: &mut impl FnMut(Shape, bool), opinion: &Opinion, frame: &[u8]) {
    let (met, sent) = (opinion.met, opinion.sent);
    // With an Ethernet header and two tags.
    let large = frame.len() > 1500 + 14 + 8;
    let on = matches!(sent, Sent::Forwarded | Sent::Exchanged | Sent::Returned);
    note(Shape::Large, large && on);
    note(Shape::LargeTold, large && sent == Sent::Answered);
    note(Shape::Republished, met.republished && on);
    note(Shape::NoRoomForTags, met.untagged);
    note(Shape::KeptApart, met.kept_apart);
    note(Shape::Clashed, met.clashed);
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = Shape::ALL.map(|shape| (shape, self.shapes[shape as usize]));
        f.debug_struct("Tally")
            .field("packets", &self.packets)
            .field("fates", &self.fates)
            .field("drops", &self.drops)
            .field("tagged_drops", &self.tagged_drops)
            .field("range_drops", &self.range_drops)
            .field("other_drops", &self.other_drops)
            .field("resized", &self.resized)
            .field("messages", &self.messages)
            .field("shapes", &shapes)
            .finish()
    }
}
