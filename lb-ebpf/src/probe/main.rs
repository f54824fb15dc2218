//! The program for checks bound to the two ends of the stack (`tc`): its maps and its entry points. Built for the BPF
//! target only, by `cargo xtask`.
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    btf_maps::{Array, LruHashMap},
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    Address, Family,
    probe::{MARKS, ProbePath, SESSIONS, Session},
};
use lb_ebpf::{
    frame::{Frame, Header, opaque},
    probe::{self, Change, Sessions, StackFrame},
    wire::L3,
};

/// The first of the marks, a multiple of [`MARKS`].
#[unsafe(no_mangle)]
static FIRST_MARK: Global<u32> = Global::new(0);

#[btf_map(name = "paths")]
static PATHS: Array<ProbePath, { MARKS as usize }> = Array::new();
#[btf_map(name = "sessions")]
static SESSION_TABLE: LruHashMap<Session, [u64; 2], { SESSIONS as usize }> = LruHashMap::new();

/// Where the sum of an IPv4 header stands.
const IPV4_CHECK: u32 = (L3 + 10) as u32;

/// A packet in a socket buffer.
struct Buffer {
    context: *mut __sk_buff,
    room: u64,
}

impl Buffer {
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the kernel's and lives as long as the program runs.
        unsafe { (*self.context).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.context).data_end as usize }
    }
}

impl Frame for Buffer {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: as in `data`.
        opaque(unsafe { (*self.context).len as usize })
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn came_by(&mut self, _ifindex: u32) {
        // Tags are the kernel's in its own stack.
    }

    #[inline(always)]
    fn aside<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        call(self)
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let start = self.data().wrapping_add(offset);
        if start.wrapping_add(size_of::<H>()) > self.data_end() {
            return None;
        }
        // SAFETY: the whole header lies before the end of what can be read in place (checked above, and again by the
        // verifier), and `Header` promises that any bytes at any address are right for it.
        Some(unsafe { &*(start as *const H) })
    }

    #[inline(always)]
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let start = self.data().wrapping_add(offset);
        if start.wrapping_add(size_of::<H>()) > self.data_end() {
            return None;
        }
        // SAFETY: as in `header`, and the borrow of the frame is exclusive.
        Some(unsafe { &mut *(start as *mut H) })
    }

    /// Behind the Ethernet header, which the kernel moves.
    #[inline(always)]
    fn grow_head(&mut self, bytes: u16) -> bool {
        let (mode, by) = (BPF_ADJ_ROOM_MAC as u32, i32::from(bytes));
        // SAFETY: the context is the kernel's, and no header is borrowed: `self` is exclusive.
        unsafe { bpf_skb_adjust_room(self.context, by, mode, self.room) == 0 }
    }

    #[inline(always)]
    fn shrink_head(&mut self, _bytes: u16) -> bool {
        false
    }

    #[inline(always)]
    fn truncate(&mut self, _bytes: u16) -> bool {
        false
    }
}

impl StackFrame for Buffer {
    #[inline(always)]
    fn pull(&mut self, bytes: usize) -> bool {
        let there = self.data().wrapping_add(bytes) <= self.data_end();
        // SAFETY: as in `grow_head`.
        there || unsafe { bpf_skb_pull_data(self.context, bytes as u32) == 0 }
    }

    #[inline(always)]
    fn readdress<const V4: bool>(&mut self, change: &Change) -> bool {
        let skb = self.context.cast();
        let absent = if change.udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR | absent);
        let (at, check) = (change.at as u32, change.check as u32);
        let ([a, old], [b, new]) = (change.old.words(), change.new.words());
        if V4 {
            let (from, to) = (old >> 32, new >> 32);
            let word = to as u32;
            // SAFETY: as in `grow_head`; the word is four bytes long.
            unsafe {
                bpf_l4_csum_replace(skb, check, from, to, pseudo | 4) == 0
                    && bpf_l3_csum_replace(skb, IPV4_CHECK, from, to, 4) == 0
                    && bpf_skb_store_bytes(skb, at, (&raw const word).cast(), 4, 0) == 0
            }
        } else {
            let (mut from, mut to) = ([a, old], [b, new]);
            // Until Linux 6.16 the kernel takes the changed transport checksum for a change of the whole sum, which it is
            // only where a header's own checksum makes up for the address; the flag makes up for it here.
            let flag = u64::from(BPF_F_RECOMPUTE_CSUM);
            // SAFETY: as in `grow_head`; both addresses are sixteen bytes long.
            unsafe {
                let (old, new) = (from.as_mut_ptr().cast(), to.as_mut_ptr().cast());
                let difference = bpf_csum_diff(old, 16, new, 16, 0);
                difference >= 0
                    && bpf_l4_csum_replace(skb, check, 0, difference as u64, pseudo) == 0
                    && bpf_skb_store_bytes(skb, at, new.cast(), 16, flag) == 0
            }
        }
    }

    #[inline(always)]
    fn will_be_cut(&self) -> bool {
        // SAFETY: as in `data`.
        unsafe { (*self.context).gso_size != 0 }
    }

    #[inline(always)]
    fn will_hold(&mut self, outer: Family, udp: bool) {
        let l3 = match outer {
            Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
            Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        };
        let l4 = if udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        self.room = u64::from(l3 | l4);
    }
}

/// The map of the loaded program.
struct Kernel;

impl Sessions for Kernel {
    #[inline(always)]
    fn remember(&self, session: &Session, target: Address) -> bool {
        SESSION_TABLE.insert(session, target.words(), 0).is_ok()
    }

    #[inline(always)]
    fn recall(&self, session: &Session) -> Option<Address> {
        // SAFETY: entries are replaced, and one that goes meanwhile stays readable until the program ends.
        let words = unsafe { SESSION_TABLE.get(session) }?;
        Some(Address::from_words(*words))
    }
}

/// Where packets leave. Whoever has none of our marks is passed on after one comparison.
#[classifier]
fn fairlead_probe_out(context: TcContext) -> i32 {
    let context = context.skb.skb;
    // SAFETY: the context is the kernel's and lives as long as the program runs.
    let number = unsafe { (*context).mark } ^ FIRST_MARK.load();
    if number >= MARKS {
        return TC_ACT_UNSPEC;
    }
    let mut frame = Buffer { context, room: 0 };
    match PATHS.get(number) {
        Some(path) if *path != ProbePath::NONE && probe::out(&mut frame, path, &Kernel) => {
            // Once is enough, whatever devices the packet still passes.
            // SAFETY: as above; the field is writable (`tc_cls_act_is_valid_access`).
            unsafe { (*context).mark = 0 };
            TC_ACT_UNSPEC
        }
        _ => TC_ACT_SHOT,
    }
}

/// Where packets come in, behind XDP.
#[classifier]
fn fairlead_probe_in(context: TcContext) -> i32 {
    let mut frame = Buffer {
        context: context.skb.skb,
        room: 0,
    };
    probe::back(&mut frame, &Kernel);
    TC_ACT_UNSPEC
}

/// The licence that the kernel reads: helpers are open to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No code path panics; the compiler wants the handler.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
