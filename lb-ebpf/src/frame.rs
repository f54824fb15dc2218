//! Packet memory: the only bounds check and the only `unsafe` over packet bytes.

/// A type that may be laid over packet bytes: alignment 1, no padding, any bit pattern valid.
///
/// # Safety
/// The implementor guarantees those three properties.
pub unsafe trait Header: Sized {}

/// One packet in memory, from its Ethernet header on.
///
/// `header` borrows and whatever moves the head needs exclusivity, so that using a header after
/// the head has moved does not compile.
pub trait Frame {
    /// Bytes in the frame.
    fn len(&self) -> usize;

    /// True for a frame without any byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The interface the frame came in by; host order.
    fn ingress_ifindex(&self) -> u32;

    /// From now on that is another one: that of the tags which have been taken off.
    fn came_by(&mut self, ifindex: u32);

    /// What the kernel knows the packet by; null in plain memory.
    fn context(&self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }

    /// A header at a byte offset; `None` when the frame ends before the header does.
    fn header<H: Header>(&self, offset: usize) -> Option<&H>;

    /// The same, to change it.
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H>;

    /// Makes room for `bytes` before the first one; what stands there is undefined. False, and the frame is as it
    /// was, when there is no headroom.
    fn grow_head(&mut self, bytes: u16) -> bool;

    /// Takes the first `bytes` bytes away. False, and the frame is as it was, when what is left would be shorter than an
    /// Ethernet header.
    fn shrink_head(&mut self, bytes: u16) -> bool;

    /// Calls something that does not belong to the usual packet's way with a frame of its own, so that this one's
    /// address is nobody else's and the compiler may keep it in registers.
    fn aside<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R;

    /// Cuts the frame to its first `bytes` bytes, which it has. False, and the frame is as it was, when it is too
    /// short.
    fn truncate(&mut self, bytes: u16) -> bool;
}

/// The same number, of which the compiler knows nothing, for one instruction. (None at all would leave two lines of
/// debug information at one place: "Invalid line_info", Linux 6.18.)
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn opaque(number: usize) -> usize {
    let same: usize;
    // SAFETY: a copy from one register to another.
    unsafe {
        core::arch::asm!(
            "{same} = {number}",
            number = in(reg) number,
            same = out(reg) same,
            options(nomem, nostack, pure, preserves_flags),
        );
    }
    same
}

/// A number that stays in memory: what few ways need, and would have to be carried, or copied from register to register, over all.
pub struct Kept(core::cell::UnsafeCell<u32>);

impl Kept {
    /// Puts it there.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        Self(core::cell::UnsafeCell::new(number))
    }

    /// The number.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        // SAFETY: nothing writes to it once it is made, and the cell is valid as long as `self`.
        unsafe { self.0.get().read_volatile() }
    }
}

/// A header in a slice of bytes: what a frame in plain memory answers.
pub fn view<H: Header>(bytes: &[u8], offset: usize) -> Option<&H> {
    let end = offset.checked_add(size_of::<H>())?;
    let window = bytes.get(offset..end)?;
    // SAFETY: the window has the size of `H`, and `Header` promises that alignment 1 and any
    // bit pattern are right for it.
    Some(unsafe { &*window.as_ptr().cast::<H>() })
}

/// The same, to change it.
pub fn view_mut<H: Header>(bytes: &mut [u8], offset: usize) -> Option<&mut H> {
    let end = offset.checked_add(size_of::<H>())?;
    let window = bytes.get_mut(offset..end)?;
    // SAFETY: as in `view`, and the borrow is exclusive.
    Some(unsafe { &mut *window.as_mut_ptr().cast::<H>() })
}
