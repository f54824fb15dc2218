//! The headers of the SYN that a connection began with, which Linux keeps for who asks (tcp(7), `TCP_SAVE_SYN`).

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

const TCP_SAVE_SYN: i32 = 27;
const TCP_SAVED_SYN: i32 = 28;

/// Keeps them for the connections of a socket.
pub fn keep(listener: &TcpListener) -> Result<()> {
    let yes = 1_i32;
    // SAFETY: the option takes an int, which is read only during the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVE_SYN,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("keep the headers of SYNs"),
    }
}

/// The IP and TCP header of a connection's SYN. Can be asked once.
pub fn of(stream: &TcpStream) -> Result<Vec<u8>> {
    let mut headers = vec![0; 200];
    let mut size = headers.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into `headers`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("read the headers of a SYN");
    }
    headers.truncate(size as usize);
    Ok(headers)
}
