//! [`Frame`] over the context of an XDP program: for the balancer's and the decapsulator's alike.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_ebpf::frame::{Frame, Header, opaque};

/// A packet in the driver's memory.
///
/// `NAMED`: whoever made it says where it came in; else that is the port which the context names. Not a value, as each branch
/// on it would be walked by the verifier wherever the answer is asked for.
pub(crate) struct KernelFrame<const NAMED: bool> {
    context: *mut xdp_md,
    ingress: u32,
}

impl<const NAMED: bool> KernelFrame<NAMED> {
    /// The packet of a program's context.
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self {
            context: context.ctx,
            ingress: 0,
        }
    }

    /// The interface that the packet came to the machine by, whatever tags it had.
    #[inline(always)]
    pub(crate) fn port(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// Address of the first byte.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the kernel's and lives as long as the program runs.
        unsafe { (*self.context).data as usize }
    }

    /// Address behind the last byte.
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.context).data_end as usize }
    }
}

impl<const NAMED: bool> Frame for KernelFrame<NAMED> {
    #[inline(always)]
    fn len(&self) -> usize {
        // Opaque: from `end <= len` the compiler would prove accesses that the verifier cannot ("R3 offset
        // is outside of the packet", Linux 6.18), and leave out their checks.
        opaque(self.data_end().wrapping_sub(self.data()))
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        match NAMED {
            true => self.ingress,
            false => self.port(),
        }
    }

    #[inline(always)]
    fn came_by(&mut self, ifindex: u32) {
        self.ingress = ifindex;
    }

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.context.cast()
    }

    #[inline(always)]
    fn aside<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        let mut other = Self {
            context: self.context,
            ingress: self.ingress,
        };
        call(&mut other)
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let start = self.data().wrapping_add(offset);
        if start.wrapping_add(size_of::<H>()) > self.data_end() {
            return None;
        }
        // SAFETY: the whole header lies before the packet's end (checked above, and again by the
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

    #[inline(always)]
    fn grow_head(&mut self, bytes: u16) -> bool {
        // SAFETY: the context is the kernel's, and no header is borrowed: `self` is exclusive.
        unsafe { bpf_xdp_adjust_head(self.context, i32::from(bytes).wrapping_neg()) == 0 }
    }

    #[inline(always)]
    fn shrink_head(&mut self, bytes: u16) -> bool {
        // SAFETY: as in `grow_head`.
        unsafe { bpf_xdp_adjust_head(self.context, i32::from(bytes)) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, bytes: u16) -> bool {
        let by = usize::from(bytes).wrapping_sub(self.len()) as i32;
        // SAFETY: as in `grow_head`. A positive difference would grow the tail; it is refused here.
        by <= 0 && unsafe { bpf_xdp_adjust_tail(self.context, by) == 0 }
    }
}
