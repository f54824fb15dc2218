//! A client that asks again and again, and knows how long it waited.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lb_tests::server::{MESSAGE_BYTES, NAME_BYTES, signature};
use lb_tests::topology::Topology;

use super::super::super::PATIENCE;

/// After so long without an answer a datagram is sent anew.
const AGAIN: Duration = Duration::from_millis(500);
/// Between an answer and the next question.
const PACE: Duration = Duration::from_millis(20);

enum Socket {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

/// One connection, or datagrams of one port.
pub(super) struct Talk {
    socket: Socket,
    target: SocketAddr,
    answers: AtomicU64,
    gap: Mutex<Gap>,
}

/// How long there was no answer at most, and to how many datagrams there was none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gap {
    pub(super) longest: Duration,
    pub(super) lost: u64,
}

impl Talk {
    /// Opens a connection.
    pub(super) fn connect(topology: &Topology, target: SocketAddr) -> Self {
        let stream = topology.run_in("client", || TcpStream::connect_timeout(&target, PATIENCE));
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::by(Socket::Stream(stream), target)
    }

    /// Opens a port for datagrams.
    pub(super) fn bind(topology: &Topology, target: SocketAddr) -> Self {
        let local = match target.is_ipv4() {
            true => "0.0.0.0:0",
            false => "[::]:0",
        };
        let socket = topology
            .run_in("client", || UdpSocket::bind(local))
            .unwrap();
        socket.connect(target).unwrap();
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        Self::by(Socket::Datagrams(socket), target)
    }

    fn by(socket: Socket, target: SocketAddr) -> Self {
        Self {
            socket,
            target,
            answers: AtomicU64::new(0),
            gap: Mutex::default(),
        }
    }

    /// How many answers there were.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// The longest wait since the last call.
    pub(super) fn take_gap(&self) -> Gap {
        std::mem::take(&mut self.gap.lock().unwrap())
    }

    /// Asks until told to stop. All answers of a connection come from one server.
    pub(super) fn run(&self, stop: &AtomicBool) {
        let mut server: Option<String> = None;
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let mut question = [0x5a; MESSAGE_BYTES];
            question[NAME_BYTES..NAME_BYTES + 8].copy_from_slice(&number.to_be_bytes());
            let begin = Instant::now();
            let answer = match &self.socket {
                Socket::Stream(stream) => Some(self.converse(stream, &question)),
                Socket::Datagrams(socket) => self.exchange(socket, &question, stop),
            };
            let Some(answer) = answer else { return };
            assert_eq!(answer[NAME_BYTES..], question[NAME_BYTES..]);
            let name = signature(&answer).to_owned();
            let first = server.get_or_insert_with(|| name.clone());
            assert_eq!(*first, name, "{}", self.target);
            let mut gap = self.gap.lock().unwrap();
            gap.longest = gap.longest.max(begin.elapsed());
            drop(gap);
            self.answers.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PACE);
        }
    }

    fn converse(&self, mut stream: &TcpStream, question: &[u8]) -> [u8; MESSAGE_BYTES] {
        let mut answer = [0; MESSAGE_BYTES];
        let said = stream.write_all(question);
        let heard = said.and_then(|()| stream.read_exact(&mut answer));
        heard.unwrap_or_else(|error| panic!("the connection to {}: {error}", self.target));
        answer
    }

    /// `None`: was told to stop.
    fn exchange(
        &self,
        socket: &UdpSocket,
        question: &[u8],
        stop: &AtomicBool,
    ) -> Option<[u8; MESSAGE_BYTES]> {
        let mut answer = [0; MESSAGE_BYTES];
        while !stop.load(Ordering::Relaxed) {
            socket.send(question).unwrap();
            loop {
                match socket.recv(&mut answer) {
                    // An answer that came late is to an earlier question.
                    Ok(_) if answer[NAME_BYTES..] != question[NAME_BYTES..] => {}
                    Ok(_) => return Some(answer),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("datagrams to {}: {error}", self.target),
                }
            }
            self.gap.lock().unwrap().lost += 1;
        }
        None
    }
}
