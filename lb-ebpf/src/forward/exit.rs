//! Where a frame leaves, and how.

use lb_common::{BackendEntry, Forwarding};

use crate::{
    parse::Packet,
    verdict::{Refusal, Verdict},
    wire::{Mac, MacWords},
};

/// The way out of the machine: the frame's new Ethernet addresses and where it leaves.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) verdict: Verdict,
    /// The largest IP packet that fits out there, in bytes.
    pub(crate) mtu: u32,
}

impl Exit {
    /// Refuses a packet that is too big for the interface, which would drop it without a word.
    #[inline(always)]
    pub(crate) fn fits(&self, packet: &Packet) -> Result<(), Refusal> {
        match packet.size() > self.mtu {
            true => Err(Refusal::too_big(self.mtu)),
            false => Ok(()),
        }
    }

    /// How many bytes fit where the packet does not, on the way to a backend without a tunnel. (What goes into a tunnel
    /// is looked at there.)
    #[inline(always)]
    pub(crate) fn too_small(&self, packet: &Packet, backend: &BackendEntry) -> Option<u32> {
        match Forwarding::from_u8(backend.forwarding) {
            Some(Forwarding::L2dsr | Forwarding::Dnat | Forwarding::Fullnat)
                if packet.size() > self.mtu =>
            {
                Some(self.mtu)
            }
            _ => None,
        }
    }

    /// Both Ethernet addresses of a frame that leaves here.
    #[inline(always)]
    pub(crate) const fn macs(&self) -> MacWords {
        Mac::words(self.destination, self.source)
    }

    /// What becomes of it.
    #[inline(always)]
    pub(crate) const fn verdict(&self) -> Verdict {
        self.verdict
    }
}
