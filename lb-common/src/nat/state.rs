//! How far a flow is, and how long it keeps its entry.

use super::IdleTable;
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
    /// TCP: one side has sent RST, or both have sent FIN.
    Closing = 4,
    /// UDP.
    Datagrams = 5,
    /// UDP, unproven.
    Asking = 6,
    /// TCP: as [`Self::Opening`], from a port whose connection has ended: its backend may not be done with that.
    Again = 7,
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
            6 => Self::Asking,
            _ => Self::Again,
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
}

/// In a [`State`] of an unproven flow: its backend has answered, with something else than a reset.
const ANSWERED: u64 = 1 << 35;
/// In a [`State`] of TCP: its client has sent FIN ...
const CLIENT_ENDED: u64 = 1 << 36;
/// ... and its backend. One side alone may go on for as long as it likes (RFC 9293 section 3.6).
const BACKEND_ENDED: u64 = 1 << 37;
const ENDED: u64 = CLIENT_ENDED | BACKEND_ENDED;

/// In a [`State`] of TCP: its client has sent RST ...
const CLIENT_RESET: u64 = 1 << 38;
/// ... and its backend. Who really has sends nothing more.
const BACKEND_RESET: u64 = 1 << 39;
const RESET: u64 = CLIENT_RESET | BACKEND_RESET;

/// Seconds of silence after which a packet of the side that has sent RST says that this was somebody else. (What that RST has
/// overtaken comes sooner.)
const REVIVES: u32 = 2;

