//! The smallest XDP program: `return XDP_PASS`, by bpf(2).
//!
//! What an XDP program sends out of a veth arrives only if the other end has an XDP program too
//! (drivers/net/veth.c, `veth_xdp_xmit`), so the switch ports that face the balancer get this one.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Run in the driver, not on socket buffers.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = 2; exit`, as `struct bpf_insn`s.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The fields of `union bpf_attr` for `BPF_PROG_LOAD`, up to `prog_name`.
#[repr(C)]
struct Load {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The fields of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches the program for as long as the returned link lives. Call inside the namespace.
pub(super) fn attach(ifindex: u32) -> Result<OwnedFd> {
    attach_program(ifindex, &PASS)
}

/// Attaches a program given as `struct bpf_insn`s. Call inside the namespace.
pub(super) fn attach_program(ifindex: u32, program: &[u64]) -> Result<OwnedFd> {
    let load = Load {
        program_type: BPF_PROG_TYPE_XDP,
        instructions: program.len() as u32,
        code: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"fl_lab\0\0\0\0\0\0\0\0\0\0",
    };
    let program = bpf(BPF_PROG_LOAD, &load).context("load an XDP program")?;
    let link = Link {
        program: program.as_raw_fd() as u32,
        ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf(BPF_LINK_CREATE, &link)
        .with_context(|| format!("attach an XDP program to interface {ifindex}"))
}

fn bpf<A>(command: i64, attributes: &A) -> Result<OwnedFd> {
    // SAFETY: `A` is a prefix of `union bpf_attr` for this command, its size is given, and all
    // that it points to outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<A>(),
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: both commands return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
