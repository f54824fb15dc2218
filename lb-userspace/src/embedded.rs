//! The compiled BPF object, which the build script puts into the binary; empty if there was none.

/// Eight bytes is what the ELF parser wants.
#[repr(C, align(8))]
struct Aligned<T: ?Sized> {
    bytes: T,
}

static ALIGNED: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/fairlead.bpf.o")),
};

/// The ELF file.
pub static OBJECT: &[u8] = &ALIGNED.bytes;
