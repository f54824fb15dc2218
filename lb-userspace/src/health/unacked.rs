//! What the other end of a connection has not acknowledged (tcp(7), `SIOCOUTQ`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Bytes that were written and that the other end's kernel has not acknowledged; a FIN that is on its way is one more.
pub(super) fn unacked(socket: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    let socket = socket.as_fd();
    // SAFETY: the descriptor is borrowed and so open, and what the kernel writes is one int, as `bytes` is.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(done)?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}
