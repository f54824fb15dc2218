//! The ICMP probe: an echo request is answered (RFC 792, RFC 4443 section 4).
//!
//! By a ping socket (icmp(7)), which needs no privilege where `net.ipv4.ping_group_range` allows it, and by a raw
//! one, which needs CAP_NET_RAW, where it does not. A raw socket sees all ICMP from the target, so an answer must
//! carry what this very request carried.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::full_size::Trial;
use super::peer::Peer;
use super::tcp::deadline;
use super::verdict::{failed, timed_out, void};
use crate::model::{ProbeVerdict, family};

/// An answer of ours with an IPv4 header with options fits, and more is not looked at.
const BYTES: usize = 128;

/// Type, code, checksum, identifier and number; then what is to come back.
const HEADER: usize = 8;

/// Probes `target`.
pub async fn probe(peer: impl Into<Peer>, timeout: Duration) -> ProbeVerdict {
    let Peer { address, trial, .. } = peer.into();
    let target = address.ip();
    let deadline = deadline(timeout);
    let socket = match open(target).and_then(|socket| connected(socket, target)) {
        Ok(socket) => socket,
        Err(error) if is_forbidden(&error) => {
            return void(
                "socket: forbidden (put the daemon's group into net.ipv4.ping_group_range, or give it CAP_NET_RAW)",
            );
        }
        Err(error) => return failed("socket", &error),
    };
    let token = token();
    let data = match trial.as_deref().map(|trial| fill(&socket, target, trial)) {
        None => 0,
        Some(Ok(data)) => data,
        Some(Err(error)) => return void(&format!("socket: its MTU: {error}")),
    };
    let request = request(target, token, data);
    trial.as_ref().inspect(|trial| trial.asks());
    let verdict = exchange(&socket, target, &request, token, (deadline, timeout)).await;
    // What a router has said meanwhile ("too big") is known to the kernel.
    if let Some(trial) = trial.filter(|_| matches!(verdict, ProbeVerdict::Bad(_)))
        && let Ok(mtu) = mtu(&socket, target)
    {
        trial.learned(mtu);
    }
    verdict
}

/// Asks, and waits for the answer.
async fn exchange(
    socket: &UdpSocket,
    target: IpAddr,
    request: &[u8],
    token: [u8; 16],
    (deadline, timeout): (Instant, Duration),
) -> ProbeVerdict {
    if let Err(error) = socket.send(request).await {
        return failed("send", &error);
    }
    let mut message = [0; BYTES];
    loop {
        match timeout_at(deadline, socket.recv(&mut message)).await {
            Ok(Ok(read)) => {
                let message = message.get(..read).unwrap_or_default();
                if is_answer(target, message, token) {
                    return ProbeVerdict::Good;
                }
            }
            Ok(Err(error)) => return failed("answer", &error),
            Err(_) => return timed_out("answer", timeout),
        }
    }
}

fn open(target: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let open = |kind: Type| Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol));
    match open(Type::DGRAM) {
        Err(error) if is_forbidden(&error) => open(Type::RAW),
        other => other,
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

/// To tokio a datagram socket is one, whatever its protocol.
fn connected(socket: Socket, target: IpAddr) -> io::Result<UdpSocket> {
    socket.connect(&SocketAddr::new(target, 0).into())?;
    UdpSocket::from_std(socket.into())
}

/// How many bytes the request has to bring along. They leave in one packet (ip(7), `IP_MTU_DISCOVER`), since no more than what fits is sent.
fn fill(socket: &UdpSocket, target: IpAddr, trial: &Trial) -> io::Result<usize> {
    Ok(trial.fill_echo(family(target), mtu(socket, target)?))
}

/// The largest packet that may leave for the target, in bytes. A raw socket answers for its own family alone.
fn mtu(socket: &UdpSocket, target: IpAddr) -> io::Result<u32> {
    let mtu = match target {
        IpAddr::V4(_) => ip_mtu(socket),
        IpAddr::V6(_) => ipv6_mtu(socket),
    };
    Ok(mtu?)
}

/// Unlike any other probe's, and not to be guessed.
fn token() -> [u8; 16] {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let half = |salt: u8| KEY.hash_one((salt, number)).to_be_bytes();
    let mut token = [0; 16];
    for (to, from) in token.iter_mut().zip(half(0).into_iter().chain(half(1))) {
        *to = from;
    }
    token
}

/// The types of request and reply.
fn types(target: IpAddr) -> (u8, u8) {
    match target {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    }
}

/// With at least so many bytes of data. A ping socket puts its own identifier in; the kernel fills in the checksum of ICMPv6.
fn request(target: IpAddr, token: [u8; 16], data: usize) -> Vec<u8> {
    let (kind, _) = types(target);
    let build = |sum: u16| {
        let [high, low] = sum.to_be_bytes();
        let identifier = token.first_chunk::<2>().copied().unwrap_or_default();
        let mut bytes = vec![kind, 0, high, low];
        bytes.extend(identifier);
        bytes.extend([0, 1]);
        bytes.extend(token);
        // Zeros change no checksum.
        bytes.resize(bytes.len().max(HEADER.saturating_add(data)), 0);
        bytes
    };
    match target {
        IpAddr::V4(_) => build(checksum(&build(0))),
        IpAddr::V6(_) => build(0),
    }
}

/// RFC 1071, of an even number of bytes, or with a zero at the end.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).filter_map(|pair| pair.first_chunk());
    let sum = words.fold(0_u64, |sum, pair| {
        sum.saturating_add(u16::from_be_bytes(*pair).into())
    });
    // One's complement: what overflows is added again. Two folds do for so few words.
    let fold = |sum: u64| (sum & 0xffff).saturating_add(sum >> 16);
    !u16::try_from(fold(fold(sum))).unwrap_or(u16::MAX)
}

/// A raw IPv4 socket gives the IP header too (raw(7)), all others begin with ICMP.
fn is_answer(target: IpAddr, message: &[u8], token: [u8; 16]) -> bool {
    let (_, reply) = types(target);
    let fits = |icmp: &[u8]| {
        icmp.first_chunk::<2>() == Some(&[reply, 0])
            && icmp
                .get(HEADER..)
                .is_some_and(|data| data.starts_with(&token))
    };
    let header = message
        .first()
        .map_or(0, |first| usize::from(first & 0xf).saturating_mul(4));
    fits(message) || message.get(header..).is_some_and(fits)
}

#[cfg(test)]
mod tests;
