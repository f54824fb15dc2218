//! The few calls of bpf(2) that small programs, given as instructions, need.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_LOOKUP_ELEM: i64 = 1;
const BPF_PROG_LOAD: i64 = 5;
const BPF_OBJ_GET: i64 = 7;
const BPF_PROG_GET_NEXT_ID: i64 = 11;
const BPF_MAP_GET_NEXT_ID: i64 = 12;
const BPF_LINK_CREATE: i64 = 28;
const BPF_LINK_GET_NEXT_ID: i64 = 31;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_XDP: u32 = 37;
/// Run in the driver, not on socket buffers.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// What a program is for (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `BPF_PROG_TYPE_SOCKET_FILTER`
    SocketFilter = 1,
    /// `BPF_PROG_TYPE_XDP`
    Xdp = 6,
}

/// What the kernel keeps for bpf(2), each with ids of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    /// A program.
    Program,
    /// A map.
    Map,
    /// A link: what keeps a program attached.
    Link,
}

/// The fields of `union bpf_attr` for `BPF_*_GET_NEXT_ID`.
#[repr(C)]
struct NextId {
    start: u32,
    next: u32,
    flags: u32,
}

/// The fields of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct Get {
    path: u64,
    descriptor: u32,
    flags: u32,
}

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

/// The fields of `union bpf_attr` for `BPF_MAP_CREATE`, up to `map_name`.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// The fields of `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct LookUp {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// All programs and maps of the tests, as `bpftool` shows them.
const NAME: [u8; 16] = *b"fl_lab\0\0\0\0\0\0\0\0\0\0";

/// Loads a program given as `struct bpf_insn`s.
pub(crate) fn load(kind: Kind, program: &[u64]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let mut load = Load {
        program_type: kind as u32,
        instructions: program.len() as u32,
        code: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name: NAME,
    };
    descriptor(BPF_PROG_LOAD, &mut load).with_context(|| {
        let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
        format!(
            "load a {kind:?} program\n{}",
            String::from_utf8_lossy(&log[..end])
        )
    })
}

/// Attaches an XDP program for as long as the returned link lives. Call inside the namespace.
pub(crate) fn attach_xdp(ifindex: u32, program: &[u64]) -> Result<OwnedFd> {
    let program = load(Kind::Xdp, program)?;
    let mut link = Link {
        program: program.as_raw_fd() as u32,
        ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    descriptor(BPF_LINK_CREATE, &mut link)
        .with_context(|| format!("attach an XDP program to interface {ifindex}"))
}

/// Makes an array of counters.
pub(crate) fn counters(entries: u32) -> Result<OwnedFd> {
    let mut create = Create {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        entries,
        flags: 0,
        inner: 0,
        numa_node: 0,
        name: NAME,
    };
    descriptor(BPF_MAP_CREATE, &mut create).context("make a map of counters")
}

/// Reads one counter.
pub(crate) fn counter(map: &OwnedFd, index: u32) -> Result<u64> {
    let mut value = 0_u64;
    let mut look_up = LookUp {
        map: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const index) as u64,
        value: (&raw mut value) as u64,
        flags: 0,
    };
    call(BPF_MAP_LOOKUP_ELEM, &raw mut look_up).context("read a counter")?;
    Ok(value)
}

/// True while an object with this id exists.
pub(crate) fn exists(object: Object, id: u32) -> Result<bool> {
    let command = match object {
        Object::Program => BPF_PROG_GET_NEXT_ID,
        Object::Map => BPF_MAP_GET_NEXT_ID,
        Object::Link => BPF_LINK_GET_NEXT_ID,
    };
    let mut next = NextId {
        start: id.saturating_sub(1),
        next: 0,
        flags: 0,
    };
    // The kernel writes the answer into the attributes.
    match call(command, &raw mut next) {
        Ok(_) => Ok(next.next == id),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("look for {object:?} {id}")),
    }
}

/// Opens what is pinned at a path.
pub(crate) fn pinned(path: &Path) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get {
        path: name.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    descriptor(BPF_OBJ_GET, &mut get).with_context(|| format!("open the pin {}", path.display()))
}

fn call<A>(command: i64, attributes: *mut A) -> io::Result<i64> {
    // SAFETY: `A` is a prefix of `union bpf_attr` for this command, its size is given, and all
    // that it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// For commands that return a new descriptor.
fn descriptor<A>(command: i64, attributes: &mut A) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
