//! Offloads and statistics of an interface, by the ethtool ioctl (linux/ethtool.h).
//!
//! A veth hands over packets whose transport checksum is not computed yet (`CHECKSUM_PARTIAL`). An
//! XDP program rewrites them and sends them on as they are, and the receiver sees a bad checksum.
//! So the end that sends into the balancer computes it.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_STATS: u32 = 1;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_sset_info` for one set.
#[repr(C)]
struct Sets {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// `struct ifreq` as far as this ioctl reads it.
#[repr(C)]
struct Request<T> {
    name: [u8; libc::IFNAMSIZ],
    value: *mut T,
    rest: [u8; 16],
}

/// Switches transmit checksum and segmentation offload off. Call inside the namespace.
///
/// The kernel takes segmentation offload from a veth whose peer runs an XDP program, and refuses to
/// switch off what cannot be switched on: what is off already is left alone.
pub(super) fn switch_off(device: &str) -> Result<()> {
    let socket = open()?;
    let value = |command| -> Result<u32> {
        let mut value = Value { command, data: 0 };
        // SAFETY: `Value` is the struct that these commands take.
        unsafe { ask(&socket, device, command, &raw mut value) }?;
        Ok(value.data)
    };
    for (get, set) in [
        (ETHTOOL_GTSO, ETHTOOL_STSO),
        (ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM),
    ] {
        if let Err(error) = value(set)
            && value(get)? != 0
        {
            return Err(error);
        }
    }
    Ok(())
}

/// What `ethtool -S` shows: counters by name. Call inside the namespace.
pub(crate) fn statistics(device: &str) -> Result<BTreeMap<String, u64>> {
    let socket = open()?;
    let names = names(&socket, device, ETH_SS_STATS)?;
    let places = names.len();
    let count = places as u32;
    // struct ethtool_stats: command and length in one word, then the values.
    let mut values = vec![0_u64; 1 + places];
    let mut head = [0; 8];
    head[..4].copy_from_slice(&ETHTOOL_GSTATS.to_ne_bytes());
    head[4..].copy_from_slice(&count.to_ne_bytes());
    values[0] = u64::from_ne_bytes(head);
    // SAFETY: the buffer has room for the number of values that it says.
    unsafe { ask(&socket, device, ETHTOOL_GSTATS, values.as_mut_ptr()) }?;
    Ok(names.into_iter().zip(values.into_iter().skip(1)).collect())
}

/// What is not to be done in the place of a frame: its VLAN tags stay where every program sees them, with a veth as
/// with a card that strips none (`ethtool -K DEVICE rxvlan off txvlan off` and the same of provider's tags). Call inside the
/// namespace.
pub(super) fn keep_tags_in_frames(device: &str) -> Result<()> {
    let socket = open()?;
    let names = names(&socket, device, ETH_SS_FEATURES)?;
    // struct ethtool_sfeatures: command, number of blocks, then valid and requested bits of each.
    let mut request = vec![0_u32; 2 + names.len().div_ceil(32) * 2];
    request[0] = ETHTOOL_SFEATURES;
    request[1] = names.len().div_ceil(32) as u32;
    for (bit, name) in names.iter().enumerate() {
        if name.contains("-vlan-") && (name.ends_with("-insert") || name.ends_with("-parse")) {
            request[2 + bit / 32 * 2] |= 1 << (bit % 32);
        }
    }
    // SAFETY: the buffer has room for the number of blocks that it says.
    unsafe { ask(&socket, device, ETHTOOL_SFEATURES, request.as_mut_ptr()) }
}

/// The names of a set, in the order of their numbers.
fn names(socket: &Socket, device: &str, set: u32) -> Result<Vec<String>> {
    let mut sets = Sets {
        command: ETHTOOL_GSSET_INFO,
        reserved: 0,
        mask: 1 << set,
        count: 0,
    };
    // SAFETY: `Sets` has room for the one set that its mask asks for.
    unsafe { ask(socket, device, sets.command, &raw mut sets) }?;
    let count = if sets.mask == 0 { 0 } else { sets.count };
    // struct ethtool_gstrings: command, set, length, then the names.
    let mut names = vec![0_u8; 12 + count as usize * ETH_GSTRING_LEN];
    for (to, word) in names
        .chunks_exact_mut(4)
        .zip([ETHTOOL_GSTRINGS, set, count])
    {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    // SAFETY: the buffer has room for the number of names that it says.
    unsafe { ask(socket, device, ETHTOOL_GSTRINGS, names.as_mut_ptr()) }?;
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    Ok(names[12..]
        .chunks_exact(ETH_GSTRING_LEN)
        .map(name)
        .collect())
}

fn open() -> Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None).context("open a socket")
}

/// Runs one command.
///
/// # Safety
///
/// `value` must be the struct that the command takes, with room for all that it asks for.
unsafe fn ask<T>(socket: &Socket, device: &str, command: u32, value: *mut T) -> Result<()> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value,
        rest: [0; 16],
    };
    for (to, from) in request
        .name
        .iter_mut()
        .zip(device.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from;
    }
    // SAFETY: `request` is at least a struct ifreq; `value` is as the caller promises. Both outlive
    // the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("ethtool command {command:#x} on {device}"));
    }
    Ok(())
}
