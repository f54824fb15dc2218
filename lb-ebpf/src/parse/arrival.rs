//! What packets mean for their flows.

use lb_common::flow::{IdleEpochs, Step};

use crate::wire::{chunk, flag, protocol};

/// What a segment or datagram means for its flow: the TCP flags that matter, or that it is a datagram, in one word
/// that travels in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival(pub u32);

/// In [`Arrival::word`]: there is a number.
const NUMBER: u32 = 1 << 24;

impl Arrival {
    /// What is no part of a connection that we follow: UDP, and protocols without ports.
    pub const DATAGRAM: Self = Self(1 << 8);
    /// A client's SYN.
    pub const OPENING: Self = Self(flag::SYN as u32);
    /// A TCP segment of a connection that has begun.
    pub const MIDDLE: Self = Self(flag::ACK as u32);

    /// A TCP segment with these flags.
    #[inline(always)]
    pub const fn segment(flags: u8) -> Self {
        Self((flags & (flag::FIN | flag::SYN | flag::RST | flag::ACK)) as u32)
    }

    /// An SCTP packet by its first chunk. An association that is silent for long is forgotten, as a datagram's flow.
    #[inline(always)]
    pub const fn chunk(kind: u8) -> Self {
        match kind {
            chunk::INIT => Self(flag::SYN as u32),
            chunk::ABORT | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE => {
                Self(Self::DATAGRAM.0 | flag::FIN as u32)
            }
            _ => Self::DATAGRAM,
        }
    }

    /// With the packet's IANA number, for [`crate::flow::assign`]. (Without one the packet is TCP's or UDP's.)
    #[inline(always)]
    pub const fn word(self, number: u8) -> u32 {
        self.0 | NUMBER | (number as u32) << 16
    }

    /// What [`Self::word`] was made of, the number as what [`IdleEpochs::narrowed`] wants.
    #[inline(always)]
    pub const fn of_word(word: u32) -> (Self, u32) {
        let which = match (word >> 16) as u8 {
            _ if word & NUMBER == 0 => 0,
            protocol::TCP | protocol::UDP => 0,
            protocol::SCTP => IdleEpochs::SCTP,
            _ => IdleEpochs::OTHER,
        };
        (Self(word & 0xffff), which)
    }

    /// TCP with SYN and without ACK, FIN and RST; SCTP's INIT.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        self.0 == Self::OPENING.0
    }

    /// TCP without SYN, FIN and RST; SCTP neither at its beginning nor at its end; datagrams.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        self.0 & (flag::FIN | flag::SYN | flag::RST) as u32 == 0
    }

    /// TCP with SYN, of either side.
    #[inline(always)]
    pub const fn is_syn(self) -> bool {
        self.0 & flag::SYN as u32 != 0
    }

    /// It may be the first packet of its flow.
    #[inline(always)]
    pub const fn may_begin(self) -> bool {
        self.is_opening() || self.is_datagram()
    }

    /// TCP with FIN or RST; SCTP's end.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.0 & (flag::FIN | flag::RST) as u32 != 0
    }

    /// TCP with FIN and without RST; SCTP's end. The other side may go on.
    #[inline(always)]
    pub const fn is_ending(self) -> bool {
        self.0 & (flag::FIN | flag::RST) as u32 == flag::FIN as u32
    }

    /// TCP with RST.
    #[inline(always)]
    pub const fn is_reset(self) -> bool {
        self.0 & flag::RST as u32 != 0
    }

    /// What it means for its flow's entry when a client sends it.
    #[inline(always)]
    pub const fn step(self) -> Step {
        match (self.is_opening(), self.is_closing()) {
            (true, _) => Step::Opens,
            (_, true) => Step::Closes,
            _ => Step::GoesOn,
        }
    }

    /// The same when a server sends it.
    #[inline(always)]
    pub const fn answer(self) -> Step {
        match self.is_closing() {
            true => Step::Closes,
            false => Step::Answers,
        }
    }

    /// As [`Self::DATAGRAM`].
    #[inline(always)]
    pub const fn is_datagram(self) -> bool {
        self.0 & Self::DATAGRAM.0 != 0
    }
}
