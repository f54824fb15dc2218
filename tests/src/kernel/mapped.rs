//! An array map in our own memory, to be copied as a whole. No packet may be on its way meanwhile: nothing here
//! is atomic.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Map, MapInfo},
};
use bytemuck::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array (`BPF_F_MMAPABLE`): its values one after the other.
pub(super) struct Mapped {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
}

impl Mapped {
    /// Maps an array whose values have this size, a multiple of eight bytes: only then does the kernel put no room
    /// between them (`elem_size` in kernel/bpf/arraymap.c).
    pub(super) fn new(ebpf: &Ebpf, name: &str, value_size: usize) -> Result<Self> {
        let map = ebpf
            .map(name)
            .with_context(|| format!("the object has no map {name}"))?;
        let Map::Array(map) = map else {
            anyhow::bail!("map {name} is no array");
        };
        let info: MapInfo = map.info().with_context(|| format!("ask about {name}"))?;
        let (size, entries) = (info.value_size() as usize, info.max_entries() as usize);
        ensure!(
            size == value_size && size % 8 == 0,
            "a value of map {name} has {size} bytes, not {value_size}"
        );
        let bytes = NonZeroUsize::new(size * entries).context("an empty map")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let fd = map.fd().as_fd();
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, fd, 0) }
            .with_context(|| format!("map {name} into memory"))?;
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    /// Writes the first bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        ensure!(
            bytes.len() <= self.bytes.get(),
            "{} bytes for a map of {}",
            bytes.len(),
            self.bytes
        );
        // SAFETY: the mapping holds at least so many bytes (checked above), and a slice never overlaps it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// All of it.
    pub(super) fn read<V: Pod>(&self) -> Vec<V> {
        let mut values = vec![V::zeroed(); self.bytes.get() / size_of::<V>()];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        // SAFETY: the mapping holds at least so many bytes, and new memory does not overlap it.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        values
    }

    /// Writes zero everywhere.
    pub(super) fn clear(&mut self) {
        // SAFETY: the mapping holds so many bytes, and zero is a byte like any other.
        unsafe { ptr::write_bytes(self.start.as_ptr(), 0, self.bytes.get()) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; nothing refers to it any more. If it fails the mapping stays, which
        // is harmless.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
