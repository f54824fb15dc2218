//! What the oracle says of a packet.

use lb_common::{DropReason, Forwarding};
use lb_ebpf::fixture::world::Side;

use super::{known::Backend, link::Fate, tunnel};

/// What a packet is when it is sent on: what [`crate::frames`] may expect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is not sent.
    No,
    /// To a backend, with its client's end as it was.
    Forwarded,
    /// To a client, with its client's end as it was.
    Returned,
    /// An echo request that became its reply.
    Echoed,
    /// An ICMP error.
    Relayed,
    /// To a backend from an address of ours, or from a backend to one.
    Exchanged,
    /// A piece of a datagram, either way.
    Piece,
    /// A packet that was made anew.
    Answered,
}

/// What a packet has met on its way: what [`crate::tally`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Its protocol, behind tags and the header of a piece, where it is IP that the oracle looks at.
    pub protocol: Option<u8>,
    /// Tags that were taken off.
    pub tags: usize,
    /// The service takes more than one address, port and protocol.
    pub range: bool,
    /// So many services fit the packet.
    pub takers: usize,
    /// A router has said what fits on the way to a backend, and that was news.
    pub learned: bool,
    /// It is a piece of a flow from an address of ours, and goes to this side.
    pub own_piece: Option<Side>,
    /// The backend that it was to be translated to has sent it.
    pub to_itself: bool,
    /// An error quotes a piece of a datagram.
    pub quoted_piece: bool,
    /// Bytes that the frame has grown by in front, tags aside.
    pub grown: usize,
    /// There was no room for the tags that it was to leave with.
    pub untagged: bool,
    /// The endpoints have been written anew since the beginning.
    pub republished: bool,
    /// Its flow went to another server, so that the one that it was given can tell it from another of the client's.
    pub kept_apart: bool,
    /// No server can.
    pub clashed: bool,
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Its verdict.
    pub fate: Fate,
    /// Its bytes, where they change.
    pub output: Option<Vec<u8>>,
    /// How it is sent, if it is.
    pub sent: Sent,
    /// Bytes that a tunnel has put before it.
    pub tunnel: usize,
    /// What it has met.
    pub met: Met,
}

impl Opinion {
    pub(super) const PASS: Self = Self {
        fate: Fate::Pass,
        output: None,
        sent: Sent::No,
        tunnel: 0,
        met: Met {
            protocol: None,
            tags: 0,
            range: false,
            takers: 0,
            learned: false,
            own_piece: None,
            to_itself: false,
            quoted_piece: false,
            grown: 0,
            untagged: false,
            republished: false,
            kept_apart: false,
            clashed: false,
        },
    };

    pub(super) fn sent(fate: Fate, output: Vec<u8>, sent: Sent) -> Self {
        Self {
            fate,
            output: Some(output),
            sent,
            ..Self::PASS
        }
    }

    pub(super) fn dropped(reason: DropReason) -> Self {
        Self {
            fate: Fate::Drop(reason),
            ..Self::PASS
        }
    }

    /// The same to a backend, perhaps in a tunnel.
    pub(super) fn to(self, backend: &Backend) -> Self {
        let tunnel = match backend.forwarding {
            Some(Forwarding::Ipip | Forwarding::Gue) => tunnel::growth(backend),
            _ => 0,
        };
        Self { tunnel, ..self }
    }
}
