//! The few commands of bpf(2) that aya 0.14 does not offer, or offers with a fallback that we must not take.
//!
//! aya attaches XDP over netlink when the kernel answers EINVAL to a link: such an attachment cannot be
//! pinned and would silently replace a foreign program. It also does not tell the interface of a
//! link. Layouts: `union bpf_attr` and `struct bpf_*_info` in include/uapi/linux/bpf.h; all later
//! fields are zero, which the kernel takes for absent.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use lb_common::sources::{self, Access};

/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_DEVMAP`.
pub(crate) const MAP_TYPE_DEVMAP: u32 = 14;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub(crate) const MAP_TYPE_LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`.
pub(crate) const F_NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`.
pub(crate) const F_MMAPABLE: u32 = 1 << 10;
/// `XDP_FLAGS_SKB_MODE`.
pub(crate) const XDP_SKB: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(crate) const XDP_DRV: u32 = 1 << 2;

const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;
const ATTACH_XDP: u32 = 37;

fn bpf<T: Pod>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is plain data of the stated size, borrowed for the call. Each caller below keeps
    // whatever its addresses point to alive until this returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(value: *const T) -> u64 {
    value.cast::<u8>().addr() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins what `fd` refers to.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: address(path.as_ptr()),
        fd: number(fd),
        flags: 0,
    };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    owned(bpf(OBJ_GET, &mut attr)?)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InfoRequest {
    fd: u32,
    length: u32,
    info: u64,
}

fn info<T: Pod>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::zeroed();
    let mut attr = InfoRequest {
        fd: number(fd),
        length: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: address(&raw mut info),
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The first fields of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct MapInfo {
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// The kernel's number for it.
    pub id: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// What the kernel says about a map. Fails with EINVAL if `fd` is not a map.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    expect_kind(fd, "bpf-map")?;
    info(fd)
}

/// The kinds of BPF objects answer the same command with different structures; only the name of the
/// anonymous inode tells them apart.
fn expect_kind(fd: BorrowedFd<'_>, kind: &str) -> io::Result<()> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let found = link.to_string_lossy();
    // "anon_inode:bpf-map" for maps and programs, "anon_inode:bpf_link" or "bpf-link" for links.
    if found.replace('_', "-").contains(kind) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {found}, not a {kind}"),
    ))
}

/// The first fields of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub program_type: u32,
    /// The kernel's number for it.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: [u8; 8],
}

/// What the kernel says about a program.
pub(crate) fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    expect_kind(fd, "bpf-prog")?;
    info(fd)
}

/// The first fields of `struct bpf_link_info`, for a link of XDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct LinkInfo {
    /// `enum bpf_link_type`; 6: XDP.
    pub link_type: u32,
    /// The kernel's number for it.
    pub id: u32,
    /// The program it runs.
    pub program_id: u32,
    padding: u32,
    /// The interface; 0 when it was deleted.
    pub ifindex: u32,
    padding2: u32,
}

/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;

/// What the kernel says about an XDP link.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    expect_kind(fd, "bpf-link")?;
    let found: LinkInfo = info(fd)?;
    if found.link_type != LINK_TYPE_XDP {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is a link of type {}, not of XDP", found.link_type),
        ));
    }
    Ok(found)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Link {
    first: u32,
    second: u32,
    third: u32,
    fourth: u32,
}

/// Attaches a program to an interface. `flags`: [`XDP_DRV`] or [`XDP_SKB`].
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = Link {
        first: number(program),
        second: ifindex,
        third: ATTACH_XDP,
        fourth: flags,
    };
    owned(bpf(LINK_CREATE, &mut attr)?)
}

/// Lets a link run another program, atomically for the packets in flight.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Link {
        first: number(link),
        second: number(program),
        third: 0,
        fourth: 0,
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link off its interface, whoever else holds a descriptor of it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = number(link);
    bpf(LINK_DETACH, &mut attr).map(drop)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Element {
    fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new<K, V>(map: BorrowedFd<'_>, key: *const K, value: *const V) -> Self {
        Self {
            fd: number(map),
            padding: 0,
            key: address(key),
            value: address(value),
            flags: 0,
        }
    }
}

/// Writes a range of sources.
pub(crate) fn source_set(
    map: BorrowedFd<'_>,
    key: &sources::Key,
    access: Access,
) -> io::Result<()> {
    let value = access as u32;
    bpf(MAP_UPDATE, &mut Element::new(map, key, &raw const value)).map(drop)
}

/// Removes a range of sources.
pub(crate) fn source_clear(map: BorrowedFd<'_>, key: &sources::Key) -> io::Result<()> {
    let nothing = std::ptr::null::<u32>();
    bpf(MAP_DELETE, &mut Element::new(map, key, nothing)).map(drop)
}

/// What a range of sources says, as the number in the map.
pub(crate) fn source_get(map: BorrowedFd<'_>, key: &sources::Key) -> io::Result<u32> {
    let mut value = 0_u32;
    bpf(MAP_LOOKUP, &mut Element::new(map, key, &raw mut value))?;
    Ok(value)
}

/// The range that follows one; `None` for the first. `Ok(None)`: there is no more.
pub(crate) fn source_after(
    map: BorrowedFd<'_>,
    key: Option<&sources::Key>,
) -> io::Result<Option<sources::Key>> {
    let mut next = sources::Key::zeroed();
    let key = key.map_or(std::ptr::null(), std::ptr::from_ref);
    match bpf(MAP_GET_NEXT_KEY, &mut Element::new(map, key, &raw mut next)) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the ifindex of a slot of a devmap whose values have at most 8 bytes.
pub(crate) fn devmap_set(map: BorrowedFd<'_>, slot: u32, ifindex: u32) -> io::Result<()> {
    // `struct bpf_devmap_val`: ifindex, then the descriptor of a program; 0: none.
    let value = [ifindex, 0];
    bpf(MAP_UPDATE, &mut Element::new(map, &slot, &raw const value)).map(drop)
}

/// The ifindex in a slot of a devmap; 0: empty.
pub(crate) fn devmap_get(map: BorrowedFd<'_>, slot: u32) -> io::Result<u32> {
    let mut value = [0_u32; 2];
    let mut attr = Element::new(map, &slot, &raw mut value);
    match bpf(MAP_LOOKUP, &mut attr) {
        Ok(_) => Ok(value[0]),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Empties a slot of a devmap.
pub(crate) fn devmap_clear(map: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    match bpf(
        MAP_DELETE,
        &mut Element::new(map, &slot, std::ptr::null::<u32>()),
    ) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TestRun {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// Runs an XDP program once over `frame` as if it had come in on `ifindex` (`None`: on loopback).
/// Returns the XDP action and the frame afterwards.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: Option<u32>,
) -> io::Result<(u32, Vec<u8>)> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let mut out = vec![0_u8; frame.len().saturating_add(256)];
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, length, 0, ifindex.unwrap_or(0), 0, 0_u32];
    let mut attr = TestRun {
        program: number(program),
        verdict: 0,
        size_in: length,
        size_out: u32::try_from(out.len()).map_err(io::Error::other)?,
        data_in: address(frame.as_ptr()),
        data_out: address(out.as_mut_ptr()),
        repeat: 1,
        duration: 0,
        context_size_in: 0,
        context_size_out: 0,
        context_in: 0,
        context_out: 0,
    };
    if ifindex.is_some() {
        attr.context_size_in = u32::try_from(size_of_val(&context)).map_err(io::Error::other)?;
        attr.context_in = address(context.as_ptr());
    }
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(usize::try_from(attr.size_out).map_err(io::Error::other)?);
    Ok((attr.verdict, out))
}
