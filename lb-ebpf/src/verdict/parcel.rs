//! What travels between the parts of the program that rewrite, send and count a packet: each in one word.

use lb_common::DropReason;

use super::{Action, Sent, Verdict};
use crate::{flow::Origin, parse::Arrival};

/// Why a client's packet does not reach a backend, in one word: the reason, and from bit 8 on, where that is the
/// reason, how many bytes of IP packet would fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub u32);

impl Refusal {
    /// It is not refused: it goes into a tunnel, which is done elsewhere.
    pub const ASIDE: Self = Self(u32::MAX);

    /// It is not refused: it goes out from an address of ours, which is done elsewhere.
    pub const NAT: Self = Self(u32::MAX - 3);

    /// It is not refused: its flow is not scheduled by its hash alone, which is done elsewhere.
    pub const SCHEDULE: Self = Self(u32::MAX - 1);

    /// Something is wrong with the packet; what, is for those to find who have the time.
    pub const UNSOUND: Self = Self(u32::MAX - 2);

    /// It does not fit; `room` bytes would.
    #[inline(always)]
    pub const fn too_big(room: u32) -> Self {
        Self(room << 8 | DropReason::PacketTooBig as u32)
    }

    /// The reason alone.
    #[inline(always)]
    pub const fn reason(self) -> u8 {
        self.0 as u8
    }
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self(reason as u32)
    }
}

/// A packet to a backend with its verdict and what is counted for it, in one word, for a part of the program that does both.
///
/// Bits 0 to 16: BackendId; 17 to 19: origin; 21: it is counted; 22: it leaves by another interface, whose slot stands
/// in bits 32 to 47; 23 to 31: its [`Arrival`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel(u64);

const ARRIVAL: u32 = 23;
const COUNTED: u64 = 1 << 21;
const REDIRECTED: u64 = 1 << 22;
const SLOT: u64 = 0xffff << 32;
const SENT: u64 = 1 << 63;

impl Parcel {
    /// A client's packet.
    #[inline(always)]
    pub const fn new(sent: &Sent, verdict: Verdict) -> Self {
        let arrival = (sent.arrival.0 as u64 & 0x1ff) << ARRIVAL;
        let way = match verdict.action {
            Action::Redirect => REDIRECTED | (verdict.detail as u64) << 32,
            _ => 0,
        };
        Self(sent.backend as u64 | (sent.origin as u64) << 17 | arrival | COUNTED | way)
    }

    /// A packet that nothing is counted for, and whose verdict is the caller's.
    #[inline(always)]
    pub const fn uncounted(backend: u32) -> Self {
        Self(backend as u64)
    }

    /// Mixed with a number that the verifier knows nothing of: it would walk a function once for each of the
    /// origins, verdicts and so on that it knows of its callers.
    #[inline(always)]
    pub const fn seal(self, with: u64) -> u64 {
        self.0 ^ with
    }

    /// As it is, and [`Self::open`] with 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// From [`Self::seal`].
    #[inline(always)]
    pub const fn open(sealed: u64, with: u64) -> Self {
        Self(sealed ^ with)
    }

    /// BackendId.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.0 as u32 & 0x1_ffff
    }

    /// How its flow came to the backend.
    #[inline(always)]
    pub const fn origin(self) -> Origin {
        Origin::of(self.0 >> 17 & 7)
    }

    /// What the packet means for its flow.
    #[inline(always)]
    pub const fn arrival(self) -> Arrival {
        Arrival((self.0 >> ARRIVAL) as u32 & 0x1ff)
    }

    /// What is counted; `bytes` as in [`Sent`].
    #[inline(always)]
    pub const fn sent(self, bytes: u64) -> Option<Sent> {
        if self.0 & COUNTED == 0 {
            return None;
        }
        Some(Sent {
            backend: self.backend(),
            origin: self.origin(),
            arrival: self.arrival(),
            bytes,
        })
    }

    /// Its verdict.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        match self.0 & REDIRECTED {
            0 => Verdict::TX,
            _ => Verdict::redirect((self.0 >> 32) as u32 & 0xffff),
        }
    }
}

/// What became of a [`Parcel`], in one word: bit 63 is set with its verdict, or clear with a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSending(u64);

impl PackedSending {
    /// It is on its way.
    #[inline(always)]
    pub const fn sent(Parcel(word): Parcel) -> Self {
        Self(SENT | word & (REDIRECTED | SLOT))
    }
}

impl From<Refusal> for PackedSending {
    #[inline(always)]
    fn from(Refusal(word): Refusal) -> Self {
        Self(word as u64)
    }
}

impl From<PackedSending> for Result<Verdict, Refusal> {
    #[inline(always)]
    fn from(PackedSending(word): PackedSending) -> Self {
        match word & SENT {
            0 => Err(Refusal(word as u32)),
            _ => Ok(Parcel(word).verdict()),
        }
    }
}
