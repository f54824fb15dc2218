//! An array map in our own memory: reads and writes without system calls.
//!
//! `BPF_F_MMAPABLE` maps its elements one after the other, each at a multiple of eight bytes
//! (`array_map_mmap` and `elem_size` in kernel/bpf/arraymap.c). All access is by aligned 8-byte
//! atomics, because packets are handled at the same time on all CPUs: a word is read and written
//! whole or not at all. Writes are `Release`, so that what was written before is seen before.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array.
#[derive(Debug)]
pub(crate) struct Mapped {
    fd: OwnedFd,
    start: NonNull<AtomicU64>,
    bytes: NonZeroUsize,
    entries: u32,
    words_per_entry: usize,
}

// SAFETY: the memory is only reached through `&AtomicU64`, and unmapped when the one owner drops.
unsafe impl Send for Mapped {}
// SAFETY: as above: shared access is atomic access.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps an array of `entries` values of `value_size` bytes, which the caller has checked against
    /// the kernel's own figures.
    pub(crate) fn new(fd: OwnedFd, entries: u32, value_size: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::InvalidInput);
        let words_per_entry = value_size.div_ceil(8);
        let bytes = usize::try_from(entries)
            .ok()
            .and_then(|entries| entries.checked_mul(words_per_entry))
            .and_then(|words| words.checked_mul(8))
            .and_then(NonZeroUsize::new)
            .ok_or_else(too_large)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &fd,
                0,
            )
        }?;
        Ok(Self {
            fd,
            start: start.cast(),
            bytes,
            entries,
            words_per_entry,
        })
    }

    /// Entries.
    pub(crate) const fn entries(&self) -> u32 {
        self.entries
    }

    /// The descriptor, for pinning anew.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A word of an entry; `None` beyond the end.
    pub(crate) fn word(&self, entry: u32, word: usize) -> Option<&AtomicU64> {
        if entry >= self.entries || word >= self.words_per_entry {
            return None;
        }
        let index = usize::try_from(entry)
            .ok()?
            .checked_mul(self.words_per_entry)?
            .checked_add(word)?;
        // SAFETY: entry < entries and word < words_per_entry (checked above), so the index lies in
        // the mapping of entries * words_per_entry words, which lives as long as `self`. mmap
        // returns page-aligned memory, so each word is aligned.
        Some(unsafe { self.start.add(index).as_ref() })
    }

    /// An entry, word by word: whole words are consistent, the entry is if nobody writes to it.
    pub(crate) fn read<T: Pod>(&self, entry: u32) -> Option<T> {
        let mut value = T::zeroed();
        for (word, chunk) in bytemuck::bytes_of_mut(&mut value).chunks_mut(8).enumerate() {
            let bytes = self
                .word(entry, word)?
                .load(Ordering::Acquire)
                .to_ne_bytes();
            chunk.copy_from_slice(bytes.get(..chunk.len())?);
        }
        Some(value)
    }

    /// Writes the words of an entry that differ, from the last to the first.
    ///
    /// The layout puts what makes an entry reachable (`ring` of a service, `ifindex` of a device) into
    /// the first word where there is such a word.
    pub(crate) fn write<T: Pod>(&self, entry: u32, value: &T) -> Option<()> {
        for (word, chunk) in bytemuck::bytes_of(value).chunks(8).enumerate().rev() {
            let place = self.word(entry, word)?;
            let mut bytes = [0; 8];
            bytes.get_mut(..chunk.len())?.copy_from_slice(chunk);
            let new = u64::from_ne_bytes(bytes);
            if place.load(Ordering::Relaxed) != new {
                place.store(new, Ordering::Release);
            }
        }
        Some(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no reference outlives `self`. A failure would
        // leave the mapping in place, which is harmless.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
