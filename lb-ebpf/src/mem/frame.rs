//! A frame in plain memory.

use crate::{
    frame::{Frame, Header as OnWire, view, view_mut},
    wire::L3,
};

/// A packet in a byte vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemFrame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The interface it came in by.
    pub ifindex: u32,
    /// Bytes that it may grow by in front.
    pub room: u16,
    /// It could not grow by so much.
    pub denied: bool,
}

impl MemFrame {
    /// What drivers leave in front of a frame (`XDP_PACKET_HEADROOM`), in bytes.
    pub const ROOM: u16 = 256;

    /// A frame as it comes in by an interface.
    pub const fn new(bytes: Vec<u8>, ifindex: u32) -> Self {
        Self {
            bytes,
            ifindex,
            room: Self::ROOM,
            denied: false,
        }
    }
}

impl Frame for MemFrame {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ifindex
    }

    fn header<H: OnWire>(&self, offset: usize) -> Option<&H> {
        view(&self.bytes, offset)
    }

    fn header_mut<H: OnWire>(&mut self, offset: usize) -> Option<&mut H> {
        view_mut(&mut self.bytes, offset)
    }

    fn grow_head(&mut self, bytes: u16) -> bool {
        let Some(room) = self.room.checked_sub(bytes) else {
            self.denied = true;
            return false;
        };
        self.room = room;
        self.bytes
            .splice(0..0, core::iter::repeat_n(0, usize::from(bytes)));
        true
    }

    fn came_by(&mut self, ifindex: u32) {
        self.ifindex = ifindex;
    }

    fn aside<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        call(self)
    }

    fn shrink_head(&mut self, bytes: u16) -> bool {
        let bytes = usize::from(bytes);
        let long_enough = self.bytes.len() >= bytes.saturating_add(L3);
        if long_enough {
            self.bytes.drain(..bytes);
            self.room = self.room.saturating_add(bytes as u16);
        }
        long_enough
    }

    fn truncate(&mut self, bytes: u16) -> bool {
        let long_enough = self.bytes.len() >= usize::from(bytes);
        self.bytes.truncate(usize::from(bytes));
        long_enough
    }
}
