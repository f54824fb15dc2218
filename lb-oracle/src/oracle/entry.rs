//! What is known of a flow, and what its packets make of that.

use lb_common::{FlowHash, FlowRank, flow::IDLE_AFTER};

use super::{
    link::Link,
    packet::{Mac, Meaning},
};

/// Epochs for which a proven flow that closed is kept.
const TIME_WAIT: u64 = 4;

/// What is known of a flow.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) hash: FlowHash,
    pub(super) backend: usize,
    /// Epochs that it was seen in: 1, 2, or 3 for more.
    pub(super) proof: u8,
    /// FIN or RST was the last thing seen.
    pub(super) closing: bool,
    /// Its client has opened it, and has said nothing else.
    pub(super) opening: bool,
    /// It was written down as idle.
    pub(super) idle: bool,
    /// The epoch in which it was last seen.
    pub(super) last: u64,
    /// Where its client's packets come from.
    pub(super) hop: Option<(Mac, Link)>,
}

impl Flow {
    /// Whether a client's packet has got it out of its handshake.
    pub(super) fn see(&mut self, epoch: u64, meaning: Meaning) -> bool {
        let later = epoch > self.last;
        let closes = meaning.ends();
        let unproven_end = self.closing && self.proof < 3;
        if meaning == Meaning::Opens && (self.opening || self.idle || unproven_end) {
            (self.opening, self.closing, self.idle) = (true, false, false);
            (self.proof, self.last) = (1, epoch);
            return false;
        }
        // The last ACK of a close has no FIN: only a packet of a later epoch revives.
        if self.closing && !closes && !later {
            return false;
        }
        let began = self.opening;
        self.opening = false;
        if self.idle {
            (self.idle, self.proof) = (false, 1);
        }
        self.proof = (self.proof + u8::from(later)).min(3);
        self.closing = closes;
        if self.closing && self.proof < 3 {
            self.proof = 1;
        }
        self.last = epoch;
        began
    }

    /// A server's packet leads no connection out of its handshake, unless it ends it.
    pub(super) fn hear(&mut self, epoch: u64, closes: bool) {
        if self.opening && !closes {
            self.last = epoch;
        } else {
            let meaning = if closes {
                Meaning::Closes
            } else {
                Meaning::Middle
            };
            self.see(epoch, meaning);
        }
    }

    pub(super) fn rank(&self) -> FlowRank {
        match (self.idle, self.proof, self.closing) {
            (true, ..) => FlowRank::Idle,
            _ if self.opening => FlowRank::Opening,
            (_, 1, false) => FlowRank::Probation,
            (_, 2, false) => FlowRank::Probation2,
            (_, _, false) => FlowRank::Proven,
            (_, 3, true) => FlowRank::ClosingProven,
            (_, _, true) => FlowRank::ClosingProbation,
        }
    }

    /// A connection that was seen to end, and that the table would let go by now.
    pub(super) fn has_ended(&self, epoch: u64) -> bool {
        let age = epoch - self.last;
        self.closing && (self.proof < 3 || age >= TIME_WAIT || age > IDLE_AFTER.into())
    }
}
