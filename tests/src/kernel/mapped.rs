//! An array map in our own memory (`BPF_F_MMAPABLE`): one element after the other, each at a multiple of eight
//! bytes. No packet is handled while it is read or written here, but the words are atomics all the same.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array of values whose size is a multiple of eight bytes.
pub(super) struct Mapped {
    start: NonNull<AtomicU64>,
    bytes: NonZeroUsize,
    words_per_value: usize,
}

impl Mapped {
    /// Maps `length` values of `size` bytes: the kernel's own figures for this map.
    pub(super) fn new(fd: BorrowedFd<'_>, length: usize, size: usize) -> io::Result<Self> {
        assert_eq!(size % 8, 0, "values of whole words");
        let bytes = NonZeroUsize::new(length * size).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe {
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            mmap(None, bytes, access, MapFlags::MAP_SHARED, fd, 0)
        }?;
        Ok(Self {
            start: start.cast(),
            bytes,
            words_per_value: size / 8,
        })
    }

    /// Values.
    pub(super) fn length(&self) -> usize {
        self.words().len() / self.words_per_value
    }

    /// A value of eight words.
    pub(super) fn get(&self, index: usize) -> [u64; 8] {
        let value = self.value(index);
        std::array::from_fn(|word| value[word].load(Ordering::Acquire))
    }

    /// Writes a value, word by word.
    pub(super) fn set<const N: usize>(&self, index: usize, bytes: &[u8; N]) {
        let words = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned);
        for (place, word) in self.value(index).iter().zip(words) {
            place.store(word, Ordering::Release);
        }
    }

    fn value(&self, index: usize) -> &[AtomicU64] {
        &self.words()[index * self.words_per_value..][..self.words_per_value]
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: exactly the mapping, which is aligned to pages and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes.get() / 8) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no reference outlives `self`. A failure would leave the
        // mapping in place, which is harmless.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
