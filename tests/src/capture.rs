//! What a switch port receives from the host on it, frame by frame (packet(7)).
//!
//! This is how the lab measures "from the kill to the last packet sent to the dead backend": on the
//! switch port that faces the balancer. Every frame that leaves the balancer arrives there, those
//! sent by `XDP_TX` and redirect too, because the port has an XDP program that passes them on; and
//! it does not depend on what the balancer counts about itself. The dead backend's own port would
//! not do: when its link is down, nothing arrives there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use lb_common::tunnel::GUE_PORT;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::topology::{Mac, Namespace};

/// A frame that matched.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// When the port received it.
    pub at: Instant,
    /// IP source.
    pub source: IpAddr,
    /// IP destination.
    pub destination: IpAddr,
    /// IANA protocol number (the first next header of IPv6).
    pub protocol: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
}

impl Frame {
    /// The first packet of a TCP connection.
    pub fn is_syn(&self) -> bool {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        self.tcp_flags & (SYN | ACK) == SYN
    }
}

/// A running capture of the IP packets to one MAC address; ended when dropped.
pub struct Capture {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Frame>>>,
    thread: Option<JoinHandle<()>>,
    socket: Arc<OwnedFd>,
}

/// The most frames that are kept.
const KEPT: usize = 2_000_000;

impl Capture {
    /// Starts recording what an interface receives for a destination MAC address.
    pub fn start(namespace: &Namespace, device: &str, to: Mac) -> Result<Self> {
        let socket = namespace
            .run(|| open(device, to))
            .with_context(|| format!("capture on {device} of {}", namespace.name()))?;
        let socket = Arc::new(socket);
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn({
                let (socket, stop, frames) = (socket.clone(), stop.clone(), frames.clone());
                move || record(&socket, &stop, &frames)
            });
        Ok(Self {
            stop,
            frames,
            thread: Some(thread.context("start a capture thread")?),
            socket,
        })
    }

    /// The frames until now.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().expect("captured frames").clone()
    }

    /// The last frame from a source that the closure accepts.
    pub fn last(&self, accept: impl Fn(&Frame) -> bool) -> Option<Frame> {
        self.frames
            .lock()
            .expect("captured frames")
            .iter()
            .rev()
            .find(|f| accept(f))
            .copied()
    }

    /// Frames that the kernel dropped because nobody fetched them in time. A result is honest only
    /// if this is 0. Reading resets it.
    pub fn lost(&self) -> Result<u32> {
        const PACKET_STATISTICS: i32 = 6;
        // struct tpacket_stats: packets, drops
        let mut counts = [0_u32; 2];
        let mut size = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes into `counts`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        match result {
            0 => Ok(counts[1]),
            _ => Err(std::io::Error::last_os_error()).context("read a capture's statistics"),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn open(device: &str, to: Mac) -> Result<OwnedFd> {
    const PACKET_IGNORE_OUTGOING: i32 = 23;
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0: nothing is queued until the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("open a packet socket")?;
    set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)?;
    set(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        &(16_i32 << 20),
    )?;
    let instructions = filter(to);
    let program = libc::sock_fprog {
        len: instructions.len() as u16,
        filter: instructions.as_ptr().cast_mut(),
    };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("ask for time stamps")?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    bind(&socket, protocol, nix::net::if_::if_nametoindex(device)?)?;
    Ok(socket.into())
}

/// Binds a packet socket to an interface; the protocol is in network order.
pub(crate) fn bind(socket: &Socket, protocol: u16, ifindex: u32) -> Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: a sockaddr_ll of its own size, read only during the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("bind a packet socket"),
    }
}

fn set<T>(socket: &Socket, level: i32, option: i32, value: &T) -> Result<()> {
    // SAFETY: `value` is what the option takes, with its size, read only during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .with_context(|| format!("set option {option} of a packet socket")),
    }
}

/// Classic BPF: the first 128 bytes of frames to the MAC address.
fn filter(to: Mac) -> [libc::sock_filter; 6] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let [a, b, c, d, e, f] = to;
    [
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_EQUAL, 0, 3, u32::from_be_bytes([a, b, c, d])),
        step(LOAD_HALF, 0, 0, 4),
        step(JUMP_EQUAL, 0, 1, u32::from(u16::from_be_bytes([e, f]))),
        step(RETURN, 0, 0, 128),
        step(RETURN, 0, 0, 0),
    ]
}

fn record(socket: &OwnedFd, stop: &AtomicBool, frames: &Mutex<Vec<Frame>>) {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut bytes = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        let mut buffers = [std::io::IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let Ok(message) = received else { continue };
        let stamp = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| match one {
                ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
                _ => None,
            })
        });
        let (length, at) = (message.bytes, stamp.map_or_else(Instant::now, instant));
        if let Some(frame) = parse(&bytes[..length], at) {
            let mut frames = frames.lock().expect("captured frames");
            if frames.len() < KEPT {
                frames.push(frame);
            }
        }
    }
}

/// The kernel stamps with the wall clock.
fn instant(stamp: Duration) -> Instant {
    let age = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH + stamp)
        .unwrap_or_default();
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

/// The IP packet in a frame, or the one within its tunnel; `None` for anything else.
fn parse(frame: &[u8], at: Instant) -> Option<Frame> {
    packet_of(frame.get(12..14)?, frame.get(14..)?, at)
}

fn packet_of(ether_type: &[u8], packet: &[u8], at: Instant) -> Option<Frame> {
    let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match ether_type {
        [0x08, 0x00] => (
            Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?).into(),
            Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?).into(),
            *packet.get(9)?,
            packet.get(usize::from(packet.first()? & 15) * 4..)?,
        ),
        [0x86, 0xdd] => (
            Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?).into(),
            Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?).into(),
            *packet.get(6)?,
            packet.get(40..)?,
        ),
        _ => return None,
    };
    match protocol {
        4 => return packet_of(&[0x08, 0x00], rest, at),
        41 => return packet_of(&[0x86, 0xdd], rest, at),
        17 if rest.get(2..4)? == GUE_PORT.to_be_bytes() => {
            return match (rest.get(8)? >> 4, rest.get(9)?) {
                (4, _) => packet_of(&[0x08, 0x00], rest.get(8..)?, at),
                (6, _) => packet_of(&[0x86, 0xdd], rest.get(8..)?, at),
                (_, 4) => packet_of(&[0x08, 0x00], rest.get(12..)?, at),
                _ => packet_of(&[0x86, 0xdd], rest.get(12..)?, at),
            };
        }
        _ => {}
    }
    let tcp_flags = if protocol == 6 { *rest.get(13)? } else { 0 };
    Some(Frame {
        at,
        source,
        destination,
        protocol,
        tcp_flags,
    })
}
