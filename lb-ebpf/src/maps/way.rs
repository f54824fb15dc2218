//! From one program to the next: where a packet's way goes on, and what is known of it by then.

use aya_ebpf::{
    btf_maps::{PerCpuArray, ProgramArray},
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::Tags;
use lb_ebpf::tables::CacheLine;

use super::values::Line;

/// What one program tells the next about a packet.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Way {
    /// A [`lb_ebpf::verdict::PackedOutcome`].
    pub(crate) word: u64,
    /// What has been taken off it.
    pub(crate) tags: Tags,
    /// The interface that it came by: that of the tags, or the port itself.
    pub(crate) ingress: u64,
}

impl Way {
    /// Of a packet that came without tags.
    #[inline(always)]
    pub(crate) fn plainly(word: u64, port: u32) -> Self {
        Self {
            word,
            tags: Tags::NONE,
            ingress: port.into(),
        }
    }
}

/// Where the usual packet's program goes on for all others. A map of this very program and pinned beside it: an array of
/// programs that neither a process nor a pin holds is emptied (`prog_array_map_clear`).
#[btf_map(name = "asides")]
static ASIDES: ProgramArray<2> = ProgramArray::new();
/// What one program tells the next about the packet between them. Not pinned: a map of these alone.
#[btf_map(name = "way")]
static WAY: PerCpuArray<Way, 1> = PerCpuArray::new();

/// What one step of a program tells another about the packet. Not pinned.
#[btf_map(name = "notes")]
static NOTES: PerCpuArray<Line, 1> = PerCpuArray::new();

/// In `asides`: what goes on with packets that are not usual.
const ASIDE: u32 = 0;
/// In `asides`: what takes tags off.
const TAGGED: u32 = 1;

/// Goes on in the program for what is not usual. Comes back only if there is none.
#[inline(always)]
pub(crate) fn go_aside(context: &XdpContext, gone: Way) {
    note_way(gone);
    // SAFETY: nothing here has to be dropped.
    unsafe { ASIDES.tail_call(context, ASIDE) };
}

/// Notes where a packet is.
#[inline(always)]
pub(crate) fn note_way(noted: Way) {
    if let Some(way) = WAY.get_ptr_mut(0) {
        // SAFETY: words of this CPU's, which no other program than these three reaches, one after the other.
        unsafe { *way = noted };
    }
}

/// Notes what becomes of it.
#[inline(always)]
pub(crate) fn note_verdict(word: u64) {
    if let Some(way) = WAY.get_ptr_mut(0) {
        // SAFETY: as in `note_way`.
        unsafe { (*way).word = word };
    }
}

/// Goes on in the program for frames with tags. Comes back only if there is none.
#[inline(always)]
pub(crate) fn go_tagged(context: &XdpContext) {
    // SAFETY: nothing here has to be dropped.
    unsafe { ASIDES.tail_call(context, TAGGED) };
}

/// What [`note_way`] was told.
#[inline(always)]
pub(crate) fn way_aside() -> Way {
    // SAFETY: as there.
    WAY.get_ptr(0).map_or(Way::default(), |way| unsafe { *way })
}

/// This CPU's line of `notes`.
#[inline(always)]
pub(super) fn notes() -> Option<&'static CacheLine> {
    // SAFETY: a value of a map, which lives as long as the program, of the line's size and alignment (`values.rs`); it is words that
    // any CPU could write at once.
    NOTES
        .get_ptr(0)
        .map(|line| unsafe { &*line.cast::<CacheLine>() })
}
