//! How far a flow is, and how long it keeps its entry.

use crate::FlowHash;

/// How far a flow is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Nobody's.
    Free = 0,
    /// Somebody's who is writing the rest of the entry.
    Writing = 1,
    /// TCP, unproven: its client has sent nothing yet after an answer of its backend.
    Opening = 2,
    /// TCP.
    Established = 3,
    /// TCP: one side has sent FIN or RST.
    Closing = 4,
    /// UDP.
    Datagrams = 5,
    /// UDP, unproven.
    Asking = 6,
}

impl Stage {
    const fn of(number: u64) -> Self {
        match number & 7 {
            0 => Self::Free,
            1 => Self::Writing,
            2 => Self::Opening,
            3 => Self::Established,
            4 => Self::Closing,
            5 => Self::Datagrams,
            _ => Self::Asking,
        }
    }

    /// Seconds (2^30 ns) without a packet after which the entry may be another flow's.
    ///
    /// Established: RFC 5382 REQ-5 (two hours and four minutes). Closing: twice the 60 seconds of Linux's TIME-WAIT.
    /// Datagrams: RFC 4787 REQ-5. An unproven one is short, as a flood makes such.
    #[inline(always)]
    pub const fn idle_seconds(self) -> u32 {
        match self {
            Self::Free => 0,
            // A packet is never interrupted for so long.
            Self::Writing => u32::MAX,
            Self::Opening | Self::Asking => 30,
            Self::Established => 7440,
            Self::Closing => 120,
            Self::Datagrams => 300,
        }
    }

    /// Somebody has the entry, and all of it is written.
    #[inline(always)]
    pub const fn is_written(self) -> bool {
        !matches!(self, Self::Free | Self::Writing)
    }

    /// Anybody can have made it with one packet and a forged source: it may give its entry up for another flow.
    #[inline(always)]
    pub const fn is_unproven(self) -> bool {
        matches!(self, Self::Opening | Self::Asking)
    }

    /// Once the client has sent a packet that is `opening` or `closing`, `silent` seconds after the one before; `answered`: its
    /// backend has answered an unproven one. A closed connection with new packets after a pause is none: that FIN or RST was forged.
    #[inline(always)]
    const fn after(self, answered: bool, opening: bool, closing: bool, silent: u32) -> Self {
        match self {
            Self::Asking if answered => Self::Datagrams,
            Self::Asking | Self::Datagrams => self,
            // A SYN that comes again has not seen the answer.
            Self::Opening if opening || !answered => Self::Opening,
            _ if closing => Self::Closing,
            Self::Closing if opening => Self::Opening,
            Self::Closing if silent < REVIVES => Self::Closing,
            // A SYN on a live connection does not make it a new one.
            _ => Self::Established,
        }
    }

    /// Once the backend has sent a packet: only its client proves a flow.
    #[inline(always)]
    const fn after_reply(self, closing: bool, silent: u32) -> Self {
        match self {
            Self::Opening => self,
            _ => self.after(false, false, closing, silent),
        }
    }
}

/// In a [`State`] of an unproven flow: its backend has answered, with something else than a reset.
const ANSWERED: u64 = 1 << 35;

/// Seconds of silence after which a packet of a closing connection says that it lives.
const REVIVES: u32 = 10;

/// The first word of an entry: the second of its last packet in bits 0 to 31, its stage in 32 to 34, [`ANSWERED`] in 35, and
/// 24 bits of the flow's hash from 40 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u64);

impl State {
    /// Of a flow.
    #[inline(always)]
    pub const fn new(hash: FlowHash, stage: Stage, second: u32) -> Self {
        Self(second as u64 | (stage as u64) << 32 | hash.0 >> 40 << 40)
    }

    /// Its stage.
    #[inline(always)]
    pub const fn stage(self) -> Stage {
        Stage::of(self.0 >> 32)
    }

    /// The second of its last packet.
    #[inline(always)]
    pub const fn second(self) -> u32 {
        self.0 as u32
    }

    /// Seconds since its last packet; 0 if that is yet to come, as another CPU's clock may be ahead.
    #[inline(always)]
    pub const fn silent(self, now: u32) -> u32 {
        match now.wrapping_sub(self.second()) {
            ahead if ahead >> 31 != 0 => 0,
            silent => silent,
        }
    }

    /// Another flow may have it.
    #[inline(always)]
    pub const fn is_over(self, now: u32) -> bool {
        match self.stage() {
            Stage::Free => true,
            stage => self.silent(now) > stage.idle_seconds(),
        }
    }

    /// It may be this flow's.
    #[inline(always)]
    pub const fn is_of(self, hash: FlowHash) -> bool {
        self.0 >> 40 == hash.0 >> 40 && !matches!(self.stage(), Stage::Free)
    }

    /// The entry is somebody's, and as it was when it was `before` but for the stage of its flow and the time.
    #[inline(always)]
    pub const fn is_still(self, before: Self) -> bool {
        self.0 >> 40 == before.0 >> 40 && self.stage().is_written() && before.stage().is_written()
    }

