//! Offloads of an interface, by the ethtool ioctl (linux/ethtool.h).
//!
//! A veth hands over packets whose transport checksum is not computed yet (`CHECKSUM_PARTIAL`). An
//! XDP program rewrites them and sends them on as they are, and the receiver sees a bad checksum.
//! So the end that sends into the balancer computes it.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_STSO: u32 = 0x1f;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` as far as this ioctl reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    rest: [u8; 16],
}

/// Switches transmit checksum and segmentation offload off. Call inside the namespace.
///
/// The kernel takes segmentation offload from a veth whose peer runs an XDP program, and refuses to
/// switch off what cannot be switched on: what is off already is left alone.
pub(super) fn switch_off(device: &str) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("open a socket")?;
    for (get, set) in [
        (ETHTOOL_GTSO, ETHTOOL_STSO),
        (ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM),
    ] {
        if let Err(error) = ask(&socket, device, set)
            && ask(&socket, device, get)? != 0
        {
            return Err(error);
        }
    }
    Ok(())
}

/// One command with the value 0; the value afterwards.
fn ask(socket: &Socket, device: &str, command: u32) -> Result<u32> {
    let mut value = Value { command, data: 0 };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: &raw mut value,
        rest: [0; 16],
    };
    for (to, from) in request
        .name
        .iter_mut()
        .zip(device.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from;
    }
    // SAFETY: `request` is at least a struct ifreq and `value` the struct that both commands
    // take; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("switch offloads of {device} off (command {command:#x})"));
    }
    Ok(value.data)
}
