//! Values of maps, and what stands for them where the kernel wants a struct.

use aya_ebpf::btf_maps::lpm_trie;
use lb_common::sources;
use lb_ebpf::tables::CacheLine;

/// Two slots of a ring. The kernel refuses bare arrays and atomics as a map's value type (EINVAL,
/// Linux 6.18), hence this and [`Line`].
#[repr(C)]
pub(super) struct RingPair {
    pub(super) ids: [u32; 2],
}

/// What follows the number of bits in a [`sources::Key`].
#[repr(C)]
pub(super) struct SourceKey {
    pub(super) set: [u8; 4],
    pub(super) address: [u8; 16],
}

const _: () = assert!(size_of::<lpm_trie::Key<SourceKey>>() == size_of::<sources::Key>());

/// A [`CacheLine`].
#[repr(C)]
pub(super) struct Line {
    words: [u64; 8],
}

const _: () = assert!(size_of::<Line>() == size_of::<CacheLine>());
const _: () = assert!(align_of::<Line>() == align_of::<CacheLine>());
