//! How far a flow is, and how long it keeps its port.

use lb_common::nat::Idle;

use super::super::packet::Meaning;

/// How far a flow is, which says for how many seconds of 2^30 ns it keeps its port without a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its client has not sent anything yet after an answer, which there has been or not.
    Unproven {
        answered: bool,
    },
    /// The same, after a connection that has ended.
    Again {
        answered: bool,
    },
    Established,
    Closing,
    Datagrams,
}

impl Stage {
    fn seconds(self, datagrams: bool, idle: &Idle) -> u64 {
        u64::from(match (self, datagrams) {
            (Self::Unproven { .. }, true) => idle.unanswered,
            (Self::Unproven { .. }, false) => idle.handshake,
            (Self::Established, _) => idle.established,
            (Self::Closing | Self::Again { .. }, _) => idle.closing,
            (Self::Datagrams, _) => idle.datagrams,
        })
    }
}

/// Where a flow is between its first packet and its last.
#[derive(Clone, Copy)]
pub(super) struct Life {
    stage: Stage,
    /// The client has sent FIN, the backend has.
    ended: [bool; 2],
    /// The client has sent RST, the backend has.
    reset: [bool; 2],
    /// The second of its last packet.
    last: u64,
    /// It is one of UDP.
    datagrams: bool,
}

impl Life {
    /// Of a flow that a packet of its client begins.
    pub(super) fn new(meaning: Meaning, ending: Ending, second: u64) -> Self {
        Self {
            stage: Stage::Unproven { answered: false },
            ended: [ending == Ending::Fin, false],
            reset: [false; 2],
            last: second,
            datagrams: meaning == Meaning::Datagram,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.stage == Stage::Closing
    }

    pub(super) fn is_over(&self, second: u64, idle: &Idle) -> bool {
        second - self.last > self.stage.seconds(self.datagrams, idle)
    }

    /// For how many seconds a flow has been silent whose place another may take.
    pub(super) fn weakness(&self, second: u64) -> Option<u64> {
        let is_unproven = matches!(self.stage, Stage::Unproven { .. });
        is_unproven.then(|| second - self.last)
    }

    /// Notes a packet of its client.
    pub(super) fn note(&mut self, meaning: Meaning, ending: Ending, second: u64) {
        let opens = meaning == Meaning::Opens;
        match &mut self.stage {
            // A port that is used again.
            Stage::Closing if opens => {
                self.stage = Stage::Again { answered: false };
                (self.ended, self.reset) = ([false; 2], [false; 2]);
            }
            // Of somebody in whose name another has opened it.
            Stage::Unproven { answered } | Stage::Again { answered } if ending == Ending::Reset => {
                *answered = false;
                self.ended = [false; 2];
            }
            // A SYN that has crossed its answer.
            Stage::Unproven { .. } | Stage::Again { .. } if opens => self.ended = [false; 2],
            // One more of whoever sent the first.
            Stage::Unproven { answered: false } | Stage::Again { answered: false } => {
                self.ended[0] |= ending == Ending::Fin;
            }
            Stage::Unproven { .. } if meaning == Meaning::Datagram => self.stage = Stage::Datagrams,
            _ => self.later(0, ending, second),
        }
        self.last = second;
    }

    /// Notes a packet of its backend; true if that says anything new.
    pub(super) fn note_reply(&mut self, ending: Ending, second: u64) -> bool {
        let before = (self.stage, self.ended, self.reset, self.last);
        match &mut self.stage {
            Stage::Unproven { answered } | Stage::Again { answered } => {
                *answered |= ending != Ending::Reset;
                self.ended[1] |= ending == Ending::Fin;
            }
            _ => self.later(1, ending, second),
        }
        self.last = second;
        before != (self.stage, self.ended, self.reset, self.last)
    }

    /// What becomes of a flow that is proven.
    fn later(&mut self, side: usize, ending: Ending, second: u64) {
        if self.stage == Stage::Datagrams {
            return;
        }
        let later = second - self.last >= 2;
        match ending {
            Ending::Reset => self.reset[side] = true,
            // Somebody else has sent that RST.
            _ if later => self.reset[side] = false,
            _ => {}
        }
        self.ended[side] |= ending == Ending::Fin;
        self.stage = match self.ended == [true; 2] || self.reset != [false; 2] {
            true => Stage::Closing,
            false => Stage::Established,
        };
    }
}

/// What a packet says of the end of its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    None,
    Fin,
    Reset,
}

impl Ending {
    /// `at`: where the transport header begins.
    pub(super) fn of(frame: &[u8], at: usize, meaning: Meaning) -> Self {
        let flags = match meaning {
            Meaning::Datagram => 0,
            _ => frame[at + 13],
        };
        match (flags & 4 != 0, flags & 1 != 0) {
            (true, _) => Self::Reset,
            (false, true) => Self::Fin,
            (false, false) => Self::None,
        }
    }
}
