//! What a network card does with VLAN tags before a program sees the frame (ethtool ioctl, linux/ethtool.h).

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// What takes tags of 802.1Q and of 802.1ad out of frames, as `ethtool -K` knows it.
const STRIPPING: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

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

/// Features of an interface that are on and take tags out of frames that come in.
pub fn strips_tags(interface: &str) -> io::Result<Vec<&'static str>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut sets = Sets {
        command: ETHTOOL_GSSET_INFO,
        reserved: 0,
        mask: 1 << ETH_SS_FEATURES,
        count: 0,
    };
    // SAFETY: `Sets` has room for the one set that its mask asks for.
    unsafe { ask(&socket, interface, &raw mut sets) }?;
    let count = if sets.mask == 0 { 0 } else { sets.count };
    let features = count as usize;
    // struct ethtool_gstrings: command, set, length, then the names.
    let mut names = vec![0_u8; features.saturating_mul(ETH_GSTRING_LEN).saturating_add(12)];
    for (to, word) in names
        .chunks_exact_mut(4)
        .zip([ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count])
    {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    // SAFETY: the buffer has room for the number of names that it says.
    unsafe { ask(&socket, interface, names.as_mut_ptr()) }?;
    // struct ethtool_gfeatures: command, number of blocks, then available, requested, active and never changed bits of each.
    let blocks = features.div_ceil(32);
    let mut bits = vec![0_u32; blocks.saturating_mul(4).saturating_add(2)];
    for (to, word) in bits.iter_mut().zip([ETHTOOL_GFEATURES, blocks as u32]) {
        *to = word;
    }
    // SAFETY: the buffer has room for the number of blocks that it says.
    unsafe { ask(&socket, interface, bits.as_mut_ptr()) }?;
    let is_active = |feature: usize| {
        let block = (feature / 32).saturating_mul(4).saturating_add(4);
        bits.get(block)
            .is_some_and(|active| active >> (feature % 32) & 1 == 1)
    };
    let names = names.get(12..).unwrap_or_default();
    let names = names.chunks_exact(ETH_GSTRING_LEN).enumerate();
    let active = names.filter(|(feature, _)| is_active(*feature));
    let known = active.filter_map(|(_, name)| {
        let end = name.iter().position(|byte| *byte == 0)?;
        let name = name.get(..end)?;
        STRIPPING
            .into_iter()
            .find(|stripping| stripping.as_bytes() == name)
    });
    Ok(known.collect())
}

/// Runs the command that a value begins with.
///
/// # Safety
///
/// `value` must be the struct that the command takes, with room for all that it asks for.
unsafe fn ask<T>(socket: &Socket, interface: &str, value: *mut T) -> io::Result<()> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value,
        rest: [0; 16],
    };
    let bytes = interface.bytes().take(libc::IFNAMSIZ.saturating_sub(1));
    for (to, from) in request.name.iter_mut().zip(bytes) {
        *to = from;
    }
    // SAFETY: `request` is at least a struct ifreq; `value` is as the caller promises. Both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_a_card_strips_nothing_and_one_that_is_not_there_is_an_error() {
        assert!(strips_tags("lo").unwrap().is_empty());
        let error = strips_tags("no-such-device").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
