//! The compiled BPF objects, which the build script puts into the binary; empty if there were none.

/// Eight bytes is what the ELF parser wants.
#[repr(C, align(8))]
struct Aligned<T: ?Sized> {
    bytes: T,
}

static DATA_PLANE: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/fairlead.bpf.o")),
};

static DECAPSULATOR_BYTES: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/decap.bpf.o")),
};

static PROBE_BYTES: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/probe.bpf.o")),
};

static LOSSES_BYTES: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/losses.bpf.o")),
};

/// The ELF file of the data plane.
pub static OBJECT: &[u8] = &DATA_PLANE.bytes;

/// The ELF file of the decapsulator.
pub static DECAPSULATOR: &[u8] = &DECAPSULATOR_BYTES.bytes;

/// The ELF file of the program for checks.
pub static PROBE: &[u8] = &PROBE_BYTES.bytes;

/// The ELF file of the programs that count what is lost behind the data plane.
pub static LOSSES: &[u8] = &LOSSES_BYTES.bytes;
