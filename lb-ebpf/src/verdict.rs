//! What becomes of a packet.

use lb_common::DropReason;

/// The one outcome of a packet. Every packet is counted under exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: the kernel goes on with it, unchanged.
    Pass,
    /// Sent out of the interface it came from.
    Tx,
    /// Sent out of another interface, by its slot in `devices` and `redirects`.
    Redirect {
        /// The slot.
        device: u32,
    },
    /// Dropped, for this reason.
    Drop(DropReason),
}
