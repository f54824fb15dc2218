//! A server that remembers who came.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lb_tests::saved_syn;
use lb_tests::topology::{FAMILIES, Topology, backend};

/// Its port.
pub(in crate::e2e) const WITNESS: u16 = 7100;
/// Kind of the option by which SYNs say who their clients are.
pub(in crate::e2e) const OPTION: u8 = 254;

/// A server of one host that echoes bytes, closes on a `q`, and remembers who came.
pub(in crate::e2e) struct Witness {
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    /// What SYNs said of their clients.
    pub(in crate::e2e) told: Arc<Mutex<Vec<Option<SocketAddr>>>>,
    stop: Arc<AtomicBool>,
}

impl Witness {
    pub(in crate::e2e) fn start(topology: &Topology, host: &str) -> Self {
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, WITNESS).into();
        let tcp = topology.run_in(host, || TcpListener::bind(any)).unwrap();
        let n = host[1..].parse().unwrap();
        let udp = FAMILIES.map(|family| {
            let address = (backend(family, n), WITNESS);
            topology.run_in(host, || UdpSocket::bind(address)).unwrap()
        });
        let witness = Self {
            seen: Arc::default(),
            told: Arc::default(),
            stop: Arc::default(),
        };
        let (seen, told) = (witness.seen.clone(), witness.told.clone());
        let stop = witness.stop.clone();
        tcp.set_nonblocking(true).unwrap();
        saved_syn::keep(&tcp).unwrap();
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, from)) => {
                        seen.lock().unwrap().push(plain(from));
                        told.lock()
                            .unwrap()
                            .push(who(&saved_syn::of(&stream).unwrap()));
                        thread::spawn(|| echo(stream));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        for socket in udp {
            let (seen, stop) = (witness.seen.clone(), witness.stop.clone());
            socket
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            thread::spawn(move || {
                let mut byte = [0];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = socket.recv_from(&mut byte) {
                        seen.lock().unwrap().push(plain(from));
                        let _ = socket.send_to(&byte, from);
                    }
                }
            });
        }
        witness
    }

    /// Who came since the last time.
    pub(in crate::e2e) fn seen(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// What the first option of a SYN says of its client, given its headers.
fn who(syn: &[u8]) -> Option<SocketAddr> {
    let tcp = &syn[if syn[0] >> 4 == 4 { 20 } else { 40 }..];
    match *tcp.get(20..)? {
        [OPTION, 8, p, q, a, b, c, d, ..] => {
            Some(([a, b, c, d], u16::from_be_bytes([p, q])).into())
        }
        [OPTION, 20, p, q, ref rest @ ..] => {
            let address = <[u8; 16]>::try_from(&rest[..16]).unwrap();
            Some((address, u16::from_be_bytes([p, q])).into())
        }
        _ => None,
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn plain(end: SocketAddr) -> SocketAddr {
    (end.ip().to_canonical(), end.port()).into()
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte != *b"q" {
        if stream.write_all(&byte).is_err() {
            return;
        }
    }
}
