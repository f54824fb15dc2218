//! What a backend is now, as one word.

use lb_common::{BackendEntry, Permissions};

use super::load;

/// The part of a backend that changes while it is in use: `next_hop`, `permissions` and `used`, as the one word that
/// they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendState(u64);

impl BackendState {
    /// Index into `next_hops`.
    #[inline(always)]
    pub const fn next_hop(self) -> u32 {
        u64::from_le(self.0) as u32
    }

    /// What it may do.
    #[inline(always)]
    pub const fn permissions(self) -> Permissions {
        Permissions((u64::from_le(self.0) >> 32) as u8)
    }

    /// True for an entry in use that may keep its flows, whatever its service says.
    #[inline(always)]
    pub const fn keeps_flows(self) -> bool {
        const MASK: u64 = 0xff << 40 | ((Permissions::KEEP | Permissions::ASK) as u64) << 32;
        const KEEPS: u64 = 1 << 40 | (Permissions::KEEP as u64) << 32;
        u64::from_le(self.0) & MASK == KEEPS
    }

    /// True while the entry is in use.
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        (u64::from_le(self.0) >> 40) as u8 == 1
    }
}

/// Reads the state of a backend.
#[inline(always)]
pub fn load_state(backend: &BackendEntry) -> BackendState {
    let [_, _, word, ..]: &[u64; 8] = bytemuck::cast_ref(backend);
    BackendState(load(word))
}

const _: () = assert!(core::mem::offset_of!(BackendEntry, next_hop) == 16);
const _: () = assert!(core::mem::offset_of!(BackendEntry, permissions) == 20);
const _: () = assert!(core::mem::offset_of!(BackendEntry, used) == 21);
