//! Packet memory: the only bounds check and the only `unsafe` of the library.

/// A type that may be laid over packet bytes: alignment 1, no padding, any bit pattern valid.
///
/// # Safety
/// The implementor guarantees those three properties.
pub unsafe trait Header: Sized {}

/// One packet in memory, from its Ethernet header on.
///
/// `header` borrows and `grow_head` needs exclusivity, so that using a header after the head
/// has moved does not compile.
pub trait Frame {
    /// Bytes in the frame.
    fn len(&self) -> usize;

    /// True for a frame without any byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The interface the frame came in by; host order.
    fn ingress_ifindex(&self) -> u32;

    /// A header at a byte offset; `None` when the frame ends before the header does.
    fn header<H: Header>(&self, offset: usize) -> Option<&H>;

    /// The same, to change it.
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H>;
}
