//! Packets that the data plane has sent and that never left the host. The program's verdict is its last word on a packet; what the
//! kernel and its drivers lose afterwards only their tracepoints tell (`include/trace/events/xdp.h` in Linux).

use bytemuck::{Pod, Zeroable};

/// Interfaces and kinds of loss that are told apart at once.
pub const PLACES: u32 = 1024;

/// Where packets were lost, and how. Key of the map `losses`; the value counts packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Place {
    /// Index of the interface, host order.
    pub ifindex: u32,
    /// A [`Loss`].
    pub loss: u32,
}

/// How packets get lost.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The kernel does not redirect them (`xdp_redirect_err`); the interface is the one that they came by.
    Redirect = 0,
    /// The interface that they were redirected to does not take them (`xdp_devmap_xmit`).
    Transmit = 1,
    /// The interface that they came by does not take them back (`xdp_bulk_tx`, and `xdp_exception` with `XDP_TX`).
    Reflect = 2,
    /// The program ended with `XDP_ABORTED`, or with a verdict that the driver does not know (`xdp_exception`).
    Aborted = 3,
}

impl Loss {
    /// Each of them, by number.
    pub const ALL: [Self; 4] = [Self::Redirect, Self::Transmit, Self::Reflect, Self::Aborted];

    /// The name in metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Transmit => "transmit",
            Self::Reflect => "reflect",
            Self::Aborted => "aborted",
        }
    }

    /// What it means, and what to look at, for people.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Redirect => {
                "the kernel redirects them nowhere: the interface to leave by is gone or down, has a smaller MTU, or its driver (of a veth pair: the other end) does not work with XDP"
            }
            Self::Transmit => {
                "the interface to leave by does not take them: its queue is full, or, before Linux 6.3, its driver does not work with XDP"
            }
            Self::Reflect => {
                "the interface that they came by does not take them back: its queue is full"
            }
            Self::Aborted => "the program came to an end that it should not",
        }
    }
}
