//! For how long a flow keeps its port without a packet.

use bytemuck::{Pod, Zeroable};

/// Seconds of 2^30 ns, each from 1 to [`Self::MOST`], for which a port is kept without a packet of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// TCP, unproven: its client has sent nothing yet after an answer of its backend.
    pub handshake: u32,
    /// TCP that is established, or that one side alone has ended.
    pub established: u32,
    /// TCP after the FINs of both sides, or a RST of either; and what comes from such a port, while it is unproven.
    pub closing: u32,
    /// UDP that has been answered and gone on.
    pub datagrams: u32,
    /// UDP, unproven.
    pub unanswered: u32,
}

impl Idle {
    /// Thirty days of 86,400 s. An entry's clock tells as many as 2^31.
    pub const MOST: u32 = 2_413_989;

    /// Established: RFC 5382 REQ-5 (two hours and four minutes). Closing: twice the 60 seconds of Linux's TIME-WAIT.
    /// Datagrams: RFC 4787 REQ-5. An unproven one is short, as a flood makes such.
    pub const USUAL: Self = Self {
        handshake: 30,
        established: 7440,
        closing: 120,
        datagrams: 300,
        unanswered: 30,
    };

    /// As the data plane reads it.
    #[must_use]
    pub const fn table(self) -> IdleTable {
        IdleTable([
            0,
            // A packet is never interrupted for so long.
            u32::MAX,
            self.handshake.saturating_add(1),
            self.established.saturating_add(1),
            self.closing.saturating_add(1),
            self.datagrams.saturating_add(1),
            self.unanswered.saturating_add(1),
            self.closing.saturating_add(1),
        ])
    }
}

impl Default for Idle {
    fn default() -> Self {
        Self::USUAL
    }
}

/// By the number of a [`super::Stage`], after how many seconds of silence an entry is over. In `Control`: one look, whatever the stage.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IdleTable([u32; 8]);

impl Default for IdleTable {
    fn default() -> Self {
        Idle::USUAL.table()
    }
}

impl IdleTable {
    /// Seconds of silence with which an entry of the stage in the lowest three bits of this number is over.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is masked to the table's length"
    )]
    pub const fn end_of(&self, stage: u32) -> u32 {
        self.0[stage as usize & 7]
    }

    /// What it was made of; `None`: nobody has made it.
    pub fn idle(self) -> Option<Idle> {
        let [
            _,
            _,
            handshake,
            established,
            closing,
            datagrams,
            unanswered,
            _,
        ] = self.0;
        let kept = [handshake, established, closing, datagrams, unanswered];
        let [handshake, established, closing, datagrams, unanswered] =
            kept.map(|end| end.saturating_sub(1));
        let idle = Idle {
            handshake,
            established,
            closing,
            datagrams,
            unanswered,
        };
        let known = kept
            .iter()
            .all(|end| (2..=Idle::MOST.saturating_add(1)).contains(end));
        (known && idle.table() == self).then_some(idle)
    }
}

/// Seconds of 2^30 ns that cover so many nanoseconds, from 1 to [`Idle::MOST`].
pub fn seconds(nanos: u128) -> u32 {
    let seconds = nanos.div_ceil(1 << 30);
    u32::try_from(seconds)
        .unwrap_or(u32::MAX)
        .clamp(1, Idle::MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_what_the_clock_counts() {
        let of = |secs: u128| seconds(secs * 1_000_000_000);
        assert_eq!(
            [0, 1, 2, 32, 128, 322, 7988].map(of),
            [1, 1, 2, 30, 120, 300, 7440]
        );
        assert_eq!(of(30 * 86_400), Idle::MOST);
        assert_eq!(seconds(u128::MAX), Idle::MOST);
    }

    #[test]
    fn a_table_says_what_it_was_made_of() {
        let idle = Idle {
            handshake: 1,
            established: Idle::MOST,
            ..Idle::USUAL
        };
        assert_eq!(idle.table().idle(), Some(idle));
        assert_eq!(IdleTable([0; 8]).idle(), None);
        let IdleTable(whole) = idle.table();
        for at in 0..8 {
            let mut table = whole;
            table[at] ^= 1 << 31;
            assert_eq!(IdleTable(table).idle(), None, "{at}");
        }
        let mut again = whole;
        again[7] += 1;
        assert_eq!(IdleTable(again).idle(), None);
    }
}
