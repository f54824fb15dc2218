//! Sockets of rtnetlink(7), notices of what changed, and what can go wrong with them.

use std::io;
use std::time::Duration;

use netlink_sys::{AsyncSocket, Socket, TokioSocket, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};

use super::notice::{Malformed, Message, Notice, read};

/// Multicast groups (`enum rtnetlink_groups`) of links and addresses.
pub const ADDRESS_GROUPS: &[u32] = &[1, 5, 9];
/// ... and of links, neighbours, routes, rules, IPv6 addresses and next-hop objects.
pub const WAY_GROUPS: &[u32] = &[1, 3, 7, 8, 9, 11, 19, 32];

/// Bytes of kernel memory for messages we did not read yet.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A datagram is never longer: the kernel cuts lists into pieces of at most 32 KiB.
pub(super) const DATAGRAM: usize = 64 << 10;

/// Datagrams thrown away at most; more than the socket's memory can hold.
const DISCARD: usize = 1 << 16;

/// What went wrong with netlink.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("open a netlink socket: {0} (is AF_NETLINK forbidden by a sandbox?)")]
    Open(io::Error),
    /// The socket failed.
    #[error("{call} on a netlink socket: {source}")]
    Socket {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's bytes make no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The kernel refused a request.
    #[error("{request}: {source}{}", hint(.source))]
    Refused {
        /// What was asked of it.
        request: String,
        /// Its answer.
        source: io::Error,
    },
}

pub(super) fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN)",
        Some(libc::ENOBUFS) => {
            " (the neighbour table is full: raise net.ipv4.neigh.default.gc_thresh3 and \
             net.ipv6.neigh.default.gc_thresh3 above the number of backends)"
        }
        _ => "",
    }
}

pub(super) fn failed(call: &'static str) -> impl Fn(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { call, source }
}

pub(super) fn prepare(socket: &mut Socket, groups: &[u32]) -> Result<(), NetlinkError> {
    // More than the limit of the system where we may, up to that limit elsewhere.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
            .map_err(|e| failed("setsockopt(SO_RCVBUF)")(e.into()))?;
    }
    socket
        .set_non_blocking(true)
        .map_err(failed("ioctl(FIONBIO)"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    for &group in groups {
        socket
            .add_membership(group)
            .map_err(failed("setsockopt(NETLINK_ADD_MEMBERSHIP)"))?;
    }
    Ok(())
}

/// A socket that gets notices.
pub struct Notices {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What reading notices gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// These, in order.
    Notices(Vec<Notice>),
    /// None is waiting.
    Nothing,
    /// The kernel had to throw some away: look at everything anew.
    Lost,
}

impl Notices {
    /// Subscribes to groups, in the network namespace of the calling thread.
    pub fn subscribe(groups: &[u32]) -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        prepare(socket.socket_mut(), groups)?;
        let buffer = vec![0; DATAGRAM];
        Ok(Self { socket, buffer })
    }

    /// Reads one datagram, if one is waiting.
    pub fn hear(&mut self) -> Result<Heard, NetlinkError> {
        heard(receive(self.socket.socket_ref(), &mut self.buffer))
    }

    /// Throws away what is queued. Before everything is read anew: what is queued is older than
    /// what was lost, and must not be heard after the new reading.
    pub fn discard(&mut self) -> Result<(), NetlinkError> {
        for _ in 0..DISCARD {
            match self.hear() {
                Ok(Heard::Nothing) => break,
                Ok(_) | Err(NetlinkError::Malformed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for a datagram and reads it. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Result<Heard, NetlinkError> {
        let Self { socket, buffer } = self;
        let length = std::future::poll_fn(|cx| {
            let mut free = buffer.as_mut_slice();
            let read = socket.poll_recv(cx, &mut free);
            let left = free.len();
            read.map_ok(|()| DATAGRAM.saturating_sub(left))
        })
        .await;
        heard(length.map(|length| buffer.get(..length).unwrap_or_default()))
    }
}

fn heard(bytes: io::Result<&[u8]>) -> Result<Heard, NetlinkError> {
    match bytes {
        Ok(bytes) => {
            let notice = |(_, _, message)| match message {
                Message::Notice(notice) => Some(notice),
                _ => None,
            };
            let all = read(bytes)?.into_iter();
            Ok(Heard::Notices(all.filter_map(notice).collect()))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
        Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Lost),
        Err(source) => Err(failed("recv")(source)),
    }
}

pub(super) fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        let mut free = &mut *buffer;
        match socket.recv(&mut free, 0) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(length) => return Ok(buffer.get(..length).unwrap_or_default()),
        }
    }
}

/// Nanoseconds since boot, of the clock that BPF programs read too.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    // The clock exists on every Linux; the call has no other way to fail.
    u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