    /// The same flow, once its client has sent a packet that is `opening` or `closing`.
    #[inline(always)]
    pub const fn heard(self, opening: bool, closing: bool, now: u32) -> Self {
        let (silent, answered) = (self.silent(now), self.0 & ANSWERED != 0);
        let stage = self.stage().after(answered, opening, closing, silent);
        self.at(stage, answered, silent)
    }

    /// The same flow, once its backend has sent a packet that is `closing`, and may be a `reset`.
    #[inline(always)]
    pub const fn answered(self, closing: bool, reset: bool, now: u32) -> Self {
        let silent = self.silent(now);
        let answered = self.0 & ANSWERED != 0 || !reset;
        self.at(self.stage().after_reply(closing, silent), answered, silent)
    }

    #[inline(always)]
    const fn at(self, stage: Stage, answered: bool, silent: u32) -> Self {
        let answered = match answered && stage.is_unproven() {
            true => ANSWERED,
            false => 0,
        };
        let second = self.second().wrapping_add(silent) as u64;
        Self(second | (stage as u64) << 32 | answered | self.0 >> 40 << 40)
    }

    /// The same, so many seconds later.
    #[inline(always)]
    pub const fn moved(self, by: u32) -> Self {
        Self(self.second().wrapping_add(by) as u64 | self.0 >> 32 << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_over_when_its_stage_has_been_idle_for_long_enough() {
        let hash = FlowHash(0xdead_beef_0123_4567);
        for stage in [
            Stage::Opening,
            Stage::Established,
            Stage::Closing,
            Stage::Datagrams,
            Stage::Asking,
        ] {
            for began in [1000, u32::MAX - 5] {
                let state = State::new(hash, stage, began);
                assert_eq!((state.stage(), state.second()), (stage, began));
                assert!(state.is_of(hash) && !state.is_of(FlowHash(!hash.0)));
                let last = began.wrapping_add(stage.idle_seconds());
                assert!(!state.is_over(last) && state.is_over(last.wrapping_add(1)));
                assert!(!state.is_over(began.wrapping_sub(3)));
            }
        }
        assert!(State(0).is_over(0) && !State::new(hash, Stage::Writing, 0).is_over(1 << 30));
    }

    #[test]
    fn a_connection_goes_through_its_stages() {
        use Stage::{Asking, Closing, Datagrams, Established, Opening};
        let hash = FlowHash(0xdead_beef_0123_4567);
        for (from, answered, opening, closing, silent, to) in [
            (Opening, false, true, false, 1, Opening),
            (Opening, false, false, false, 0, Opening),
            (Opening, false, false, true, 0, Opening),
            (Opening, true, true, false, 1, Opening),
            (Opening, true, false, false, 0, Established),
            (Opening, true, false, true, 0, Closing),
            (Established, false, true, false, 60, Established),
            (Established, false, false, true, 60, Closing),
            (Closing, false, false, false, 1, Closing),
            (Closing, false, false, false, 10, Established),
            (Closing, false, false, true, 60, Closing),
            (Closing, false, true, false, 0, Opening),
            (Datagrams, false, false, false, 99, Datagrams),
            (Asking, false, false, false, 9, Asking),
            (Asking, true, false, false, 9, Datagrams),
        ] {
            let mut state = State::new(hash, from, 7);
            if answered {
                state = state.answered(false, false, 7);
                assert_eq!(state.stage(), from);
            }
            let after = state.heard(opening, closing, 7 + silent);
            assert_eq!(
                (after.stage(), after.second()),
                (to, 7 + silent),
                "{from:?}"
            );
            assert!(after.is_of(hash) && after.is_still(state));
        }
    }

    #[test]
    fn a_flow_is_proven_by_its_client_after_an_answer_alone() {
        let hash = FlowHash(0xdead_beef_0123_4567);
        for (unproven, proven) in [
            (Stage::Opening, Stage::Established),
            (Stage::Asking, Stage::Datagrams),
        ] {
            let new = State::new(hash, unproven, 1);
            // However often one side alone speaks.
            let alone = new.heard(false, false, 2).heard(false, false, 3);
            assert_eq!(alone.stage(), unproven);
            let answers = new.answered(false, false, 2).answered(false, false, 3);
            assert_eq!(answers.stage(), unproven);
            let refused = new.answered(true, true, 2).heard(false, false, 3);
            assert_eq!(refused.stage(), unproven);
            assert_eq!(answers.heard(false, false, 4).stage(), proven);
            assert_eq!(answers.moved(9).heard(false, false, 12).stage(), proven);
            assert_eq!(
                answers
                    .answered(true, true, 4)
                    .heard(false, false, 4)
                    .stage(),
                proven
            );
        }
        // A port that is used again begins anew.
        let closed = State::new(hash, Stage::Closing, 1).answered(false, false, 1);
        let again = closed.heard(true, false, 2).heard(false, false, 2);
        assert_eq!(again.stage(), Stage::Opening);
    }
}