/// The first word of an entry: the second of its last packet in bits 0 to 31, its stage in 32 to 34, what its
/// sides have sent ([`ANSWERED`], [`ENDED`], [`RESET`]) in 35 to 39, and 24 bits of the flow's hash from 40 on.
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
    pub const fn is_over(self, now: u32, idle: &IdleTable) -> bool {
        self.silent(now) >= idle.end_of((self.0 >> 32) as u32)
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

    /// The same flow, which the client's first packet has made, once that `ends` its side.
    #[inline(always)]
    pub const fn begun(self, ends: bool) -> Self {
        match ends {
            true => Self(self.0 | CLIENT_ENDED),
            false => self,
        }
    }

    /// The same flow, once its client has sent a packet: one that is `opening`, `ends` its side (FIN), or is a `reset`.
    #[inline(always)]
    pub const fn heard(self, opening: bool, ends: bool, reset: bool, now: u32) -> Self {
        let answered = self.0 & ANSWERED != 0;
        let stage = self.stage();
        let ended = if ends { CLIENT_ENDED } else { 0 };
        match stage {
            Stage::Asking if answered => self.at(Stage::Datagrams, 0, now),
            Stage::Asking | Stage::Datagrams => self.at(stage, self.0 & ANSWERED, now),
            // A RST does not prove its flow: who is asked by an answer that he knows nothing of resets it.
            Stage::Opening | Stage::Again if reset => self.at(stage, 0, now),
            // A SYN that comes again has not seen the answer; or its port is used again.
            Stage::Opening | Stage::Again if opening => self.at(stage, self.0 & ANSWERED, now),
            Stage::Closing if opening => self.at(Stage::Again, 0, now),
            Stage::Opening | Stage::Again if !answered => {
                self.at(stage, self.0 & ENDED | ended, now)
            }
            // A SYN on a live connection does not make it a new one.
            _ => self.proven(ended, reset, CLIENT_RESET, now),
        }
    }

    /// The same flow, once its backend has sent a packet, which may end its side or be a reset. Only its client proves a flow.
    #[inline(always)]
    pub const fn answered(self, ends: bool, reset: bool, now: u32) -> Self {
        let ended = if ends { BACKEND_ENDED } else { 0 };
        let stage = self.stage();
        match stage {
            Stage::Opening | Stage::Again | Stage::Asking => {
                let answered = if reset { 0 } else { ANSWERED };
                let flags = self.0 & (ANSWERED | ENDED) | answered | ended;
                self.at(stage, flags, now)
            }
            Stage::Datagrams => self.at(stage, 0, now),
            _ => self.proven(ended, reset, BACKEND_RESET, now),
        }
    }

    /// A proven connection of which a side has sent a packet that is no SYN, with FIN or not, or RST. `own`: what says that this
    /// side has. FINs of both sides are not taken back: the backend's is hard to forge, and segments that are sent again to a client
    /// that has vanished would make a connection of them.
    #[inline(always)]
    const fn proven(self, ends: u64, reset: bool, own: u64, now: u32) -> Self {
        let ended = self.0 & ENDED | ends;
        let resets = match reset {
            true => self.0 & RESET | own,
            false if self.silent(now) >= REVIVES => self.0 & RESET & !own,
            false => self.0 & RESET,
        };
        let stage = match ended == ENDED || resets != 0 {
            true => Stage::Closing,
            false => Stage::Established,
        };
        self.at(stage, ended | resets, now)
    }

    #[inline(always)]
    const fn at(self, stage: Stage, flags: u64, now: u32) -> Self {
        let second = self.second().wrapping_add(self.silent(now)) as u64;
        Self(second | (stage as u64) << 32 | flags | self.0 >> 40 << 40)
    }

    /// The same, so many seconds later.
    #[inline(always)]
    pub const fn moved(self, by: u32) -> Self {
        Self(self.second().wrapping_add(by) as u64 | self.0 >> 32 << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Idle;
    use super::*;

    #[test]
    fn an_entry_is_over_when_its_stage_has_been_idle_for_long_enough() {
        let hash = FlowHash(0xdead_beef_0123_4567);
        const OTHERS: Idle = Idle {
            handshake: 1,
            established: 2,
            closing: 3,
            datagrams: 4,
            unanswered: Idle::MOST,
        };
        for (stage, usual, others) in [
            (Stage::Opening, 30, 1),
            (Stage::Established, 7440, 2),
            (Stage::Closing, 120, 3),
            (Stage::Datagrams, 300, 4),
            (Stage::Asking, 30, Idle::MOST),
            (Stage::Again, 120, 3),
        ] {
            for began in [1000, u32::MAX - 5] {
                let state = State::new(hash, stage, began);
                assert_eq!((state.stage(), state.second()), (stage, began));
                assert!(state.is_of(hash) && !state.is_of(FlowHash(!hash.0)));
                for (idle, kept) in [(Idle::USUAL, usual), (OTHERS, others)] {
                    let idle = idle.table();
                    let last = began.wrapping_add(kept);
                    assert!(!state.is_over(last, &idle));
                    assert!(state.is_over(last.wrapping_add(1), &idle));
                    assert!(!state.is_over(began.wrapping_sub(3), &idle));
                }
            }
        }
        let idle = OTHERS.table();
        assert!(State(0).is_over(0, &idle));
        assert!(!State::new(hash, Stage::Writing, 0).is_over(1 << 30, &idle));
    }

    #[test]
    fn a_connection_goes_through_its_stages() {
        use Stage::{Again, Asking, Closing, Datagrams, Established, Opening};
        let hash = FlowHash(0xdead_beef_0123_4567);
        for (from, answered, packet, silent, to) in [
            (Opening, false, "S", 1, Opening),
            (Opening, false, "A", 0, Opening),
            (Opening, false, "F", 0, Opening),
            (Opening, false, "R", 0, Opening),
            (Opening, true, "S", 1, Opening),
            (Opening, true, "A", 0, Established),
            (Opening, true, "F", 0, Established),
            (Opening, true, "R", 0, Opening),
            (Established, false, "S", 60, Established),
            (Established, false, "F", 60, Established),
            (Established, false, "R", 60, Closing),
            (Closing, false, "R", 60, Closing),
            (Closing, false, "S", 0, Again),
            (Again, false, "S", 1, Again),
            (Again, false, "A", 0, Again),
            (Again, false, "R", 0, Again),
            (Again, true, "A", 0, Established),
            (Again, true, "R", 0, Again),
            (Datagrams, false, "A", 99, Datagrams),
            (Asking, false, "A", 9, Asking),
            (Asking, true, "A", 9, Datagrams),
        ] {
            let mut state = State::new(hash, from, 7);
            if answered {
                state = state.answered(false, false, 7);
                assert_eq!(state.stage(), from);
            }
            let after = client(state, packet, 7 + silent);
            assert_eq!(
                (after.stage(), after.second()),
                (to, 7 + silent),
                "{from:?} {packet}"
            );
            assert!(after.is_of(hash) && after.is_still(state));
        }
    }

    type Side = fn(State, &str, u32) -> State;

    fn client(state: State, packet: &str, now: u32) -> State {
        state.heard(packet == "S", packet == "F", packet == "R", now)
    }

    fn backend(state: State, packet: &str, now: u32) -> State {
        state.answered(packet == "F", packet == "R", now)
    }

    #[test]
    fn both_sides_end_a_connection_or_a_reset_does() {
        use Stage::{Closing, Established};
        let proven = State::new(FlowHash(0xdead_beef_0123_4567), Established, 1);
        for (one, other) in [(client as Side, backend as Side), (backend, client)] {
            // Half of it goes on, in both directions and for hours.
            let mut half = one(proven, "F", 2);
            for now in [2, 3, 1000, 5000] {
                half = other(one(half, "A", now), "A", now);
                assert_eq!(half.stage(), Established);
                assert_eq!(one(half, "F", now).stage(), Established, "sent again");
            }
            let whole = other(half, "F", 5001);
            let last = one(whole, "A", 5002);
            assert_eq!((whole.stage(), last.stage()), (Closing, Closing));
            assert_eq!(other(last, "F", 5060).stage(), Closing, "sent again");
            // For ever: who has vanished is sent the same again.
            assert_eq!(one(last, "A", 5100).stage(), Closing);
            // A RST of somebody else is taken back by whom it was said to be of, and by nobody else.
            let reset = one(half, "R", 5001);
            assert_eq!(reset.stage(), Closing);
            assert_eq!(other(reset, "A", 5020).stage(), Closing);
            assert_eq!(one(reset, "A", 5002).stage(), Closing, "overtaken");
            let lives = one(other(reset, "A", 5003), "A", 5005);
            assert_eq!(lives.stage(), Established);
            assert_eq!(other(lives, "F", 5006).stage(), Closing);
            let both = other(one(proven, "R", 2), "R", 3);
            let one_lives = one(both, "A", 9);
            assert_eq!(one_lives.stage(), Closing);
            assert_eq!(other(one_lives, "A", 12).stage(), Established);
        }
    }

    #[test]
    fn ends_that_are_seen_before_the_proof_count() {
        let first = State::new(FlowHash(1 << 60), Stage::Opening, 1).begun(true);
        let last = first.answered(true, false, 2).heard(false, false, false, 2);
        assert_eq!(last.stage(), Stage::Closing);
        // The port is used again.
        let new = last.heard(true, false, false, 3).answered(false, false, 3);
        let new = new.heard(false, true, false, 3);
        assert_eq!(new.stage(), Stage::Established);
        assert_eq!(new.answered(true, false, 4).stage(), Stage::Closing);
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
            let alone = new
                .heard(false, false, false, 2)
                .heard(false, false, false, 3);
            assert_eq!(alone.stage(), unproven);
            let answers = new.answered(false, false, 2).answered(false, false, 3);
            assert_eq!(answers.stage(), unproven);
            let refused = new.answered(false, true, 2).heard(false, false, false, 3);
            assert_eq!(refused.stage(), unproven);
            assert_eq!(answers.heard(false, false, false, 4).stage(), proven);
            assert_eq!(
                answers.moved(9).heard(false, false, false, 12).stage(),
                proven
            );
            assert_eq!(
                answers
                    .answered(false, true, 4)
                    .heard(false, false, false, 4)
                    .stage(),
                proven
            );
        }
        // A port that is used again begins anew.
        let closed = State::new(hash, Stage::Established, 1).heard(false, false, true, 1);
        assert_eq!(closed.stage(), Stage::Closing);
        let again = closed
            .heard(true, false, false, 2)
            .heard(false, false, false, 2);
        assert_eq!(again.stage(), Stage::Again);
        assert!(
            !again.stage().is_unproven(),
            "its backend may be in TIME-WAIT"
        );
    }
}
